//! The lines that `cargo xtask test` prints, and the count.

use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::Result;
use debian::progress::Progress;
use lab::results::{About, Case, Format, Outcome, Results, Screen, screen};

/// Counts what passed and what failed, and says so.
pub struct Ledger {
    filter: Option<String>,
    /// Some who have it only say what does not apply.
    results: Mutex<Results<Screen>>,
}

impl Ledger {
    /// An empty one, for what has `filter` in its name, that writes in this format.
    pub fn begin(filter: Option<String>, format: Format, about: About) -> Result<Self> {
        let results = Mutex::new(Results::begin(format, about, screen())?);
        Ok(Self { filter, results })
    }

    /// The same for people.
    pub fn new(filter: Option<String>) -> Self {
        let results = Mutex::new(Results::human(screen()));
        Self { filter, results }
    }

    fn results(&self) -> MutexGuard<'_, Results<Screen>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `name` is to be run.
    pub fn wants(&self, name: &str) -> bool {
        self.filter
            .as_deref()
            .is_none_or(|filter| name.contains(filter))
    }

    /// Whether the filter begins with `name`: for what is too much to be run unless it is asked for.
    pub fn names(&self, name: &str) -> bool {
        self.filter
            .as_deref()
            .is_some_and(|filter| filter.starts_with(name))
    }

    /// Whether something is left out.
    pub fn is_filtered(&self) -> bool {
        self.filter.is_some()
    }

    /// How many have failed.
    pub fn failures(&self) -> u32 {
        self.results().count().failed
    }

    /// Whether something has been entered.
    pub fn has_run(&self) -> bool {
        let count = self.results().count();
        count.passed + count.failed > 0
    }

    /// Runs `check` if it is wanted. What it answers stands behind the line, an error below it.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) {
        if self.wants(name) {
            let started = Instant::now();
            let step = Progress::new().lazily(name);
            let checked = check();
            drop(step);
            match checked {
                Ok(remark) => self.passed(name, started.elapsed(), &remark),
                Err(error) => self.failed(name, started.elapsed(), &format!("{error:#}")),
            }
        }
    }

    /// The same for each of `cases` that is wanted, as many at a time as the host has CPUs. Only for what
    /// other work on the host cannot change, such as machines whose time is counted in instructions, or only delay.
    pub fn check_each<T: Sync>(
        &mut self,
        cases: &[(String, T)],
        check: impl Fn(&str, &T) -> Result<String> + Sync,
    ) {
        let wanted: Vec<_> = cases.iter().filter(|(name, _)| self.wants(name)).collect();
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let next = AtomicUsize::new(0);
        let (sender, results) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..threads.min(wanted.len()) {
                let (sender, wanted, next, check) = (sender.clone(), &wanted, &next, &check);
                scope.spawn(move || {
                    while let Some((name, case)) = wanted.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let started = Instant::now();
                        let result = check(name, case);
                        // The receiver lives as long as this scope.
                        let _ = sender.send((name, started.elapsed(), result));
                    }
                });
            }
            drop(sender);
            let mut step = Progress::new().lazily("several checks side by side");
            for (done, (name, time, result)) in (1..).zip(results) {
                step.around(|| match result {
                    Ok(remark) => self.passed(name, time, &remark),
                    Err(error) => self.failed(name, time, &format!("{error:#}")),
                });
                step.show(&format!("{done} of {} done", wanted.len()));
            }
        });
    }

    /// Enters a success.
    pub fn passed(&mut self, name: &str, time: Duration, remark: &str) {
        self.enter(name, Outcome::Passed, Some(time), remark, "");
    }

    /// Enters a failure; `details` are printed below it.
    pub fn failed(&mut self, name: &str, time: Duration, details: &str) {
        supervisor::settle();
        self.enter(name, Outcome::Failed, Some(time), "", details);
    }

    /// Says that something does not apply; it counts as neither.
    pub fn skipped(&self, name: &str, why: &str) {
        self.enter(name, Outcome::Skipped, None, why, "");
    }

    fn enter(
        &self,
        name: &str,
        outcome: Outcome,
        time: Option<Duration>,
        remark: &str,
        details: &str,
    ) {
        let case = Case {
            name: name.to_owned(),
            outcome,
            time,
            remark: Some(remark.to_owned()).filter(|remark| !remark.is_empty()),
            details: details.lines().map(str::to_owned).collect(),
            report: None,
        };
        if let Err(error) = self.results().case(case) {
            // It counts all the same.
            eprintln!("error: cannot write what came of {name}: {error}");
        }
    }

    /// Prints the count and answers whether all is well.
    pub fn close(self) -> ExitCode {
        if !self.has_run() {
            let filter = self.filter.as_deref().unwrap_or_default();
            match self.results().count().skipped {
                0 => eprintln!("error: nothing has `{filter}` in its name"),
                _ => eprintln!("error: all that has `{filter}` in its name was skipped"),
            }
        }
        let results = self.results.into_inner();
        match results.unwrap_or_else(PoisonError::into_inner).end() {
            Ok(count) if count.failed == 0 && count.passed > 0 => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: cannot write the results: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(ledger: &Ledger) -> (u32, u32) {
        let count = ledger.results().count();
        (count.passed, count.failed)
    }

    #[test]
    fn only_what_is_wanted_runs_and_counts() {
        let mut ledger = Ledger::new(Some("b".into()));
        ledger.check("a", || panic!("not wanted"));
        ledger.check("ab", || Ok(String::new()));
        assert_eq!(counts(&ledger), (1, 0));
        ledger.check("bc", || anyhow::bail!("no"));
        assert_eq!(counts(&ledger), (1, 1));
        assert_eq!(ledger.close(), ExitCode::FAILURE);
    }

    #[test]
    fn each_of_those_wanted_runs_once_wherever_it_runs() {
        let cases: Vec<_> = (0..100u32)
            .map(|case| (format!("case/{case}"), case))
            .collect();
        let runs = AtomicUsize::new(0);
        let mut ledger = Ledger::new(Some("case/1".into()));
        ledger.check_each(&cases, |_, case| {
            runs.fetch_add(1, Ordering::Relaxed);
            anyhow::ensure!(case % 2 == 0, "odd");
            Ok(String::new())
        });
        // case/1 and case/10 to case/19.
        assert_eq!(runs.into_inner(), 11);
        assert_eq!(counts(&ledger), (5, 6));
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert_eq!(Ledger::new(Some("x".into())).close(), ExitCode::FAILURE);
        let mut ledger = Ledger::new(None);
        ledger.check("a", || Ok(String::new()));
        assert_eq!(ledger.close(), ExitCode::SUCCESS);
    }
}
