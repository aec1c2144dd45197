//! Cache maintenance.

use core::arch::asm;

use aarch64_cpu::asm::barrier;

/// Cleans and invalidates `[address, address + size)` to the point of coherency, for a reader with its
/// caches off, and makes instruction fetches see it.
pub fn clean_to_poc(address: u64, size: u64) {
    // CTR_EL0.DminLine: log2 of words in the smallest data cache line.
    let line = 4u64 << (read!("ctr_el0") >> 16 & 0xf);
    let mut at = address & !(line - 1);
    while at < address + size {
        // SAFETY: cache maintenance by address changes no value a coherent reader sees.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
    barrier::dsb(barrier::SY);
    // SAFETY: invalidating instruction caches changes no value.
    unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) };
    barrier::dsb(barrier::ISH);
    barrier::isb(barrier::SY);
}
