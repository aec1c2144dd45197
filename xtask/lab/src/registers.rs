//! The registers of a stopped CPU, from either witness: the vmcore or the hypervisor.

use std::fmt;

use anyhow::Result;
use serde::{Serialize, Serializer};

use machine::console::Record;

/// x0 to x30, sp, pc and pstate of an interrupted CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer the interrupted code used.
    pub sp: u64,
    /// Where it stood.
    pub pc: u64,
    /// PSTATE in the form of SPSR_EL1 (DDI0487 C5.2.18).
    pub pstate: u64,
}

/// PSTATE.I, in the form of SPSR_EL1: interrupts are masked.
pub const PSTATE_I: u64 = 1 << 7;

/// PSTATE.M, of which these bits are the exception level.
const EL: u64 = 0b1100;

impl Registers {
    /// How many there are.
    pub const COUNT: usize = 34;

    /// Whether it was in the kernel, not in a program.
    pub const fn is_in_kernel(&self) -> bool {
        self.pstate & EL != 0
    }

    /// The 34 registers in the order of Linux's `user_pt_regs`, which ELF notes have too.
    pub fn from_words(words: &[u64; Self::COUNT]) -> Self {
        let mut x = [0; 31];
        x.copy_from_slice(&words[..31]);
        Self {
            x,
            sp: words[31],
            pc: words[32],
            pstate: words[33],
        }
    }

    /// The registers in a `@frame` record, as Linux keeps them: its entry from SDEI takes SP_EL1 for the stack pointer, also of a
    /// program (arch/arm64/kernel/entry.S, `__sdei_asm_handler`).
    pub fn from_frame(record: &Record) -> Result<Self> {
        Ok(Self {
            sp: record.number("sp_el1")?,
            ..Self::try_named_by(|name| record.number(name))?
        })
    }

    /// The registers that `value` has by the hypervisor's names; none unless it has all.
    pub fn named_by(value: impl Fn(&str) -> Option<u64>) -> Option<Self> {
        Self::try_named_by(|name| value(name).ok_or(())).ok()
    }

    /// The interrupted stack pointer is SP_EL1 if PSTATE.M says EL1h, else SP_EL0.
    fn try_named_by<E>(value: impl Fn(&str) -> Result<u64, E>) -> Result<Self, E> {
        const MODE: u64 = 0b1111;
        const EL1H: u64 = 0b0101;
        let mut x = [0; 31];
        for (number, x) in x.iter_mut().enumerate() {
            *x = value(&format!("x{number}"))?;
        }
        let pstate = value("pstate")?;
        let sp = if pstate & MODE == EL1H {
            "sp_el1"
        } else {
            "sp_el0"
        };
        Ok(Self {
            x,
            sp: value(sp)?,
            pc: value("pc")?,
            pstate,
        })
    }

    /// Name and value of each, in order.
    pub fn named(&self) -> impl Iterator<Item = (String, u64)> {
        let general = self.x.iter().enumerate();
        let general = general.map(|(number, &value)| (format!("x{number}"), value));
        let special = [("sp", self.sp), ("pc", self.pc), ("pstate", self.pstate)];
        general.chain(special.map(|(name, value)| (name.to_owned(), value)))
    }

    /// The registers that differ: name, value here, value in `other`.
    pub fn differences(&self, other: &Self) -> Vec<(String, u64, u64)> {
        self.named()
            .zip(other.named())
            .filter(|((_, here), (_, there))| here != there)
            .map(|((name, here), (_, there))| (name, here, there))
            .collect()
    }
}

impl Serialize for Registers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.named()
                .map(|(name, value)| (name, format!("{value:#x}"))),
        )
    }
}

/// PSTATE as an SPSR has it (DDI0487 C5.2.18).
pub struct Pstate(pub u64);

impl Pstate {
    /// PSTATE.A is set: an SError waits.
    pub const fn masks_serror(&self) -> bool {
        self.0 & 1 << 8 != 0
    }
}

impl fmt::Display for Pstate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.0 >> 2 & 0b11;
        let masks: String = [(9, 'D'), (8, 'A'), (7, 'I'), (6, 'F')]
            .iter()
            .filter(|(bit, _)| self.0 >> bit & 1 != 0)
            .map(|(_, name)| *name)
            .collect();
        match masks.as_str() {
            "" => write!(f, "at EL{level}, nothing masked"),
            masks => write!(f, "at EL{level}, {masks} masked"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use machine::console::Line;

    /// Registers that all differ from each other, at EL1h with interrupts masked.
    pub fn sample(seed: u64) -> Registers {
        let mut words = [0; Registers::COUNT];
        for (number, word) in words.iter_mut().enumerate() {
            *word = seed * 0x1_0000 + number as u64;
        }
        words[33] = 0x6040_00c5;
        Registers::from_words(&words)
    }

    /// The `@frame` line that says `registers`.
    pub fn frame_line(vcpu: u32, state: &str, registers: &Registers) -> String {
        let mut line = format!("@frame vm=0 vcpu={vcpu} t=5000 event=0 state={state} sp_el0=0xbad");
        for (name, value) in registers.named() {
            let name = if name == "sp" { "sp_el1".into() } else { name };
            line.push_str(&format!(" {name}={value:#x}"));
        }
        line
    }

    #[test]
    fn frame_of_el1h_takes_sp_el1() {
        let registers = sample(1);
        let record = Line::parse(&frame_line(2, "running", &registers));
        let record = record.record().unwrap().unwrap();
        assert_eq!(Registers::from_frame(&record).unwrap(), registers);
    }

    #[test]
    fn frame_of_a_program_has_the_stack_pointer_that_linux_keeps() {
        let mut registers = sample(1);
        registers.pstate = 0;
        let record = Line::parse(&frame_line(2, "running", &registers));
        let record = record.record().unwrap().unwrap();
        assert_eq!(Registers::from_frame(&record).unwrap(), registers);
        let own = Registers::named_by(|name| record.number(name).ok());
        assert_eq!(own.unwrap().sp, 0xbad);
    }

    #[test]
    fn differences_name_the_register() {
        let one = sample(1);
        let mut other = one.clone();
        other.x[17] ^= 1;
        other.pc += 4;
        let differences = one.differences(&other);
        let names: Vec<_> = differences.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["x17", "pc"]);
        assert_eq!(one.differences(&one), []);
    }
}
