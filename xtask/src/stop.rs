//! Stops of the hypervisor itself: pCPUs made deaf on purpose, a cause to stop, and what became of each pCPU.

mod demo;
mod program;
mod report;
mod seen;

use std::fs;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use hv_bundle::GuestConfig;
use serde::Serialize;

pub use demo::StopDemo;
pub use seen::StopRun;

use debian::tools;
use machine::build::{self, Built, Program};
use machine::el3::El3;
use machine::firmware::Firmware;
use machine::payload::{Capture, Payload};
use machine::qemu::{Event, Machine};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Where a pCPU is stuck with its interrupts masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In EL2, with no vCPU running.
    Spin,
    /// In EL2, in a call of its guest, holding the console's lock.
    Lock,
    /// In the first instruction of EL2's vector.
    Vector,
    /// In the last instruction before the guest goes on, with all registers the guest's.
    Eret,
    /// In EL2, in a call of its guest.
    Exit,
    /// In the guest, where an SGI still reaches it.
    Guest,
}

impl Place {
    /// Its name for the hypervisor and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Lock => "lock",
            Self::Vector => "vector",
            Self::Eret => "eret",
            Self::Exit => "exit",
            Self::Guest => "guest",
        }
    }

    /// The hypervisor's function that its pc must be in.
    const fn function(self) -> &'static str {
        match self {
            Self::Spin | Self::Lock | Self::Exit => {
                "hypervisor_fault_injection::fault_injection::wedged_here"
            }
            Self::Vector => "broken_vectors",
            Self::Eret => "guest_enter_stuck",
            Self::Guest => "",
        }
    }
}

/// Why it all stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A panic at EL2.
    #[default]
    Panic,
    /// A fault at EL2.
    Fault,
    /// EL2 out of stack.
    Stack,
    /// The machine is switched off.
    Off,
    /// The machine is reset.
    Reset,
    /// The guest calls SYSTEM_OFF.
    GuestOff,
    /// The guest calls SYSTEM_RESET.
    GuestReset,
    /// A pCPU finds its neighbour stuck.
    Watchdog,
}

impl Cause {
    /// Its name for the hypervisor; the guest's own calls need none.
    const fn word(self) -> Option<&'static str> {
        match self {
            Self::Panic => Some("panic"),
            Self::Fault => Some("fault"),
            Self::Stack => Some("stack"),
            Self::Off => Some("off"),
            Self::Reset => Some("reset"),
            Self::GuestOff | Self::GuestReset | Self::Watchdog => None,
        }
    }

    /// Whether the hypervisor has failed, and tells all it knows.
    const fn is_crash(self) -> bool {
        matches!(
            self,
            Self::Panic | Self::Fault | Self::Stack | Self::Watchdog
        )
    }

    /// What the report calls it.
    const fn reported(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fault => "fault",
            Self::Stack => "stack-overflow",
            Self::Off | Self::GuestOff => "shutdown",
            Self::Reset | Self::GuestReset => "reboot",
            Self::Watchdog => "watchdog",
        }
    }

    /// Whether the machine ends by itself.
    const fn ends_machine(self) -> bool {
        !matches!(
            self,
            Self::Panic | Self::Fault | Self::Stack | Self::Watchdog
        )
    }
}

/// What is to happen.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is at EL3.
    pub el3: El3,
    /// Number of CPUs.
    pub cpus: u32,
    /// CPU model.
    pub model: String,
    /// Which pCPUs get stuck, and where.
    pub wedges: Vec<(u32, Place)>,
    /// Why it stops.
    pub cause: Cause,
    /// On which pCPU, or whose vCPU calls.
    pub stopper: u32,
    /// Whether time is counted in instructions.
    pub icount: bool,
    /// Whether pCPUs that have stopped are switched off.
    pub off: bool,
    /// What is booted: the test image, or the one that people deploy, which only a plan can do that
    /// [injects no fault](Plan::injects).
    pub image: Program,
}

/// The watchdog's limit in milliseconds where it is waited for.
const WATCHDOG_MS: u32 = 50;

impl Default for Plan {
    fn default() -> Self {
        Self {
            el3: El3::Tfa,
            cpus: 4,
            model: machine::qemu::DEFAULT_CPU.to_owned(),
            wedges: Vec::new(),
            cause: Cause::Panic,
            stopper: 0,
            icount: false,
            off: false,
            image: Program::FaultInjection,
        }
    }
}

impl Plan {
    /// That it can be carried out.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (1..=16).contains(&self.cpus),
            "{} CPUs cannot be had; ask for 1 to 16",
            self.cpus
        );
        let named = self.wedges.iter().map(|(pcpu, _)| *pcpu);
        for pcpu in named.clone().chain([self.stopper]) {
            ensure!(
                pcpu < self.cpus,
                "there is no pCPU {pcpu}: {} are 0 to {}",
                self.cpus,
                self.cpus - 1
            );
        }
        ensure!(
            !named.clone().any(|pcpu| pcpu == self.stopper),
            "pCPU {} is to be stuck and cannot stop the others; choose another one for --stopper, or leave it out of --wedge",
            self.stopper
        );
        for (number, pcpu) in named.clone().enumerate() {
            ensure!(
                !named.clone().take(number).any(|other| other == pcpu),
                "pCPU {pcpu} can be stuck at one place only; name it once in --wedge"
            );
        }
        ensure!(
            self.image == Program::FaultInjection || !self.injects(),
            "only the test image breaks itself"
        );
        // Its vCPU starts those of the others.
        ensure!(
            !named.clone().any(|pcpu| pcpu == 0),
            "pCPU 0 starts the others' vCPUs and cannot be stuck; leave it out of --wedge"
        );
        Ok(())
    }

    /// Whether the hypervisor has to break itself for it, by what is on its command line.
    pub fn injects(&self) -> bool {
        let is_in_el2 = |(_, place): &(u32, Place)| *place != Place::Guest;
        self.cause.word().is_some() || self.wedges.iter().any(is_in_el2)
    }

    /// The hypervisor's command line.
    fn words(&self) -> String {
        let stuck = self
            .wedges
            .iter()
            .filter(|(_, place)| *place != Place::Guest);
        let list: Vec<String> = stuck
            .map(|(pcpu, place)| format!("{pcpu}:{}", place.name()))
            .collect();
        let mut words = Vec::new();
        if !list.is_empty() {
            words.push(format!("wedge={}", list.join(",")));
        }
        if let Some(word) = self.cause.word() {
            words.push(format!("break={word}@{}", self.stopper));
        }
        match self.cause {
            Cause::Watchdog => words.push(format!("watchdog=stop:{WATCHDOG_MS}")),
            Cause::GuestOff | Cause::GuestReset => {
                words.push(format!("watchdog=report:{WATCHDOG_MS}"));
            }
            // Who is stuck on a slow host longer than it waits would be in the report twice.
            _ => words.push("watchdog=off".to_owned()),
        }
        if self.off {
            words.push("stop=off".to_owned());
        }
        words.join(" ")
    }
}

/// A list such as `1:spin,2:lock`.
#[derive(Clone, Debug)]
pub struct Wedges(pub Vec<(u32, Place)>);

impl FromStr for Wedges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut wedges = Vec::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let wedge = item.split_once(':').and_then(|(pcpu, place)| {
                let place = Place::from_str(place, false).ok()?;
                Some((pcpu.parse().ok()?, place))
            });
            wedges.push(wedge.ok_or_else(|| {
                format!(
                    "`{item}` is no N:PLACE with a PLACE of spin, lock, vector, eret, exit, guest"
                )
            })?);
        }
        Ok(Self(wedges))
    }
}

/// How long a machine that is to end may take after its report.
const END: Duration = Duration::from_secs(30);

impl Plan {
    /// Carries it out, giving up after `timeout`.
    pub fn perform(&self, workshop: &Workshop, timeout: Duration) -> Result<StopRun> {
        let hypervisor = build::build(workshop, self.image)?;
        let folder = RunDir::create(None)?;
        let machine = self.machine(workshop, &hypervisor, &folder)?;
        let mut session = machine.start(Some(timeout))?;
        let mut seen = StopRun::of(machine.command_line(), hypervisor);
        loop {
            match session.next_event()? {
                Event::Line(line) => {
                    seen.note(&line)?;
                    if seen.is_whole && !self.cause.ends_machine() {
                        session.kill();
                        return Ok(seen);
                    }
                    if seen.is_whole {
                        session.shorten(END);
                    }
                }
                Event::Guest { .. } => {}
                Event::Complaint(text) => seen.lines.push(format!("qemu: {text}")),
                Event::Ended(status) => {
                    seen.has_ended = status.success();
                    return Ok(seen);
                }
                Event::TimedOut | Event::Left => return Ok(seen),
            }
        }
    }

    fn machine(&self, workshop: &Workshop, hypervisor: &Built, folder: &RunDir) -> Result<Machine> {
        let kernel = folder.file("guest.bin");
        fs::write(&kernel, program::program(self))
            .with_context(|| format!("cannot write {}", kernel.display()))?;
        let bundle = folder.file("guest.itb");
        Payload {
            kernel: &kernel,
            initrd: None,
            flash: None,
            capture: Capture::default(),
            config: GuestConfig::default(),
        }
        .write(&bundle)?;
        let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
        let mut machine = Machine::new(&qemu, &hypervisor.image);
        machine.cpu = self.model.clone();
        machine.cpus = self.cpus;
        machine.memory_mib = 256;
        machine.icount = self.icount;
        machine.initrd = Some(bundle);
        machine.append = self.words();
        if self.el3 == El3::None {
            machine.board = workshop.board;
        }
        let firmware = Firmware::prepare(workshop, machine.board, self.el3)?;
        machine.firmware = firmware.map(|firmware| firmware.within(folder));
        Ok(machine)
    }
}
