//! A guest's clock: its virtual counter, which is the system counter less an offset (CNTVOFF_EL2) that is the same on all its vCPUs.
//! It stands still while a pause holds it. Time is an argument.

use crate::time::Instant;

/// The virtual counter of a VM.
///
/// It never goes back, as it stands still from when the last vCPU has left the guest at the earliest; and the offset, which is a sum
/// of times that have passed one after the other, is never more than the system counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    offset: u64,
    /// How many vCPUs may read it.
    inside: u8,
    /// It is to stand still, and may have done so since then.
    held: Option<Instant>,
}

impl Clock {
    /// Whether it is to stand still.
    pub const fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// How many vCPUs may read it.
    pub const fn inside(&self) -> u8 {
        self.inside
    }

    /// A vCPU that is not inside is about to enter the guest; the offset that it has there.
    #[must_use]
    pub const fn enter(&mut self) -> u64 {
        self.inside = self.inside.saturating_add(1);
        self.offset
    }

    /// A vCPU that was inside has left the guest, for a pause or for good.
    #[inline]
    pub fn leave(&mut self, now: impl FnOnce() -> Instant) {
        self.inside = self.inside.saturating_sub(1);
        if let Some(since) = &mut self.held {
            *since = (*since).max(now());
        }
    }

    /// What it says at a time of the system counter's, to who is inside.
    #[must_use]
    pub const fn shown(&self, now: Instant) -> Instant {
        Instant(now.0.saturating_sub(self.offset))
    }

    /// When it says that, by the system counter.
    #[must_use]
    pub const fn system(&self, shown: Instant) -> Instant {
        shown.after(self.offset)
    }

    /// It is to stand still as soon as nobody is inside.
    pub fn hold(&mut self, now: Instant) {
        self.held.get_or_insert(now);
    }

    /// It goes on. If somebody has been inside all the time, it has never stood still.
    pub fn release(&mut self, now: Instant) {
        if let Some(since) = self.held.take()
            && self.inside == 0
        {
            self.offset += now.ticks_since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ticks: u64) -> Instant {
        Instant(ticks)
    }

    #[test]
    fn it_stands_still_from_the_last_who_leaves_to_the_end_of_the_pause() {
        let mut clock = Clock::default();
        assert_eq!([clock.enter(), clock.enter()], [0, 0]);
        clock.hold(at(100));
        assert!(clock.is_held());
        clock.leave(|| at(130));
        clock.leave(|| at(120));
        clock.release(at(200));
        assert!(!clock.is_held());
        assert_eq!([clock.enter(), clock.enter()], [70, 70]);
        assert_eq!(clock.shown(at(200)), at(130));
        assert_eq!(clock.system(at(130)), at(200));
        // Times add up.
        clock.hold(at(300));
        clock.leave(|| at(310));
        clock.leave(|| at(310));
        clock.release(at(320));
        assert_eq!(clock.enter(), 80);
    }

    #[test]
    fn it_runs_on_while_somebody_may_read_it() {
        let mut clock = Clock::default();
        let _ = (clock.enter(), clock.enter());
        clock.hold(at(100));
        clock.leave(|| at(110));
        clock.release(at(200));
        assert_eq!((clock.enter(), clock.inside()), (0, 2));
        // Who leaves after that changes nothing.
        clock.leave(|| at(210));
        clock.leave(|| at(210));
        assert!(!clock.is_held());
        // A pause that does not hold it.
        clock.release(at(300));
        assert_eq!(clock.enter(), 0);
    }

    #[test]
    fn a_pause_on_which_another_follows_at_once_is_held_from_then_on() {
        let mut clock = Clock::default();
        let _ = clock.enter();
        clock.hold(at(100));
        clock.leave(|| at(100));
        clock.release(at(150));
        // It has not entered in between.
        clock.hold(at(160));
        clock.hold(at(170));
        clock.release(at(180));
        assert_eq!(clock.enter(), 70);
    }

    #[test]
    fn whatever_comes_it_never_goes_back_and_is_the_same_for_all() {
        // Who is inside sees the counter at each step; a step is one of these, chosen by a generator of Lehmer's.
        let mut state = 1u64;
        let mut choose = |count: u64| {
            state = state * 48_271 % 0x7fff_ffff;
            state % count
        };
        let mut clock = Clock::default();
        let mut offsets: [Option<u64>; 3] = [None; 3];
        let (mut now, mut last, mut held) = (1u64, 0, 0);
        for _ in 0..200_000 {
            now += choose(50);
            let slot = &mut offsets[choose(3) as usize];
            match (choose(5), slot.is_some()) {
                (0, false) => *slot = Some(clock.enter()),
                (1, true) => {
                    *slot = None;
                    clock.leave(|| at(now));
                }
                (2, _) => clock.hold(at(now)),
                (3, _) => clock.release(at(now)),
                _ => {}
            }
            let mut inside = offsets.iter().flatten();
            assert_eq!(inside.clone().count(), clock.inside().into());
            if let Some(&offset) = inside.next() {
                assert!(inside.all(|other| *other == offset));
                let shown = now - offset;
                assert!(shown >= last, "{last} {shown}");
                (last, held) = (shown, offset);
            }
        }
        assert!(held > 0);
    }
}
