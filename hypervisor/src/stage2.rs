//! What a guest can reach: stage 2 tables with its RAM and its devices, and nothing else.

use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::linearmap::LinearTranslation;
use aarch64_paging::paging::{Constraints, MemoryRegion, RootTable, Stage2};

use crate::memory::{self, HV_BASE, IDENTITY_END, PAGE_SIZE};
use crate::sysregs;

/// Normal write-back memory, read, write and execute.
const RAM: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::ACCESS_FLAG)
    .union(Stage2Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Stage2Attributes::MEMATTR_NORMAL_INNER_WB)
    .union(Stage2Attributes::SH_INNER)
    .union(Stage2Attributes::S2AP_ACCESS_RW);
/// Device memory, read and write.
const DEVICE: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::ACCESS_FLAG)
    .union(Stage2Attributes::MEMATTR_DEVICE_nGnRE)
    .union(Stage2Attributes::S2AP_ACCESS_RW)
    .union(Stage2Attributes::XN);

/// The stage 2 tables of one VM.
pub struct Tables {
    root: RootTable<Stage2, LinearTranslation<Stage2Attributes>>,
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
    }
}

impl Tables {
    /// Tables that map nothing.
    pub fn new() -> Self {
        let offset = (memory::image_pa() as isize).wrapping_sub(HV_BASE as isize);
        Self {
            root: RootTable::new(LinearTranslation::new(offset), 1, Stage2),
        }
    }

    /// Gives the guest RAM, at the same address.
    pub fn map_ram(&mut self, start: u64, size: u64) {
        self.map(start, start, size, RAM);
    }

    /// Gives the guest the pages of a device.
    pub fn map_device(&mut self, start: u64, size: u64) {
        self.map(start, start, size, DEVICE);
    }

    /// Gives the guest the pages of a device at `pa`, at another address.
    pub fn map_device_at(&mut self, ipa: u64, pa: u64, size: u64) {
        self.map(ipa, pa, size, DEVICE);
    }

    fn map(&mut self, start: u64, pa: u64, size: u64, attributes: Stage2Attributes) {
        let first = start & !(PAGE_SIZE - 1);
        let end = (start + size).next_multiple_of(PAGE_SIZE);
        let region = MemoryRegion::new(first as usize, end as usize);
        self.root
            .map_range(
                &region,
                PhysicalAddress((pa & !(PAGE_SIZE - 1)) as usize),
                attributes,
                Constraints::NO_CONTIGUOUS_HINT,
            )
            .unwrap_or_else(|_| panic!("stage 2 map of {first:#x}..{end:#x}"));
    }

    /// Physical address of the level 1 table.
    pub fn root(&self) -> u64 {
        self.root.to_physical().0 as u64
    }
}

/// Bits of guest physical address: one level 1 table's worth, or what the pCPU has if that is less.
pub fn ipa_bits() -> u32 {
    IDENTITY_END
        .trailing_zeros()
        .min(sysregs::physical_address_bits())
}
