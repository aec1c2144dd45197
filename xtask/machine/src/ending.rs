//! How a boot ended, read off the hypervisor's records.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::console::{Line, Record};
use crate::qemu::Session;

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every guest powered off.
    PowerOff,
    /// A guest did what it cannot go on from.
    GuestCrash(String),
    /// The hypervisor itself failed.
    HypervisorCrash(String),
    /// The time was over.
    TimedOut,
    /// QEMU ended and nobody had powered off.
    Gone,
}

impl Ending {
    /// The exit code that stands for it; `cargo xtask run --help` lists them.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::PowerOff => 0,
            Self::GuestCrash(_) => 3,
            Self::HypervisorCrash(_) => 4,
            Self::TimedOut => 5,
            Self::Gone => 6,
        })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::GuestCrash(cause) => write!(f, "the guest crashed ({cause})"),
            Self::HypervisorCrash(cause) => write!(f, "the hypervisor crashed ({cause})"),
            Self::TimedOut => f.write_str("the time was over and QEMU was killed"),
            Self::Gone => f.write_str("QEMU ended before the guest powered off"),
        }
    }
}

/// Follows the records of one boot.
#[derive(Default)]
pub struct Watch {
    guests: Option<u64>,
    off: u64,
    crash: Option<Ending>,
}

impl Watch {
    /// Takes notice of `line`, and hurries `session` once the boot is decided.
    pub fn follow(&mut self, line: &Line, session: &mut Session) -> Result<()> {
        if let Some(limit) = self.look(line)? {
            session.shorten(limit);
        }
        Ok(())
    }

    /// Takes notice of `line`; answers how long the rest may take, if the boot is now decided.
    pub fn look(&mut self, line: &Line) -> Result<Option<Duration>> {
        match line.record().transpose()? {
            Some(record) => self.note(&record),
            None => Ok(None),
        }
    }

    /// Takes notice of `record`; answers how long the rest may take, if the boot is now decided.
    pub fn note(&mut self, record: &Record) -> Result<Option<Duration>> {
        match record.name.as_str() {
            "ready" => self.guests = Some(record.number("vms")?),
            "vm-off" => {
                self.off += 1;
                if self.off >= self.guests.unwrap_or(1) {
                    return Ok(Some(DRAIN));
                }
            }
            "vm-crash" => {
                let cause = format!("vCPU {}: {}", record.index("vcpu")?, record.word("cause")?);
                self.crash.get_or_insert(Ending::GuestCrash(cause));
                return Ok(Some(DRAIN));
            }
            "hv-crash" => {
                let cause = format!("pCPU {}: {}", record.index("pcpu")?, record.word("cause")?);
                self.crash = Some(Ending::HypervisorCrash(cause));
                return Ok(Some(DRAIN));
            }
            "hv-crash-end" => return Ok(Some(Duration::from_millis(200))),
            _ => {}
        }
        Ok(None)
    }

    /// Whether the hypervisor has crashed: what it says from now on is the report.
    pub fn has_crashed(&self) -> bool {
        matches!(self.crash, Some(Ending::HypervisorCrash(_)))
    }

    /// The verdict once QEMU has ended by itself, or was killed because the time was over.
    pub fn ending(&self, timed_out: bool) -> Ending {
        if let Some(crash) = &self.crash {
            crash.clone()
        } else if self.off > 0 && self.off >= self.guests.unwrap_or(1) {
            Ending::PowerOff
        } else if timed_out {
            Ending::TimedOut
        } else {
            Ending::Gone
        }
    }
}

/// How long the hypervisor may take to write its records and switch the machine off.
const DRAIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(lines: &[&str], timed_out: bool) -> Ending {
        let mut watch = Watch::default();
        for line in lines {
            let record = Line::parse(line).record().unwrap().unwrap();
            let _limit = watch.note(&record).unwrap();
        }
        watch.ending(timed_out)
    }

    #[test]
    fn power_off_of_the_only_guest_is_success() {
        let lines = ["@ready vms=1", "@vm-start vm=0 vcpus=4", "@vm-off vm=0"];
        assert_eq!(ending(&lines, false), Ending::PowerOff);
        assert_eq!(ending(&lines[..2], false), Ending::Gone);
        assert_eq!(ending(&lines[..2], true), Ending::TimedOut);
    }

    #[test]
    fn one_guest_of_two_off_is_not_the_end() {
        assert_eq!(
            ending(&["@ready vms=2", "@vm-off vm=1"], true),
            Ending::TimedOut
        );
        let both = ["@ready vms=2", "@vm-off vm=1", "@vm-off vm=0"];
        assert_eq!(ending(&both, false), Ending::PowerOff);
    }

    #[test]
    fn reset_is_not_the_end() {
        let lines = ["@ready vms=1", "@vm-reset vm=0 n=1"];
        assert_eq!(ending(&lines, false), Ending::Gone);
    }

    #[test]
    fn a_crash_wins_over_what_follows_it() {
        let lines = [
            "@ready vms=1",
            "@vm-crash vm=0 vcpu=2 cause=stage2",
            "@vm-off vm=0",
        ];
        let crash = Ending::GuestCrash("vCPU 2: stage2".into());
        assert_eq!(ending(&lines, false), crash);
        let lines = [
            "@vm-crash vm=0 vcpu=2 cause=stage2",
            "@hv-crash pcpu=1 cause=panic",
        ];
        let crash = Ending::HypervisorCrash("pCPU 1: panic".into());
        assert_eq!(ending(&lines, true), crash);
    }
}
