//! This machine's own SDEI: event 0 of the firmware at EL3 reaches a pCPU that masks its interrupts. Here are the calls
//! to the firmware; it enters at `sdei_entry.rs`.
//!
//! Rules that TF-A's faults make: a pCPU is signalled only if it is recorded as armed, and once armed it
//! never masks, disables or unregisters the event, nor is switched off. An event-0 interrupt that finds its
//! PE masked is never ended there, and deafens it (TF-A 2.12, `sdei_intr_mgmt.c: handle_masked_trigger`).

use core::sync::atomic::{AtomicBool, Ordering};

use hv_abi::sdei::{Call, EVENT_SIGNALLED};
use hv_core::id::Mpidr;
use hv_core::stop::probe::{self, Offer};

use crate::percpu::Percpu;
use crate::{firmware, log, sysregs};

unsafe extern "C" {
    /// Where EL3 enters (`sdei_entry.S`).
    static sdei_entry: [u8; 0];
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
    let entry = (&raw const sdei_entry).addr() as u64;
    let argument = core::ptr::from_ref(percpu).expose_provenance() as u64;
    match probe::arm(call, entry, argument) {
        Ok(()) => true,
        Err((name, status)) => {
            log!("stop ladder: SGI here; firmware: {name} {status}");
            false
        }
    }
}

/// x0 to x3 as what this pCPU's event interrupted had them: the dispatch has overwritten them (DEN0054 5.1.5).
pub fn interrupted_registers() -> [u64; 4] {
    [0, 1, 2, 3].map(|n| call(Call::EventContext, [n, 0, 0, 0, 0]) as u64)
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
