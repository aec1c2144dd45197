//! This machine's own SDEI: event 0 of the firmware at EL3 reaches a pCPU that masks its interrupts.
//!
//! Rules that TF-A's faults make: a pCPU is signalled only if it is recorded as armed, and once armed it
//! never masks, disables or unregisters the event, nor is switched off. An event-0 interrupt that finds its
//! PE masked is never ended there, and deafens it (TF-A 2.12, `sdei_intr_mgmt.c: handle_masked_trigger`).

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};

use hv_abi::sdei::{Call, EVENT_SIGNALLED};
use hv_core::id::Mpidr;
use hv_core::stop::probe::{self, Offer};

use crate::percpu::{Context, Percpu};
use crate::{firmware, log, stop, sysregs};

/// What `sdei_client.S` saves, less x0 to x3, which EL3 has.
#[repr(C, align(16))]
struct EventFrame {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

const _: () = assert!(
    offset_of!(EventFrame, sp) == offset_of!(EventFrame, x) + 248,
    "sdei_client.S stores it behind x30"
);

global_asm!(
    include_str!("sdei_client.S"),
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

unsafe extern "C" {
    static sdei_client_entry: [u8; 0];
}

/// Firmware delivers events.
static IS_OFFERED: AtomicBool = AtomicBool::new(false);

fn call(function: Call, args: [u64; 5]) -> i64 {
    firmware::call_long(function as u32, args)
}

/// Asks firmware whether it has SDEI, and says so. On the boot pCPU, once.
#[inline(never)]
pub fn discover() {
    let offer =
        probe::probe(|function, argument| firmware::call_long(function, [argument, 0, 0, 0, 0]));
    let is_usable = matches!(offer, Offer::Offered(_));
    IS_OFFERED.store(is_usable, Ordering::Relaxed);
    let rungs = if is_usable { "SGI, SDEI" } else { "SGI" };
    log!("stop ladder: {rungs}; firmware: {offer}");
}

/// Arms event 0 on this pCPU. Whether EL3 now delivers it here.
pub fn arm(percpu: &'static Percpu) -> bool {
    if !IS_OFFERED.load(Ordering::Relaxed) {
        return false;
    }
    let entry = (&raw const sdei_client_entry).addr() as u64;
    let argument = core::ptr::from_ref(percpu).expose_provenance() as u64;
    match probe::arm(call, entry, argument) {
        Ok(()) => true,
        Err((name, status)) => {
            log!("stop ladder: SGI here; firmware: {name} {status}");
            false
        }
    }
}

/// Signals event 0 to a pCPU that is armed.
///
/// # Errors
///
/// Firmware's status, if it refuses.
pub fn signal(to: Mpidr) -> Result<(), i64> {
    // The request must be there before the event is (IHI0069 12.1.6).
    sysregs::order_before_doorbell();
    let event = u64::from(EVENT_SIGNALLED);
    match call(Call::EventSignal, [event, to.bits(), 0, 0, 0]) {
        0 => Ok(()),
        status => Err(status),
    }
}

/// The event has arrived. Returns whether this pCPU is to be switched off; if not, what was interrupted goes on.
extern "C" fn take_event(frame: &mut EventFrame, percpu: &'static Percpu) -> bool {
    for (n, register) in frame.x.iter_mut().enumerate().take(4) {
        // DEN0054 5.1.5: x0 to x3 were overwritten by the dispatch.
        *register = call(Call::EventContext, [n as u64, 0, 0, 0, 0]) as u64;
    }
    let context = Context {
        x: frame.x,
        sp: frame.sp,
        pc: frame.pc,
        pstate: frame.pstate,
        ..Context::now()
    };
    stop::take_event(percpu, context).is_some()
}
