//! The console's UART: where it is. What it does is in `hv_drivers::uart`.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_drivers::uart::{AUX_UART, AuxRegisters, Pl011Registers};
use platform::{Console, UartKind};
use safe_mmio::UniqueMmioPointer;

/// A UART that runs.
pub type Uart = hv_drivers::uart::Uart<'static>;

/// Where nobody has set up a line rate.
const BAUD_RATE: u32 = 115_200;

/// Where the registers of a PL011 are; 0 if the console is none.
static PL011: AtomicU64 = AtomicU64::new(0);
/// Where the AUX block is; 0 if the console is not its UART.
static AUX: AtomicU64 = AtomicU64::new(0);

/// Starts the console's UART. `rate` finds how many Hz its clock has, and is only asked if nobody has set it up.
///
/// # Safety
///
/// `console` tells of a UART of this machine, mapped as device memory for good, with the rest of its page, and nobody
/// else drives it.
#[inline(never)]
pub unsafe fn start(console: &Console, rate: impl FnOnce() -> Option<u32>) {
    let base = console.base.start;
    let (pl011, aux) = match console.kind {
        UartKind::Pl011 => (base, 0),
        // The block begins in the same page.
        UartKind::MiniUart => (0, base.saturating_sub(AUX_UART)),
    };
    PL011.store(pl011, Ordering::Relaxed);
    AUX.store(aux, Ordering::Relaxed);
    if let Some(mut uart) = get() {
        uart.start(BAUD_RATE, rate);
    }
}

/// The console's, if there is one.
pub fn get() -> Option<Uart> {
    let pl011 = PL011.load(Ordering::Relaxed);
    if pl011 != 0 {
        // SAFETY: `start` was promised these registers, for good.
        return unsafe { registers::<Pl011Registers>(pl011) }.map(Uart::Pl011);
    }
    // SAFETY: as above.
    unsafe { registers::<AuxRegisters>(AUX.load(Ordering::Relaxed)) }.map(Uart::Mini)
}

/// The registers at `address`, unless that is 0.
///
/// # Safety
///
/// They are there, mapped as device memory for good, and driven through [`get`] alone.
unsafe fn registers<T>(address: u64) -> Option<UniqueMmioPointer<'static, T>> {
    let pointer = core::ptr::with_exposed_provenance_mut::<T>(address as usize);
    // SAFETY: the caller answers for the address. The console's lock makes the pointer the only one; past the lock
    // another pCPU may have one as well, while it writes a report. Each access is one load or store of a register,
    // which Rust keeps no copy of, so that the worst is a garbled line, which `console.rs` accepts there.
    Some(unsafe { UniqueMmioPointer::new(NonNull::new(pointer)?) })
}
