//! What the test guests write: the list of tests, and the results of a boot.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A test that the test guest has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Its name, a sentence about behaviour.
    pub name: String,
    /// CPUs it needs.
    pub cpus: u32,
    /// Whether it must have a boot of its own.
    pub own_boot: bool,
    /// Whether it counts instructions.
    pub icount: bool,
    /// What the guest is to be offered in a boot of its own: whose firmware, `reclaim` or `probe`; mostly nothing.
    pub config: String,
    /// How long it may take on an idle host.
    pub timeout: Duration,
}

impl Test {
    /// Reads `TEST name cpus=n boot=shared|own icount=yes|no config=name|- timeout=seconds`; none if it is no such line.
    pub fn parse(line: &str) -> Option<Result<Self>> {
        let words = line.strip_prefix("TEST ")?;
        Some(Self::of_words(words).with_context(|| format!("in the line `{line}`")))
    }

    fn of_words(words: &str) -> Result<Self> {
        let mut words = words.split_ascii_whitespace();
        let name = words.next().context("it names no test")?.to_owned();
        let mut value = |key: &str| -> Result<&str> {
            let word = words.next().unwrap_or_default();
            let value = word
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('='));
            value.with_context(|| format!("`{key}=` is missing"))
        };
        Ok(Self {
            name,
            cpus: value("cpus")?.parse().context("cpus= is no number")?,
            own_boot: match value("boot")? {
                "own" => true,
                "shared" => false,
                other => bail!("boot={other} is unknown"),
            },
            icount: match value("icount")? {
                "yes" => true,
                "no" => false,
                other => bail!("icount={other} is unknown"),
            },
            config: match value("config")? {
                "-" => String::new(),
                config => config.to_owned(),
            },
            timeout: Duration::from_secs(
                value("timeout")?.parse().context("timeout= is no number")?,
            ),
        })
    }
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed; what it measured, in words.
    Passed(String),
    /// It failed; where and why.
    Failed(String),
    /// It did not apply; why.
    Skipped(String),
}

/// The results of one boot, as they come.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Each test's outcome, in order.
    pub outcomes: Vec<(String, Outcome)>,
    /// The test that runs.
    pub running: Option<String>,
    /// Whether the guest said that it is through.
    pub done: bool,
    metrics: Vec<(String, String)>,
}

impl Results {
    /// Takes notice of a line; true if a test has begun.
    pub fn note(&mut self, line: &str) -> bool {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "RUN" => {
                // A test that resets its guest says RUN again, with the same name.
                if let Some(before) = self.running.take_if(|before| before != name) {
                    let why = format!("its end was not heard: {name} has begun");
                    self.end(&before, Outcome::Failed(why));
                }
                self.running = Some(name.to_owned());
                return true;
            }
            "METRIC" => self.metrics.push((name.to_owned(), text.to_owned())),
            "PASS" => {
                let metrics = std::mem::take(&mut self.metrics).into_iter();
                let metrics = metrics.map(|(name, value)| format!("{name} {value}"));
                self.end(
                    name,
                    Outcome::Passed(metrics.collect::<Vec<_>>().join(", ")),
                );
            }
            "FAIL" => self.end(name, Outcome::Failed(text.to_owned())),
            "SKIP" => self.end(name, Outcome::Skipped(text.to_owned())),
            "DONE" => self.done = true,
            _ => {}
        }
        false
    }

    fn end(&mut self, name: &str, outcome: Outcome) {
        self.running = None;
        self.metrics.clear();
        self.outcomes.push((name.to_owned(), outcome));
    }

    /// Fails what did not come to its end: the test that ran when the boot ended as `ending` says, and
    /// those of `expected` that were never heard of.
    pub fn close(&mut self, expected: &[String], ending: &str) {
        if let Some(name) = self.running.take() {
            self.end(&name, Outcome::Failed(format!("{ending} while it ran")));
        }
        for name in expected {
            if !self.outcomes.iter().any(|(heard, _)| heard == name) {
                let why = format!("it never ran: {ending}");
                self.outcomes.push((name.clone(), Outcome::Failed(why)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_line_is_read_whole() {
        let line = "TEST smc_keeps_registers cpus=2 boot=own icount=no config=- timeout=10";
        assert_eq!(
            Test::parse(line).unwrap().unwrap(),
            Test {
                name: "smc_keeps_registers".into(),
                cpus: 2,
                own_boot: true,
                icount: false,
                config: String::new(),
                timeout: Duration::from_secs(10),
            }
        );
        assert!(Test::parse("# a remark").is_none());
        assert!(
            Test::parse("TEST x cpus=2 boot=never icount=no config=- timeout=10")
                .unwrap()
                .is_err()
        );
        assert!(Test::parse("TEST x cpus=2").unwrap().is_err());
    }

    fn results(lines: &[&str]) -> Results {
        let mut results = Results::default();
        for line in lines {
            results.note(line);
        }
        results
    }

    #[test]
    fn outcomes_carry_their_reasons_and_metrics() {
        let results = results(&[
            "RUN a",
            "METRIC smc_round_trip 183 instructions",
            "PASS a",
            "RUN b",
            "FAIL b tests/psci.rs:88: left 1 right 2",
            "SKIP c needs 4 CPUs",
            "DONE",
        ]);
        assert!(results.done);
        let outcomes: Vec<_> = results
            .outcomes
            .into_iter()
            .map(|(_, outcome)| outcome)
            .collect();
        assert_eq!(
            outcomes,
            [
                Outcome::Passed("smc_round_trip 183 instructions".into()),
                Outcome::Failed("tests/psci.rs:88: left 1 right 2".into()),
                Outcome::Skipped("needs 4 CPUs".into()),
            ]
        );
    }

    #[test]
    fn a_test_whose_end_is_lost_has_failed() {
        let results = results(&["RUN a", "FA?L a why", "RUN b", "RUN b", "PASS b", "DONE"]);
        let lost = Outcome::Failed("its end was not heard: b has begun".into());
        assert_eq!(
            results.outcomes,
            [
                ("a".to_owned(), lost),
                ("b".to_owned(), Outcome::Passed(String::new())),
            ]
        );
    }

    #[test]
    fn what_did_not_end_or_never_ran_has_failed() {
        let mut results = results(&["RUN a", "PASS a", "RUN b"]);
        results.close(&["a".into(), "b".into(), "c".into()], "QEMU ended");
        let failed = |name: &str, why: &str| (name.to_owned(), Outcome::Failed(why.to_owned()));
        assert_eq!(
            results.outcomes,
            [
                ("a".to_owned(), Outcome::Passed(String::new())),
                failed("b", "QEMU ended while it ran"),
                failed("c", "it never ran: QEMU ended"),
            ]
        );
    }
}
