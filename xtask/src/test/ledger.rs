//! The lines that `cargo xtask test` prints, and the count.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Counts what passed and what failed, and says so.
pub struct Ledger {
    filter: Option<String>,
    passed: u32,
    failed: u32,
}

impl Ledger {
    /// An empty one, for what has `filter` in its name.
    pub fn new(filter: Option<String>) -> Self {
        Self {
            filter,
            passed: 0,
            failed: 0,
        }
    }

    /// Whether `name` is to be run.
    pub fn wants(&self, name: &str) -> bool {
        self.filter
            .as_deref()
            .is_none_or(|filter| name.contains(filter))
    }

    /// Whether something is left out.
    pub fn is_filtered(&self) -> bool {
        self.filter.is_some()
    }

    /// Whether something has been entered.
    pub fn has_run(&self) -> bool {
        self.passed + self.failed > 0
    }

    /// Runs `check` if it is wanted. What it answers stands behind the line, an error below it.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) {
        if self.wants(name) {
            let started = Instant::now();
            match check() {
                Ok(remark) => self.passed(name, started.elapsed(), &remark),
                Err(error) => self.failed(name, started.elapsed(), &format!("{error:#}")),
            }
        }
    }

    /// Enters a success.
    pub fn passed(&mut self, name: &str, time: Duration, remark: &str) {
        self.passed += 1;
        line("ok", time, name, remark);
    }

    /// Enters a failure; `details` are printed below it.
    pub fn failed(&mut self, name: &str, time: Duration, details: &str) {
        self.failed += 1;
        line("FAILED", time, name, "");
        for detail in details.lines() {
            println!("        {detail}");
        }
    }

    /// Says that something does not apply; it counts as neither.
    pub fn skipped(&self, name: &str, why: &str) {
        line("-", Duration::ZERO, name, why);
    }

    /// Prints the count and answers whether all is well.
    pub fn close(self) -> ExitCode {
        if !self.has_run() {
            let filter = self.filter.unwrap_or_default();
            eprintln!("error: nothing has `{filter}` in its name");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn line(verdict: &str, time: Duration, name: impl Display, remark: &str) {
    let seconds = time.as_secs_f64();
    if remark.is_empty() {
        println!("{verdict:6} {seconds:6.1} s  {name}");
    } else {
        println!("{verdict:6} {seconds:6.1} s  {name}: {remark}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_runs_and_counts() {
        let mut ledger = Ledger::new(Some("b".into()));
        ledger.check("a", || panic!("not wanted"));
        ledger.check("ab", || Ok(String::new()));
        assert_eq!((ledger.passed, ledger.failed), (1, 0));
        ledger.check("bc", || anyhow::bail!("no"));
        assert_eq!((ledger.passed, ledger.failed), (1, 1));
        assert_eq!(ledger.close(), ExitCode::FAILURE);
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert_eq!(Ledger::new(Some("x".into())).close(), ExitCode::FAILURE);
        let mut ledger = Ledger::new(None);
        ledger.check("a", || Ok(String::new()));
        assert_eq!(ledger.close(), ExitCode::SUCCESS);
    }
}
