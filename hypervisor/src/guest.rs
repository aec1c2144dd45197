//! Entering the guest, which is a function call (`guest.S`).

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::AtomicU8;

use hv_core::regs::GuestRegs;

/// Vectors as `guest_enter` returns them.
pub mod vector {
    /// Synchronous exception.
    pub const SYNC: u32 = 0;
    /// IRQ.
    pub const IRQ: u32 = 1;
    /// FIQ.
    pub const FIQ: u32 = 2;
    /// SError.
    pub const SERROR: u32 = 3;
}

global_asm!(
    include_str!("guest.S"),
    X = const offset_of!(GuestRegs, x),
    PC = const offset_of!(GuestRegs, pc),
);

const _: () = assert!(offset_of!(GuestRegs, pstate) == offset_of!(GuestRegs, pc) + 8);

unsafe extern "C" {
    fn guest_enter(regs: *mut GuestRegs) -> u32;
    fn guest_enter_stuck(regs: *mut GuestRegs, left: *const AtomicU8);
    static vectors: [u8; 0];
    static vectors_end: [u8; 0];
    static guest_switch_end: [u8; 0];
}

/// Runs the guest on this pCPU until it exits; `regs` is then what it stopped with. Returns the vector.
#[inline]
pub fn enter(regs: &mut GuestRegs) -> u32 {
    // SAFETY: `regs` is a valid, exclusive GuestRegs, whose layout the asm takes from `offset_of!`. What
    // the guest can touch is bounded by stage 2 and HCR_EL2, which `Vm::enter_pcpu` has set on this pCPU;
    // `regs.pstate` is only ever an EL0 or EL1 mode: it starts as EL1h and is then what the hardware
    // saved or `hv_core::entry` made of it.
    unsafe { guest_enter(regs) }
}

/// The same up to the last instruction, which is a branch to itself: for `breakage.rs`. On the way it takes one
/// from `left`.
pub fn enter_stuck(regs: &mut GuestRegs, left: &AtomicU8) {
    // SAFETY: as in `enter`, but the guest is not reached; and the asm changes `left` as an atomic one only.
    unsafe { guest_enter_stuck(regs, left) }
}

/// Whether `pc` is in a vector or on the way into a guest or out of it, where an exception's registers are live.
pub fn is_switch(pc: u64) -> bool {
    let address = |symbol: *const [u8; 0]| symbol.addr() as u64;
    let in_vectors = address(&raw const vectors)..address(&raw const vectors_end);
    let in_switch = guest_enter as *const () as u64..address(&raw const guest_switch_end);
    in_vectors.contains(&pc) || in_switch.contains(&pc)
}
