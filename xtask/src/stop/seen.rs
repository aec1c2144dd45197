//! What was seen of a stop, and whether it is what the plan wants.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::{Cause, Place, Plan, program};
use lab::symbols::Symbols;
use machine::build::Built;
use machine::console::{Line, Record};
use machine::el3::El3;

/// What became of a pCPU.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// `stopper`, `ipi`, `sdei`, `itself`, `deaf`, `refused`, `lost` or `offline`.
    pub fate: String,
    /// How long after the stop began it had parked.
    pub us: Option<u64>,
    /// `el2` or `guest`.
    pub level: Option<String>,
    /// Where it was interrupted.
    pub pc: Option<u64>,
    /// Whether it was switched off, where it was to be.
    pub is_off: Option<bool>,
}

/// What was seen of a stop.
#[derive(Debug)]
pub struct StopRun {
    /// The cause that was reported, and how long the stop took.
    pub stop: Option<(String, u64)>,
    /// The pCPUs.
    pub pcpus: BTreeMap<u32, Stopped>,
    /// The backtraces of the guests, each behind its pCPU.
    pub callers: Vec<(u32, Vec<u64>)>,
    /// Those that the watchdog reported before.
    pub stuck: BTreeMap<u32, Stopped>,
    /// Whether the report came to its end.
    pub is_whole: bool,
    /// Whether QEMU ended by itself.
    pub has_ended: bool,
    /// The hypervisor's lines.
    pub lines: Vec<String>,
    /// What was run.
    pub command: String,
    /// What explains the addresses.
    pub hypervisor: Built,
}

impl StopRun {
    /// Nothing yet, of what `command` runs.
    pub fn of(command: String, hypervisor: Built) -> Self {
        Self {
            stop: None,
            pcpus: BTreeMap::new(),
            callers: Vec::new(),
            stuck: BTreeMap::new(),
            is_whole: false,
            has_ended: false,
            lines: Vec::new(),
            command,
            hypervisor,
        }
    }

    /// Takes notice of a line.
    pub fn note(&mut self, line: &Line) -> Result<()> {
        self.lines.push(line.text.clone());
        if let Some(address) = line.text.trim_start().strip_prefix("guest 0x")
            && let Some((_, callers)) = self.callers.last_mut()
        {
            callers.push(u64::from_str_radix(address, 16).with_context(|| format!("in `{line}`"))?);
        }
        let Some(record) = line.record().transpose()? else {
            return Ok(());
        };
        match record.name.as_str() {
            "hv-stop" => {
                self.stop = Some((record.word("cause")?.to_owned(), record.number("us")?));
            }
            "hv-pcpu" => {
                let (pcpu, stopped) = (record.index("pcpu")?, Stopped::of(&record)?);
                self.callers.push((pcpu, Vec::new()));
                let before = self.pcpus.insert(pcpu, stopped);
                ensure!(before.is_none(), "a pCPU is reported twice: `{line}`");
            }
            "hv-stuck" => {
                let stuck = Stopped::of(&record)?;
                let before = self.stuck.insert(record.index("pcpu")?, stuck);
                ensure!(before.is_none(), "a pCPU is found twice: `{line}`");
            }
            "hv-crash-end" | "hv-stop-end" => self.is_whole = true,
            _ => {}
        }
        Ok(())
    }

    /// Holds what was seen against `plan`; answers a remark. An error has all that was said, too.
    pub fn judge(&self, plan: &Plan) -> Result<String> {
        let everything = || format!("{}\nQEMU was: {}", self.lines.join("\n"), self.command);
        self.check(plan).with_context(everything)
    }

    /// The same; an error says what is wrong in one line, and not all that was said.
    pub fn check(&self, plan: &Plan) -> Result<String> {
        let Some((cause, us)) = &self.stop else {
            bail!("it did not stop");
        };
        ensure!(
            cause == plan.cause.reported(),
            "the cause is {cause}, not {}",
            plan.cause.reported()
        );
        ensure!(self.is_whole, "the report has no end");
        ensure!(
            self.has_ended == plan.cause.ends_machine(),
            "the machine did not end as it must"
        );
        let symbols = Symbols::load(&self.hypervisor.elf)?;
        for pcpu in 0..plan.cpus {
            let Some(stopped) = self.pcpus.get(&pcpu) else {
                bail!("pCPU {pcpu} is not accounted for");
            };
            let place = plan.place_of(pcpu);
            let fate = stopped.fate.as_str();
            // On a busy host an SGI may take longer than the ladder waits for it; then the event comes.
            let is_late = !plan.icount && plan.el3 == El3::Tfa;
            let listens = || fate == "ipi" || fate == "sdei" && is_late;
            let is_right = match place {
                _ if pcpu == plan.stopper => fate == "stopper",
                None => listens(),
                // It leaves its guest when that ends, or for an SGI that the event is just behind.
                Some(Place::Guest) => {
                    let may_have_left = plan.ends_guest() || fate == "sdei";
                    listens() && (may_have_left || stopped.level.as_deref() == Some("guest"))
                }
                Some(place) => plan.is_caught(stopped, place, &symbols),
            };
            ensure!(is_right, "pCPU {pcpu} ended as {stopped:?}");
            let has_stopped = ["ipi", "sdei", "itself"].contains(&fate);
            ensure!(
                stopped.is_off == (plan.off && has_stopped).then_some(true),
                "pCPU {pcpu} is not off: {stopped:?}"
            );
            if let (Some(Place::Guest), Some("guest"), Some(pc)) =
                (place, stopped.level.as_deref(), stopped.pc)
            {
                // A flat binary begins at a multiple of 4 KiB.
                ensure!(
                    pc % 4096 == 4 * program::SPIN,
                    "pCPU {pcpu} was interrupted at {pc:#x}, which is not where it spins"
                );
                let callers = self.callers.iter().find(|(at, _)| *at == pcpu);
                let calls = program::CALLERS.map(|address| u64::from(address) - 4);
                ensure!(
                    !plan.cause.is_crash() || callers.is_some_and(|(_, seen)| *seen == calls),
                    "the backtrace of the guest on pCPU {pcpu} is {callers:x?}, not {calls:x?}"
                );
            }
        }
        for (pcpu, found) in &self.stuck {
            let place = plan.place_of(*pcpu);
            let is_right = place.is_some_and(|place| plan.is_caught(found, place, &symbols));
            ensure!(is_right, "pCPU {pcpu} was found stuck as {found:?}");
        }
        let is_deaf = |place: &Place| *place != Place::Guest;
        let has_deaf = plan.wedges.iter().any(|(_, place)| is_deaf(place));
        ensure!(
            !(plan.ends_guest() && has_deaf && self.stuck.is_empty()),
            "the watchdog found nobody"
        );
        Ok(format!("{:.1} ms", *us as f64 / 1000.0))
    }
}

impl Plan {
    /// Whether its guest ends, and waits for who is stuck.
    const fn ends_guest(&self) -> bool {
        matches!(self.cause, Cause::GuestOff | Cause::GuestReset)
    }

    fn place_of(&self, pcpu: u32) -> Option<Place> {
        let mut wedges = self.wedges.iter();
        wedges.find(|(at, _)| *at == pcpu).map(|(_, place)| *place)
    }

    /// Whether `found` is what must be found of a pCPU that is stuck in EL2 at `place`.
    fn is_caught(&self, found: &Stopped, place: Place, symbols: &Symbols) -> bool {
        if self.el3 != El3::Tfa {
            return found.fate == "deaf";
        }
        let function = found.pc.and_then(|pc| symbols.function(pc));
        found.fate == "sdei" && function.is_some_and(|(name, _)| name == place.function())
    }
}

impl Stopped {
    fn of(record: &Record) -> Result<Self> {
        Ok(Self {
            fate: record.word("fate")?.to_owned(),
            us: record.number("us").ok(),
            level: record.word("level").ok().map(str::to_owned),
            pc: record.number("pc").ok(),
            is_off: record.word("power").ok().map(|power| power == "off"),
        })
    }
}
