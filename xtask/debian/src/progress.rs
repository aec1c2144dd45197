//! What xtask is doing, on standard error: one line per step, redrawn in place on a terminal, repeated in a log. A step
//! that says nothing itself is said to go on, so that nobody has to guess whether something happens.

use std::io::{IsTerminal, Write};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a step may be quiet at most.
pub const QUIET: Duration = Duration::from_secs(3);
/// When a step that is usually over at once is said for the first time.
const FIRST: Duration = Duration::from_millis(900);
/// How often a step that says how far it is draws that on a terminal.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// How often a terminal's line is redrawn by itself.
const REDRAW_INTERVAL: Duration = Duration::from_secs(1);

/// The place where progress is shown.
pub struct Progress {
    terminal: bool,
}

/// One step under way; see [`Progress::step`] and [`Progress::lazily`].
pub struct Step {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

struct Shared {
    started: Instant,
    view: Mutex<View>,
    closed: Condvar,
    /// Steps are numbered as they begin.
    number: u64,
}

/// The open steps' numbers. Of several the youngest is shown: it is what the others wait for.
static OPEN: Mutex<Vec<u64>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What is shown of a step, and when; no clock, and no terminal.
struct View {
    what: String,
    state: String,
    terminal: bool,
    /// When it is to be said again, counted from its start.
    due: Duration,
    /// When it was drawn last.
    drawn: Duration,
    is_shown: bool,
    is_closed: bool,
    /// Whether the terminal's line is ours and not ended.
    is_open: bool,
}

impl View {
    fn new(what: String, terminal: bool, first: Duration) -> Self {
        Self {
            what,
            state: String::new(),
            terminal,
            due: first,
            drawn: Duration::ZERO,
            is_shown: false,
            is_closed: false,
            is_open: false,
        }
    }

    const fn interval(&self) -> Duration {
        if self.terminal {
            REDRAW_INTERVAL
        } else {
            QUIET
        }
    }

    /// The line to show at `now`, if one is due.
    fn beat(&mut self, now: Duration) -> Option<String> {
        (now >= self.due).then(|| self.say(now))
    }

    /// The line, due or not.
    fn say(&mut self, now: Duration) -> String {
        self.is_shown = true;
        self.due = now + self.interval();
        self.drawn = now;
        let mut line = format!("xtask: {}", self.what);
        if !self.state.is_empty() {
            line += &format!(": {}", self.state);
        }
        if now >= Duration::from_secs(1) {
            line += &format!(", {} s", now.as_secs());
        }
        line
    }

    /// Takes notice of how far the step is; the line, if a terminal is to have it at once.
    fn note(&mut self, state: &str, now: Duration) -> Option<String> {
        self.state.clear();
        self.state.push_str(state);
        let is_due = self.terminal && now >= self.drawn + DRAW_INTERVAL;
        (is_due || now >= self.due).then(|| self.say(now))
    }

    /// Somebody else has said something about it.
    fn put_off(&mut self, now: Duration) {
        self.due = now + QUIET;
    }
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

    /// Starts a step that takes time, e.g. "fetch linux-source-7.3", and says so.
    pub fn step(&self, what: impl Into<String>) -> Step {
        Step::start(View::new(what.into(), self.terminal, Duration::ZERO))
    }

    /// Starts a step that is often over at once, and is said only if it is not.
    pub fn lazily(&self, what: impl Into<String>) -> Step {
        Step::start(View::new(what.into(), self.terminal, FIRST))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes `line` if this is the youngest step.
    fn write(&self, view: &mut View, line: Option<String>) {
        let Some(line) = line else {
            return;
        };
        if lock(&OPEN).last() != Some(&self.number) {
            return;
        }
        if view.terminal {
            draw(&line);
            view.is_open = true;
        } else {
            eprintln!("{line}");
        }
    }

    /// Says that the step goes on, whenever that is due, until it is closed.
    fn tick(&self) {
        let mut view = lock(&self.view);
        while !view.is_closed {
            let now = self.now();
            let line = view.beat(now);
            self.write(&mut view, line);
            let wait = view.due.saturating_sub(now);
            let waited = self.closed.wait_timeout(view, wait);
            view = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Step {
    fn start(mut view: View) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&OPEN).push(number);
        let first = view.beat(Duration::ZERO);
        let shared = Arc::new(Shared {
            started: Instant::now(),
            view: Mutex::new(view),
            closed: Condvar::new(),
            number,
        });
        shared.write(&mut lock(&shared.view), first);
        let own = Arc::clone(&shared);
        // Without a thread the step says less.
        let ticker = thread::Builder::new().spawn(move || own.tick()).ok();
        Self { shared, ticker }
    }

    /// Shows how far the step is, e.g. "12 of 160 MB".
    pub fn show(&mut self, state: &str) {
        let mut view = lock(&self.shared.view);
        let line = view.note(state, self.shared.now());
        self.shared.write(&mut view, line);
    }

    /// Prints something else, by `print`, which counts as a sign of life.
    pub fn around<T>(&self, print: impl FnOnce() -> T) -> T {
        let mut view = lock(&self.shared.view);
        if std::mem::take(&mut view.is_open) {
            draw("");
        }
        let printed = print();
        view.put_off(self.shared.now());
        printed
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

    /// Ends the step well and says how long it took, if it was said that it began.
    pub fn done(self) {
        let mut view = lock(&self.shared.view);
        if !view.is_shown {
            return;
        }
        let line = format!("xtask: {}: done in {}", view.what, span(self.shared.now()));
        if std::mem::take(&mut view.is_open) {
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
        let is_open = {
            let mut view = lock(&self.shared.view);
            view.is_closed = true;
            std::mem::take(&mut view.is_open)
        };
        self.shared.closed.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // It has no result.
            let _ = ticker.join();
        }
        if is_open {
            eprintln!();
        }
        let number = self.shared.number;
        lock(&OPEN).retain(|&other| other != number);
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

    /// When a step of two minutes is said, by a clock that goes on as long as the ticker waits, with `note` called at
    /// each of `notes`.
    fn said(terminal: bool, first: Duration, notes: &[Duration]) -> Vec<Duration> {
        let end = Duration::from_secs(120);
        let mut view = View::new("compile".into(), terminal, first);
        let mut notes = notes.iter().copied().peekable();
        let (mut now, mut said) = (Duration::ZERO, Vec::new());
        while now < end {
            if view.beat(now).is_some() {
                said.push(now);
            }
            now = view.due;
            while let Some(at) = notes.next_if(|&at| at < now) {
                if view.note("12 of 160 MB", at).is_some() {
                    said.push(at);
                }
                now = view.due;
            }
        }
        said.push(end);
        said
    }

    #[test]
    fn no_step_is_quiet_for_more_than_three_seconds_and_none_for_the_first() {
        let notes: [&[Duration]; 3] = [
            &[],
            &[Duration::from_millis(10), Duration::from_secs(50)],
            &[
                Duration::from_millis(2990),
                Duration::from_millis(2995),
                Duration::from_millis(5980),
            ],
        ];
        for terminal in [false, true] {
            for first in [Duration::ZERO, FIRST] {
                for notes in notes {
                    let said = said(terminal, first, notes);
                    assert!(said[0] < Duration::from_secs(1), "{said:?}");
                    for pair in said.windows(2) {
                        assert!(pair[1] - pair[0] <= QUIET, "{pair:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_line_says_what_how_far_and_how_long() {
        let mut view = View::new("fetch linux".into(), false, Duration::ZERO);
        assert_eq!(view.beat(Duration::ZERO).unwrap(), "xtask: fetch linux");
        assert_eq!(
            view.note("1 of 160 MB", Duration::from_secs(1)),
            None,
            "a log hears it when it is due"
        );
        assert_eq!(
            view.beat(Duration::from_secs(3)).unwrap(),
            "xtask: fetch linux: 1 of 160 MB, 3 s"
        );
    }

    #[test]
    fn what_else_is_printed_is_a_sign_of_life() {
        let mut view = View::new("the guest runs".into(), false, FIRST);
        view.put_off(Duration::from_millis(800));
        assert_eq!(view.beat(Duration::from_millis(3700)), None);
        assert!(view.beat(Duration::from_millis(3800)).is_some());
    }

    #[test]
    fn a_step_that_is_over_at_once_is_not_said() {
        let step = Progress { terminal: false }.lazily("nothing");
        assert!(!lock(&step.shared.view).is_shown);
        step.done();
    }
}
