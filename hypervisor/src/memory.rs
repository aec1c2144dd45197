//! EL2's own address space.
//!
//! ```text
//! 0 .. 512 GiB             identity: guest RAM (read-write, never executed), our devices, the boot page
//! HV_BASE = 1 << 47        window on the home region: image, then heap; text RX, rodata R, the rest RW
//! HV_BASE + 1 GiB          stacks, one slot a pCPU, unmapped guards below each stack
//! ```
//!
//! The home region is not in the identity map: nothing of ours has a second, writable name.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_paging::descriptor::{El23Attributes, PhysicalAddress, VirtualAddress};
use aarch64_paging::linearmap::LinearTranslation;
use aarch64_paging::paging::{Constraints, El2, MemoryRegion, RootTable};
use hv_bundle::Identity;

/// Where the image is linked: the middle of the 48-bit range, above any physical address we map.
pub const HV_BASE: u64 = 1 << 47;
/// The identity map and the guests' physical addresses end here.
pub const IDENTITY_END: u64 = 1 << 39;
/// Granule.
pub const PAGE_SIZE: u64 = 4096;
/// What one level 2 entry maps.
pub const BLOCK_SIZE: u64 = hv_bundle::BLOCK_SIZE;

const STACKS: u64 = HV_BASE + (1 << 30);
/// log2 of a stack slot: guard, emergency stack, guard, event stack, guard, stack.
pub const STACK_SHIFT: u32 = 16;
const SLOT: u64 = 1 << STACK_SHIFT;
const STACK_SIZE: u64 = 32 * 1024;
const EMERGENCY_SIZE: u64 = 8 * 1024;
const EMERGENCY_TOP: u64 = 16 * 1024;
const EVENT_SIZE: u64 = 4 * 1024;
const EVENT_TOP: u64 = 24 * 1024;

const NORMAL: El23Attributes = El23Attributes::VALID
    .union(El23Attributes::ACCESSED)
    .union(El23Attributes::INNER_SHAREABLE)
    .union(El23Attributes::USER_RES1);
const DATA: El23Attributes = NORMAL.union(El23Attributes::XN);
const RODATA: El23Attributes = DATA.union(El23Attributes::READ_ONLY);
const TEXT: El23Attributes = NORMAL.union(El23Attributes::READ_ONLY);
const DEVICE: El23Attributes = DATA.union(El23Attributes::ATTRIBUTE_INDEX_1);

unsafe extern "C" {
    static __image_start: [u8; 0];
    static __text_end: [u8; 0];
    static __rodata_end: [u8; 0];
    static __data_end: [u8; 0];
    static __image_end: [u8; 0];
    static __boot_tables: [u8; 0];
    static __boot_tables_end: [u8; 0];
}

/// The physical address behind HV_BASE.
static IMAGE_PA: AtomicU64 = AtomicU64::new(0);

/// Says where the image is; the first thing Rust does.
pub fn set_image_pa(pa: u64) {
    IMAGE_PA.store(pa, Ordering::Relaxed);
}

/// Where the image is.
pub fn image_pa() -> u64 {
    IMAGE_PA.load(Ordering::Relaxed)
}

/// Bytes of the image in a file: text, read-only data and data.
pub fn loaded_size() -> u64 {
    (&raw const __data_end).addr() as u64 - HV_BASE
}

/// Bytes of the image in memory, bss and early tables included.
pub fn image_size() -> u64 {
    (&raw const __image_end).addr() as u64 - HV_BASE
}

/// The physical address of something in the window.
pub fn window_pa(va: u64) -> u64 {
    va.wrapping_sub(HV_BASE).wrapping_add(image_pa())
}

/// Where the window shows `pa`.
pub fn window_va(pa: u64) -> u64 {
    pa.wrapping_sub(image_pa()).wrapping_add(HV_BASE)
}

/// The early tables, as their words.
pub fn boot_tables() -> *mut u64 {
    core::ptr::with_exposed_provenance_mut((&raw const __boot_tables).expose_provenance())
}

/// How many pages of early tables there are.
pub fn boot_table_pages() -> usize {
    ((&raw const __boot_tables_end).addr() - (&raw const __boot_tables).addr()) / PAGE_SIZE as usize
}

/// Top of the stack of pCPU `index`.
pub fn stack_top(index: usize) -> u64 {
    STACKS + SLOT * (index as u64 + 1)
}

/// Top of the stack that faults of pCPU `index` are reported on.
pub fn emergency_stack_top(index: usize) -> u64 {
    STACKS + SLOT * index as u64 + EMERGENCY_TOP
}

/// Top of the stack that pCPU `index` takes EL3's events on.
pub fn event_stack_top(index: usize) -> u64 {
    STACKS + SLOT * index as u64 + EVENT_TOP
}

/// Whether `va` lies in a guard page of some stack.
pub fn is_stack_guard(va: u64) -> bool {
    let Some(offset) = va.checked_sub(STACKS) else {
        return false;
    };
    let offset_in_slot = offset % SLOT;
    offset < SLOT * hv_core::id::MAX_VCPUS as u64
        && offset_in_slot < SLOT - STACK_SIZE
        && !(EMERGENCY_TOP - EMERGENCY_SIZE..EMERGENCY_TOP).contains(&offset_in_slot)
        && !(EVENT_TOP - EVENT_SIZE..EVENT_TOP).contains(&offset_in_slot)
}

/// The tables EL2 runs on once it is in its home region.
pub struct Tables {
    root: RootTable<El2, LinearTranslation<El23Attributes>>,
}

impl Tables {
    /// Builds them: the window of `region` bytes, stacks for `pcpus` in fresh memory, and `identity`.
    pub fn build(region: u64, pcpus: usize, identity: &[Identity]) -> Self {
        let offset = (image_pa() as isize).wrapping_sub(HV_BASE as isize);
        let root = RootTable::new(LinearTranslation::new(offset), 0, El2);
        let mut tables = Self { root };
        let text_end = (&raw const __text_end).addr() as u64;
        let rodata_end = (&raw const __rodata_end).addr() as u64;
        let region_end = HV_BASE + region;
        tables.map(HV_BASE..text_end, image_pa(), TEXT);
        tables.map(text_end..rodata_end, window_pa(text_end), RODATA);
        tables.map(rodata_end..region_end, window_pa(rodata_end), DATA);
        for index in 0..pcpus {
            tables.map_stack(stack_top(index), STACK_SIZE);
            tables.map_stack(emergency_stack_top(index), EMERGENCY_SIZE);
            tables.map_stack(event_stack_top(index), EVENT_SIZE);
        }
        for Identity { range, is_device } in identity {
            let attributes = if *is_device { DEVICE } else { DATA };
            tables.map(range.start..range.end(), range.start, attributes);
        }
        tables.map(image_pa()..image_pa() + PAGE_SIZE, image_pa(), TEXT);
        tables
    }

    /// Physical address of the level 0 table.
    pub fn ttbr(&self) -> u64 {
        self.root.to_physical().0 as u64
    }

    #[inline(never)]
    fn map_stack(&mut self, top: u64, size: u64) {
        let memory: Vec<Page> = (0..size / PAGE_SIZE).map(|_| Page([0; 4096])).collect();
        let pa = window_pa(Vec::leak(memory).as_ptr().addr() as u64);
        self.map(top - size..top, pa, DATA);
    }

    #[inline(never)]
    fn map(&mut self, va: core::ops::Range<u64>, pa: u64, attributes: El23Attributes) {
        if va.is_empty() {
            return;
        }
        let region = MemoryRegion::new(va.start as usize, va.end as usize);
        debug_assert_eq!(region.start(), VirtualAddress(va.start as usize));
        self.root
            .map_range(
                &region,
                PhysicalAddress(pa as usize),
                attributes,
                Constraints::NO_CONTIGUOUS_HINT,
            )
            .unwrap_or_else(|_| panic!("EL2 map of {:#x}..{:#x}", va.start, va.end));
    }
}

#[repr(C, align(4096))]
struct Page([u8; PAGE_SIZE as usize]);

/// The backtrace's question: is this an address our code can be at?
pub fn is_text(va: u64) -> bool {
    (HV_BASE..(&raw const __text_end).addr() as u64).contains(&va)
}

/// The part of the home region behind the image, for the heap.
pub fn heap_range(region: u64) -> core::ops::Range<u64> {
    HV_BASE + image_size()..record_area(region)
}

/// Where the crash record is kept: the end of the home region, whose place depends on neither the image nor
/// the number of pCPUs while RAM is the same.
pub fn record_area(region: u64) -> u64 {
    HV_BASE + region - hv_abi::crash::SIZE as u64
}

/// What of this image its home region is for.
pub fn image() -> hv_bundle::Image {
    hv_bundle::Image {
        size: image_size(),
        record: hv_abi::crash::SIZE as u64,
    }
}

const _: () = assert!(STACK_SIZE + EMERGENCY_SIZE + EVENT_SIZE == hv_bundle::STACKS);
