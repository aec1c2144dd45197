//! A guest all of whose CPUs are wedged is reached from outside: by an NMI, or by the hypervisor that has it dumped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hv_abi::operator::Verb;
use machine::control;
use machine::operator::{Answers, Operator, VcpuAnswer};
use machine::qemu::Leave;

use crate::instant;
use crate::outside::{self, Outside};
use crate::registers::PSTATE_I;

/// So long the last CPU may take to wedge itself after it has said that it will.
const LIMIT: Duration = Duration::from_secs(60);
/// So long it may take until all are masked, and still are when they have been looked at: each look reads their stacks.
const MASK_LIMIT: Duration = Duration::from_secs(180);

/// So many looks in a row find all there: a kernel masks interrupts for moments, too, and an only CPU is always with all others.
const LOOKS: u32 = 5;
/// LKDTM's loop is shorter, in bytes.
const LOOP: u64 = 64;

/// What the hypervisor saw of each CPU, if it was asked.
type Seen = BTreeMap<u32, Outside>;

/// CPUs that the hypervisor's test image is to mask.
#[derive(Clone, Copy, Debug)]
pub struct Masked {
    /// How many there are.
    pub cpus: u32,
    /// The one that takes the NMI.
    pub target: u32,
    /// It loops in the kernel, not in a program as all others do.
    pub is_target_in_kernel: bool,
    /// The hypervisor then starts the guest's capture kernel, and none takes an NMI.
    pub is_dumped_from_below: bool,
}

/// What is done about CPUs that are all wedged.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// One takes an NMI.
    Nmi,
    /// One takes an NMI, or the guest's capture kernel is started, once the hypervisor's test image has wedged them.
    Mask(Masked),
    /// This CPU, which is not wedged, takes the event that an NMI raises first.
    Event {
        /// Which.
        cpu: u32,
        /// How many others are wedged.
        wedged: usize,
    },
    /// This CPU, which panics, takes an NMI, and is looked at where it then stands still. That is the end.
    Nested {
        /// Which.
        cpu: u32,
    },
    /// The hypervisor starts the guest's capture kernel.
    Capture {
        /// Of so many.
        cpus: u32,
    },
}

/// Waits until all CPUs are wedged, and does something about it; in a thread of its own.
pub struct Intervention {
    done: JoinHandle<Result<Option<Seen>>>,
    last: Sender<()>,
}

impl Intervention {
    /// Begins, as soon as the guest's init is up. Memory as it was then is saved where `memory` says. If it comes to nothing, the machine
    /// is left.
    pub fn begin(operator: &Operator, way: Way, memory: Option<PathBuf>, leave: Leave) -> Self {
        let operator = operator.clone();
        let (last, is_last) = channel();
        let done = std::thread::spawn(move || {
            if let Way::Mask(_) = way {
                // Where the kernel says what it is takes long to find, and longer once its CPUs loop; init waits for a line. If it
                // is not found, that is said when it is needed.
                let _ = control::vmcoreinfo(&operator);
                operator.type_bytes(b"\n")?;
            }
            if is_last.recv().is_err() {
                return Ok(None);
            }
            let memory = memory.as_deref();
            let done = match way {
                Way::Mask(masked) => mask(&operator, masked, memory),
                Way::Nmi => inject_nmi(&operator, memory).map(|()| Seen::new()),
                Way::Event { cpu, wedged } => {
                    send_when_quiet(&operator, cpu, wedged).map(|()| Seen::new())
                }
                Way::Nested { cpu } => nest(&operator, cpu),
                Way::Capture { cpus } => capture(&operator, cpus, memory),
            };
            if done.is_err() || matches!(way, Way::Nested { .. }) {
                leave.leave();
            }
            done.map(Some)
        });
        Self { done, last }
    }

    /// The last CPU is about to be wedged.
    pub fn go_on(&self) {
        // Once is enough.
        let _ = self.last.send(());
    }

    /// What came of it; nothing if the last CPU was never about to be wedged.
    pub fn end(self) -> Result<Option<Seen>> {
        drop(self.last);
        let ended = self.done.join();
        ended.unwrap_or_else(|_| {
            Err(anyhow!(
                "the thread that looks after wedged CPUs has panicked"
            ))
        })
    }
}

/// Has one take an NMI once all are wedged.
fn inject_nmi(operator: &Operator, memory: Option<&Path>) -> Result<()> {
    let status = wait_until_wedged(operator)?;
    if let Some(path) = memory {
        instant::save(operator, path)?;
    }
    send(operator, control::nmi_target(&status)?)?;
    if memory.is_some() {
        operator.ask(Verb::Thaw, 0)?;
    }
    Ok(())
}

/// Has a CPU take an NMI once none but the `wedged` does anything: where one is writing to the console, a panic in an NMI can say nothing there
/// before the crash kernel begins.
fn send_when_quiet(operator: &Operator, cpu: u32, wedged: usize) -> Result<()> {
    let until = Instant::now() + LIMIT;
    let mut looks = 0;
    while looks < LOOKS {
        let status = operator.ask(Verb::Status, 0)?;
        let is_quiet = status.missing().is_empty() && are_quiet(status.vcpus.values(), wedged);
        looks = if is_quiet { looks + 1 } else { 0 };
        ensure!(
            Instant::now() < until,
            "more CPUs than the {wedged} that are wedged do something: {:?}",
            status.vcpus
        );
    }
    send(operator, u8::try_from(cpu)?)
}

/// Whether no more CPUs than so many do anything.
fn are_quiet<'a>(vcpus: impl Iterator<Item = &'a VcpuAnswer>, wedged: usize) -> bool {
    vcpus.filter(|vcpu| vcpu.state == "on").count() <= wedged
}

/// Has the guest dumped, which stands still from before it is looked at.
fn capture(operator: &Operator, cpus: u32, memory: Option<&Path>) -> Result<Seen> {
    wait_until_wedged(operator)?;
    operator.ask(Verb::Freeze, 0)?;
    if let Some(path) = memory {
        instant::save(operator, path)?;
    }
    let seen = outside::look(operator, 0..cpus)?;
    operator.ask(Verb::Dump, 0)?;
    Ok(seen)
}

/// Has a CPU that panics take an NMI, and looks at it once it waits for an interrupt with interrupts masked, which is for ever.
fn nest(operator: &Operator, cpu: u32) -> Result<Seen> {
    let until = Instant::now() + MASK_LIMIT;
    let number = u8::try_from(cpu)?;
    send(operator, number)?;
    let mut looks = 0;
    while looks < LOOKS {
        let status = operator.ask(Verb::Status, 0)?;
        let waits = |vcpu: &VcpuAnswer| {
            vcpu.state == "idle" && vcpu.pstate.is_some_and(|pstate| pstate & PSTATE_I != 0)
        };
        looks = match status.vcpus.get(&number).is_some_and(waits) {
            true => looks + 1,
            false => 0,
        };
        ensure!(
            Instant::now() < until,
            "CPU {cpu} took an NMI in its panic, and goes on: {:?}",
            status.vcpus
        );
    }
    outside::look(operator, [cpu])
}

/// What the hypervisor says of all CPUs once each is in the loop of LKDTM.
fn wait_until_wedged(operator: &Operator) -> Result<Answers> {
    let until = Instant::now() + LIMIT;
    let (mut looks, mut place) = (0, None);
    loop {
        let status = operator.ask(Verb::Status, 0)?;
        let now = wedged_at(&status);
        let is_there = |now: &u64| place.is_some_and(|before| now.abs_diff(before) < LOOP);
        looks = match now {
            Some(now) if is_there(&now) => looks + 1,
            Some(_) => 1,
            None => 0,
        };
        place = now;
        if looks == LOOKS {
            return Ok(status);
        }
        ensure!(
            Instant::now() < until,
            "the last CPU did not wedge itself: {:?}",
            status.vcpus
        );
    }
}

/// Has the hypervisor's test image mask all CPUs, which loop: all in programs, or that of our init in the kernel. Looks at them
/// and has that one take an NMI, or the guest dumped. All that is judged stands still meanwhile: a loop in the kernel may end, which unmasks its CPU.
fn mask(operator: &Operator, masked_cpus: Masked, memory: Option<&Path>) -> Result<Seen> {
    let until = Instant::now() + MASK_LIMIT;
    let target = u8::try_from(masked_cpus.target)?;
    let kernel = masked_cpus.is_target_in_kernel.then_some(target);
    let mut masked = BTreeSet::new();
    loop {
        operator.ask(Verb::Freeze, 0)?;
        let status = operator.ask(Verb::Status, 0)?;
        // A CPU in a handler of its kernel's is masked, too, and not by us.
        let is_ours = |cpu: &u8| masked.contains(cpu);
        let is_over = status.vcpus.keys().all(is_ours) && are_all_masked(&status, kernel);
        let seen = match is_over {
            true => outside::look(operator, 0..masked_cpus.cpus)?,
            false => Seen::new(),
        };
        // Who enters its kernel, or takes an interrupt, is masked by that, and goes on.
        let loops = |(number, cpu): (&u32, &Outside)| {
            let is_target = kernel.map(u32::from) == Some(*number);
            cpu.faults().is_empty() && (!is_target || cpu.is_in_call())
        };
        if is_over && seen.iter().all(loops) {
            if let Some(path) = memory {
                instant::save(operator, path)?;
            }
            if masked_cpus.is_dumped_from_below {
                operator.ask(Verb::Dump, 0)?;
            } else {
                send(operator, target)?;
                operator.ask(Verb::Thaw, 0)?;
            }
            return Ok(seen);
        }
        ensure!(
            Instant::now() < until,
            "its CPUs cannot be wedged: {:?}",
            status.vcpus
        );
        // An NMI masks it instead, once it goes on, and again if it has unmasked itself since.
        let is_open = |vcpu: &VcpuAnswer| vcpu.pstate.is_some_and(|pstate| pstate & PSTATE_I == 0);
        for (&number, _) in status.vcpus.iter().filter(|(_, vcpu)| is_open(vcpu)) {
            send(operator, number)?;
            masked.insert(number);
        }
        operator.ask(Verb::Thaw, 0)?;
    }
}

fn send(operator: &Operator, target: u8) -> Result<()> {
    let answers = operator.ask(Verb::Nmi, target)?;
    let answer = answers.vcpus.get(&target);
    answer.context("the pCPU of the vCPU that was to take the NMI does not answer")?;
    Ok(())
}

/// Whether all loop with interrupts masked, `kernel` at EL1 and all others at EL0.
fn are_all_masked(status: &Answers, kernel: Option<u8>) -> bool {
    /// PSTATE.M of EL0.
    const EL0: u64 = 0;
    const EL: u64 = 0b1100;
    let is_masked = |(number, vcpu): (&u8, &VcpuAnswer)| {
        vcpu.state == "on"
            && vcpu.pstate.is_some_and(|pstate| {
                pstate & PSTATE_I != 0 && (pstate & EL != EL0) == (kernel == Some(*number))
            })
    };
    status.missing().is_empty() && status.vcpus.iter().all(is_masked)
}

/// Where all stand, in one loop with interrupts masked, if they do.
fn wedged_at(status: &Answers) -> Option<u64> {
    let wedged = |vcpu: &VcpuAnswer| match (vcpu.pc, vcpu.pstate) {
        (Some(pc), Some(pstate)) if pstate & PSTATE_I != 0 && vcpu.state == "on" => Some(pc),
        _ => None,
    };
    let places: Option<Vec<u64>> = status.vcpus.values().map(wedged).collect();
    let places = places.unwrap_or_default();
    let (first, last) = (places.iter().min()?, places.iter().max()?);
    (status.missing().is_empty() && last - first < LOOP).then_some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_quiet_when_none_but_the_wedged_does_anything() {
        let are = |states: &[&str], wedged| {
            let vcpu = |state: &&str| VcpuAnswer {
                state: (*state).to_owned(),
                pc: None,
                pstate: None,
                has_serror: false,
                late: None,
                registers: BTreeMap::new(),
                callers: Vec::new(),
            };
            let vcpus: Vec<_> = states.iter().map(vcpu).collect();
            are_quiet(vcpus.iter(), wedged)
        };
        assert!(are(&["idle", "idle", "on", "idle"], 1));
        assert!(!are(&["on", "idle", "on", "idle"], 1));
        assert!(are(&["on", "idle", "on", "off"], 2));
        assert!(are(&["idle"], 0));
        assert!(!are(&["on"], 0));
    }
}
