//! What bring-up calls of the assembly in `boot.S`, and the early tables, on which the image runs until it has its own.
//! The assembly itself is put in by `entry.rs`.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{memory, sysregs};

/// Valid, a table or a page, inner shareable, accessed, AP\[1\] which is RES1 at EL2 (DDI0487 D8.3.1).
pub const PAGE: u64 = 0b11 | 1 << 6 | 3 << 8 | 1 << 10;
/// The same for a block.
pub const BLOCK: u64 = PAGE & !0b10;
/// Never executed.
pub const XN: u64 = 1 << 54;
/// Attribute 1 of MAIR_EL2, which `entry.rs` sets to Device-nGnRE.
const DEVICE: u64 = 1 << 2;

/// Bytes of the stack that the boot pCPU begins on.
pub const BOOT_STACK_SIZE: usize = 32 * 1024;
/// Marks a spare early table as taken; an invalid descriptor.
pub const SPARE_TAKEN: u64 = 0b10;

/// The stack that the boot pCPU begins on.
#[repr(C, align(4096))]
pub struct BootStack(core::cell::UnsafeCell<[u8; BOOT_STACK_SIZE]>);

#[expect(unsafe_code, reason = "a stack is only ever named by its address")]
// SAFETY: nothing in Rust reads or writes it through this name; the boot pCPU alone runs on it.
unsafe impl Sync for BootStack {}

/// See [`BootStack`].
pub static BOOT_STACK: BootStack = BootStack(core::cell::UnsafeCell::new([0; BOOT_STACK_SIZE]));

/// What a woken pCPU reads with its MMU off.
#[repr(C)]
pub struct BootArgs {
    /// Physical address of the level 0 table.
    pub ttbr: AtomicU64,
    /// Top of the stack of pCPU 0.
    pub stacks: AtomicU64,
    /// The number of the one that is released from a spin table.
    pub index: AtomicU64,
}

/// See [`BootArgs`].
pub static BOOT_ARGS: BootArgs = BootArgs {
    ttbr: AtomicU64::new(0),
    stacks: AtomicU64::new(0),
    index: AtomicU64::new(0),
};

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
/// or as writable normal memory. Returns false when no spare table is left, or they end before the range does.
///
/// # Safety
///
/// Only the boot pCPU runs, on the early tables, and the range is what it is said to be.
pub unsafe fn early_map(pa: u64, size: u64, device: bool) -> bool {
    if pa.saturating_add(size) > memory::IDENTITY_END {
        return false;
    }
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
