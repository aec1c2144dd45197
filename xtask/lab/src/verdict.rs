//! The verdict on a dump: every CPU there, every register as the hypervisor recorded it.

use std::fmt;

use hv_abi::operator::NMI_SYNDROME;
use serde::Serialize;

use crate::cpulist::CpuList;
use crate::evidence::{Frame, GuestLog, HvRecords};
use crate::ladder::{Ladder, Stopped};
use crate::outside::Outside;
use crate::patch::PANIC;
use crate::registers::{PSTATE_I, Registers};
use crate::symbols::Symbols;
use crate::vmcore::Prstatus;

/// All that is known of one run.
pub struct Evidence<'a> {
    /// Number of CPUs of the guest.
    pub cpus: u32,
    /// Those that were to be wedged.
    pub wedge: &'a CpuList,
    /// What the guest said.
    pub story: &'a GuestLog,
    /// What the hypervisor recorded.
    pub drain: &'a HvRecords,
    /// The notes of the vmcore, in its order.
    pub notes: &'a [Prstatus],
    /// The guest kernel's functions.
    pub symbols: &'a Symbols,
    /// How far the kernel had moved itself.
    pub kaslr_offset: u64,
    /// Whether a CPU that SDEI stopped is to be in its handler for ever.
    pub stays_in_handler: bool,
    /// Whether the hypervisor masked those CPUs where they were, instead of the guest.
    pub is_masked: bool,
    /// The SDEI event that one of them was to panic by, instead of an SError.
    pub event: Option<u32>,
}

/// What became of one CPU.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// Whether it was wedged.
    pub wedged: bool,
    /// How it was stopped.
    pub stopped: Stopped,
    /// The function it stood in, by the vmcore.
    pub stood_in: Option<String>,
    /// Its registers, by the vmcore.
    pub registers: Option<Registers>,
    /// What the hypervisor saw of it before the NMI.
    pub outside: Option<Outside>,
    /// How many registers are as the hypervisor recorded them; nothing if they were not compared.
    pub equal: Option<usize>,
    /// What is wrong; empty if nothing is.
    pub faults: Vec<String>,
}

/// The verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// CPU by CPU.
    pub cpus: Vec<Cpu>,
    /// CPUs that the vmcore has no registers of.
    pub missing: CpuList,
    /// What is wrong with the whole.
    pub faults: Vec<String>,
}

/// The function in which LKDTM's HARDLOCKUP spins with interrupts masked.
pub const WEDGE_FUNCTION: &str = "lkdtm_HARDLOCKUP";

impl Verdict {
    /// Judges `evidence`.
    pub fn of(evidence: &Evidence<'_>, ladder: &Ladder) -> Self {
        let mut faults = Vec::new();
        let (notes, missing) = match assign(evidence, ladder) {
            Ok(assigned) => assigned,
            Err(fault) => {
                faults.push(fault);
                (Vec::new(), CpuList::default())
            }
        };
        let cpus: Vec<Cpu> = (0..evidence.cpus)
            .map(|cpu| {
                let note = notes.iter().find(|(number, _)| *number == cpu);
                judge(evidence, ladder, cpu, note.map(|(_, note)| *note))
            })
            .collect();
        if evidence.story.panicked.is_none() && !ladder.stopped.contains(&Stopped::Below) {
            faults.push("the guest never said which CPU panicked".into());
        }
        Self {
            cpus,
            missing,
            faults,
        }
    }

    /// All that is wrong, one sentence each.
    pub fn faults(&self) -> Vec<String> {
        let of_cpus = self.cpus.iter().flat_map(|cpu| {
            let number = cpu.cpu;
            cpu.faults
                .iter()
                .map(move |fault| format!("CPU {number} {fault}"))
        });
        of_cpus.chain(self.faults.iter().cloned()).collect()
    }
}

impl fmt::Display for Verdict {
    /// One line per CPU; no line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, cpu) in self.cpus.iter().enumerate() {
            let line_end = if number == 0 { "" } else { "\n" };
            write!(f, "{line_end}  CPU {:<3} {cpu}", cpu.cpu)?;
        }
        Ok(())
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.faults.is_empty() { "ok" } else { "BAD" };
        let wedged = if self.wedged { "wedged" } else { "" };
        let stopped = self.stopped.to_string();
        let place = match (&self.stood_in, &self.outside) {
            (Some(place), _) => place,
            (None, None) if self.stopped == Stopped::Itself => "Linux saves no registers of it",
            (None, None) => "no registers",
            (None, Some(_)) => "nothing in the vmcore",
        };
        write!(f, "{verdict:3} {wedged:6} {stopped:20} {place}")?;
        if let Some(equal) = self.equal {
            write!(f, ", {equal} of {} registers as recorded", Registers::COUNT)?;
        }
        match &self.outside {
            Some(outside) if self.stopped == Stopped::Below => {
                write!(f, "\n            seen from below: {outside}")?;
            }
            Some(outside) => write!(f, "\n            the hypervisor alone has: {outside}")?,
            None => {}
        }
        Ok(())
    }
}

type Assigned<'a> = (Vec<(u32, &'a Prstatus)>, CpuList);

/// Gives each note to its CPU.
///
/// The notes come in the order of CPU numbers, and a CPU that was not stopped has none, which moves
/// those after it. So the count must fit what the guest said it could not stop.
fn assign<'a>(evidence: &Evidence<'a>, ladder: &Ladder) -> Result<Assigned<'a>, String> {
    let count = evidence.notes.len();
    let failed = &evidence.story.failed;
    // Linux saves no registers of a CPU that stops itself.
    let itself = |cpu: u32| ladder.stopped.get(cpu as usize) == Some(&Stopped::Itself);
    let all: CpuList = (0..evidence.cpus).filter(|&cpu| !itself(cpu)).collect();
    let present: CpuList = all.iter().filter(|&cpu| !failed.contains(cpu)).collect();
    let (owners, missing) = if count == all.len() {
        (all, CpuList::default())
    } else if count == present.len() {
        (present, failed.clone())
    } else {
        let said = if failed.is_empty() {
            "says it stopped them all".to_owned()
        } else {
            format!("says it failed to stop {failed}")
        };
        return Err(format!(
            "the vmcore has registers of {count} CPUs, not of {}, and the guest {said}: {}",
            all.len(),
            unmatched(evidence)
        ));
    };
    Ok((owners.iter().zip(evidence.notes).collect(), missing))
}

/// Says which CPUs' recorded registers occur in no note, when notes cannot be given to CPUs.
fn unmatched(evidence: &Evidence<'_>) -> String {
    let known = |cpu: u32| {
        let frame = evidence.drain.stopped_in(cpu, evidence.story);
        frame.is_some_and(|frame| {
            let mut notes = evidence.notes.iter();
            notes.any(|note| note.registers == frame.registers)
        })
    };
    let lost: CpuList = evidence.wedge.iter().filter(|&cpu| !known(cpu)).collect();
    if lost.is_empty() {
        "the wedged CPUs are among them, another is missing".into()
    } else {
        format!("wedged CPU {lost} is missing")
    }
}

fn judge(evidence: &Evidence<'_>, ladder: &Ladder, cpu: u32, note: Option<&Prstatus>) -> Cpu {
    let wedged = evidence.wedge.contains(cpu);
    let stopped = ladder.stopped.get(cpu as usize).copied();
    let stopped = stopped.unwrap_or(Stopped::Not);
    let mut faults = Vec::new();
    let outside = evidence.story.outside.get(&cpu).cloned();
    if evidence.is_masked && wedged {
        match &outside {
            Some(outside) => faults.extend(outside.faults()),
            None => faults.push("was not looked at from outside before the NMI".into()),
        }
    }
    // A kernel without SDEI can stop no CPU that is wedged. What was seen from outside is all there is of it.
    let is_for_outside = evidence.is_masked && wedged && stopped == Stopped::Not;
    let late = evidence
        .drain
        .too_late_us(cpu, evidence.story)
        .map(|micros| {
            let ms = micros as f64 / 1000.0;
            format!("was dispatched {ms:.3} ms after the guest gave up")
        });
    if stopped == Stopped::Not && !is_for_outside {
        let unstopped = || "was not stopped, as the guest itself reports".to_owned();
        faults.push(late.clone().unwrap_or_else(unstopped));
    }
    let is_second = evidence.story.panicking.contains(cpu) && stopped != Stopped::Panicked;
    if is_second && stopped != Stopped::Itself {
        faults.push(format!(
            "was to panic while another did, but how it was stopped is: {stopped}"
        ));
    }
    let Some(note) = note else {
        if !is_for_outside && stopped != Stopped::Itself {
            faults.push("is missing from the vmcore".into());
        }
        return Cpu {
            cpu,
            wedged,
            stopped,
            stood_in: None,
            registers: None,
            outside,
            equal: None,
            faults,
        };
    };
    let place = Place::of(evidence, &note.registers);
    let has_serror = stopped == Stopped::Panicked && wedged;
    if has_serror {
        faults.extend(match evidence.event {
            Some(event) => judge_event(evidence, cpu, event),
            None => judge_serror(evidence, cpu),
        });
    } else if wedged {
        faults.extend(judge_wedge(evidence, cpu, stopped, &note.registers, &place));
    }
    let mut equal = None;
    // Whom an interrupt has stopped, the hypervisor knows nothing of.
    let is_recorded = wedged && !matches!(stopped, Stopped::PseudoNmi { .. });
    if is_recorded && !has_serror || matches!(stopped, Stopped::Sdei { .. }) {
        let frame = evidence.drain.stopped_in(cpu, evidence.story);
        let frame = frame.filter(|frame| frame.running || !evidence.stays_in_handler);
        let recorded = match stopped {
            Stopped::Below => outside.as_ref().map(|seen| &seen.registers),
            _ => frame.map(|frame| &frame.registers),
        };
        match recorded {
            Some(recorded) => {
                let differences = recorded.differences(&note.registers);
                equal = Some(Registers::COUNT - differences.len());
                for (name, recorded, dumped) in differences {
                    faults.push(format!(
                        "has {name} = {dumped:#x} in the vmcore, but the hypervisor recorded \
                         {recorded:#x}"
                    ));
                }
            }
            None if stopped == Stopped::Below => {
                faults.push("was not looked at before the hypervisor had the guest dumped".into());
            }
            None => {
                let still = match evidence.stays_in_handler {
                    true => " and that is still open",
                    false => "",
                };
                let none = || {
                    format!("was interrupted by no SDEI event that the hypervisor recorded{still}")
                };
                faults.push(late.unwrap_or_else(none));
            }
        }
    }
    Cpu {
        cpu,
        wedged,
        stopped,
        stood_in: Some(place.text),
        registers: Some(note.registers.clone()),
        outside,
        equal,
        faults,
    }
}

/// Of a wedged CPU that took the operator's SError the vmcore has where it panicked; where it was wedged is in the log.
fn judge_serror(evidence: &Evidence<'_>, cpu: u32) -> Vec<String> {
    let Some(serror) = evidence.story.serror.as_ref().filter(|own| own.cpu == cpu) else {
        return vec!["was to take an SError, and the guest's log has none of it".into()];
    };
    let mut faults = Vec::new();
    let place = serror.place.as_deref().unwrap_or("an unknown place");
    if evidence.is_masked {
        // It stood still from when it was looked at until the SError was sent, and took it at once.
        let seen = evidence.story.outside.get(&cpu);
        let seen = seen.map(|seen| match seen.frames.first() {
            Some(frame) => frame.clone(),
            // Of a program the log has the address.
            None => format!("{:016x}", seen.registers.pc),
        });
        let seen = seen.as_deref().unwrap_or("nothing");
        if Some(seen) != place.split('/').next() {
            faults.push(format!(
                "was seen in {seen} by the hypervisor, but took its SError in {place}"
            ));
        }
        if serror.pstate.is_none_or(|pstate| pstate & PSTATE_I == 0) {
            faults.push(format!(
                "was wedged with interrupts masked, but took its SError with pstate {:#x}",
                serror.pstate.unwrap_or_default()
            ));
        }
    } else if !place.starts_with(WEDGE_FUNCTION) {
        faults.push(format!(
            "was wedged in {WEDGE_FUNCTION}, but took its SError in {place}"
        ));
    }
    // A CPU without FEAT_RAS lets nobody choose the syndrome.
    let syndrome = serror.code & 0x1ff_ffff;
    if syndrome != NMI_SYNDROME && syndrome != 0 {
        faults.push(format!(
            "took an SError that is not the operator's: its syndrome is {syndrome:#x}, not {NMI_SYNDROME:#x}"
        ));
    }
    faults
}

/// Of a wedged CPU that panicked by an event the hypervisor has where it was wedged.
fn judge_event(evidence: &Evidence<'_>, cpu: u32, event: u32) -> Vec<String> {
    let mut faults = Vec::new();
    let panic = evidence.story.panic.as_deref().unwrap_or("nothing");
    if panic != PANIC {
        faults.push(format!(
            "was to panic by event {event:#x}, but did for: {panic}"
        ));
    }
    let mut frames = evidence.drain.frames.iter();
    // Linux ends the event before it starts the kernel that saves the dump.
    let is_its_own = |frame: &&Frame| frame.vcpu == cpu && frame.event == u64::from(event);
    match frames.find(is_its_own) {
        Some(frame) => {
            let place = Place::of(evidence, &frame.registers);
            if place.function.as_deref() != Some(WEDGE_FUNCTION) {
                faults.push(format!(
                    "was wedged in {WEDGE_FUNCTION}, but event {event:#x} met it in {}",
                    place.text
                ));
            }
        }
        None => faults.push(format!(
            "has no event {event:#x} in the hypervisor's record"
        )),
    }
    faults
}

fn judge_wedge(
    evidence: &Evidence<'_>,
    cpu: u32,
    stopped: Stopped,
    registers: &Registers,
    place: &Place,
) -> Vec<String> {
    let mut faults = Vec::new();
    if !evidence.story.wedged.contains(cpu) {
        faults.push("was to be wedged, but the guest did not find it wedged".into());
    }
    if let Stopped::Ipi { .. } = stopped {
        faults.push("was to be wedged, but was stopped by the IPI".into());
    }
    if !evidence.is_masked && place.function.as_deref() != Some(WEDGE_FUNCTION) {
        faults.push(format!(
            "was wedged in {WEDGE_FUNCTION}, but the vmcore has it in {}",
            place.text
        ));
    }
    // A kernel with pseudo-NMIs masks interrupts by their priority, which is in no dump.
    let is_by_priority = evidence.story.pseudo_nmi;
    if registers.pstate & PSTATE_I == 0 && !is_by_priority {
        faults.push(format!(
            "was wedged with interrupts masked, but the vmcore has pstate {:#x}",
            registers.pstate
        ));
    }
    faults
}

/// Where a CPU stood.
struct Place {
    text: String,
    function: Option<String>,
}

impl Place {
    fn of(evidence: &Evidence<'_>, registers: &Registers) -> Self {
        let pc = registers.pc;
        let linked = pc.wrapping_sub(evidence.kaslr_offset);
        // A program's addresses have no names of the kernel's.
        let named = evidence.symbols.function(linked);
        match named.filter(|_| registers.is_in_kernel()) {
            Some((name, offset)) => Self {
                text: format!("{name}+{offset:#x}"),
                function: Some(name.to_owned()),
            },
            None => Self {
                text: format!("{pc:#x}"),
                function: None,
            },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
