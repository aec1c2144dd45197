//! Whether the host itself stood still. A guest whose machine gets no time complains as one whose interrupts are lost.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How long the thread sleeps that looks how late it wakes.
const NAP: Duration = Duration::from_millis(100);

/// The longest pause so far.
#[derive(Clone, Copy, Default)]
struct Longest {
    /// When it was over, since the watch began.
    at: Duration,
    pause: Duration,
}

impl Longest {
    fn note(&mut self, at: Duration, pause: Duration) {
        if pause > self.pause {
            *self = Self { at, pause };
        }
    }
}

/// Watches for pauses of the host until it is dropped.
pub struct HostPauses(Arc<Mutex<Longest>>);

impl HostPauses {
    /// Begins to watch.
    pub fn watch() -> Self {
        let longest = Arc::new(Mutex::new(Longest::default()));
        let seen = Arc::downgrade(&longest);
        thread::spawn(move || look(&seen));
        Self(longest)
    }
}

/// Until nobody wants to know any more.
fn look(seen: &Weak<Mutex<Longest>>) {
    let began = Instant::now();
    loop {
        let before = Instant::now();
        thread::sleep(NAP);
        let pause = before.elapsed().saturating_sub(NAP);
        let Some(longest) = seen.upgrade() else {
            return;
        };
        let mut longest = longest.lock().unwrap_or_else(PoisonError::into_inner);
        longest.note(began.elapsed(), pause);
    }
}

impl fmt::Display for HostPauses {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let Longest { at, pause } = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(
            out,
            "the host's own longest pause took {:.1} s, {:.0} s after the start",
            pause.as_secs_f64(),
            at.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_is_said_with_its_time() {
        let mut longest = Longest::default();
        for (at, millis) in [(1, 20), (526, 22_340), (600, 900)] {
            longest.note(Duration::from_secs(at), Duration::from_millis(millis));
        }
        let pauses = HostPauses(Arc::new(Mutex::new(longest)));
        assert_eq!(
            pauses.to_string(),
            "the host's own longest pause took 22.3 s, 526 s after the start"
        );
    }
}
