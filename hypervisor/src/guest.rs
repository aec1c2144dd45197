//! Entering the guest, which is a function call (`guest.S`).

use core::arch::global_asm;
use core::mem::offset_of;

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
    include_str!("enter_guest.S"),
    include_str!("guest.S"),
    X = const offset_of!(GuestRegs, x),
    PC = const offset_of!(GuestRegs, pc),
);

const _: () = assert!(offset_of!(GuestRegs, pstate) == offset_of!(GuestRegs, pc) + 8);

unsafe extern "C" {
    fn guest_enter(regs: *mut GuestRegs) -> u32;
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
