//! Which CPU of a Linux a vCPU is, and what a kernel that is on its way into a dump has saved of its CPUs.

use anyhow::{Result, ensure};

use super::{Image, Kernel};
use crate::memory::{Memory, Words};

/// More CPUs are none of a guest's (GICv3's affinity 0 and 1 alone have room for more, and nobody builds that).
const MOST: usize = 1024;
/// `struct elf_prstatus` of arm64 as a note, and the empty one behind it.
const NOTE: usize = 12 + 8 + 392;

/// The CPUs of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// How far each CPU's variables are from where they are linked, by its number: what TPIDR_EL1 has on it.
    offsets: Vec<u64>,
    /// A bit for each.
    online: Vec<u64>,
}

impl Cpus {
    /// The number of the CPU that has this TPIDR_EL1.
    pub fn number(&self, tpidr: u64) -> Option<u32> {
        let place = self.offsets.iter().position(|offset| *offset == tpidr);
        place.map(|number| number as u32)
    }

    /// Whether it is online.
    pub fn is_online(&self, number: u32) -> bool {
        let word = self.online.get(number as usize / 64);
        word.is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// How far the variables of CPU `number` are from where they are linked.
    pub fn offset(&self, number: u32) -> Option<u64> {
        self.offsets.get(number as usize).copied()
    }
}

impl Kernel {
    /// The first `count` CPUs, as the kernel numbers them. It needs CONFIG_KALLSYMS_ALL.
    pub fn cpus(&mut self, memory: &mut impl Memory, count: usize) -> Result<Cpus> {
        ensure!(count <= MOST, "{count} CPUs are too many");
        let offsets = self.place(memory, "__per_cpu_offset")?;
        let online = self.place(memory, "__cpu_online_mask")?;
        let voffset = self.voffset;
        let mut image = Image { memory, voffset };
        let mut row = |at: u64, count: usize| -> Result<Vec<u64>> {
            (at..)
                .step_by(8)
                .take(count)
                .map(|at| image.u64(at))
                .collect()
        };
        Ok(Cpus {
            offsets: row(offsets, count)?,
            online: row(online, count.div_ceil(64))?,
        })
    }

    /// Where its image is: from `_text` up to `_end`.
    pub fn image(&mut self, memory: &mut impl Memory) -> Result<(u64, u64)> {
        Ok((self.place(memory, "_text")?, self.place(memory, "_end")?))
    }

    /// The physical address of what CPU `offset` saves its registers in when the kernel crashes (`crash_notes`), and whether it has: it
    /// is a note, or all zeros. Debuggers read it instead of the dump's own notes once the kernel has crashed (CRASHTIME in VMCOREINFO).
    pub fn crash_note(&mut self, memory: &mut impl Memory, offset: u64) -> Result<(u64, bool)> {
        let own = self.info.own_half()?;
        let pointer = self.place(memory, "crash_notes")?;
        let voffset = self.voffset;
        let base = Image {
            memory: &mut *memory,
            voffset,
        }
        .u64(pointer)?;
        ensure!(base != 0, "the kernel has no room for its CPUs' registers");
        let at = own.translate(memory, base.wrapping_add(offset))?;
        ensure!(at.left >= NOTE as u64, "a CPU's note is in two pages");
        let name_size = memory.u32(at.physical)?;
        Ok((at.physical, name_size != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vcpu_is_known_by_where_its_variables_are() {
        let cpus = Cpus {
            offsets: vec![0x1000, 0x3000, 0x2000],
            online: vec![0b101],
        };
        assert_eq!(cpus.number(0x3000), Some(1));
        assert_eq!(cpus.number(0x2000), Some(2));
        assert_eq!(cpus.number(0), None);
        assert_eq!(cpus.offset(1), Some(0x3000));
        let online: Vec<bool> = (0..4).map(|cpu| cpus.is_online(cpu)).collect();
        assert_eq!(online, [true, false, true, false]);
        assert!(!cpus.is_online(64));
    }
}
