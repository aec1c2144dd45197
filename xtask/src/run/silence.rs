//! A guest that has started and writes nothing: said once, as a hint.

use std::time::{Duration, Instant};

/// What is known of it.
#[derive(Default)]
pub enum Silence {
    /// It has not started.
    #[default]
    Before,
    /// It has started, and nothing has come out of it. When that is to be told.
    Silent(Instant),
    /// It has written something, or it was told.
    Over,
}

/// How long a guest may be silent from its start on. Linux takes a second or two until its console is there.
const LIMIT: Duration = Duration::from_secs(10);

impl Silence {
    /// The guest starts. That it starts again after a reset changes nothing.
    pub fn begin(&mut self, now: Instant) {
        if matches!(self, Self::Before) {
            *self = Self::Silent(now + LIMIT);
        }
    }

    /// It has written something.
    pub fn end(&mut self) {
        *self = Self::Over;
    }

    /// When [`Self::tell`] is due.
    pub fn until(&self) -> Option<Instant> {
        match self {
            Self::Silent(until) => Some(*until),
            Self::Before | Self::Over => None,
        }
    }

    /// What is said then.
    pub fn tell(&mut self) -> String {
        *self = Self::Over;
        format!(
            "nothing has come out of the guest in the {} s since it started; does it write to the UART that its devicetree \
             names (Linux: `console=ttyAMA0`)? --gdb shows where it is",
            LIMIT.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_once_from_the_first_start_on() {
        let now = Instant::now();
        let mut silence = Silence::default();
        assert_eq!(silence.until(), None);
        silence.begin(now);
        silence.begin(now + LIMIT / 2);
        assert_eq!(silence.until(), Some(now + LIMIT));
        assert!(
            silence
                .tell()
                .starts_with("nothing has come out of the guest in the 10 s")
        );
        assert_eq!(silence.until(), None);
        silence.begin(now);
        assert_eq!(silence.until(), None);
    }

    #[test]
    fn a_guest_that_has_spoken_is_not_silent() {
        let mut silence = Silence::default();
        silence.begin(Instant::now());
        silence.end();
        assert_eq!(silence.until(), None);
    }
}
