//! How the machine is reset and switched off: by firmware with PSCI, or else by the watchdog of a BCM2835 and its
//! successors (`hv_drivers::power`).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_drivers::power::{self, Next, Registers};
use platform::Range;
use safe_mmio::UniqueMmioPointer;

use crate::firmware;

/// Where the power management block is; 0 if there is none.
static BLOCK: AtomicU64 = AtomicU64::new(0);

/// Remembers the block.
///
/// # Safety
///
/// If there is one, `block` is the power management block of a BCM2835 or a successor, mapped as device memory for good,
/// and nobody else drives it.
pub unsafe fn start(block: Option<Range>) {
    let base = block.map_or(0, |block| block.start);
    BLOCK.store(base, Ordering::Relaxed);
}

/// Resets the machine; returns if that cannot be done, or only in a while.
pub fn reset() {
    firmware::system_reset();
    by_watchdog(Next::Boot);
}

/// Switches the machine off; returns as `reset` does.
pub fn off() {
    firmware::system_off();
    by_watchdog(Next::Halt);
}

fn by_watchdog(next: Next) {
    let base = BLOCK.load(Ordering::Relaxed);
    let block = core::ptr::with_exposed_provenance_mut::<Registers>(base as usize);
    if let Some(block) = NonNull::new(block) {
        // SAFETY: `start` was promised it. Only the stopper, or the boot pCPU while it is alone, comes here.
        let mut block = unsafe { UniqueMmioPointer::new(block) };
        power::reset(&mut block, next);
    }
}
