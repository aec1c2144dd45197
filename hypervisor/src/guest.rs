//! Entering the guest, which is a function call (`guest.S`).

use core::arch::global_asm;
use core::mem::offset_of;

use hv_core::regs::GuestRegs;
use hv_core::vm::VcpuLoop;

/// Vectors as handlers get them, and the exit log.
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
    FIQ = const vector::FIQ,
    SERROR = const vector::SERROR,
);

const _: () = assert!(offset_of!(GuestRegs, pstate) == offset_of!(GuestRegs, pc) + 8);

/// What guest.S calls at an exit, on its short way, with the pc and, if it is for several, the vector. Whether the guest goes
/// on. `GuestRegs::is_partial` is not 0 then: x20 to x28 in there are old, and what is written to them is lost, as is what is
/// written to PSTATE; and to the pc, if the exception was not synchronous.
pub struct Handlers<T> {
    /// For synchronous exceptions.
    pub synchronous: extern "C" fn(&mut T, u64) -> bool,
    /// For IRQs.
    pub irq: extern "C" fn(&mut T, u64) -> bool,
    /// For the rest.
    pub other: extern "C" fn(&mut T, u64, u32) -> bool,
}

unsafe extern "C" {
    fn guest_enter(vcpu: *mut GuestRegs, synchronous: *const (), irq: *const (), other: *const ());
}

/// Runs the guest on this pCPU until a handler denies that it goes on; its registers are then what it stopped with.
#[inline(always)]
pub fn enter<V, C>(vcpu: &mut VcpuLoop<V, C>, handlers: &Handlers<VcpuLoop<V, C>>) {
    const {
        assert!(
            VcpuLoop::<V, C>::REGS == 0,
            "guest.S has one pointer to both"
        )
    };
    let vcpu = core::ptr::from_mut(vcpu).cast();
    let Handlers {
        synchronous,
        irq,
        other,
    } = *handlers;
    // SAFETY: `vcpu` is valid and exclusive while the asm runs, and begins with a GuestRegs, whose layout the asm takes from
    // `offset_of!`. Handlers are called with it, one at a time. What the guest can touch is bounded by stage 2 and HCR_EL2, which
    // `Vm::enter_pcpu` has set on this pCPU; its pstate is only ever an EL0 or EL1 mode: it starts as EL1h and is then
    // what the hardware saved or `hv_core::entry` made of it.
    unsafe {
        guest_enter(
            vcpu,
            synchronous as *const (),
            irq as *const (),
            other as *const (),
        );
    }
}
