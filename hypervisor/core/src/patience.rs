//! How long somebody has waited who looks again and again, by what he has seen of that time himself.
//!
//! An emulator's host may run nobody for longer than any limit. A waiter that took the counter's word for it would
//! give up those who had no more turns than he had. So of the time between two looks only so much counts as one
//! look can be late on a machine that runs.

use crate::time::{Frequency, Instant};

/// The most that counts between two looks, in microseconds. Who waits looks every few instructions, or where an
/// emulator counts instructions every few milliseconds. It is long enough to count those in full, and a fifth of the
/// shortest last limit, so that nobody is given up before the fifth look.
const LOOK_US: u64 = 100_000;

/// A wait of somebody who looks again and again. Times are in counter ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patience {
    /// The most that counts between two looks.
    look: u64,
    waited: u64,
    /// When the last look was.
    seen: Option<Instant>,
}

impl Patience {
    /// A wait that begins with the first look. Between two of them `look` ticks count at most.
    pub const fn new(look: u64) -> Self {
        Self {
            look,
            waited: 0,
            seen: None,
        }
    }

    /// A wait by a counter of this rate.
    pub const fn at(rate: Frequency) -> Self {
        Self::new(rate.ticks_in_us(LOOK_US))
    }

    /// Looks, and answers how long the wait has been.
    #[must_use]
    pub fn look(&mut self, now: Instant) -> u64 {
        if let Some(seen) = self.seen {
            self.waited += now.ticks_since(seen).min(self.look);
        }
        self.seen = Some(now);
        self.waited
    }
}

/// A wait for others that takes as long as they need: it is over when none of them has shown a sign of progress for so
/// long. Times are in counter ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standstill {
    patience: Patience,
    look: u64,
    signs: u32,
}

impl Standstill {
    /// A wait by a counter of this rate, for others whose signs have been counted so far.
    pub const fn new(rate: Frequency, signs: u32) -> Self {
        let patience = Patience::at(rate);
        Self {
            patience,
            look: patience.look,
            signs,
        }
    }

    /// Looks, and answers for how long nobody has shown a sign; `signs` counts them.
    #[must_use]
    pub fn look(&mut self, now: Instant, signs: u32) -> u64 {
        if signs != self.signs {
            self.signs = signs;
            self.patience = Patience::new(self.look);
        }
        self.patience.look(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of `vcpus` that say 7 KB each at the end, a line at a time, at so many baud; from `stuck_after` lines on
    /// nobody says anything. How long it takes, or how long nobody had said anything when the wait of `limit_us` was over.
    fn end_of_vm(vcpus: u64, baud: u64, stuck_after: u64, limit_us: u64) -> Result<u64, u64> {
        const LINE: u64 = 100;
        let rate = Frequency(1_000_000);
        let line_us = LINE * 10 * 1_000_000 / baud;
        let lines = vcpus * 7000 / LINE;
        let mut wait = Standstill::new(rate, 0);
        for now in (0..).step_by(1000) {
            let said = (now / line_us).min(stuck_after);
            if said >= lines {
                return Ok(now);
            }
            let still = wait.look(Instant(now), said as u32);
            if still > limit_us {
                return Err(now - said * line_us);
            }
        }
        unreachable!("time does not end");
    }

    #[test]
    fn the_end_of_many_vcpus_at_a_slow_line_takes_as_long_as_it_takes() {
        const LIMIT_US: u64 = 30_000_000;
        for (vcpus, baud, least_s) in [(128, 115_200, 75), (128, 9600, 900), (8, 300, 1800)] {
            let took = end_of_vm(vcpus, baud, u64::MAX, LIMIT_US);
            assert!(
                took >= Ok(least_s * 1_000_000),
                "{vcpus} at {baud}: {took:?}"
            );
        }
    }

    #[test]
    fn one_that_says_nothing_more_is_waited_for_so_long_and_no_longer() {
        const LIMIT_US: u64 = 30_000_000;
        for after in [0, 1, 5000] {
            let Err(still) = end_of_vm(128, 115_200, after, LIMIT_US) else {
                panic!("it ended");
            };
            assert!((LIMIT_US..LIMIT_US + 20_000).contains(&still), "{still}");
        }
    }

    #[test]
    fn a_wait_begins_with_the_first_look_and_counts_what_passes() {
        let mut patience = Patience::new(10);
        let waited = [1000, 1000, 1003, 1013].map(|now| patience.look(Instant(now)));
        assert_eq!(waited, [0, 0, 3, 13]);
    }

    #[test]
    fn time_in_which_the_waiter_did_not_run_counts_as_one_look() {
        let mut patience = Patience::new(10);
        let waited = [0, 1_000_000, 2_000_000, 2_000_001].map(|now| patience.look(Instant(now)));
        assert_eq!(waited, [0, 10, 20, 21]);
    }

    #[test]
    fn a_counter_that_goes_back_takes_nothing_away() {
        let mut patience = Patience::new(10);
        let waited = [100, 105, 50, 52].map(|now| patience.look(Instant(now)));
        assert_eq!(waited, [0, 5, 5, 7]);
    }

    #[test]
    fn a_second_takes_ten_looks_at_least() {
        let rate = Frequency(54_000_000);
        let mut patience = Patience::at(rate);
        let mut looks = 0;
        while patience.look(Instant(looks * 60 * rate.0)) < rate.0 {
            looks += 1;
        }
        assert_eq!(looks, 10);
    }
}
