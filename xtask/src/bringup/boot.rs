//! One start of the hypervisor, by what comes over the line.

use std::time::Duration;

use anyhow::{Result, bail};

use super::stage;
use lab::evidence::{GuestLog, HvRecords};
use machine::console::{GuestLines, Line, Part, Splitter};
use machine::ending::{Ending, Watch};
use machine::protocol::Results;

/// What was seen of it.
#[derive(Default)]
pub struct Boot {
    splitter: Splitter,
    guest: GuestLines,
    watch: Watch,
    /// The hypervisor's first line.
    pub entered: Option<String>,
    /// Whether it has the machine.
    pub ready: bool,
    /// What the guest tests came to.
    pub results: Results,
    /// What Linux said.
    pub story: GuestLog,
    /// What the hypervisor recorded.
    pub drain: HvRecords,
    /// What both wrote, line by line, the hypervisor's with `hv: ` before them.
    pub console: Vec<String>,
    /// Time until it can be no more.
    pub limit: Option<Duration>,
}

/// What has come that others should see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A line of the hypervisor.
    Hypervisor(String),
    /// A line of the guest.
    Guest(String),
    /// A stage has passed.
    Passed(String),
}

impl Boot {
    /// Takes what came; answers what is new.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Output>> {
        let mut seen = Vec::new();
        for part in self.splitter.push(bytes) {
            match part {
                Part::Guest { bytes, .. } => {
                    for line in self.guest.push(&bytes) {
                        self.results.note(&line);
                        self.story.note(&line);
                        self.console.push(line.clone());
                        seen.push(Output::Guest(line));
                    }
                }
                Part::Line(line) => self.note(&line, &mut seen)?,
            }
        }
        Ok(seen)
    }

    fn note(&mut self, line: &Line, seen: &mut Vec<Output>) -> Result<()> {
        let text = line.to_string();
        if self.entered.is_none() {
            self.entered = Some(line.text.clone());
            seen.push(Output::Passed(stage::ENTRY.passed(&line.text)));
        }
        if let Some(record) = line.record().transpose()? {
            if record.name == "ready" {
                self.ready = true;
                seen.push(Output::Passed(stage::MACHINE.passed("all CPUs are up")));
            }
            self.drain.note(&record)?;
            self.limit = self.watch.note(&record)?.or(self.limit);
        }
        self.console.push(format!("hv: {text}"));
        seen.push(Output::Hypervisor(text));
        Ok(())
    }

    /// Whether it has come to its end, as far as the line tells.
    pub fn is_over(&self) -> bool {
        self.drain.complete && self.watch.ending(false) == Ending::PowerOff
    }

    /// How it ended.
    pub fn ending(&self, timed_out: bool) -> Ending {
        self.watch.ending(timed_out)
    }

    /// Whether its guest is the one with the tests.
    pub fn is_of_tests(&self) -> bool {
        self.results.done || self.results.running.is_some() || !self.results.outcomes.is_empty()
    }

    /// That it came as far as a guest.
    pub fn check_start(&self) -> Result<()> {
        let Some(entered) = &self.entered else {
            return stage::ENTRY.judge(Err(anyhow::anyhow!(
                "the loader has started the hypervisor, which says nothing"
            )));
        };
        if self.ready {
            return Ok(());
        }
        let last = || -> Result<()> {
            let last = self.console.last().map_or("", String::as_str);
            match self.ending(true) {
                Ending::TimedOut => {
                    bail!("after `{entered}` it did not come to its guests; its last line: {last}")
                }
                ending => bail!("{ending}; its last line: {last}"),
            }
        };
        stage::MACHINE.judge(last())
    }

    /// The last lines.
    pub fn tail(&self) -> Vec<String> {
        const LINES: usize = 40;
        let skip = self.console.len().saturating_sub(LINES);
        self.console.iter().skip(skip).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\x1e[    0.000100 p0] halligan on a Pi: entered at EL2\r\n\
                       \x1e[    0.200000 p0] @ready vms=1\r\n\
                       RUN a\r\nPASS a\r\nDONE\r\n";

    #[test]
    fn a_boot_passes_its_stages_and_is_over_when_all_is_told() {
        let mut boot = Boot::default();
        assert!(
            boot.check_start()
                .unwrap_err()
                .to_string()
                .contains("`entry`")
        );
        let seen = boot.push(LOG.as_bytes()).unwrap();
        let passed = seen.iter().filter(|seen| matches!(seen, Output::Passed(_)));
        assert_eq!(passed.count(), 2);
        assert!(boot.check_start().is_ok() && boot.is_of_tests() && !boot.is_over());
        boot.push(b"\x1e@vm-off vm=0\r\n\x1e@end vm=0\r\n").unwrap();
        assert!(boot.is_over());
        assert_eq!(boot.ending(false), Ending::PowerOff);
    }

    #[test]
    fn a_hypervisor_that_crashes_before_its_guests_is_quoted() {
        let mut boot = Boot::default();
        boot.push(b"\x1eentered\r\n\x1e@hv-crash pcpu=0 cause=start\r\n\x1eno GIC\r\n")
            .unwrap();
        let error = boot.check_start().unwrap_err().to_string();
        assert!(
            error.contains("`machine`") && error.contains("no GIC"),
            "{error}"
        );
    }
}
