//! Waiting: for a lock, which nobody is kept from; for a pCPU, with a limit.

use core::sync::atomic::{AtomicU32, Ordering};

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

/// Attempts it for `limit_us` microseconds. Time in which this pCPU itself did not run counts little ([`Patience`]).
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

/// How often a waiter finds the lock taken before it counts as one that is kept waiting.
const TRIES: u32 = 2;
/// How many turns a newcomer leaves the lock to those who are kept waiting. Not for ever, since the pCPU of one may not
/// run, where an emulator has fewer host CPUs than pCPUs.
const TURNS: u32 = 256;

/// A spin lock that nobody is kept from: as long as somebody has found it taken twice, a newcomer lets that one go first, and who
/// has just had the lock is a newcomer. So a guest that makes one pCPU take a lock without end delays each other one by a
/// few holdings of it. Waiting has no limit; a pCPU that never lets go of a lock is what the watchdog finds.
///
/// `docs/decisions/0010-locks.md` says why this is no ticket lock.
pub struct Mutex<T> {
    lock: spin::Mutex<T>,
    /// How many are kept waiting.
    kept_waiting: AtomicU32,
}

impl<T> Mutex<T> {
    /// Holds `value`.
    pub const fn new(value: T) -> Self {
        Self {
            lock: spin::Mutex::new(value),
            kept_waiting: AtomicU32::new(0),
        }
    }

    /// Waits for the lock.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.lock_meanwhile(|| ())
    }

    /// Waits for the lock, and does this between any two looks.
    #[inline]
    pub fn lock_meanwhile(&self, act: fn()) -> MutexGuard<'_, T> {
        match self.try_lock() {
            Some(guard) => guard,
            None => self.wait(act),
        }
    }

    /// The lock, if it is free and nobody is kept waiting for it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        if self.kept_waiting.load(Ordering::Relaxed) == 0 {
            self.lock.try_lock()
        } else {
            None
        }
    }

    #[cold]
    fn wait(&self, act: fn()) -> MutexGuard<'_, T> {
        let pause = || {
            act();
            sysregs::yield_pcpu();
        };
        for _ in 0..TURNS {
            if self.kept_waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
            pause();
        }
        for _ in 0..TRIES {
            if let Some(guard) = self.lock.try_lock() {
                return guard;
            }
            pause();
        }
        self.kept_waiting.fetch_add(1, Ordering::Relaxed);
        loop {
            if let Some(guard) = self.lock.try_lock() {
                self.kept_waiting.fetch_sub(1, Ordering::Relaxed);
                return guard;
            }
            pause();
        }
    }

    /// Waits for the lock, but no longer than `limit_us`.
    #[cold]
    pub fn lock_within(&self, limit_us: u64) -> Option<MutexGuard<'_, T>> {
        within(limit_us, || self.lock.try_lock())
    }
}
