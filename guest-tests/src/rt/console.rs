//! Lines on the PL011 that `/chosen/stdout-path` names (DDI0183 3.3).

use core::fmt;

use spin::{Mutex, Once};

use super::mmio::Device;
use super::text::Text;

const UARTDR: u64 = 0x00;
const UARTFR: u64 = 0x18;
/// Transmit FIFO full.
const TXFF: u32 = 1 << 5;
/// Receive FIFO empty.
const RXFE: u32 = 1 << 4;

static UART: Once<Device> = Once::new();
static LINE: Mutex<()> = Mutex::new(());

/// Says where the console is.
pub fn open(uart: Device) {
    UART.call_once(|| uart);
}

/// Turns the console on again, after others have written to its registers, at the beginning of a line.
pub fn reopen() {
    /// Interrupt mask, and control with UART, transmitter and receiver on (DDI0183 3.3.10, 3.3.8).
    const UARTIMSC: u64 = 0x38;
    const UARTCR: u64 = 0x30;
    if let Some(uart) = UART.get() {
        uart.write32(UARTIMSC, 0);
        uart.write32(UARTCR, 1 << 9 | 1 << 8 | 1);
    }
    say(format_args!(""));
}

/// Whether somebody has typed something.
pub fn is_typed_to() -> bool {
    UART.get()
        .is_some_and(|uart| uart.read32(UARTFR) & RXFE == 0)
}

/// Writes a line, not mixed with another CPU's.
pub fn say(line: fmt::Arguments<'_>) {
    let text = Text::<512>::format(line);
    let _whole_line = LINE.lock();
    write(text.as_str());
}

/// Writes a line without the lock, for a CPU that is about to stop the machine.
pub fn say_last(line: fmt::Arguments<'_>) {
    write(Text::<512>::format(line).as_str());
}

fn write(line: &str) {
    let Some(uart) = UART.get() else { return };
    for byte in line.bytes().chain(*b"\r\n") {
        write_byte(*uart, byte);
    }
}

fn write_byte(uart: Device, byte: u8) {
    while uart.read32(UARTFR) & TXFF != 0 {
        core::hint::spin_loop();
    }
    uart.write32(UARTDR, u32::from(byte));
}
