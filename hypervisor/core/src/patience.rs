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

#[cfg(test)]
mod tests {
    use super::*;

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
