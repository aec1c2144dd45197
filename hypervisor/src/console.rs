//! The machine's UART, shared by the guest's console and our own lines (framing: `hv_abi::console`).
//!
//! Two ways in: under the lock, and the emergency way past it, for a pCPU that dies while somebody else,
//! or it itself, holds the lock.

use core::fmt::{self, Write};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use arm_pl011_uart::{
    DataBits, Interrupts, LineConfig, PL011Registers, Parity, StopBits, Uart, UniqueMmioPointer,
};
use hv_abi::console::RS;

use crate::patience::Mutex;
use crate::{crash_record, percpu, sysregs};

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    uart: None,
    is_mid_line: false,
});
/// Address of the UART's registers, for the emergency way; 0 before there is one.
static REGISTERS: AtomicU64 = AtomicU64::new(0);

/// Line rate and clock written into the divisors. QEMU ignores both; a board's loader has set the same.
const BAUD_RATE: u32 = 115_200;
const CLOCK_HZ: u32 = 24_000_000;

struct Console {
    uart: Option<Uart<'static>>,
    /// The guest's last byte did not end a line.
    is_mid_line: bool,
}

impl Console {
    fn put(&mut self, byte: u8) {
        if let Some(uart) = &mut self.uart {
            while uart.is_tx_fifo_full() {
                core::hint::spin_loop();
            }
            uart.write_word(byte);
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

/// Starts the console on the PL011 whose registers are mapped at `base`.
///
/// # Safety
///
/// `base` is the address of a PL011, mapped as device memory, that nobody else drives.
pub unsafe fn start(base: u64) {
    let pointer = core::ptr::with_exposed_provenance_mut::<PL011Registers>(base as usize);
    let Some(pointer) = NonNull::new(pointer) else {
        return;
    };
    // SAFETY: the caller answers for the address; this is the only driver outside a crash.
    let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(pointer) });
    let line = LineConfig {
        data_bits: DataBits::Bits8,
        parity: Parity::None,
        stop_bits: StopBits::One,
    };
    // Refused only for a rate the clock cannot make; the loader's setting then stays.
    let _ = uart.enable(line, BAUD_RATE, CLOCK_HZ);
    uart.set_interrupt_masks(Interrupts::empty());
    REGISTERS.store(base, Ordering::Relaxed);
    CONSOLE.lock().uart = Some(uart);
}

/// Writes a byte of the guest's.
pub fn write_guest(byte: u8) {
    let mut console = CONSOLE.lock();
    if byte == RS {
        console.put(RS);
    }
    console.put(byte);
    console.is_mid_line = byte != b'\n';
}

/// Lets received bytes interrupt, or not.
pub fn set_receive(on: bool) {
    if let Some(uart) = CONSOLE.lock().uart.as_mut() {
        let masks = if on {
            Interrupts::RXI | Interrupts::RTI
        } else {
            Interrupts::empty()
        };
        uart.set_interrupt_masks(masks);
    }
}

/// Takes a received byte.
pub fn read() -> Option<u8> {
    let mut console = CONSOLE.lock();
    // A framing or parity error loses the byte it happened to, not the line.
    console.uart.as_mut()?.read_word().unwrap_or(None)
}

/// Runs `then` with the console locked, or without that if it cannot be had within `limit_us`.
pub fn hold(limit_us: u64, then: impl FnOnce()) {
    let _console = CONSOLE.lock_within(limit_us);
    then();
}

/// Writes one framed line of ours. Use `log!`.
pub fn write_line(text: fmt::Arguments<'_>) {
    write_line_of(percpu::index(), text);
    if let Some(percpu) = percpu::this() {
        percpu.beat();
    }
}

/// The same, of a pCPU whose number is known.
pub fn write_line_of(pcpu: u8, text: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    let break_line = core::mem::take(&mut console.is_mid_line);
    frame(&mut *console, pcpu, break_line, text);
}

fn frame(to: &mut impl Write, pcpu: u8, break_line: bool, text: fmt::Arguments<'_>) {
    let us = sysregs::now().as_us(sysregs::counter_frequency());
    let (seconds, micros) = (us / 1_000_000, us % 1_000_000);
    let rs = RS as char;
    let line_break = if break_line { "\r\n" } else { "" };
    // The UART cannot fail.
    let _ = write!(
        to,
        "{rs}{line_break}[{seconds:5}.{micros:06} p{pcpu}] {text}\r\n"
    );
}

/// Logs one line: `log!("gic: {n} list registers")`.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {
        $crate::console::write_line(format_args!($($argument)*))
    };
}

/// A line written past the lock, byte by byte into the registers: for reports of what is stuck, where the
/// lock may be held for ever and a garbled line is better than none. The stopper's are kept for the next boot.
pub fn write_emergency(text: fmt::Arguments<'_>) {
    if REGISTERS.load(Ordering::Relaxed) != 0 {
        frame(&mut Emergency, percpu::index(), true, text);
    }
}

/// Waits until what was written has left the machine.
pub fn flush() {
    const FR: usize = 0x18;
    const FR_BUSY: u32 = 1 << 3; // DDI0183 3.3.3
    let base = REGISTERS.load(Ordering::Relaxed) as usize;
    if base != 0 {
        let fr = core::ptr::with_exposed_provenance::<u32>(base + FR);
        // SAFETY: `base` is the PL011 that `start` was given, mapped for good.
        while unsafe { fr.read_volatile() } & FR_BUSY != 0 {}
    }
}

struct Emergency;

impl Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const DR: usize = 0x00;
        const FR: usize = 0x18;
        const FR_TXFF: u32 = 1 << 5; // DDI0183 3.3.3
        let base = REGISTERS.load(Ordering::Relaxed) as usize;
        let fr = core::ptr::with_exposed_provenance::<u32>(base + FR);
        let dr = core::ptr::with_exposed_provenance_mut::<u32>(base + DR);
        crash_record::append(text.as_bytes());
        for byte in text.bytes() {
            // SAFETY: `base` is the PL011 that `start` was given, mapped for good.
            while unsafe { fr.read_volatile() } & FR_TXFF != 0 {}
            // SAFETY: as above.
            unsafe { dr.write_volatile(u32::from(byte)) };
        }
        Ok(())
    }
}
