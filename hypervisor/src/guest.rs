//! Entering the guest, which is a function call (`guest.S`).

use core::arch::global_asm;
use core::ffi::c_void;
use core::mem::offset_of;

use hv_core::regs::GuestRegs;

/// Vectors as [`enter`]'s handler gets them.
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
    IS_PARTIAL = const offset_of!(GuestRegs, is_partial),
);

const _: () = assert!(offset_of!(GuestRegs, pstate) == offset_of!(GuestRegs, pc) + 8);

/// What guest.S calls at an exit: registers, vector, and what it was given for it. Whether the guest goes on.
type Handler = unsafe extern "C" fn(*mut GuestRegs, u32, *mut c_void) -> bool;

unsafe extern "C" {
    fn guest_enter(regs: *mut GuestRegs, context: *mut c_void, handler: Handler);
}

/// Runs the guest on this pCPU until `handler` denies that it goes on; `regs` is then what it stopped with. `handler` is asked at
/// each exit, with the vector. `regs.is_partial` is not 0 then: x20 to x28 in there are old, and what is written to them
/// is lost.
#[inline(always)]
pub fn enter<F: FnMut(&mut GuestRegs, u32) -> bool>(regs: &mut GuestRegs, handler: &mut F) {
    /// # Safety
    ///
    /// `regs` and `handler` are those of [`enter`], and nothing else refers to them.
    unsafe extern "C" fn call<F: FnMut(&mut GuestRegs, u32) -> bool>(
        regs: *mut GuestRegs,
        vector: u32,
        handler: *mut c_void,
    ) -> bool {
        // SAFETY: the asm calls this with what `enter` gave it, an exclusive reference, and waits for guest_enter meanwhile.
        let regs = unsafe { &mut *regs };
        // SAFETY: the same.
        let handler = unsafe { &mut *handler.cast::<F>() };
        handler(regs, vector)
    }
    // SAFETY: `regs` is a valid, exclusive GuestRegs, whose layout the asm takes from `offset_of!`, and `call` is for
    // the `handler` that goes with it. What the guest can touch is bounded by stage 2 and HCR_EL2, which `Vm::enter_pcpu`
    // has set on this pCPU; `regs.pstate` is only ever an EL0 or EL1 mode: it starts as EL1h and is then what the hardware
    // saved or `hv_core::entry` made of it.
    unsafe { guest_enter(regs, core::ptr::from_mut(handler).cast(), call::<F>) }
}
