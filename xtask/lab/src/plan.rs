//! One run of Linux in which CPUs are wedged: booted, watched to its end, its dump fetched.
//!
//! The scenario travels on the kernel's command line (`lab.do=`, `lab.wedge=`, `lab.panic=`); our init
//! in the guest carries it out and says so in `LAB:` lines.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::cpulist::CpuList;
use crate::evidence::{GuestLog, HvRecords};
use crate::rescue::Rescue;
use debian::kernel::KernelVariant;
use hv_abi::firmware::{Fault, Firmware};
use machine::console::GuestLines;
use machine::control::{self, Control};
use machine::ending::{Ending, Watch};
use machine::operator::Operator;
use machine::qemu::{Event, Machine};

/// What is done to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// CPUs are wedged, another panics, the capture kernel dumps.
    Kdump,
    /// No CPU is wedged; one panics, the capture kernel dumps.
    Panic,
    /// sysrq-l shows 20 times a program with a pattern in its registers, then, with CPUs wedged, every CPU's backtrace,
    /// those of the wedged ones by SDEI; then Linux reboots, which is the end. Nothing panics or dumps.
    SysrqL,
    /// CPUs are wedged, the hard-lockup detector panics from a timer interrupt, the capture kernel dumps.
    Hardlockup,
    /// All CPUs are wedged, so that none is left to do anything. The hypervisor has one of them take an SError, which panics there,
    /// stops the others by SDEI, and the capture kernel dumps.
    Nmi,
}

impl Scenario {
    /// Its name for our init.
    const fn name(self) -> &'static str {
        match self {
            Self::Kdump => "kdump",
            Self::Panic => "panic",
            Self::SysrqL => "sysrq-l",
            Self::Hardlockup => "hardlockup",
            Self::Nmi => "nmi",
        }
    }

    /// Whether it ends in a dump.
    pub const fn dumps(self) -> bool {
        matches!(
            self,
            Self::Kdump | Self::Panic | Self::Hardlockup | Self::Nmi
        )
    }
}

/// How the life of a CPU ends that was stopped by SDEI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It spins in its handler and never completes the event: what Linux does.
    Park,
    /// It completes the event, goes on at the next instruction, and spins.
    ResumePark,
    /// It completes the event, goes on at the next instruction, and calls CPU_OFF.
    ResumeOff,
    /// It calls CPU_OFF in its handler and never completes the event.
    Off,
    /// Its handler returns, the event is completed to a landing pad, and CPU_OFF is called there.
    PadOff,
}

impl Fate {
    /// Its name for the kernel.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Park => "park",
            Self::ResumePark => "resume-park",
            Self::ResumeOff => "resume-off",
            Self::Off => "off",
            Self::PadOff => "pad-off",
        }
    }

    /// Whether the CPU can be switched on again.
    pub const fn is_off(self) -> bool {
        matches!(self, Self::ResumeOff | Self::Off | Self::PadOff)
    }
}

/// What is to be done, and to which CPUs.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What is done.
    pub scenario: Scenario,
    /// Number of CPUs.
    pub cpus: u32,
    /// CPU model.
    pub model: String,
    /// CPUs that are wedged.
    pub wedge: CpuList,
    /// The CPU that panics or asks for backtraces.
    pub panic: u32,
    /// Whether the guest is offered SDEI.
    pub sdei: bool,
    /// How a CPU ends that SDEI stopped; if it is said, the capture kernel gets all CPUs.
    pub fate: Option<Fate>,
    /// Whose firmware the guest meets.
    pub firmware: String,
    /// Whether CPU_ON takes back a CPU that is parked in an event; the capture kernel then gets all CPUs.
    pub reclaim: bool,
    /// Whether time is what the CPUs execute, and not the host's.
    pub icount: bool,
}

impl Plan {
    /// That there are such CPUs, and that one is left to do the rest.
    pub fn check(&self) -> Result<()> {
        let last = self.cpus.saturating_sub(1);
        ensure!(
            self.cpus >= 2,
            "one CPU cannot be wedged and watched; use 2 or more"
        );
        ensure!(
            self.wedge.is_empty() || self.scenario != Scenario::Panic,
            "--scenario panic wedges no CPU; leave --wedge out"
        );
        ensure!(
            !self.wedge.is_empty() || self.scenario == Scenario::Panic,
            "--wedge names no CPU"
        );
        ensure!(
            self.is_left_alone() || (0..self.cpus).any(|cpu| !self.wedge.contains(cpu)),
            "--wedge leaves no CPU to panic: {} CPUs are 0 to {last}; leave out one of them, or have the hypervisor reach one: --scenario nmi",
            self.cpus
        );
        for cpu in self.wedge.iter().chain([self.panic]) {
            ensure!(
                cpu <= last,
                "there is no CPU {cpu}: {} CPUs are 0 to {last}",
                self.cpus
            );
        }
        ensure!(
            !self.is_left_alone() || (0..self.cpus).all(|cpu| self.wedge.contains(cpu)),
            "--scenario nmi wedges all CPUs; leave --wedge out"
        );
        ensure!(
            self.is_left_alone() || !self.wedge.contains(self.panic),
            "CPU {} is to be wedged and cannot panic; choose another with --panic",
            self.panic
        );
        ensure!(
            !self.captures_with_all() || self.scenario.dumps(),
            "--ending and --reclaim are about a crash dump, which {} is not",
            self.scenario.name()
        );
        let has_sdei = self.sdei
            && !Firmware::parse(&self.firmware).is_ok_and(|firmware| firmware.has(Fault::Absent));
        ensure!(
            has_sdei || !self.captures_with_all(),
            "--ending and --reclaim are about CPUs that SDEI stopped, and there is no SDEI; leave them out or let there be SDEI"
        );
        Ok(())
    }

    /// Whether no CPU of the guest is left to do anything.
    pub fn is_left_alone(&self) -> bool {
        self.scenario == Scenario::Nmi
    }

    /// Whether the capture kernel gets back the CPUs that SDEI stopped.
    pub fn comes_back(&self) -> bool {
        match self.fate {
            None | Some(Fate::Park) => self.reclaim,
            Some(fate) => fate.is_off(),
        }
    }

    /// Whether the capture kernel gets all CPUs, and looks at each.
    pub const fn captures_with_all(&self) -> bool {
        self.fate.is_some() || self.reclaim
    }

    /// Whether a CPU that SDEI stopped stays in its handler for ever.
    pub fn stays_in_handler(&self) -> bool {
        matches!(self.fate, None | Some(Fate::Park)) && !self.reclaim
    }

    /// Which of our kernels can do it.
    pub const fn kernel_variant(&self) -> KernelVariant {
        match self.fate {
            None | Some(Fate::Park) => KernelVariant::Plain,
            Some(_) => KernelVariant::Endings,
        }
    }

    /// The kernel's command line.
    pub fn bootargs(&self) -> String {
        let capture = match self.fate {
            None if !self.reclaim => "lab.maxcpus=1".to_owned(),
            None | Some(Fate::Park) => "lab.check=cpus".to_owned(),
            Some(fate) => format!("lab.check=cpus sdei_ending={}", fate.name()),
        };
        let reserved = match self.scenario {
            // A kernel as it is shipped may be large.
            Scenario::Panic => "256M",
            _ => "192M",
        };
        format!(
            "console=ttyAMA0 crashkernel={reserved} lab.do={} lab.wedge={} lab.panic={} {capture}",
            self.scenario.name(),
            self.wedge
                .iter()
                .map(|cpu| cpu.to_string())
                .collect::<Vec<_>>()
                .join(","),
            self.panic
        )
    }
}

/// What was seen of a run.
#[derive(Debug)]
pub struct GuestRun {
    /// What the guest said.
    pub story: GuestLog,
    /// What the hypervisor recorded.
    pub drain: HvRecords,
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
    pub elapsed: Duration,
    /// The last lines of the console.
    pub tail: Vec<String>,
}

/// How long the guest may take to switch itself off once its init has said that it is done; after
/// sysrq-l the way out is a reboot with a wedged CPU, whose IPI rung takes long.
const LEAVE: Duration = Duration::from_secs(60);

/// How long it may take once its init has said that it failed; with a wedged CPU it can only reboot.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Boots `machine` and watches until it ends; `show` is given the guest's lines as they come.
pub fn watch(
    plan: &Plan,
    machine: &Machine,
    timeout: Duration,
    log: &Path,
    mut show: impl FnMut(&str),
) -> Result<GuestRun> {
    let mut session = machine.start(Some(timeout))?;
    let log_file =
        File::create(log).with_context(|| format!("cannot write the log {}", log.display()))?;
    session.log_to(log_file);
    let mut story = GuestLog::default();
    let mut drain = HvRecords::default();
    let mut ends = Watch::default();
    let mut lines = GuestLines::default();
    let input = session.take_input().context("QEMU has no input")?;
    let operator = Operator::new(input, false);
    // Whoever cannot be reached by it, as its path is too long, is judged all the same.
    let _control = Control::open(&log.with_file_name(control::NAME), &operator).ok();
    let mut rescue: Option<Rescue> = None;
    let timed_out = loop {
        match session.next_event()? {
            Event::Guest(bytes) => {
                operator.hear_guest(&bytes);
                for line in lines.push(&bytes) {
                    show(&line);
                    let (was_done, had_failed) = (story.done, story.failure.is_some());
                    story.note(&line);
                    if plan.is_left_alone() && story.last_to_wedge == Some(plan.panic) {
                        let leave = session.leave();
                        rescue.get_or_insert_with(|| Rescue::begin(&operator, leave));
                    }
                    if story.failure.is_some() && !had_failed {
                        session.shorten(GIVE_UP);
                    } else if story.done && !was_done {
                        session.shorten(LEAVE);
                    }
                }
            }
            Event::Line(line) => {
                operator.hear(&line);
                if let Some(record) = line.record().transpose()? {
                    drain.note(&record)?;
                }
                ends.follow(&line, &mut session)?;
            }
            Event::Complaint(text) => show(&format!("qemu: {text}")),
            Event::Ended(_) | Event::Left => break false,
            Event::TimedOut => break true,
        }
    };
    operator.end();
    match rescue.map(Rescue::end) {
        None => {}
        // It was wedged when the operator looked.
        Some(Ok(())) => story.wedged.0.extend([plan.panic]),
        Some(Err(error)) => {
            story.failure.get_or_insert(format!("{error:#}"));
        }
    }
    Ok(GuestRun {
        story,
        drain,
        ending: ends.ending(timed_out),
        elapsed: session.elapsed(),
        tail: session.tail(),
    })
}

/// An empty raw disk that takes no room until it is written.
pub fn create_disk(path: &Path, mib: u64) -> Result<()> {
    File::create(path)
        .and_then(|disk| disk.set_len(mib << 20))
        .with_context(|| format!("cannot make the disk {}; is the disk full?", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cpus: u32, wedge: &str, panic: u32) -> Plan {
        Plan {
            scenario: Scenario::Kdump,
            cpus,
            model: "max".into(),
            wedge: wedge.parse().unwrap(),
            panic,
            sdei: true,
            fate: None,
            firmware: "spec".into(),
            reclaim: false,
            icount: false,
        }
    }

    #[test]
    fn a_plan_needs_a_cpu_that_is_left() {
        assert!(plan(4, "1-3", 0).check().is_ok());
        assert!(plan(4, "0", 3).check().is_ok());
        for (cpus, wedge, panic) in [(4, "4", 0), (4, "2", 4), (4, "0-3", 0), (1, "0", 0)] {
            assert!(plan(cpus, wedge, panic).check().is_err(), "{wedge} {panic}");
        }
    }

    #[test]
    fn somebody_is_left_to_panic() {
        let said = |plan: Plan| plan.check().unwrap_err().to_string();
        assert_eq!(
            said(plan(4, "0-3", 0)),
            "--wedge leaves no CPU to panic: 4 CPUs are 0 to 3; leave out one of them, or have the hypervisor reach one: \
             --scenario nmi"
        );
        assert!(said(plan(4, "0,2", 0)).contains("choose another with --panic"));
    }

    #[test]
    fn an_nmi_is_for_a_guest_with_no_cpu_left() {
        let nmi = |wedge| Plan {
            scenario: Scenario::Nmi,
            ..plan(4, wedge, 0)
        };
        assert!(nmi("0-3").check().is_ok());
        let error = nmi("1-3").check().unwrap_err().to_string();
        assert!(error.contains("leave --wedge out"), "{error}");
        assert!(
            nmi("0-3")
                .bootargs()
                .contains("lab.do=nmi lab.wedge=0,1,2,3 lab.panic=0")
        );
    }

    #[test]
    fn a_panic_wedges_nobody() {
        let panic = |wedge: CpuList| Plan {
            scenario: Scenario::Panic,
            wedge,
            ..plan(4, "1", 0)
        };
        let nobody = panic(CpuList::default());
        assert!(nobody.check().is_ok());
        assert!(
            nobody
                .bootargs()
                .contains("crashkernel=256M lab.do=panic lab.wedge= lab.panic=0")
        );
        let error = panic([1].into_iter().collect()).check().unwrap_err();
        assert!(error.to_string().contains("leave --wedge out"), "{error}");
        let nobody = Plan {
            wedge: CpuList::default(),
            ..plan(4, "1", 0)
        };
        assert!(nobody.check().is_err());
    }

    #[test]
    fn an_ending_needs_sdei() {
        let with = |sdei, firmware: &str, fate, reclaim| Plan {
            sdei,
            firmware: firmware.into(),
            fate,
            reclaim,
            ..plan(4, "2", 0)
        };
        for (fate, reclaim) in [
            (Some(Fate::Off), false),
            (Some(Fate::Park), false),
            (None, true),
        ] {
            assert!(with(true, "spec", fate, reclaim).check().is_ok());
            for (sdei, firmware) in [(false, "spec"), (true, "absent")] {
                let error = with(sdei, firmware, fate, reclaim).check().unwrap_err();
                assert!(error.to_string().contains("there is no SDEI"), "{error}");
            }
        }
        assert!(with(false, "spec", None, false).check().is_ok());
        assert!(with(true, "absent", None, false).check().is_ok());
    }

    #[test]
    fn the_scenario_is_on_the_command_line() {
        let bootargs = plan(4, "1,2,3", 0).bootargs();
        assert!(
            bootargs.contains("lab.do=kdump lab.wedge=1,2,3 lab.panic=0"),
            "{bootargs}"
        );
        assert!(bootargs.ends_with("lab.maxcpus=1"), "{bootargs}");
    }

    #[test]
    fn an_ending_gives_the_capture_kernel_all_cpus() {
        let with = |fate| {
            let mut plan = plan(4, "2", 0);
            plan.fate = Some(fate);
            plan.bootargs()
        };
        assert!(with(Fate::Park).ends_with("lab.panic=0 lab.check=cpus"));
        assert!(with(Fate::Off).ends_with("lab.check=cpus sdei_ending=off"));
        let mut reclaiming = plan(4, "2", 0);
        reclaiming.reclaim = true;
        assert!(
            reclaiming
                .bootargs()
                .ends_with("lab.panic=0 lab.check=cpus")
        );
        assert!(reclaiming.comes_back() && !reclaiming.stays_in_handler());
        let mut plan = plan(4, "2", 0);
        (plan.scenario, plan.fate) = (Scenario::SysrqL, Some(Fate::Off));
        assert!(plan.check().is_err());
    }

    #[test]
    fn the_kernels_patch_knows_every_ending() {
        for fate in Fate::value_variants() {
            let name = format!("= \"{}\"", fate.name());
            assert!(debian::kernel::PATCH.contains(&name), "{name}");
        }
    }
}
