//! Translations of the guest whose registers this pCPU has: a look at its memory through them, and their end.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{
    PAR_EL1, Readable, SCTLR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1, Writeable,
};
use hv_core::stop::frames;
use hv_core::walk::Regime;

unsafe extern "C" {
    /// Has PAR_EL1 say where EL1 would read `va` (`vectors.S`).
    fn translate_read_of_el1(va: u64);
    /// Has PAR_EL1 say what stage 1 makes of `va` for a read of EL1 (`vectors.S`).
    fn translate_stage1_of_el1(va: u64);
}

/// TCR_EL1.
pub fn control() -> u64 {
    TCR_EL1.get()
}

/// What else says how EL1 translates.
pub fn regime() -> Regime {
    Regime {
        sctlr: SCTLR_EL1.get(),
        tcr: control(),
        ttbr: [TTBR0_EL1.get(), TTBR1_EL1.get()],
    }
}

/// The doubleword at `va`, as EL1 would read it; none if it is not aligned, or EL1 could not, or it is not memory.
///
/// PAR_EL1 is lost, which is the guest's.
pub fn guest_doubleword(va: u64) -> Option<u64> {
    const NORMAL: u64 = 0xf << 60;
    if va & 7 != 0 {
        return None;
    }
    // SAFETY: it changes PAR_EL1 only.
    unsafe { translate_read_of_el1(va) };
    let pa = translated(va)?.0;
    // Our own view of it says whether it is RAM, also of a guest whose MMU is off.
    // SAFETY: it changes PAR_EL1 only.
    unsafe { asm!("at s1e2r, {}", "isb", in(reg) pa, options(nostack, preserves_flags)) };
    let (own, attributes) = translated(pa)?;
    if own != pa || attributes & NORMAL == 0 {
        return None;
    }
    let word = core::ptr::with_exposed_provenance::<u64>(pa as usize);
    // SAFETY: aligned; EL2 maps it, as normal memory and at its own address, where there is nothing but the
    // guests' RAM and what nobody writes.
    Some(unsafe { word.read_volatile() })
}

/// Where in the guest's physical space `va` is, as EL1 would read it; none if its tables do not say so any more. PAR_EL1 stays as it is.
pub fn guest_physical(va: u64) -> Option<u64> {
    let kept = PAR_EL1.get();
    // SAFETY: it changes PAR_EL1 only.
    unsafe { translate_stage1_of_el1(va) };
    let found = translated(va);
    PAR_EL1.set(kept);
    found.map(|(ipa, _)| ipa)
}

/// The callers of what the guest is doing whose frame record is at `frame`; 0 behind the last. PAR_EL1 stays as it is.
pub fn guest_callers(frame: u64) -> [u64; frames::MOST] {
    let kept = PAR_EL1.get();
    let callers = frames::callers(frame, control(), guest_doubleword);
    PAR_EL1.set(kept);
    callers
}

/// The instruction at `pc`, as EL1 would read it; none if EL1 could not, or it is not memory. PAR_EL1 stays as it is.
pub fn guest_instruction(pc: u64) -> Option<u32> {
    let kept = PAR_EL1.get();
    // An instruction is not across two doublewords, and its byte order does not depend on SCTLR_EL1.EE (DDI0487
    // B2.6.2).
    let doubleword = guest_doubleword(pc & !7);
    PAR_EL1.set(kept);
    doubleword.map(|word| (word >> (8 * (pc & 4))) as u32)
}

/// After stage 2 has changed: no pCPU uses what it remembers of the VM whose VMID this one has (DDI0487 D8.17).
pub fn forget_guest() {
    // The walkers of all pCPUs see the descriptors that were written.
    barrier::dsb(barrier::ISHST);
    // SAFETY: forgetting translations of this VMID is always allowed.
    unsafe { asm!("tlbi vmalls12e1is", options(nostack, preserves_flags)) };
    barrier::dsb(barrier::ISH);
    barrier::isb(barrier::SY);
}

/// After stage 2 does not map the page at `ipa` any more: no vCPU of the VM whose VMID this pCPU has uses what it
/// remembers of it (DDI0487 D8.17). First what is remembered of stage 2, then what was combined with it, which is found by
/// the guest's own addresses, so all of that goes.
pub fn forget_guest_page(ipa: u64) {
    // The walkers of all pCPUs see the descriptor that was written.
    barrier::dsb(barrier::ISHST);
    // SAFETY: forgetting translations of this VMID is always allowed.
    unsafe { asm!("tlbi ipas2e1is, {}", in(reg) ipa >> 12, options(nostack, preserves_flags)) };
    barrier::dsb(barrier::ISH);
    // SAFETY: as above.
    unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) };
    // Complete when every pCPU has forgotten, and has done the accesses that it had begun by it.
    barrier::dsb(barrier::ISH);
    barrier::isb(barrier::SY);
}

/// What PAR_EL1 says of `address`: where it is, and how it is mapped (DDI0487 D24.2, PAR_EL1).
fn translated(address: u64) -> Option<(u64, u64)> {
    const FAULT: u64 = 1;
    const PAGE: u64 = 0x000f_ffff_ffff_f000;
    let par = PAR_EL1.get();
    (par & FAULT == 0).then_some((par & PAGE | address & 0xfff, par))
}
