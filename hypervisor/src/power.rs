//! How the machine is reset and switched off: by firmware with PSCI, or else by the power management block of a
//! BCM2835 and its successors, whose watchdog is let bite at once (registers as in Linux's `bcm2835_wdt`).

use core::sync::atomic::{AtomicU64, Ordering};

use platform::Range;

use crate::firmware;
use crate::registers::Registers;

const RSTC: u64 = 0x1c;
const RSTS: u64 = 0x20;
const WDOG: u64 = 0x24;
/// In what is written to any of them.
const PASSWORD: u32 = 0x5a00_0000;
/// RSTC: what the watchdog does.
const RSTC_ACTION: u32 = 0b11 << 4;
const RSTC_RESET: u32 = 0b10 << 4;
/// RSTS: the partition to boot from next, in bits 0, 2, 4, 6, 8 and 10. By the firmware's convention 63 is none: it
/// halts, and waits for power or its run pin.
const RSTS_HALT: u32 = 0x555;
/// WDOG: some 150 us, so that the write to RSTC is through.
const SOON: u32 = 10;

/// Where the block is; 0 if there is none.
static BLOCK: AtomicU64 = AtomicU64::new(0);

/// Remembers the block.
///
/// # Safety
///
/// It is one, mapped as device memory for good, and nobody else's.
pub unsafe fn start(block: Option<Range>) {
    let base = block.map_or(0, |block| block.start);
    BLOCK.store(base, Ordering::Relaxed);
}

/// Resets the machine; returns if that cannot be done, or only in a while.
pub fn reset() {
    firmware::system_reset();
    bite(0);
}

/// Switches the machine off; returns as `reset` does.
pub fn off() {
    firmware::system_off();
    bite(RSTS_HALT);
}

fn bite(partition: u32) {
    let base = BLOCK.load(Ordering::Relaxed);
    if base == 0 {
        return;
    }
    // SAFETY: `start` was promised it.
    let block = unsafe { Registers::at(base) };
    let status = block.read(RSTS) & 0xff_ffff & !RSTS_HALT;
    block.write(RSTS, PASSWORD | status | partition);
    block.write(WDOG, PASSWORD | SOON);
    let control = block.read(RSTC) & 0xff_ffff & !RSTC_ACTION;
    block.write(RSTC, PASSWORD | control | RSTC_RESET);
}
