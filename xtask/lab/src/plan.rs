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
use crate::place::Place;
use crate::rescue::{Masked, Rescue};
use debian::kernel::KernelVariant;
use hv_abi::firmware::{Fault, Firmware};
use hv_abi::watchdog::{Act, Watchdog};
use machine::build::Program;
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
    /// The same, and nobody asks the hypervisor: its watchdog over the guest finds that all are wedged.
    Watchdog,
}

impl Scenario {
    /// Its name for our init.
    const fn name(self) -> &'static str {
        match self {
            Self::Kdump => "kdump",
            Self::Panic => "panic",
            Self::SysrqL => "sysrq-l",
            Self::Hardlockup => "hardlockup",
            // The guest does the same.
            Self::Nmi | Self::Watchdog => "nmi",
        }
    }

    /// Whether it ends in a dump.
    pub const fn dumps(self) -> bool {
        matches!(
            self,
            Self::Kdump | Self::Panic | Self::Hardlockup | Self::Nmi | Self::Watchdog
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
    /// Whether the kernel is as Debian ships it: it has nothing that wedges a CPU.
    pub is_stock: bool,
    /// Where CPUs are when all are wedged.
    pub place: Place,
    /// Whether the NMI raises an SDEI event first, which the kernel registers and panics by.
    pub by_event: bool,
}

impl Plan {
    /// That there are such CPUs, and that one is left to do the rest.
    pub fn check(&self) -> Result<()> {
        let last = self.cpus.saturating_sub(1);
        ensure!(
            self.cpus >= 2 || self.cpus == 1 && self.is_left_alone(),
            "one CPU cannot be wedged and watched; use 2 or more, or have the hypervisor reach it: --scenario nmi"
        );
        ensure!(
            !self.by_event || self.scenario == Scenario::Nmi && self.place == Place::El1,
            "an NMI raises an event where CPUs are wedged in the kernel"
        );
        ensure!(
            self.place == Place::El1 || self.scenario == Scenario::Nmi && !self.is_stock,
            "--place says where our kernel's CPUs are that an NMI reaches; leave it out without --scenario nmi, and with --stock"
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
        matches!(self.scenario, Scenario::Nmi | Scenario::Watchdog)
    }

    /// The watchdog over the guest.
    pub fn watchdog(&self) -> Option<Watchdog> {
        (self.scenario == Scenario::Watchdog).then_some(Watchdog {
            limit_ms: 5000,
            one: Act::Report,
            all: Act::Nmi,
        })
    }

    /// Whether CPUs are wedged by the hypervisor's test image, which masks their interrupts.
    pub fn is_masked(&self) -> bool {
        self.scenario == Scenario::Nmi && (self.is_stock || self.place == Place::El0)
    }

    fn masked(&self) -> Option<Masked> {
        self.is_masked().then_some(Masked {
            cpus: self.cpus,
            target: self.panic,
            // Of our kernel all are in programs.
            is_target_in_kernel: self.is_stock,
        })
    }

    /// Which of the hypervisor's images can do it.
    pub fn program(&self) -> Program {
        match self.is_masked() {
            true => Program::FaultInjection,
            false => Program::Hypervisor,
        }
    }

    /// What the hypervisor's own command line has for that.
    pub fn faults(&self) -> String {
        if !self.is_masked() {
            return String::new();
        }
        let mask = |cpu| format!("{cpu}:mask");
        let masks: Vec<String> = self.wedge.iter().map(mask).collect();
        format!("wedge={}", masks.join(","))
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
            _ if self.is_stock => "256M",
            Scenario::Panic => "256M",
            _ => "192M",
        };
        let job = match self.is_masked() {
            true => "mask",
            false => self.scenario.name(),
        };
        let place = match self.scenario {
            Scenario::Nmi if self.place != Place::El1 => {
                format!(
                    " lab.place={} lab.crash={}",
                    self.place.name(),
                    self.place.crash()
                )
            }
            _ => String::new(),
        };
        format!(
            "console=ttyAMA0 crashkernel={reserved} lab.do={} lab.wedge={} lab.panic={} {capture}{place}",
            job,
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
    // The watchdog has found all CPUs wedged.
    let mut has_barked = false;
    let timed_out = loop {
        match session.next_event()? {
            Event::Guest { vm, bytes } => {
                operator.hear_guest(vm, &bytes);
                for line in lines.push(&bytes) {
                    show(&line);
                    let (was_done, had_failed) = (story.done, story.failure.is_some());
                    story.note(&line);
                    if plan.scenario == Scenario::Nmi && story.is_up {
                        let leave = session.leave();
                        let begin = || Rescue::begin(&operator, plan.masked(), leave);
                        let rescue = rescue.get_or_insert_with(begin);
                        if story.last_to_wedge == Some(plan.panic) {
                            rescue.go_on();
                        }
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
                    has_barked |= record.name == "vm-late" && record.number("all")? != 0;
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
        None if has_barked => story.wedged.0.extend([plan.panic]),
        None | Some(Ok(None)) => {}
        // Those were wedged when the operator looked.
        Some(Ok(Some(outside))) => {
            story.wedged.0.extend([plan.panic]);
            story.wedged.0.extend(outside.keys());
            story.outside = outside;
        }
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
mod tests;
