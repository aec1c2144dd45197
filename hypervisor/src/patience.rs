//! A lock that is waited for with a limit: nobody holds one for long, so who waits too long stops the machine.

use hv_core::patience::Patience;
pub use spin::MutexGuard;

use crate::sysregs;

/// How long a lock may be waited for, in microseconds. The longest that one is held is a line of the console,
/// 10 ms at 115200 baud, with all pCPUs before us in the queue. It counts by the waiter's own looks.
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
        let rate = sysregs::counter_frequency();
        let limit = rate.ticks_in_us(limit_us);
        let mut patience = Patience::at(rate);
        loop {
            let guard = self.0.try_lock();
            if guard.is_some() || patience.look(sysregs::now()) > limit {
                return guard;
            }
            sysregs::yield_pcpu();
        }
    }
}
