//! What xtask is doing, on standard error: one line per step, redrawn in place
//! on a terminal, repeated now and then in a log.

use std::io::{IsTerminal, Write};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// How often a log (no terminal) hears of a step that takes long.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// How often a terminal line is redrawn and a child process looked at.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// The place where progress is shown.
pub struct Progress {
    terminal: bool,
}

/// One step under way; see [`Progress::step`].
pub struct Step {
    what: String,
    terminal: bool,
    started: Instant,
    shown: Instant,
    open: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Progress on standard error.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Prints one line.
    pub fn say(&self, line: &str) {
        eprintln!("xtask: {line}");
    }

    /// Starts a step, e.g. "fetch linux-source-7.3".
    pub fn step(&self, what: impl Into<String>) -> Step {
        let what = what.into();
        if self.terminal {
            draw(&format!("xtask: {what}"));
        } else {
            eprintln!("xtask: {what}");
        }
        let now = Instant::now();
        Step {
            what,
            terminal: self.terminal,
            started: now,
            shown: now,
            open: self.terminal,
        }
    }
}

impl Step {
    /// Shows how far the step is, e.g. "12 of 160 MB".
    pub fn show(&mut self, state: &str) {
        let due = if self.terminal {
            DRAW_INTERVAL
        } else {
            LOG_INTERVAL
        };
        if self.shown.elapsed() < due {
            return;
        }
        self.shown = Instant::now();
        let line = format!("xtask: {}: {state}", self.what);
        if self.terminal {
            draw(&line);
        } else {
            eprintln!("{line}");
        }
    }

    /// Waits for a child process, showing `state()` meanwhile.
    pub fn wait(
        &mut self,
        child: &mut Child,
        mut state: impl FnMut() -> String,
    ) -> std::io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            self.show(&state());
            std::thread::sleep(DRAW_INTERVAL);
        }
    }

    /// Ends the step well and says how long it took.
    pub fn done(mut self) {
        self.open = false;
        let line = format!(
            "xtask: {}: done in {}",
            self.what,
            span(self.started.elapsed())
        );
        if self.terminal {
            draw(&line);
            eprintln!();
        } else {
            eprintln!("{line}");
        }
    }
}

impl Drop for Step {
    /// A step that ended badly leaves its line for the reader.
    fn drop(&mut self) {
        if self.open {
            eprintln!();
        }
    }
}

/// Replaces the terminal's current line.
fn draw(line: &str) {
    let mut err = std::io::stderr().lock();
    // A terminal that cannot be written to is not worth failing for.
    let _ = write!(err, "\r{line}\x1b[K");
    let _ = err.flush();
}

/// A duration as people say it.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_are_said_in_minutes() {
        assert_eq!(span(Duration::from_millis(1540)), "1.5 s");
        assert_eq!(span(Duration::from_secs(135)), "2 min 15 s");
    }
}
