//! Devices of a guest's own: emulated, and nothing of the machine's. They are where the machine has nothing that is mapped.

use alloc::vec::Vec;

use platform::Range;

use crate::places::Places;
use crate::ram::BLOCK_SIZE;
use crate::{Error, GuestConfig};

/// Where a guest's flash is: where QEMU's `virt` has its second, in which firmware keeps variables (hw/arm/virt.c).
const FLASH: u64 = 0x400_0000;

/// Where a place for pvpanic is looked for, a page after the other.
const PVPANIC: core::ops::Range<u64> = 0xb00_0000..0x1_0000_0000;
/// Where places for the generic watchdog's frames are looked for, two behind each other, each in 64 KiB of its own (DEN0094, "Generic
/// Watchdog").
const GWDT: core::ops::Range<u64> = 0xb01_0000..0x1_0000_0000;
const GWDT_STRIDE: u64 = 0x1_0000;
/// Bytes of pvpanic's register, and of what it takes of the guest's addresses.
const PVPANIC_SIZE: u64 = 2;
const PAGE: u64 = 4096;

/// What a guest has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The emulated flash, as the guest finds it; empty if it has none.
    pub flash: Range,
    /// The RAM that keeps what is in that.
    pub flash_ram: Range,
    /// The emulated pvpanic; empty if it has none.
    pub pvpanic: Range,
    /// The emulated generic watchdog's frames, control and refresh; empty if it has none.
    pub gwdt: [Range; 2],
    /// Its interrupt.
    pub gwdt_intid: u32,
}

impl Own {
    /// Finds places for what `config` asks for, and takes RAM from what is `free`.
    #[inline(never)]
    pub fn find(
        config: &GuestConfig,
        places: &Places<'_>,
        free: &mut Vec<Range>,
    ) -> Result<Self, Error> {
        let mut own = Self::default();
        if config.flash != 0 {
            own.flash = Range::new(FLASH, config.flash);
            if !places.is_nothing(own.flash) {
                return Err(Error::invalid(
                    "flash",
                    "would be at 0x4000000, where this machine has something else",
                    "leave it out; QEMU's virt has room for it",
                ));
            }
            own.flash_ram = take_highest(free, config.flash, "flash")?;
        }
        if config.pvpanic {
            let mut pages = PVPANIC.step_by(PAGE as usize);
            let is_nothing = |start: &u64| places.is_nothing(Range::new(*start, PAGE));
            let Some(start) = pages.find(is_nothing) else {
                let what = "has no page of addresses below 4 GiB";
                return Err(Error::invalid("pvpanic", what, "leave it out"));
            };
            own.pvpanic = Range::new(start, PVPANIC_SIZE);
        }
        if config.gwdt.is_some() {
            let mut starts = GWDT.step_by(GWDT_STRIDE as usize);
            let is_nothing = |start: &u64| {
                let both = Range::new(*start, 2 * GWDT_STRIDE);
                places.is_nothing(both) && !both.overlaps(own.pvpanic)
            };
            let Some(start) = starts.find(is_nothing) else {
                let what = "has no 128 KiB of addresses below 4 GiB";
                return Err(Error::invalid("sbsa-gwdt", what, "leave it out"));
            };
            own.gwdt = [start, start + GWDT_STRIDE].map(|start| Range::new(start, PAGE));
        }
        Ok(own)
    }
}

/// The highest SPI, of so many, that the guest has not got.
pub fn free_spi(spis: u32, has: impl Fn(u32) -> bool) -> Result<u32, Error> {
    const FIRST: u32 = 32;
    let mut all = (FIRST..FIRST + spis).rev();
    all.find(|&intid| !has(intid)).ok_or_else(|| {
        let what = "has no interrupt left on this machine";
        Error::invalid("sbsa-gwdt", what, "leave it out")
    })
}

/// Takes `size` bytes, in whole blocks, from the end of the highest piece that has them.
pub fn take_highest(free: &mut Vec<Range>, size: u64, whose: &str) -> Result<Range, Error> {
    let blocks = size.next_multiple_of(BLOCK_SIZE);
    let Some(part) = free.iter_mut().rev().find(|part| part.size >= blocks) else {
        let what = "is more than the machine has of RAM in one piece";
        let mend = "ask for less, or give the machine more memory";
        return Err(Error::invalid(whose, what, mend));
    };
    *part = Range::new(part.start, part.size - blocks);
    let taken = Range::new(part.end(), size);
    free.retain(|part| !part.is_empty());
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flash_takes_whole_blocks_from_the_highest_piece_that_has_them() {
        let low = Range::new(0x4000_0000, 8 * BLOCK_SIZE);
        let high = Range::new(0x8000_0000, 2 * BLOCK_SIZE);
        let mut free = Vec::from([low, high]);
        let taken = take_highest(&mut free, 4 * BLOCK_SIZE, "flash").unwrap();
        assert_eq!(
            taken,
            Range::new(0x4000_0000 + 4 * BLOCK_SIZE, 4 * BLOCK_SIZE)
        );
        // A sector keeps a block from the guest, of which it fills a part.
        let taken = take_highest(&mut free, 0x4_0000, "flash").unwrap();
        assert_eq!(taken, Range::new(0x8000_0000 + BLOCK_SIZE, 0x4_0000));
        let left = [
            Range::new(0x4000_0000, 4 * BLOCK_SIZE),
            Range::new(0x8000_0000, BLOCK_SIZE),
        ];
        assert_eq!(free, left);
        assert!(take_highest(&mut free, 5 * BLOCK_SIZE, "flash").is_err());
        assert_eq!(free, left);
    }

    #[test]
    fn an_interrupt_of_the_guest_s_own_is_none_of_the_machine_s_that_it_has() {
        assert_eq!(free_spi(64, |intid| intid == 33).unwrap(), 95);
        assert_eq!(free_spi(64, |intid| intid >= 94).unwrap(), 93);
        assert!(free_spi(2, |intid| [32, 33].contains(&intid)).is_err());
        assert!(free_spi(0, |_| false).is_err());
    }
}
