//! Virtual addresses of EL1 and EL0, by the tables that the guest's own registers name (DDI0487 D8.2 to D8.5): granules of 4, 16
//! and 64 KiB, addresses of up to 52 bits.
//!
//! What the MMU would refuse for want of permission or of an access flag is read nevertheless: this is a debugger's look.

use anyhow::{Context, Result, bail, ensure};

use crate::memory::{Memory, Words};

/// The registers that say how EL1 translates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regime {
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// TCR_EL1.
    pub tcr: u64,
    /// TTBR0_EL1.
    pub ttbr0: u64,
    /// TTBR1_EL1.
    pub ttbr1: u64,
}

/// Where a virtual address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The physical address; of a guest, IPA.
    pub physical: u64,
    /// So many bytes from there on lie one after the other.
    pub left: u64,
}

/// Bit 55 chooses between TTBR0_EL1 and TTBR1_EL1 (DDI0487 D8.2.4).
const UPPER: u64 = 1 << 55;

/// One of the two halves of the address space.
struct Half {
    /// TTBRx_EL1.
    base: u64,
    /// Bits of an address that are translated.
    bits: u32,
    /// Bits of an offset into a page: 12, 14 or 16.
    page: u32,
    /// Addresses of 52 bits in the descriptors of 4 KiB and 16 KiB granules (TCR_EL1.DS).
    ds: bool,
    /// The same in those of 64 KiB granules (TCR_EL1.IPS).
    wide: bool,
}

impl Regime {
    /// Of registers by their names.
    ///
    /// # Errors
    ///
    /// If one is missing, which is named.
    pub fn named(value: impl Fn(&str) -> Option<u64>) -> Result<Self> {
        let value = |name| value(name).with_context(|| format!("its {name} is not known"));
        Ok(Self {
            sctlr: value("sctlr_el1")?,
            tcr: value("tcr_el1")?,
            ttbr0: value("ttbr0_el1")?,
            ttbr1: value("ttbr1_el1")?,
        })
    }

    /// Where `address` is.
    ///
    /// # Errors
    ///
    /// If nothing is mapped there, which names level and address, or the tables lead where there is no memory.
    pub fn translate(&self, memory: &mut impl Memory, address: u64) -> Result<Mapped> {
        const M: u64 = 1;
        if self.sctlr & M == 0 {
            // The MMU is off (DDI0487 D8.2.11).
            return Ok(Mapped {
                physical: address,
                left: 4096 - address % 4096,
            });
        }
        self.half(address)?.walk(memory, address)
    }

    /// Reads `bytes` at the virtual `address`.
    pub fn read(&self, memory: &mut impl Memory, address: u64, bytes: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let mapped = self.translate(memory, at)?;
            let left = usize::try_from(mapped.left).unwrap_or(usize::MAX);
            let count = left.min(bytes.len() - done);
            memory.read(mapped.physical, &mut bytes[done..done + count])?;
            done += count;
        }
        Ok(())
    }

    /// Whether `address` is in the half of the kernel's addresses, by convention.
    pub const fn is_upper(address: u64) -> bool {
        address & UPPER != 0
    }

    /// `address` without a tag or the code of pointer authentication (DDI0487 D8.10): the bits above those that are translated are
    /// all as bit 55.
    pub fn strip(&self, address: u64) -> u64 {
        let upper = Self::is_upper(address);
        let untranslated = match self.size(upper) {
            bits @ 1..64 => u64::MAX << bits,
            _ => 0,
        };
        match upper {
            true => address | untranslated,
            false => address & !untranslated,
        }
    }

    /// How many bits of an address are translated in a half.
    fn size(&self, upper: bool) -> u32 {
        let shift = if upper { 16 } else { 0 };
        64 - (self.tcr >> shift & 0x3f) as u32
    }

    /// The half that `address` is in; whether it can be in there.
    fn half(&self, address: u64) -> Result<Half> {
        const DS: u64 = 1 << 59;
        let upper = Self::is_upper(address);
        let name = if upper { "TTBR1_EL1" } else { "TTBR0_EL1" };
        let bit = |lower: u32, other: u32| self.tcr >> if upper { other } else { lower } & 1 != 0;
        // TCR_EL1.TG0 and TG1 have different codes.
        let page = match (upper, self.tcr >> if upper { 30 } else { 14 } & 0b11) {
            (false, 0b00) | (true, 0b10) => 12,
            (false, 0b10) | (true, 0b01) => 14,
            (false, 0b01) | (true, 0b11) => 16,
            _ => bail!("TCR_EL1 {:#x} has no granule for {name}", self.tcr),
        };
        // TCR_EL1.EPD0 and EPD1.
        ensure!(
            !bit(7, 23),
            "{address:#x} is not mapped: TCR_EL1 switches {name} off"
        );
        let bits = self.size(upper);
        let ds = self.tcr & DS != 0 && page != 16;
        let most = if ds || page == 16 { 52 } else { 48 };
        ensure!(
            (page + 3..=most).contains(&bits),
            "TCR_EL1 {:#x} has {bits} bits of address for {name}",
            self.tcr
        );
        // TCR_EL1.TBI0 and TBI1: the highest byte is ignored.
        let checked = if bit(37, 38) { 56 } else { 64 };
        let above = address << (64 - checked) >> (64 - checked) >> bits;
        let expected = if upper {
            (1 << (checked - bits)) - 1
        } else {
            0
        };
        ensure!(
            above == expected,
            "{address:#x} is not mapped: it is no address of {bits} bits"
        );
        Ok(Half {
            base: if upper { self.ttbr1 } else { self.ttbr0 },
            bits,
            page,
            ds,
            // TCR_EL1.IPS.
            wide: page == 16 && self.tcr >> 32 & 0b111 == 0b110,
        })
    }
}

impl Half {
    fn walk(&self, memory: &mut impl Memory, address: u64) -> Result<Mapped> {
        const VALID: u64 = 1;
        const TABLE: u64 = 1 << 1;
        // Each level translates so many bits, the first one what is left.
        let stride = self.page - 3;
        let levels = (self.bits - self.page).div_ceil(stride);
        let mut table = self.base_address(levels, stride);
        for below in (0..levels).rev() {
            let level = 3 - i64::from(below);
            let shift = self.page + below * stride;
            let bits = stride.min(self.bits - shift);
            let index = address >> shift & ((1 << bits) - 1);
            let descriptor = memory.u64(table + 8 * index).map_err(|error| {
                error.context(format!(
                    "cannot read the table of level {level} at {table:#x} for {address:#x}"
                ))
            })?;
            if descriptor & VALID == 0 {
                bail!("{address:#x} is not mapped: its entry of level {level} is empty");
            }
            let output = self.output(descriptor);
            match (descriptor & TABLE != 0, below) {
                (true, 0) => return Ok(mapped(output, address, shift)),
                (true, _) => table = output & (u64::MAX << self.page),
                (false, _) if self.has_blocks(below) => {
                    return Ok(mapped(output, address, shift));
                }
                (false, _) => bail!(
                    "{address:#x} is not mapped: its entry of level {level} is reserved, {descriptor:#x}"
                ),
            }
        }
        bail!("{address:#x} is not mapped: there is no level")
    }

    /// Where the first table is: aligned to its size, and to 64 bytes at least (DDI0487 D8.2.5, TTBR0_EL1.BADDR).
    fn base_address(&self, levels: u32, stride: u32) -> u64 {
        let first = self.bits - self.page - (levels - 1) * stride;
        let aligned = self.base & ((1 << 48) - 1) & (u64::MAX << (first + 3).max(6));
        match self.ds || self.wide {
            true => aligned | (self.base >> 2 & 0xf) << 48,
            false => aligned,
        }
    }

    /// Whether an entry `below` levels above the pages may be a block (DDI0487 D8.3.1).
    fn has_blocks(&self, below: u32) -> bool {
        match (self.page, below) {
            (_, 0) => false,
            (_, 1) => true,
            (12, 2) => true,
            (12, 3) | (14, 2) => self.ds,
            (16, 2) => self.wide,
            _ => false,
        }
    }

    /// The output address of a descriptor, whose lower bits are not masked yet.
    fn output(&self, descriptor: u64) -> u64 {
        let low = |top: u32| descriptor & ((1 << top) - 1) & (u64::MAX << self.page);
        match (self.ds, self.wide) {
            (true, _) => low(50) | (descriptor >> 8 & 0b11) << 50,
            (false, true) => low(48) | (descriptor >> 12 & 0xf) << 48,
            (false, false) => low(48),
        }
    }
}

/// `address` in the block of `1 << shift` bytes at `output`.
fn mapped(output: u64, address: u64, shift: u32) -> Mapped {
    let size = 1 << shift;
    let into = address & (size - 1);
    Mapped {
        physical: output & !(size - 1) | into,
        left: size - into,
    }
}

#[cfg(test)]
mod tests;
