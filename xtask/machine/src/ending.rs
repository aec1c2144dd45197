//! How a boot ended, read off the hypervisor's records.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Its name for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::GuestCrash(_) => "guest-crash",
            Self::HypervisorCrash(_) => "hypervisor-crash",
            Self::TimedOut => "timed-out",
            Self::Left => "left",
            Self::Gone => "gone",
        }
    }

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
    vms: BTreeMap<u64, Vm>,
    /// A guest has taken the machine off with it.
    is_machine_off: bool,
    crash: Option<Ending>,
}

/// What is known of one guest.
#[derive(Default)]
struct Vm {
    /// It has been started, and has not ended.
    has_started: bool,
    /// It has powered off.
    is_off: bool,
    /// What its kernel said when it panicked.
    panic: Option<String>,
    faults: Faults,
    /// What it said by pvpanic when it panicked.
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
        let vm = match record.word("vm") {
            Ok(_) => record.number("vm")?,
            Err(_) => 0,
        };
        match record.name.as_str() {
            "ready" => self.guests = Some(record.number("vms")?),
            "vm-start" => {
                let own = self.vm(vm);
                (own.is_off, own.has_started) = (false, true);
            }
            // What then becomes of a guest is said if it is not what its end is called for.
            "vm-reset" | "vm-off" if record.word("then").ok() == Some("machine-off") => {
                self.vm(vm).is_off = true;
                self.is_machine_off = true;
                return Ok(Some(DRAIN));
            }
            // It begins anew, or its capture kernel does.
            "vm-reset" if matches!(record.word("then"), Err(_) | Ok("dump")) => {
                self.vms.insert(vm, Vm::default());
            }
            "vm-off" if record.word("then").is_ok() => {
                self.vms.insert(vm, Vm::default());
            }
            "vm-panic" if record.word("event")? == "panicked" => {
                let vcpu = record.index("vcpu")?;
                self.vm(vm).pvpanic = Some(format!(
                    "vCPU {vcpu}: it says by pvpanic that it has panicked"
                ));
            }
            "vm-fault" => {
                let (vcpu, pc) = (record.index("vcpu")?, record.number("pc")?);
                let address = record.number("address")?;
                let on = record.number("on")?;
                let faults = &mut self.vm(vm).faults;
                faults.vcpus.insert(vcpu);
                faults.on = on;
                faults.first.get_or_insert_with(|| {
                    format!("vCPU {vcpu} faults for ever at pc {pc:#x}, address {address:#x}")
                });
            }
            "vm-off" | "vm-reset" => {
                let own = self.vm(vm);
                (own.is_off, own.has_started) = (true, false);
                if self.are_all_off() {
                    return Ok(Some(DRAIN));
                }
            }
            "vm-lost" => {
                let own = self.vm(vm);
                own.is_off = true;
                let cause = format!("a CPU never left the guest vm{vm}");
                self.crash = Some(Ending::HypervisorCrash(cause));
                if self.are_all_off() {
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

    fn vm(&mut self, number: u64) -> &mut Vm {
        self.vms.entry(number).or_default()
    }

    fn are_all_off(&self) -> bool {
        let off = self.vms.values().filter(|vm| vm.is_off).count() as u64;
        off > 0 && off >= self.guests.unwrap_or(1)
    }

    /// Whether one has ended and none runs: those that are started by hand may never have been.
    fn does_nothing(&self) -> bool {
        let mut vms = self.vms.values();
        vms.any(|vm| vm.is_off) && !self.vms.values().any(|vm| vm.has_started)
    }

    /// Takes notice of a line that a guest wrote; answers whether it has panicked and nothing more will come of any, as a
    /// kernel says that stays where it is.
    pub fn hear(&mut self, vm: u8, line: &str) -> bool {
        let text = kernel_text(line);
        let own = self.vm(vm.into());
        if text.starts_with(PANIC) {
            own.panic = Some(text.to_owned());
        } else if text.starts_with("Booting Linux on physical CPU") {
            // One that was loaded for this very case.
            own.panic = None;
        }
        let is_last = text.strip_prefix("---[ end ");
        let is_over = own.panic.is_some() && is_last.is_some_and(|rest| rest.starts_with(PANIC));
        is_over && self.do_all(|vm| vm.panic.is_some())
    }

    /// Whether this is so of all guests that are not off.
    fn do_all(&self, what: impl Fn(&Vm) -> bool) -> bool {
        let over = self.vms.values().filter(|vm| vm.is_off || what(vm));
        over.count() as u64 >= self.guests.unwrap_or(1)
    }

    /// Why no guest does anything any more: what is to be said of the first of them.
    pub fn stuck(&self) -> Option<&str> {
        let is_over = self.do_all(|vm| vm.stuck().is_some());
        self.vms.values().find_map(Vm::stuck).filter(|_| is_over)
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
        } else if let Some(cause) = self.vms.values().find_map(|vm| vm.pvpanic.as_ref()) {
            Ending::GuestCrash(cause.clone())
        } else if self.are_all_off() || self.is_machine_off || !timed_out && self.does_nothing() {
            Ending::PowerOff
        } else if let Some(cause) = self.vms.values().find_map(Vm::crash) {
            Ending::GuestCrash(cause.clone())
        } else if timed_out {
            Ending::TimedOut
        } else {
            Ending::Gone
        }
    }
}

impl Vm {
    /// Why it does nothing any more: it has said so by pvpanic, or each vCPU that is on only faults. One that does
    /// not may go on, and may end the guest.
    fn stuck(&self) -> Option<&str> {
        if let Some(cause) = &self.pvpanic {
            return Some(cause);
        }
        let are_all = self.faults.vcpus.len() as u64 >= self.faults.on;
        self.faults.first.as_deref().filter(|_| are_all)
    }

    /// Why it is not going to power off, unless it has.
    fn crash(&self) -> Option<&String> {
        let cause = self.panic.as_ref().or(self.faults.first.as_ref());
        cause.filter(|_| !self.is_off)
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
    fn a_capture_kernel_has_as_much_time_as_it_takes() {
        let mut watch = Watch::default();
        for line in ["@ready vms=1", "@vm-start vm=0", "@vm-reset vm=0 then=dump"] {
            let record = Line::parse(line).record().unwrap().unwrap();
            assert_eq!(watch.note(&record).unwrap(), None, "{line}");
        }
    }

    #[test]
    fn what_becomes_of_a_guest_is_as_its_records_say() {
        let restarted = [
            "@ready vms=1",
            "@vm-start vm=0",
            "@vm-off vm=0 then=restart",
        ];
        assert_eq!(ending(&restarted, true), Ending::TimedOut);
        let off = ["@ready vms=1", "@vm-start vm=0", "@vm-reset vm=0 then=stop"];
        assert_eq!(ending(&off, false), Ending::PowerOff);
        let captured = ["@ready vms=1", "@vm-start vm=0", "@vm-reset vm=0 then=dump"];
        assert_eq!(ending(&captured, true), Ending::TimedOut);
        let whole = [
            "@ready vms=2",
            "@vm-start vm=0",
            "@vm-start vm=1",
            "@vm-off vm=1 then=machine-off",
        ];
        assert_eq!(ending(&whole, false), Ending::PowerOff);
        // One that nobody has started keeps the machine on as little as one that is off, until somebody does.
        let manual = ["@ready vms=2", "@vm-start vm=0", "@vm-off vm=0"];
        assert_eq!(ending(&manual, false), Ending::PowerOff);
        let again = [
            "@ready vms=1",
            "@vm-start vm=0",
            "@vm-off vm=0",
            "@vm-start vm=0",
        ];
        assert_eq!(ending(&again, true), Ending::TimedOut);
    }

    #[test]
    fn a_guest_that_has_crashed_leaves_the_others_to_go_on() {
        let end = "---[ end Kernel panic - not syncing: test ]---";
        let ready = Line::parse("@ready vms=2").record().unwrap().unwrap();
        let mut watch = Watch::default();
        let _limit = watch.note(&ready).unwrap();
        assert!(!watch.hear(1, "Kernel panic - not syncing: test"));
        assert!(!watch.hear(1, end), "the other goes on");
        let crash = Ending::GuestCrash("Kernel panic - not syncing: test".into());
        assert_eq!(watch.ending(true), crash);
        assert!(!watch.hear(0, "Kernel panic - not syncing: too"));
        assert!(watch.hear(0, "---[ end Kernel panic - not syncing: too ]---"));
        // One is off, and the other does nothing but fault.
        let fault = "@vm-fault vm=0 vcpu=0 on=1 pc=0x200 address=0x200";
        let mut watch = Watch::default();
        for text in ["@ready vms=2", fault] {
            let record = Line::parse(text).record().unwrap().unwrap();
            let _limit = watch.note(&record).unwrap();
        }
        assert_eq!(watch.stuck(), None);
        let off = Line::parse("@vm-off vm=1").record().unwrap().unwrap();
        let _limit = watch.note(&off).unwrap();
        assert!(watch.stuck().is_some());
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
        assert!(!watch.hear(0, end), "there was no panic");
        assert!(!watch.hear(0, panic));
        assert!(!watch.hear(0, "[    5.9] CPU: 0 PID: 1"));
        assert!(watch.hear(0, end));
        assert_eq!(watch.ending(true), crash);
        assert_eq!(watch.ending(false), crash);
        // Without a time, and with one and a caller.
        for prefix in ["", "[    5.869668][    T1] "] {
            let mut watch = Watch::default();
            watch.hear(0, &panic.replace("[    5.869668] ", prefix));
            assert_eq!(watch.ending(true), crash);
        }
    }

    #[test]
    fn a_panic_is_over_when_the_guest_begins_anew_or_switches_itself_off() {
        let panicked = || {
            let mut watch = Watch::default();
            watch.hear(0, "Kernel panic - not syncing: test");
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
        watch.hear(
            0,
            "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x414fd0c1]",
        );
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
        watch.hear(0, "# grep 'Kernel panic - not syncing: ' log");
        watch.hear(0, "log:[    5.869668] Kernel panic - not syncing: test");
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
