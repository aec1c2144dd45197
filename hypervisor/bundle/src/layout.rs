//! Where a guest's parts go in its memory.
//!
//! An Image is placed after Linux `Documentation/arch/arm64/booting.rst`, in the largest piece of memory:
//!
//! * the devicetree at the base, in one 2 MiB block, but not at address 0;
//! * the kernel at the first 2 MiB boundary plus its text offset that leaves the devicetree alone;
//! * the ramdisk at half of the piece or 128 MiB, whichever is less, so that the kernel, whose needs beyond its image nobody
//!   knows, has room; right behind the kernel if it does not fit there.
//!
//! A flat binary is placed where QEMU's `hw/arm/boot.c` has it on the same machine without a hypervisor:
//!
//! * the kernel at the base of the machine's RAM + 0x80000;
//! * the ramdisk at half of the machine's RAM or 128 MiB, whichever is less, and behind the kernel, in whole pages;
//! * the devicetree at the first 2 MiB boundary behind that.
//!
//! Only where the machine's firmware or the hypervisor has the memory there, another place takes its part: half of the
//! memory that is left instead of half of RAM, then right behind the kernel; the next 2 MiB boundary that a piece of
//! memory has instead of the base of RAM.

use alloc::format;

use platform::Range;

use crate::{Error, Format, Kernel};

#[cfg(test)]
mod tests;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Images start at a boundary of this size, and a devicetree must lie within one such block.
const BLOCK: u64 = 2 * MIB;
const FLAT_OFFSET: u64 = 0x8_0000;
const PAGE: u64 = 4096;

/// How far from the base a ramdisk is at the most, if it need not be farther.
const APART: u64 = 128 * MIB;

/// How far from the kernel's gibibyte a ramdisk may end.
const RAMDISK_WINDOW: u64 = 32 * GIB;

/// The memory that a guest boots in.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// What it has, ascending and apart from each other.
    pub pieces: &'a [Range],
    /// What it would have on the machine without a hypervisor: from the base of RAM on.
    pub bare: Range,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// The kernel.
    pub kernel: Kernel,
    /// Bytes of the ramdisk, if there is one.
    pub ramdisk: Option<u64>,
    /// Bytes of the devicetree.
    pub dtb: u64,
    /// Where the devicetree is wanted, if that matters.
    pub dtb_at: Option<u64>,
}

/// Where the parts of a guest go; none overlaps another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The kernel: its file from the start on, and as much memory as it says it takes.
    pub kernel: Range,
    /// Where the boot vCPU starts.
    pub entry: u64,
    /// The devicetree.
    pub dtb: Range,
    /// The ramdisk, if there is one.
    pub ramdisk: Option<Range>,
}

impl Layout {
    /// Places a guest's parts in its memory.
    ///
    /// # Errors
    ///
    /// If they do not fit, or the devicetree cannot be where it is wanted.
    #[inline(never)]
    pub fn place(memory: &Memory<'_>, parts: &Parts) -> Result<Self, Error> {
        if parts.dtb > BLOCK {
            return Err(Error::invalid(
                "the guest's devicetree",
                "is larger than 2 MiB",
                "give the guest fewer devices",
            ));
        }
        let mut layout = match parts.kernel.format {
            Format::Image { text_offset, .. } => memory.image(parts, text_offset)?,
            Format::Flat => memory.flat(parts)?,
        };
        if let Some(at) = parts.dtb_at {
            layout.dtb = Range::new(at, parts.dtb);
            memory.check_wanted(&layout)?;
        }
        Ok(layout)
    }
}

impl Memory<'_> {
    fn no_room(&self, part: &'static str, size: u64) -> Error {
        let sizes = self.pieces.iter().map(|piece| piece.size);
        Error::NoRoom {
            part,
            size,
            memory: sizes.fold(0, u64::saturating_add),
        }
    }

    fn covers(&self, range: Range) -> bool {
        is_range(range) && self.pieces.iter().any(|piece| piece.covers(range))
    }

    /// An Image with `text_offset`.
    fn image(&self, parts: &Parts, text_offset: u64) -> Result<Layout, Error> {
        let largest = self.pieces.iter().max_by_key(|piece| piece.size);
        let ram = largest.copied().unwrap_or_default();
        // Address 0 in x0 says that there is no devicetree (Linux, arch/arm64/kernel/setup.c).
        let lowest = ram.start.max(PAGE);
        let Some(dtb) = in_one_block(lowest, parts.dtb).filter(|dtb| ram.covers(*dtb)) else {
            return Err(self.no_room("devicetree", parts.dtb));
        };
        // One that is wanted elsewhere is in nobody's way here.
        let free = parts.dtb_at.map_or(dtb.end(), |_| ram.start);
        let footprint = parts.kernel.footprint();
        let kernel = image_start(ram.start, free, text_offset)
            .map(|start| Range::new(start, footprint))
            .filter(|kernel| is_range(*kernel) && ram.covers(*kernel));
        let kernel = kernel.ok_or_else(|| self.no_room("kernel", footprint))?;
        let ramdisk = match parts.ramdisk {
            None => None,
            Some(size) => Some(
                ramdisk_range(ram, kernel, size).ok_or_else(|| self.no_room("ramdisk", size))?,
            ),
        };
        Ok(Layout {
            kernel,
            entry: kernel.start,
            dtb,
            ramdisk,
        })
    }

    /// A flat binary.
    fn flat(&self, parts: &Parts) -> Result<Layout, Error> {
        let footprint = parts.kernel.footprint();
        let others = self.pieces.iter();
        let others = others.filter_map(|piece| piece.start.checked_next_multiple_of(BLOCK));
        let mut bases = [self.bare.start].into_iter().chain(others);
        let found = bases.find_map(|base| {
            let kernel = Range::new(base.checked_add(FLAT_OFFSET)?, footprint);
            self.covers(kernel).then_some((base, kernel))
        });
        let Some((base, kernel)) = found else {
            return Err(self.no_room("kernel", footprint));
        };
        let size = parts.ramdisk.unwrap_or_default();
        // What is meant to be had in memory of such a size, from the base on, if it has room.
        let within = |memory: u64| {
            let apart = base.checked_add((memory / 2).min(APART))?;
            let start = apart.max(kernel.end()).checked_next_multiple_of(PAGE)?;
            let ramdisk = Range::new(start, size);
            let behind = start.checked_add(size)?.checked_next_multiple_of(BLOCK)?;
            let dtb = Range::new(behind, parts.dtb);
            let has_room = (parts.ramdisk.is_none() || self.covers(ramdisk))
                && (parts.dtb_at.is_some() || self.covers(dtb));
            has_room.then_some((ramdisk, dtb))
        };
        let own = self.pieces.iter().find(|piece| piece.covers(kernel));
        let own = own.map_or(0, |piece| piece.end() - base);
        let sizes = [self.bare.end().saturating_sub(base), own, 0];
        let Some((ramdisk, dtb)) = sizes.into_iter().find_map(within) else {
            return Err(match parts.ramdisk {
                Some(size) => self.no_room("ramdisk", size),
                None => self.no_room("devicetree", parts.dtb),
            });
        };
        Ok(Layout {
            kernel,
            entry: kernel.start,
            dtb,
            ramdisk: parts.ramdisk.map(|_| ramdisk),
        })
    }

    /// Whether the devicetree can be where it is wanted.
    fn check_wanted(&self, layout: &Layout) -> Result<(), Error> {
        let dtb = layout.dtb;
        let ramdisk = layout.ramdisk.unwrap_or_default();
        let what = if !dtb.start.is_multiple_of(8) {
            "is not a multiple of 8"
        } else if dtb.start == 0 {
            "says that there is no devicetree"
        } else if !self.covers(dtb) {
            "leads out of the guest's memory"
        } else if dtb.overlaps(layout.kernel) {
            "is over the kernel"
        } else if dtb.overlaps(ramdisk) {
            "is over the initrd"
        } else {
            return Ok(());
        };
        let kib = dtb.size.div_ceil(1024);
        let place = format!("dtb-at {:#x}, for a devicetree of {kib} KiB,", dtb.start);
        Err(Error::invalid(&place, what, "choose another address"))
    }
}

/// Whether a range ends where addresses do or before.
fn is_range(range: Range) -> bool {
    range.start.checked_add(range.size).is_some()
}

/// The first place from `start` on where `size` bytes do not cross a block boundary.
fn in_one_block(start: u64, size: u64) -> Option<Range> {
    let start = start.checked_next_multiple_of(8)?;
    let block_end = start.checked_add(1)?.checked_next_multiple_of(BLOCK)?;
    let range = if start.checked_add(size)? <= block_end {
        Range::new(start, size)
    } else {
        Range::new(block_end, size)
    };
    is_range(range).then_some(range)
}

/// The first place for an Image in RAM that is behind `free`.
fn image_start(ram: u64, free: u64, text_offset: u64) -> Option<u64> {
    let base = ram.max(free.saturating_sub(text_offset));
    base.checked_next_multiple_of(BLOCK)?
        .checked_add(text_offset)
}

fn ramdisk_range(ram: Range, kernel: Range, size: u64) -> Option<Range> {
    let window_end = (kernel.start & !(GIB - 1)).saturating_add(RAMDISK_WINDOW);
    let limit = ram.end().min(window_end);
    let apart = ram.start.checked_add((ram.size / 2).min(APART))?;
    [
        apart.max(kernel.end()).checked_next_multiple_of(BLOCK),
        kernel.end().checked_next_multiple_of(PAGE),
    ]
    .into_iter()
    .flatten()
    .map(|start| Range::new(start, size))
    .find(|range| is_range(*range) && range.end() <= limit)
}
