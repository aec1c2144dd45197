//! The line: the PL011 or the mini-UART on GPIO 14 and 15.

use core::fmt::{self, Write};

use chainload::{BASE_RATE, fdt};
use hv_drivers::uart::{self, Received};

use crate::board;

/// Function select of GPIO 14 and 15, and what puts them to each UART (BCM2711 ARM Peripherals 5.2, 5.3).
const PINS: u32 = 0o77 << 12;
const ALT0: u32 = 0o44 << 12;
const ALT5: u32 = 0o22 << 12;

/// What config.txt sets the PL011's clock to, should the firmware not say.
const CLOCK: u32 = 48_000_000;

/// Bytes that the PL011's receiver holds (DDI0183 2.4.2).
pub const DEPTH: usize = 16;

/// The line's UART.
pub struct Uart {
    line: uart::Uart<'static>,
    /// How many Hz its clock has; none if its rate stays as it is.
    clock: Option<u32>,
}

impl Uart {
    /// The one that the devicetree `dtb` chooses, else the PL011, at [`BASE_RATE`] on the header's pins. The mini-UART
    /// stays as the firmware has set it: its clock is the VideoCore's.
    pub fn open(dtb: &[u8]) -> Self {
        let is_mini = fdt::console_is(dtb, "brcm,bcm2835-aux-uart") == Some(true);
        let function = if is_mini { ALT5 } else { ALT0 };
        board::function_select().modify(|pins| pins & !PINS | function);
        let mut uart = if is_mini {
            Self {
                line: board::mini_uart(),
                clock: None,
            }
        } else {
            Self {
                line: board::pl011(),
                clock: Some(board::uart_clock().unwrap_or(CLOCK)),
            }
        };
        uart.set_rate(BASE_RATE);
        uart
    }

    /// The PL011, as it is, for last words.
    pub fn as_it_is() -> Self {
        Self {
            line: board::pl011(),
            clock: None,
        }
    }

    /// The highest rate it can be set to; 0 if to none.
    pub const fn fastest(&self) -> u32 {
        match self.clock {
            Some(clock) => clock / 16,
            None => 0,
        }
    }

    /// Sets the rate, if it can; what is in the transmitter is lost.
    pub fn set_rate(&mut self, rate: u32) {
        if let Some(clock) = self.clock {
            self.line.set_rate(clock, rate);
            // What came before is dropped. (QEMU offers no more until the data register has been read.)
            self.line.discard();
        }
    }

    /// Takes the bytes that have come, as many as `bytes` has room for; answers how many. Those that have come in wrong
    /// are among them: a checksum tells.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut count = 0;
        let received = core::iter::from_fn(|| self.line.read().map(Received::byte));
        for (place, byte) in bytes.iter_mut().zip(received) {
            *place = byte;
            count += 1;
        }
        count
    }

    /// Whether it takes a byte.
    pub fn can_write(&self) -> bool {
        self.line.can_write()
    }

    /// Gives it a byte.
    pub fn write(&mut self, byte: u8) {
        self.line.write(byte);
    }

    /// Waits until the last bit is on the line.
    pub fn drain(&mut self) {
        self.line.drain();
    }

    /// Writes a line for people.
    pub fn say(&mut self, line: fmt::Arguments<'_>) {
        // Writing cannot fail.
        let _ = write!(self, "{line}\r\n");
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.line.put(byte));
        Ok(())
    }
}
