//! Waiting with a limit: for a lock, that nobody holds for long, so who waits too long stops the machine; for a pCPU.

use hv_core::patience::Patience;
pub use spin::MutexGuard;

use crate::sysregs;

/// Attempts between two looks at the counter: some microseconds. Emulated CPUs share one lock for all that is a
/// device to the emulator, the counter too. Who reads it without a pause keeps the others from taking their
/// interrupts, on a busy host for seconds: those that it waits for.
const ATTEMPTS: u32 = 256;

/// Attempts it for some microseconds, without a look at the counter, and then lets others go first.
pub fn briefly<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    for _ in 0..ATTEMPTS {
        let done = attempt();
        if done.is_some() {
            return done;
        }
        core::hint::spin_loop();
    }
    // Once: where CPUs run one at a time each is a turn of all others.
    sysregs::yield_pcpu();
    None
}

/// Attempts it for `limit_us` microseconds, by what it sees of them itself ([`Patience`]).
pub fn within<T>(limit_us: u64, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let rate = sysregs::counter_frequency();
    let limit = rate.ticks_in_us(limit_us);
    let mut patience = Patience::at(rate);
    loop {
        let done = briefly(&mut attempt);
        if done.is_some() || patience.look(sysregs::now()) > limit {
            return done;
        }
    }
}

/// How long a lock may be waited for, in microseconds. The longest that one is held is a line of the console,
/// 10 ms at 115200 baud, with all pCPUs before us in the queue.
const LIMIT_US: u64 = 2_000_000;

/// A spin lock.
pub struct Mutex<T>(spin::Mutex<T>);

impl<T> Mutex<T> {
    /// Holds `value`.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.try_lock() {
            Some(guard) => guard,
            None => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> MutexGuard<'_, T> {
        self.lock_within(LIMIT_US).expect("a lock is stuck")
    }

    /// Waits for the lock, but no longer than `limit_us`.
    #[cold]
    pub fn lock_within(&self, limit_us: u64) -> Option<MutexGuard<'_, T>> {
        within(limit_us, || self.0.try_lock())
    }
}
