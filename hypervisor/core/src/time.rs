//! Time as an argument: points and spans of the architected counter. No clock is read here.

/// A point in time, in ticks of the system counter (CNTPCT_EL0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

/// The rate of the system counter in Hz (CNTFRQ_EL0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
        // Seconds and the rest apart: no 128-bit division, which is code for little use.
        let (seconds, rest) = (self.0 / rate.0, self.0 % rate.0);
        let micros = rest.saturating_mul(1_000_000) / rate.0;
        seconds.saturating_mul(1_000_000).saturating_add(micros)
    }
}

impl Frequency {
    /// The number of ticks in `us` microseconds; saturates.
    #[inline(never)]
    pub const fn ticks_in_us(self, us: u64) -> u64 {
        let (seconds, rest) = (us / 1_000_000, us % 1_000_000);
        let ticks = rest.saturating_mul(self.0) / 1_000_000;
        seconds.saturating_mul(self.0).saturating_add(ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_microseconds_convert_at_common_rates() {
        for rate in [19_200_000, 54_000_000, 62_500_000, 1_000_000_000] {
            let rate = Frequency(rate);
            assert_eq!(Instant(rate.0 * 3 + rate.0 / 2).as_us(rate), 3_500_000);
            assert_eq!(rate.ticks_in_us(2_500_000), rate.0 * 5 / 2);
        }
    }

    #[test]
    fn the_ends_of_the_range_saturate() {
        assert_eq!(Instant(u64::MAX).as_us(Frequency(1)), u64::MAX);
        assert_eq!(Frequency(u64::MAX).ticks_in_us(u64::MAX), u64::MAX);
        assert_eq!(Instant(5).as_us(Frequency(0)), 0);
    }
}
