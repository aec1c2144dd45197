//! The doors: where the loader, this image's own copy and a woken pCPU come in, and the asm that turns
//! the MMU on, off and over. The steps are in `boot.S`; this file holds its constants and its callers.

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::{memory, sysregs};

/// Valid, a table or a page, inner shareable, accessed, AP\[1\] which is RES1 at EL2 (DDI0487 D8.3.1).
const PAGE: u64 = 0b11 | 1 << 6 | 3 << 8 | 1 << 10;
const BLOCK: u64 = PAGE & !0b10;
const READ_ONLY: u64 = 1 << 7;
const XN: u64 = 1 << 54;
const DEVICE: u64 = 1 << 2;

/// Attribute 0 normal write-back, attribute 1 Device-nGnRE (DDI0487 D24.2, MAIR_EL2).
const MAIR: u64 = 0x04ff;
/// 48-bit addresses, 4 KiB granule, write-back inner-shareable walks, RES1 bits 31 and 23
/// (DDI0487 D24.2, TCR_EL2 without VHE); PS is added at run time.
const TCR: u64 = 1 << 31 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 16;
/// RES1 bits of SCTLR_EL2 without VHE (DDI0487 D24.2).
const SCTLR_OFF: u64 = 0x30c5_0830;
/// MMU, data cache, SP alignment check, instruction cache, writable implies never executable.
const SCTLR_ON: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;
/// RW: EL1 is AArch64. E2H and TGE clear: EL2 has one address range of its own.
const HCR_BOOT: u64 = 1 << 31;

/// RW, HCE, the RES1 bits 5 and 4, NS: below EL3 all is non-secure AArch64 (DDI0487 D24.2, SCR_EL3).
const SCR_BOOT: u64 = 1 << 10 | 1 << 8 | 0b11 << 4 | 1;
/// Everything masked, on the level's own stack (DDI0487 C5.2.20, SPSR_EL3).
const SPSR_EL2H: u64 = 0x3c9;
const SPSR_EL1H: u64 = 0x3c5;

const BOOT_STACK_SIZE: usize = 32 * 1024;
/// Marks a spare early table as taken; an invalid descriptor.
const SPARE_TAKEN: u64 = 0b10;

#[repr(C, align(4096))]
struct BootStack(core::cell::UnsafeCell<[u8; BOOT_STACK_SIZE]>);

#[expect(unsafe_code, reason = "a stack is only ever named by its address")]
// SAFETY: nothing in Rust reads or writes it through this name; the boot pCPU alone runs on it.
unsafe impl Sync for BootStack {}

static BOOT_STACK: BootStack = BootStack(core::cell::UnsafeCell::new([0; BOOT_STACK_SIZE]));

/// What a woken pCPU reads with its MMU off.
#[repr(C)]
struct BootArgs {
    ttbr: AtomicU64,
    stacks: AtomicU64,
    /// The number of the one that is released from a spin table.
    index: AtomicU64,
}

static BOOT_ARGS: BootArgs = BootArgs {
    ttbr: AtomicU64::new(0),
    stacks: AtomicU64::new(0),
    index: AtomicU64::new(0),
};

global_asm!(
    include_str!("boot.S"),
    PAGE_TEXT = const PAGE | READ_ONLY,
    PAGE_RODATA = const PAGE | READ_ONLY | XN,
    PAGE_DATA = const PAGE | XN,
    BLOCK_TEXT = const BLOCK | READ_ONLY,
    BLOCK_RODATA = const BLOCK | READ_ONLY | XN,
    BLOCK_DATA = const BLOCK | XN,
    SPARE_TAKEN = const SPARE_TAKEN,
    MAIR = const MAIR,
    TCR = const TCR,
    SCTLR_OFF = const SCTLR_OFF,
    SCTLR_ON = const SCTLR_ON,
    HCR_BOOT = const HCR_BOOT,
    SCR_BOOT = const SCR_BOOT,
    SPSR_EL2H = const SPSR_EL2H,
    SPSR_EL1H = const SPSR_EL1H,
    BOOT_STACK = sym BOOT_STACK,
    BOOT_STACK_SIZE = const BOOT_STACK_SIZE,
    BOOT_ARGS = sym BOOT_ARGS,
    ARGS_TTBR = const core::mem::offset_of!(BootArgs, ttbr),
    ARGS_STACKS = const core::mem::offset_of!(BootArgs, stacks),
    ARGS_INDEX = const core::mem::offset_of!(BootArgs, index),
    STACK_SHIFT = const memory::STACK_SHIFT,
    astray = sym crate::start::astray,
    scout = sym crate::start::scout,
    home = sym crate::start::home,
    secondary = sym crate::start::secondary,
);

unsafe extern "C" {
    fn boot_restart(to: u64, dtb: u64, region: u64, image: u64) -> !;
    fn boot_switch_tables(ttbr: u64, image: u64);
    fn boot_on_stack(top: u64, entry: extern "C" fn(usize) -> !, argument: usize) -> !;
    static boot_secondary: [u8; 0];
    static boot_released: [u8; 0];
}

/// Boots the copy of this image at `to`, which has `region` bytes of its own.
///
/// # Safety
///
/// The copy is complete and clean to the point of coherency, and nobody else needs `region`.
pub unsafe fn restart(to: u64, dtb: u64, region: u64, image: u64) -> ! {
    // SAFETY: the caller answers for the copy; the asm turns the MMU off from the identity map.
    unsafe { boot_restart(to, dtb, region, image) }
}

/// Puts the tables at `ttbr` (pa of level 0) in force on this pCPU.
///
/// # Safety
///
/// They map this image's window as it is now, and its first page one to one and executable.
pub unsafe fn switch_tables(ttbr: u64, image: u64) {
    // SAFETY: the caller answers for the tables.
    unsafe { boot_switch_tables(ttbr, image) }
}

/// Leaves the present stack for good and calls `entry(argument)` on the one that ends at `top`.
///
/// # Safety
///
/// The stack is mapped, 16-byte aligned and nobody else's.
pub unsafe fn on_stack(top: u64, entry: extern "C" fn(usize) -> !, argument: usize) -> ! {
    // SAFETY: the caller answers for the stack.
    unsafe { boot_on_stack(top, entry, argument) }
}

/// Writes down what a woken pCPU needs, where it can read it with its caches off, and returns the
/// physical address it must be started at.
pub fn prepare_secondaries(ttbr: u64, image: u64) -> u64 {
    BOOT_ARGS.ttbr.store(ttbr, Ordering::Relaxed);
    // The top of stack 0; the asm adds the index.
    BOOT_ARGS
        .stacks
        .store(memory::stack_top(0), Ordering::Relaxed);
    publish_args();
    let entry = (&raw const boot_secondary).addr() as u64;
    entry - memory::HV_BASE + image
}

fn publish_args() {
    let args = core::ptr::from_ref(&BOOT_ARGS).addr();
    sysregs::clean_to_poc(args as u64, size_of::<BootArgs>() as u64);
}

/// Releases the pCPU `index` from the spin table whose doubleword is at `release_pa` (Linux
/// Documentation/arch/arm64/booting.rst, `cpu-release-addr`). It may look with its caches off, so the doubleword has
/// to be in memory itself when it is woken.
///
/// # Safety
///
/// That pCPU waits there, the address is in the identity map, `prepare_secondaries` has been called, and the pCPU
/// released before has come.
pub unsafe fn release(release_pa: u64, index: usize) {
    BOOT_ARGS.index.store(index as u64, Ordering::Relaxed);
    publish_args();
    let slot = core::ptr::with_exposed_provenance_mut::<u64>(release_pa as usize);
    let entry = memory::window_pa((&raw const boot_released).addr() as u64);
    // SAFETY: the caller answers for the address; nobody reads it but that pCPU.
    unsafe { slot.write_volatile(entry) };
    sysregs::clean_to_poc(release_pa, 8);
    sysregs::send_event();
}

/// Maps the 2 MiB blocks that hold `[pa, pa + size)` one to one in the early tables, as device memory
/// or as writable normal memory. Returns false when no spare table is left.
///
/// # Safety
///
/// Only the boot pCPU runs, on the early tables, and the range is what it is said to be.
pub unsafe fn early_map(pa: u64, size: u64, device: bool) -> bool {
    let tables = memory::boot_tables();
    let attributes = BLOCK | XN | if device { DEVICE } else { 0 };
    let mut block = pa & !(memory::BLOCK_SIZE - 1);
    while block < pa + size {
        let l1 = tables.wrapping_add(512);
        let slot = l1.wrapping_add((block >> 30) as usize & 0x1ff);
        // SAFETY: `slot` lies in the second page of the tables, which are mapped and ours.
        let mut l2 = unsafe { slot.read_volatile() } & 0x0000_ffff_ffff_f000;
        if l2 == 0 {
            let Some(table) = spare_table(tables) else {
                return false;
            };
            l2 = memory::window_pa(table.addr() as u64);
            // SAFETY: as above; the entry was invalid, so no break-before-make is due.
            unsafe { slot.write_volatile(l2 | 0b11) };
        }
        let table = core::ptr::with_exposed_provenance_mut::<u64>(memory::window_va(l2) as usize);
        let entry = table.wrapping_add((block >> 21) as usize & 0x1ff);
        // SAFETY: `entry` lies in a level 2 table among the boot tables.
        if unsafe { entry.read_volatile() } & 1 == 0 {
            // SAFETY: as above; the entry was invalid.
            unsafe { entry.write_volatile(block | attributes) };
        }
        block += memory::BLOCK_SIZE;
    }
    sysregs::publish_tables();
    true
}

/// An unused level 2 table among the early ones, marked as taken.
fn spare_table(tables: *mut u64) -> Option<*mut u64> {
    for page in 5..memory::boot_table_pages() {
        let table = tables.wrapping_add(512 * page);
        let mark = table.wrapping_add(511);
        // SAFETY: `mark` is the last slot of a page of the tables.
        if unsafe { mark.read_volatile() } == 0 {
            // SAFETY: as above.
            unsafe { mark.write_volatile(SPARE_TAKEN) };
            return Some(table);
        }
    }
    None
}
