//! Where a guest's parts go in its memory, after Linux `Documentation/arch/arm64/booting.rst` and
//! QEMU's habits, so that what boots there boots here:
//!
//! * the devicetree at the base of RAM, where kernels without a register convention look for it,
//!   in one 2 MiB block; only if a flat binary leaves no room there, at the top of RAM;
//! * the kernel above it: an Image at the first 2 MiB boundary plus its text offset that leaves the
//!   devicetree alone, a flat binary at RAM base + 0x80000;
//! * the ramdisk at half of RAM or 128 MiB, whichever is less, so that the kernel, whose needs beyond
//!   its image nobody knows, has room; right behind the kernel if it does not fit there.

use platform::Range;

use crate::{Error, Format, Kernel};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Images start at a boundary of this size, and a devicetree must lie within one such block.
const BLOCK: u64 = 2 * MIB;
const FLAT_OFFSET: u64 = 0x8_0000;
const PAGE: u64 = 4096;

/// How far from the kernel's gibibyte a ramdisk may end.
const RAMDISK_WINDOW: u64 = 32 * GIB;

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
    /// Places a kernel, a ramdisk of so many bytes and a devicetree of so many bytes in `ram`.
    ///
    /// # Errors
    ///
    /// If they do not fit.
    #[inline(never)]
    pub fn place(
        ram: Range,
        kernel: &Kernel,
        ramdisk: Option<u64>,
        dtb: u64,
    ) -> Result<Self, Error> {
        let no_room = |part, size| Error::NoRoom {
            part,
            size,
            memory: ram.size,
        };
        if dtb > BLOCK {
            return Err(Error::invalid(
                "the guest's devicetree",
                "is larger than 2 MiB",
                "give the guest fewer devices",
            ));
        }
        let (Some(low_dtb), Some(ram_end)) = (
            in_one_block(ram.start, dtb),
            ram.start.checked_add(ram.size),
        ) else {
            return Err(no_room("devicetree", dtb));
        };
        let footprint = kernel.footprint();
        let start = match kernel.format {
            Format::Image { text_offset, .. } => image_start(ram.start, low_dtb.end(), text_offset),
            Format::Flat => ram.start.checked_add(FLAT_OFFSET),
        };
        let kernel = start
            .map(|start| Range::new(start, footprint))
            .filter(|kernel| fits(*kernel, ram_end))
            .ok_or_else(|| no_room("kernel", footprint))?;
        let (dtb, limit) = if low_dtb.end() <= kernel.start {
            (low_dtb, ram_end)
        } else {
            let start = ram_end.saturating_sub(dtb) & !(BLOCK - 1);
            (Range::new(start, dtb), start)
        };
        if !ram.covers(dtb) || dtb.overlaps(kernel) {
            return Err(no_room("devicetree", dtb.size));
        }
        let ramdisk = match ramdisk {
            None => None,
            Some(size) => Some(
                ramdisk_range(ram, kernel, limit, size).ok_or_else(|| no_room("ramdisk", size))?,
            ),
        };
        Ok(Self {
            kernel,
            entry: kernel.start,
            dtb,
            ramdisk,
        })
    }
}

/// The first place from `start` on where `size` bytes do not cross a block boundary.
fn in_one_block(start: u64, size: u64) -> Option<Range> {
    let start = start.checked_next_multiple_of(8)?;
    let block_end = start.checked_add(1)?.checked_next_multiple_of(BLOCK)?;
    if start.checked_add(size)? <= block_end {
        Some(Range::new(start, size))
    } else {
        Some(Range::new(block_end, size))
    }
}

/// The first place for an Image in RAM that is behind `free`.
fn image_start(ram: u64, free: u64, text_offset: u64) -> Option<u64> {
    let base = ram.max(free.saturating_sub(text_offset));
    base.checked_next_multiple_of(BLOCK)?
        .checked_add(text_offset)
}

fn ramdisk_range(ram: Range, kernel: Range, limit: u64, size: u64) -> Option<Range> {
    let window_end = (kernel.start & !(GIB - 1)).saturating_add(RAMDISK_WINDOW);
    let limit = limit.min(window_end);
    let apart = ram.start.checked_add((ram.size / 2).min(128 * MIB))?;
    [
        apart.max(kernel.end()).checked_next_multiple_of(BLOCK),
        kernel.end().checked_next_multiple_of(PAGE),
    ]
    .into_iter()
    .flatten()
    .map(|start| Range::new(start, size))
    .find(|range| fits(*range, limit))
}

/// Whether a range ends at `end` or before.
fn fits(range: Range, end: u64) -> bool {
    range
        .start
        .checked_add(range.size)
        .is_some_and(|own| own <= end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RAM: Range = Range::new(0x4000_0000, 512 * MIB);

    fn image(text_offset: u64, image_size: u64) -> Kernel {
        Kernel {
            format: Format::Image {
                text_offset,
                image_size,
                page_size: None,
            },
            size: image_size / 2,
        }
    }

    fn flat(size: u64) -> Kernel {
        Kernel {
            format: Format::Flat,
            size,
        }
    }

    #[test]
    fn an_image_leaves_the_base_of_ram_to_the_devicetree() {
        let layout = Layout::place(RAM, &image(0, 32 * MIB), Some(10 * MIB), 0x3000);
        assert_eq!(
            layout,
            Ok(Layout {
                kernel: Range::new(0x4020_0000, 32 * MIB),
                entry: 0x4020_0000,
                dtb: Range::new(0x4000_0000, 0x3000),
                ramdisk: Some(Range::new(0x4800_0000, 10 * MIB)),
            })
        );
    }

    #[test]
    fn an_old_image_has_its_offset_in_the_first_block() {
        let layout = Layout::place(RAM, &image(0x8_0000, 16 * MIB), None, 0x3000);
        assert_eq!(layout.map(|layout| layout.entry), Ok(0x4008_0000));
    }

    #[test]
    fn a_flat_binary_goes_where_qemu_puts_it() {
        let layout = Layout::place(RAM, &flat(0x1000), None, 0x3000).expect("room");
        assert_eq!(layout.entry, 0x4008_0000);
        assert_eq!(layout.dtb.start, 0x4000_0000);
    }

    #[test]
    fn a_devicetree_too_large_for_a_flat_binarys_gap_goes_to_the_top() {
        let layout = Layout::place(RAM, &flat(0x1000), Some(MIB), 0x9_0000).expect("room");
        assert_eq!(layout.dtb.start, 0x5fe0_0000);
        assert_eq!(layout.entry, 0x4008_0000);
    }

    #[test]
    fn a_ramdisk_that_leaves_no_gap_follows_the_kernel() {
        let ram = Range::new(0x4000_0000, 128 * MIB);
        let layout = Layout::place(ram, &image(0, 32 * MIB), Some(90 * MIB), 0x3000);
        let ramdisk = layout.map(|layout| layout.ramdisk);
        assert_eq!(ramdisk, Ok(Some(Range::new(0x4220_0000, 90 * MIB))));
    }

    #[test]
    fn too_little_memory_names_what_does_not_fit() {
        let part = |ram, ramdisk, dtb| match Layout::place(ram, &image(0, 32 * MIB), ramdisk, dtb) {
            Err(Error::NoRoom { part, .. }) => part,
            other => panic!("placed: {other:?}"),
        };
        let small = Range::new(0x4000_0000, 33 * MIB);
        assert_eq!(part(small, None, 0x3000), "kernel");
        assert_eq!(part(RAM, Some(500 * MIB), 0x3000), "ramdisk");
        assert_eq!(part(Range::new(u64::MAX - 4, 2), None, 0), "devicetree");
        assert!(Layout::place(RAM, &image(0, MIB), None, 3 * MIB).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_placed_obeys_the_boot_protocol(
            start in 0u64..1 << 40,
            memory in 0u64..64 * GIB,
            is_image in any::<bool>(),
            text_offset in 0u64..BLOCK / 8,
            size in 4u64..64 * MIB,
            ramdisk in proptest::option::of(0u64..40 * GIB),
            dtb in 40u64..3 * MIB,
        ) {
            let ram = Range::new(start & !0xfff, memory);
            let text_offset = text_offset * 8;
            let kernel = if is_image { image(text_offset, size) } else { flat(size) };
            let Ok(layout) = Layout::place(ram, &kernel, ramdisk, dtb) else {
                return Ok(());
            };
            for part in [layout.kernel, layout.dtb].into_iter().chain(layout.ramdisk) {
                prop_assert!(ram.covers(part));
            }
            prop_assert!(!layout.kernel.overlaps(layout.dtb));
            prop_assert!(layout.dtb.start % 8 == 0);
            prop_assert!(layout.dtb.start / BLOCK == (layout.dtb.end() - 1) / BLOCK);
            if is_image {
                prop_assert!((layout.kernel.start - text_offset) % BLOCK == 0);
            }
            if let Some(ramdisk) = layout.ramdisk {
                prop_assert!(!ramdisk.overlaps(layout.kernel) && !ramdisk.overlaps(layout.dtb));
                prop_assert!(ramdisk.end() <= (layout.kernel.start & !(GIB - 1)) + 32 * GIB);
            }
        }

        #[test]
        fn no_numbers_make_placing_panic(
            start in any::<u64>(), memory in any::<u64>(), size in any::<u64>(),
            ramdisk in any::<Option<u64>>(), dtb in any::<u64>(), text_offset in any::<u64>(),
        ) {
            for kernel in [flat(size), image(text_offset, size)] {
                let _ = Layout::place(Range::new(start, memory), &kernel, ramdisk, dtb);
            }
        }
    }
}
