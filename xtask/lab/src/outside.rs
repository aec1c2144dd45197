//! What the hypervisor sees of a guest's CPUs, whatever they do: of a CPU that its kernel does not stop nobody else has it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use hv_abi::operator::Verb;
use introspection::linux::{Kernel, Name};
use introspection::memory::{Cached, Memory};
use introspection::translation::Regime;
use introspection::unwind::{self, End, Frame};
use machine::control::{Ram, vmcoreinfo};
use machine::operator::{Operator, VcpuAnswer};
use serde::Serialize;

use crate::registers::{PSTATE_I, Registers};

/// So much is read at a time.
const BLOCK: u64 = 256;

/// One CPU, as it was before an NMI reached any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outside {
    /// Its registers.
    pub registers: Registers,
    /// The functions it was in, innermost first; none of a CPU at EL0.
    pub frames: Vec<String>,
    /// Why there are no more frames, if there should be.
    pub end: Option<String>,
}

impl Outside {
    /// Whether it was in the kernel.
    pub const fn is_in_kernel(&self) -> bool {
        self.registers.is_in_kernel()
    }

    /// Whether it took no interrupts.
    pub const fn is_masked(&self) -> bool {
        self.registers.pstate & PSTATE_I != 0
    }

    /// Whether it is in a call that a program has made, and in no interrupt.
    pub fn is_in_call(&self) -> bool {
        const INTERRUPT: [&str; 2] = ["el1h_64_irq", "el1h_64_fiq"];
        let is_of = |frame: &str, names: &[&str]| {
            let name = frame.split('+').next();
            names.iter().any(|it| name == Some(it))
        };
        let begins = self.frames.last();
        begins.is_some_and(|frame| is_of(frame, &["el0t_64_sync"]))
            && !self.frames.iter().any(|frame| is_of(frame, &INTERRUPT))
    }

    /// What is wrong with it as a witness of a CPU that is wedged.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.is_masked() {
            faults.push("was to be wedged, but took interrupts when the hypervisor looked".into());
        }
        if let Some(end) = &self.end {
            faults.push(format!("has a stack that leads nowhere: {end}"));
        }
        if self.is_in_kernel() && !self.frames.iter().any(|frame| is_outermost(frame)) {
            faults.push(format!(
                "has a stack that does not end where a task enters the kernel: {:?}",
                self.frames
            ));
        }
        faults
    }
}

/// Whether a stack of the kernel's may begin in `frame`: a program has made a call, or was interrupted (arch/arm64/kernel/entry.S), a
/// thread of the kernel's was started, or a CPU that idles.
fn is_outermost(frame: &str) -> bool {
    const OUTERMOST: [&str; 5] = [
        "el0t_64_sync",
        "el0t_64_irq",
        "ret_from_fork",
        "__primary_switched",
        "__secondary_switched",
    ];
    let name = frame.split('+').next();
    OUTERMOST.iter().any(|it| name == Some(it))
}

impl fmt::Display for Outside {
    /// Where it was, and who had called it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (el, pc) = (u8::from(self.is_in_kernel()), self.registers.pc);
        match self.frames.is_empty() {
            true => write!(f, "EL{el} at {pc:#x}")?,
            false => write!(f, "EL{el} in {}", self.frames.join(" < "))?,
        }
        write!(f, ", {} registers", Registers::COUNT)
    }
}

/// Those of `cpus`, of a guest that stands still.
pub fn look(
    operator: &Operator,
    cpus: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, Outside>> {
    let info = vmcoreinfo(operator)?;
    let mut memory = Cached::new(Ram(operator), BLOCK);
    let mut kernel = Kernel::of(&mut memory, info)?;
    let mut all = BTreeMap::new();
    for cpu in cpus {
        let (registers, regime, frames, end) = stack(operator, &mut memory, &kernel, cpu)?;
        let frames: Result<Vec<String>> = frames
            .iter()
            .map(|frame| {
                let name = kernel.name(&mut memory, &regime, frame.inside())?;
                Ok(named(frame, name))
            })
            .collect();
        let outside = Outside {
            registers,
            frames: frames?,
            end: (end != End::Whole).then(|| format!("{end:?}")),
        };
        all.insert(cpu, outside);
    }
    Ok(all)
}

fn named(frame: &Frame, name: Name) -> String {
    // Of where it goes on, not of the call.
    let behind = frame.address - frame.inside();
    match name {
        Name::Symbol { name, offset } => format!("{name}+{:#x}", offset + behind),
        Name::Module(Some(found)) => match found.symbol {
            Some((name, offset)) => format!("{name}+{:#x} [{}]", offset + behind, found.module),
            None => format!("{:#x} [{}]", frame.address, found.module),
        },
        Name::Module(None) | Name::Unknown => format!("{:#x}", frame.address),
    }
}

type Stack = (Registers, Regime, Vec<Frame>, End);

fn stack(
    operator: &Operator,
    memory: &mut impl Memory,
    kernel: &Kernel,
    cpu: u32,
) -> Result<Stack> {
    let vcpu = u8::try_from(cpu)?;
    let answers = operator.ask(Verb::Registers, vcpu)?;
    let answer = answers.vcpus.get(&vcpu);
    let answer = answer.with_context(|| format!("the pCPU of vCPU {cpu} does not answer"))?;
    ensure!(answer.pc.is_some(), "vCPU {cpu} is off");
    let registers = registers(answer).with_context(|| format!("vCPU {cpu} lacks a register"))?;
    let regime = Regime::named(|name| answer.registers.get(name).copied())?;
    if !registers.is_in_kernel() {
        return Ok((registers, regime, Vec::new(), End::Whole));
    }
    let at = unwind::Registers {
        pc: registers.pc,
        sp: registers.sp,
        frame: registers.x[29],
        link: registers.x[30],
    };
    let (frames, end) = kernel.unwind(memory, &regime, &at)?;
    Ok((registers, regime, frames, end))
}

fn registers(answer: &VcpuAnswer) -> Option<Registers> {
    Registers::named_by(|name| match name {
        "pc" => answer.pc,
        "pstate" => answer.pstate,
        name => answer.registers.get(name).copied(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::registers::tests::sample;

    /// A CPU that stood in such functions with interrupts masked; at EL0 if there are none.
    pub fn outside(seed: u64, frames: &[&str]) -> Outside {
        let mut registers = sample(seed);
        registers.pstate = if frames.is_empty() { 0xc0 } else { 0xc5 };
        Outside {
            registers,
            frames: frames.iter().map(|&frame| frame.to_owned()).collect(),
            end: None,
        }
    }

    #[test]
    fn a_cpu_is_in_a_call_unless_an_interrupt_or_a_new_task_brought_it_there() {
        let is_in_call = |frames: &[&str]| outside(1, frames).is_in_call();
        assert!(is_in_call(&[
            "chacha_block+0x4",
            "vfs_read+0xc0",
            "el0t_64_sync+0x1b4"
        ]));
        for others in [
            &[][..],
            &["gic_handle_irq+0x24", "el0t_64_irq+0x18c"],
            &[
                "gic_handle_irq+0x24",
                "el1h_64_irq+0x80",
                "vfs_read+0xc0",
                "el0t_64_sync+0x1b4",
            ],
            &["schedule_tail+0x68", "ret_from_fork+0x4"],
            &["0xfffffbfffdbf6400"],
        ] {
            assert!(!is_in_call(others), "{others:?}");
        }
    }

    #[test]
    fn a_witness_of_a_wedged_cpu_is_masked_and_has_a_whole_stack() {
        assert_eq!(outside(1, &[]).faults(), [""; 0]);
        let whole = outside(1, &["chacha_permute+0x10", "el0t_64_sync+0x1a0"]);
        assert_eq!(whole.faults(), [""; 0]);
        let mut open = whole.clone();
        open.registers.pstate = 0x5;
        assert!(open.faults()[0].contains("took interrupts"));
        assert!(outside(1, &["a+0x0"]).faults()[0].contains("does not end where"));
        // In the handler of an interrupt that has come to a program, and in a thread of the kernel's.
        for outermost in ["el0t_64_irq+0x1a0", "ret_from_fork+0x10"] {
            let frames = ["rcu_sched_clock_irq+0x610", outermost];
            assert_eq!(outside(1, &frames).faults(), [""; 0]);
        }
        let lost = Outside {
            end: Some("TooMany".into()),
            ..whole
        };
        assert!(lost.faults()[0].contains("TooMany"));
    }

    #[test]
    fn registers_are_those_that_the_hypervisor_names() {
        let mut answer = VcpuAnswer {
            state: "on".into(),
            pc: Some(0x4000),
            pstate: Some(0xc5),
            has_serror: false,
            callers: Vec::new(),
            late: None,
            registers: BTreeMap::new(),
        };
        for n in 0..31 {
            answer.registers.insert(format!("x{n}"), n);
        }
        assert_eq!(registers(&answer), None);
        answer.registers.insert("sp_el0".into(), 0x70);
        answer.registers.insert("sp_el1".into(), 0x71);
        let at_el1 = registers(&answer).unwrap();
        assert_eq!((at_el1.sp, at_el1.pc, at_el1.x[30]), (0x71, 0x4000, 30));
        answer.pstate = Some(0xc0);
        assert_eq!(registers(&answer).unwrap().sp, 0x70);
    }
}
