//! Where EL3 enters a pCPU with event 0 (`sdei_client.rs` arms it), whatever that pCPU masks.

use core::arch::global_asm;
use core::mem::offset_of;

use hv_abi::sdei::Call;

use crate::percpu::{Context, Percpu};
use crate::{sdei_client, stop};

/// What `sdei_entry.S` saves, less x0 to x3, which EL3 has.
#[repr(C, align(16))]
struct EventFrame {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

const _: () = assert!(
    offset_of!(EventFrame, sp) == offset_of!(EventFrame, x) + 248,
    "sdei_entry.S stores it behind x30"
);

global_asm!(
    include_str!("sdei_entry.S"),
    EVENT_TOP = const offset_of!(Percpu, event_top),
    FRAME_SIZE = const size_of::<EventFrame>(),
    FRAME_X = const offset_of!(EventFrame, x),
    FRAME_PC = const offset_of!(EventFrame, pc),
    COMPLETE = const Call::EventComplete as u32,
    RESUME = const Call::EventCompleteAndResume as u32,
    take_event = sym take_event,
    go_off = sym stop::go_off,
    halt_here = sym stop::halt_here,
);

/// The event has arrived. Returns whether this pCPU is to be switched off; if not, what was interrupted goes on.
extern "C" fn take_event(frame: &mut EventFrame, percpu: &'static Percpu) -> bool {
    frame.x[..4].copy_from_slice(&sdei_client::interrupted_registers());
    let context = Context {
        x: frame.x,
        sp: frame.sp,
        pc: frame.pc,
        pstate: frame.pstate,
        ..Context::now()
    };
    stop::take_event(percpu, context).is_some()
}
