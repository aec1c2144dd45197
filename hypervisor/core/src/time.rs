//! Time as an argument: points and spans of the architected counter. No clock is read here.

/// A point in time, in ticks of the system counter (CNTPCT_EL0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

/// The rate of the system counter in Hz (CNTFRQ_EL0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequency(pub u64);

impl Instant {
    /// Ticks since `earlier`, 0 if that lies ahead.
    pub const fn ticks_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `ticks` later.
    pub const fn after(self, ticks: u64) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    /// Microseconds since the counter's zero; saturates.
    pub const fn as_us(self, rate: Frequency) -> u64 {
        if rate.0 == 0 {
            return 0;
        }
        let us = self.0 as u128 * 1_000_000 / rate.0 as u128;
        if us > u64::MAX as u128 {
            u64::MAX
        } else {
            us as u64
        }
    }
}

impl Frequency {
    /// The number of ticks in `us` microseconds; saturates.
    pub const fn ticks_in_us(self, us: u64) -> u64 {
        let ticks = us as u128 * self.0 as u128 / 1_000_000;
        if ticks > u64::MAX as u128 {
            u64::MAX
        } else {
            ticks as u64
        }
    }
}
