//! Meeting points between CPUs. Nothing sleeps; every wait has a deadline.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::sysreg;
use super::timer;

/// How long a thing that must happen may take before a test calls it missing. Long, as the host may
/// be slow; a passing test never waits for it.
pub const PATIENCE_MS: u64 = 20_000;

/// Waits until `condition` holds; false when it did not within `PATIENCE_MS`.
#[must_use]
pub fn eventually(condition: impl FnMut() -> bool) -> bool {
    within_ms(PATIENCE_MS, condition)
}

/// Waits until `condition` holds; false when it did not within `ms` milliseconds.
#[must_use]
pub fn within_ms(ms: u64, mut condition: impl FnMut() -> bool) -> bool {
    let end = timer::counter() + timer::ticks_of_us(ms * 1000);
    loop {
        if condition() {
            return true;
        }
        if timer::counter() >= end {
            return condition();
        }
        sysreg::relax();
    }
}

/// Lets `ms` milliseconds pass: for "nothing may happen", which can only be watched for a while.
pub fn watch_for_ms(ms: u64) {
    let end = timer::counter() + timer::ticks_of_us(ms * 1000);
    while timer::counter() < end {
        sysreg::relax();
    }
}

/// Something that happened, or has not yet.
pub struct Flag(AtomicBool);

impl Flag {
    /// Not yet.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// It happened; what was written before is visible to who sees it.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
        sysreg::sev();
    }

    /// Not any more.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether it happened.
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Waits until it happens; false when it did not in time.
    #[must_use]
    pub fn wait(&self) -> bool {
        eventually(|| self.is_up())
    }
}

/// A number that CPUs share.
pub struct Cell64(AtomicU64);

impl Cell64 {
    /// Holds `value`.
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Replaces it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    /// Adds one by an exclusive pair, as a CPU without atomic instructions does.
    pub fn add_exclusively(&self) {
        // SAFETY: the cell is ours for as long as the reference; the pair writes it as one.
        unsafe {
            core::arch::asm!(
                "1: ldaxr {value}, [{cell}]",
                "add {value}, {value}, #1",
                "stlxr {failed:w}, {value}, [{cell}]",
                "cbnz {failed:w}, 1b",
                cell = in(reg) self.0.as_ptr(), value = out(reg) _, failed = out(reg) _,
                options(nostack),
            );
        }
    }

    /// Adds `n` and returns what was there before.
    pub fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::AcqRel)
    }
}
