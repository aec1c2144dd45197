//! One run of Linux in which CPUs are wedged: booted, watched to its end, its dump fetched.
//!
//! The scenario travels on the kernel's command line (`lab.do=`, `lab.wedge=`, `lab.panic=`); our init
//! in the guest carries it out and says so in `LAB:` lines.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::cpulist::CpuList;
use crate::instant::PLACE;
use crate::intervention::{Masked, Way};
use crate::place::Place;
pub use crate::scenario::Scenario;
use crate::scenario::Wedges;
use debian::kernel::KernelVariant;
use hv_abi::firmware::{Fault, Firmware};
use hv_abi::watchdog::{Act, Watchdog};
use hv_bundle::DumpConfig;
use machine::build::Program;
use machine::qemu::DEFAULT_CPU;

/// What is held back for a capture kernel: its initial ramdisk has the guest's kernel, too.
pub const HELD: u64 = 256 << 20;
/// The same for a kernel as it is shipped.
pub const HELD_FOR_STOCK: u64 = 512 << 20;

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
    /// Whether the kernel masks interrupts by their priority, so that some reach a CPU all the same: pseudo-NMIs.
    pub pseudo_nmi: bool,
    /// Whether time is what the CPUs execute, and not the host's.
    pub icount: bool,
    /// Whether the kernel is as Debian ships it: it has nothing that wedges a CPU.
    pub is_stock: bool,
    /// Where CPUs are when all are wedged.
    pub place: Place,
    /// Whether the NMI raises an SDEI event first, which the kernel registers and panics by.
    pub by_event: bool,
    /// How long a rung of the NMI may take, in milliseconds; as long as usual if it is not said.
    pub nmi_limit_ms: Option<u32>,
    /// Whether the instant at which the crash kernel begins is to be known, and the dump held against what memory was then.
    pub oracle: bool,
    /// Whether a CPU that is wedged writes to its stack all the while.
    pub writes: bool,
}

impl Plan {
    /// A run of our kernel on so many CPUs, none of which is wedged; CPU 0 panics or asks. All else is as the command line has it
    /// without options.
    pub fn new(scenario: Scenario, cpus: u32) -> Self {
        Self {
            scenario,
            cpus,
            model: DEFAULT_CPU.to_owned(),
            wedge: CpuList::default(),
            panic: 0,
            sdei: true,
            fate: None,
            firmware: "spec".to_owned(),
            reclaim: false,
            pseudo_nmi: false,
            icount: false,
            is_stock: false,
            place: Place::El1,
            by_event: false,
            nmi_limit_ms: None,
            oracle: false,
            writes: false,
        }
    }

    /// That there are such CPUs, and that one is left to do the rest.
    pub fn check(&self) -> Result<()> {
        let last = self.cpus.saturating_sub(1);
        ensure!(self.cpus != 0, "0 CPUs cannot be had; ask for 1 or more");
        ensure!(
            self.cpus >= 2 || self.cpus == 1 && self.wedges_all(),
            "one CPU cannot be wedged and watched; use 2 or more, or have the hypervisor reach it: --scenario nmi"
        );
        ensure!(
            !self.by_event || self.scenario == Scenario::Nmi && self.place == Place::El1,
            "an NMI raises an event where CPUs are wedged in the kernel"
        );
        let (name, wedges) = (self.scenario.name(), self.scenario.wedges());
        ensure!(
            self.place == Place::El1 || wedges != Wedges::None && !self.is_stock,
            "--place says where CPUs of a kernel of ours or yours are wedged; leave it out with --stock, and with --scenario {name}, which wedges none"
        );
        ensure!(
            self.place != Place::El0 || self.scenario == Scenario::Nmi,
            "the hypervisor's test image masks CPUs in programs only where all are wedged; choose --scenario nmi, or another --place"
        );
        ensure!(
            self.wedge.is_empty() || wedges != Wedges::None,
            "--scenario {name} wedges no CPU; leave --wedge out{}",
            match self.scenario {
                Scenario::Kexec =>
                    " (kexec has every CPU go off by itself, and waits for ever for one that is wedged)",
                Scenario::Hotplug | Scenario::Suspend =>
                    " (a CPU that is wedged cannot be taken off)",
                _ => "",
            }
        );
        ensure!(
            !self.wedge.is_empty() || wedges == Wedges::None,
            "--wedge names no CPU"
        );
        ensure!(
            self.wedges_all() || (0..self.cpus).any(|cpu| !self.wedge.contains(cpu)),
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
            !self.wedges_all() || (0..self.cpus).all(|cpu| self.wedge.contains(cpu)),
            "--scenario {name} wedges all CPUs; leave --wedge out"
        );
        ensure!(
            self.scenario != Scenario::Assisted || !self.captures_with_all(),
            "--ending and --reclaim are about CPUs that SDEI stopped, and with --scenario assisted the hypervisor stops them all; leave them out"
        );
        ensure!(
            self.wedges_all() || !self.wedge.contains(self.panic),
            "CPU {} is to be wedged and cannot panic; choose another with --panic",
            self.panic
        );
        ensure!(
            !self.captures_with_all() || self.scenario.dumps(),
            "--ending and --reclaim are about a crash dump, which {name} is not; leave them out"
        );
        ensure!(
            self.scenario != Scenario::TwoPanics || self.second().is_some(),
            "--scenario two-panics needs two CPUs that are not wedged; use more with --cpus, or wedge fewer with --wedge"
        );
        ensure!(
            self.offers_sdei() || !self.captures_with_all(),
            "--ending and --reclaim are about CPUs that SDEI stopped, and there is no SDEI; leave them out or let there be SDEI"
        );
        Ok(())
    }

    /// Whether the guest finds SDEI.
    pub fn offers_sdei(&self) -> bool {
        let firmware = Firmware::parse(&self.firmware);
        self.sdei && !firmware.is_ok_and(|firmware| firmware.has(Fault::Absent))
    }

    /// Whether all CPUs of the guest are wedged, so that none is left to do anything.
    pub fn wedges_all(&self) -> bool {
        self.scenario.wedges() == Wedges::All
    }

    /// The CPU that panics at the same time as another.
    pub fn second(&self) -> Option<u32> {
        let is_free = |cpu: &u32| *cpu != self.panic && !self.wedge.contains(*cpu);
        let mut free = (0..self.cpus).filter(is_free);
        free.next().filter(|_| self.panics_together())
    }

    /// Whether the kernel registers an SDEI event by which it panics.
    pub fn panics_by_event(&self) -> bool {
        self.by_event || self.scenario == Scenario::PanicInHandler
    }

    /// Whether two CPUs wait for each other before they panic.
    pub fn panics_together(&self) -> bool {
        self.scenario == Scenario::TwoPanics
    }

    /// Whether some of the kernel's instructions are changed.
    pub fn changes_kernel(&self) -> bool {
        let by_hand = self.place.is_patched() || self.writes;
        by_hand || self.panics_by_event() || self.panics_together()
    }

    /// What is done from outside about CPUs that are all wedged.
    pub fn way(&self) -> Option<Way> {
        let usual = match self.scenario {
            Scenario::Nmi => Way::Nmi,
            Scenario::Assisted => Way::Capture { cpus: self.cpus },
            Scenario::NestedPanic => return Some(Way::Nested { cpu: self.panic }),
            Scenario::PanicInHandler => {
                return Some(Way::Event {
                    cpu: self.panic,
                    wedged: self.wedge.len(),
                });
            }
            _ => return None,
        };
        Some(self.masked().map_or(usual, Way::Mask))
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
        match self.scenario {
            Scenario::Nmi => self.is_stock || self.place == Place::El0,
            Scenario::Assisted => self.is_stock,
            _ => false,
        }
    }

    /// The CPUs that it is to mask.
    pub fn masked(&self) -> Option<Masked> {
        self.is_masked().then_some(Masked {
            cpus: self.cpus,
            target: self.panic,
            // Of our kernel all are in programs.
            is_target_in_kernel: self.is_stock,
            is_dumped_from_below: self.scenario == Scenario::Assisted,
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

    /// What is reserved for the crash kernel, and if that is to be known, where, as crashkernel= has it; nothing if there is none.
    fn reserved(&self) -> Option<String> {
        let size = match self.scenario {
            scenario if !scenario.loads_crash_kernel() => return None,
            // A kernel as it is shipped may be large.
            _ if self.is_stock => "256M",
            // Behind the place that is known there is no more.
            Scenario::Panic if !self.oracle => "256M",
            _ => "192M",
        };
        Some(match self.oracle {
            true => format!("{size}@{PLACE:#x}"),
            false => size.to_owned(),
        })
    }

    /// Where the crash kernel's memory is, as SIZE@ADDRESS, if that is to be known.
    pub fn crashkernel(&self) -> Option<String> {
        self.reserved().filter(|_| self.oracle)
    }

    /// The memory of the guest's capture kernel and its command line, if the hypervisor is to start one.
    pub fn capture(&self) -> Option<DumpConfig> {
        (self.scenario == Scenario::Assisted).then(|| DumpConfig {
            memory: match self.is_stock {
                true => HELD_FOR_STOCK,
                false => HELD,
            },
            bootargs: "console=ttyAMA0 maxcpus=1 panic=5 lab.do=save".to_owned(),
        })
    }

    /// The kernel's command line.
    pub fn bootargs(&self) -> String {
        let wedge: Vec<String> = self.wedge.iter().map(|cpu| cpu.to_string()).collect();
        let job = match self.is_masked() {
            true => "mask",
            false => self.scenario.job(),
        };
        let mut words = vec!["console=ttyAMA0".to_owned()];
        let reserved = self.reserved();
        words.extend(reserved.iter().map(|size| format!("crashkernel={size}")));
        words.push(format!("lab.do={job}"));
        words.push(format!("lab.wedge={}", wedge.join(",")));
        words.push(format!("lab.panic={}", self.panic));
        words.extend(self.second().map(|cpu| format!("lab.second={cpu}")));
        if self.scenario.restarts() || self.captures_with_all() {
            words.push("lab.check=cpus".into());
        } else if reserved.is_some() {
            words.push("lab.maxcpus=1".into());
        } else {
            words.push("lab.capture=no".into());
        }
        if let Some(fate) = self.fate.filter(|fate| *fate != Fate::Park) {
            words.push(format!("sdei_ending={}", fate.name()));
        }
        if self.pseudo_nmi {
            words.push("irqchip.gicv3_pseudo_nmi=1".into());
        }
        if self.scenario == Scenario::PostNotifiers {
            words.push("crash_kexec_post_notifiers".into());
        }
        if self.place != Place::El1 {
            words.push(format!("lab.place={}", self.place.name()));
            words.push(format!("lab.crash={}", self.place.crash()));
        }
        words.join(" ")
    }
}

/// An empty raw disk that takes no room until it is written.
pub fn create_disk(path: &Path, mib: u64) -> Result<()> {
    File::create(path)
        .and_then(|disk| disk.set_len(mib << 20))
        .with_context(|| format!("cannot make the disk {}; is the disk full?", path.display()))
}

/// What is in the first sector of a disk that a dump may go to: our init writes to no other where there is one
/// (`guest-tests/linux/init`, `find_disk`).
const DUMP_LABEL: &str = "halligan: a dump goes here";

/// The same, labelled as the one that takes the dump.
pub fn create_dump_disk(path: &Path, mib: u64) -> Result<()> {
    create_disk(path, mib)?;
    let disk = File::options().write(true).open(path);
    disk.and_then(|disk| disk.write_all_at(DUMP_LABEL.as_bytes(), 0))
        .with_context(|| format!("cannot label the disk {}", path.display()))
}

#[cfg(test)]
mod tests;
