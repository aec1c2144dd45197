//! Cache maintenance.

use core::arch::asm;

use aarch64_cpu::asm::barrier;

/// Bytes of the smallest data cache line: CTR_EL0.DminLine is log2 of its words.
#[inline]
fn smallest_line() -> u64 {
    4u64 << (read!("ctr_el0") >> 16 & 0xf)
}

/// Cleans `[address, address + size)` to the point of coherency, so that who reads it as Device memory from now on finds
/// what was written.
pub fn clean_for_device_reads(address: u64, size: u64) {
    let line = smallest_line();
    let mut at = address & !(line - 1);
    while at < address + size {
        // SAFETY: cache maintenance by address changes no value a coherent reader sees.
        unsafe { asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
    barrier::dsb(barrier::SY);
}

/// Cleans and invalidates `[address, address + size)` to the point of coherency, for a reader with its
/// caches off, and makes instruction fetches see it.
#[inline(never)]
pub fn clean_to_poc(address: u64, size: u64) {
    clean_and_invalidate(address, size);
    // SAFETY: invalidating instruction caches changes no value.
    unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
    barrier::dsb(barrier::ISH);
    barrier::isb(barrier::SY);
}

/// Cleans and invalidates `[address, address + size)` to the point of coherency, so that a cached load finds what was
/// stored with the caches off, too (DDI0487 B2.8).
pub fn clean_and_invalidate(address: u64, size: u64) {
    let line = smallest_line();
    let mut at = address & !(line - 1);
    while at < address + size {
        // SAFETY: cache maintenance by address changes no value a coherent reader sees.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
    barrier::dsb(barrier::SY);
}
