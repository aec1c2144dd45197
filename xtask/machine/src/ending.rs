//! How a boot ended, read off the hypervisor's records.

use std::collections::BTreeSet;
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
    /// The user left.
    Left,
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
            Self::Left | Self::Gone => 6,
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
            Self::Left => f.write_str("you left, and QEMU was stopped"),
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
    /// What the guest's kernel said when it panicked.
    panic: Option<String>,
    faults: Faults,
    /// What the guest said by pvpanic when it panicked.
    pvpanic: Option<String>,
}

/// The vCPUs that do nothing but fault.
#[derive(Default)]
struct Faults {
    /// What is known of the first.
    first: Option<String>,
    /// Which they are.
    vcpus: BTreeSet<u32>,
    /// How many vCPUs are on.
    on: u64,
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
            "vm-reset" => {
                (self.panic, self.pvpanic, self.faults) = (None, None, Faults::default());
            }
            "vm-panic" if record.word("event")? == "panicked" => {
                let vcpu = record.index("vcpu")?;
                self.pvpanic = Some(format!(
                    "vCPU {vcpu}: it says by pvpanic that it has panicked"
                ));
            }
            "vm-fault" => {
                let (vcpu, pc) = (record.index("vcpu")?, record.number("pc")?);
                let address = record.number("address")?;
                self.faults.vcpus.insert(vcpu);
                self.faults.on = record.number("on")?;
                self.faults.first.get_or_insert_with(|| {
                    format!("vCPU {vcpu} faults for ever at pc {pc:#x}, address {address:#x}")
                });
            }
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

    /// Takes notice of a line that the guest wrote; answers whether it has panicked and nothing more will come, as a
    /// kernel says that stays where it is.
    pub fn hear(&mut self, line: &str) -> bool {
        let text = kernel_text(line);
        if text.starts_with(PANIC) {
            self.panic = Some(text.to_owned());
        } else if text.starts_with("Booting Linux on physical CPU") {
            // One that was loaded for this very case.
            self.panic = None;
        }
        let is_last = text.strip_prefix("---[ end ");
        self.panic.is_some() && is_last.is_some_and(|rest| rest.starts_with(PANIC))
    }

    /// Why the guest does nothing any more: it has said so by pvpanic, or each vCPU that is on only faults. One that does
    /// not may go on, and may end the guest.
    pub fn stuck(&self) -> Option<&str> {
        if let Some(cause) = &self.pvpanic {
            return Some(cause);
        }
        let are_all = self.faults.vcpus.len() as u64 >= self.faults.on;
        self.faults.first.as_deref().filter(|_| are_all)
    }

    /// Whether the hypervisor has crashed: what it says from now on is the report.
    pub fn has_crashed(&self) -> bool {
        matches!(self.crash, Some(Ending::HypervisorCrash(_)))
    }

    /// The verdict once the user has left.
    pub fn left(&self) -> Ending {
        match self.ending(false) {
            Ending::Gone => Ending::Left,
            ending => ending,
        }
    }

    /// The verdict once QEMU has ended by itself, or was killed because the time was over.
    pub fn ending(&self, timed_out: bool) -> Ending {
        if let Some(crash) = &self.crash {
            crash.clone()
        } else if let Some(cause) = &self.pvpanic {
            Ending::GuestCrash(cause.clone())
        } else if self.off > 0 && self.off >= self.guests.unwrap_or(1) {
            Ending::PowerOff
        } else if let Some(cause) = self.panic.as_ref().or(self.faults.first.as_ref()) {
            Ending::GuestCrash(cause.clone())
        } else if timed_out {
            Ending::TimedOut
        } else {
            Ending::Gone
        }
    }
}

/// How Linux begins the line that says why it cannot go on (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing: ";

/// What a kernel says in a line of its log: what is behind the time and the caller, each in brackets, if they are there.
fn kernel_text(line: &str) -> &str {
    let mut text = line;
    while let Some((_, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        text = rest.trim_start();
    }
    text
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
    fn who_leaves_is_told_so() {
        let left = |lines: &[&str]| {
            let mut watch = Watch::default();
            for line in lines {
                let record = Line::parse(line).record().unwrap().unwrap();
                let _limit = watch.note(&record).unwrap();
            }
            watch.left()
        };
        assert_eq!(left(&["@ready vms=1"]), Ending::Left);
        assert_eq!(
            left(&["@ready vms=1"]).to_string(),
            "you left, and QEMU was stopped"
        );
        assert_eq!(left(&["@ready vms=1", "@vm-off vm=0"]), Ending::PowerOff);
    }

    #[test]
    fn reset_is_not_the_end() {
        let lines = ["@ready vms=1", "@vm-reset vm=0 n=1"];
        assert_eq!(ending(&lines, false), Ending::Gone);
    }

    #[test]
    fn a_kernel_that_panics_and_says_no_more_has_crashed() {
        let panic = "[    5.869668] Kernel panic - not syncing: sysrq triggered crash";
        let crash = Ending::GuestCrash("Kernel panic - not syncing: sysrq triggered crash".into());
        let end =
            "[    5.9][    T1] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---";
        let mut watch = Watch::default();
        assert!(!watch.hear(end), "there was no panic");
        assert!(!watch.hear(panic));
        assert!(!watch.hear("[    5.9] CPU: 0 PID: 1"));
        assert!(watch.hear(end));
        assert_eq!(watch.ending(true), crash);
        assert_eq!(watch.ending(false), crash);
        // Without a time, and with one and a caller.
        for prefix in ["", "[    5.869668][    T1] "] {
            let mut watch = Watch::default();
            watch.hear(&panic.replace("[    5.869668] ", prefix));
            assert_eq!(watch.ending(true), crash);
        }
    }

    #[test]
    fn a_panic_is_over_when_the_guest_begins_anew_or_switches_itself_off() {
        let panicked = || {
            let mut watch = Watch::default();
            watch.hear("Kernel panic - not syncing: test");
            watch
        };
        let note = |watch: &mut Watch, line: &str| {
            let record = Line::parse(line).record().unwrap().unwrap();
            let _limit = watch.note(&record).unwrap();
        };
        let mut watch = panicked();
        note(&mut watch, "@vm-reset vm=0");
        assert_eq!(watch.ending(true), Ending::TimedOut);
        let mut watch = panicked();
        watch.hear("[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x414fd0c1]");
        assert_eq!(watch.ending(true), Ending::TimedOut);
        let mut watch = panicked();
        note(&mut watch, "@vm-off vm=0");
        assert_eq!(watch.ending(false), Ending::PowerOff);
    }

    #[test]
    fn a_guest_whose_vcpu_faults_for_ever_has_crashed() {
        let cause = "vCPU 0 faults for ever at pc 0x200, address 0x200";
        let fault = "@vm-fault vm=0 vcpu=0 on=1 pc=0x200 address=0x200";
        let crash = Ending::GuestCrash(cause.into());
        assert_eq!(ending(&["@ready vms=1", fault], true), crash);
        assert_eq!(ending(&[fault, "@vm-reset vm=0"], true), Ending::TimedOut);
        assert_eq!(ending(&[fault, "@vm-off vm=0"], false), Ending::PowerOff);
        // One abort is no crash.
        let abort = "@vm-abort vm=0 vcpu=0 on=1 pc=0x4 address=0x4000004";
        assert_eq!(ending(&[abort], true), Ending::TimedOut);
    }

    #[test]
    fn a_guest_that_says_by_pvpanic_that_it_has_panicked_has_crashed() {
        let panicked = "@vm-panic vm=0 vcpu=1 event=panicked";
        let cause = "vCPU 1: it says by pvpanic that it has panicked";
        let crash = Ending::GuestCrash(cause.into());
        assert_eq!(ending(&["@ready vms=1", panicked], true), crash);
        // Whether it then switches itself off or stays; a reset begins anew.
        assert_eq!(ending(&[panicked, "@vm-off vm=0"], false), crash);
        assert_eq!(
            ending(&[panicked, "@vm-reset vm=0"], true),
            Ending::TimedOut
        );
        // A kernel that was loaded for the case goes on, and a guest may say that it ends.
        for event in ["crash-loaded", "shutdown"] {
            let said = format!("@vm-panic vm=0 vcpu=0 event={event}");
            assert_eq!(ending(&[&said, "@vm-off vm=0"], false), Ending::PowerOff);
        }
    }

    #[test]
    fn a_guest_is_stuck_when_each_vcpu_that_is_on_faults() {
        let stuck = |vcpus: &[(u32, u64)]| {
            let mut watch = Watch::default();
            for (vcpu, on) in vcpus {
                let line = format!("@vm-fault vm=0 vcpu={vcpu} on={on} pc=0x200 address=0x200");
                let record = Line::parse(&line).record().unwrap().unwrap();
                let _limit = watch.note(&record).unwrap();
            }
            watch.stuck().map(str::to_owned)
        };
        let first = |vcpu| {
            Some(format!(
                "vCPU {vcpu} faults for ever at pc 0x200, address 0x200"
            ))
        };
        assert_eq!(stuck(&[]), None);
        assert_eq!(stuck(&[(0, 1)]), first(0));
        // Another vCPU can still do something about it, until it faults as well.
        assert_eq!(stuck(&[(0, 2)]), None);
        assert_eq!(stuck(&[(1, 2), (0, 2)]), first(1));
        assert_eq!(stuck(&[(0, 3), (1, 3)]), None);
    }

    #[test]
    fn who_speaks_of_a_panic_has_none() {
        let mut watch = Watch::default();
        watch.hear("# grep 'Kernel panic - not syncing: ' log");
        watch.hear("log:[    5.869668] Kernel panic - not syncing: test");
        assert_eq!(watch.ending(true), Ending::TimedOut);
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
