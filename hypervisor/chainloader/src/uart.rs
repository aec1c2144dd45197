//! The line: the PL011 (DDI0183) or the mini-UART (BCM2711 ARM Peripherals 2.2) on GPIO 14 and 15.

use core::fmt::{self, Write};

use chainload::{BASE_RATE, fdt};

use crate::board;

/// Physical addresses of the BCM2711 in low peripheral mode (BCM2711 ARM Peripherals 1.2.4), which it is in
/// unless config.txt says `arm_peri_high=1`.
const GPIO: u64 = 0xfe20_0000;
const PL011: u64 = 0xfe20_1000;
const MINI: u64 = 0xfe21_5040;

/// Function select of GPIO 10 to 19, and what it puts 14 and 15 to (5.2, 5.3).
const GPFSEL1: u64 = GPIO + 0x04;
const PINS: u32 = 0o77 << 12;
const ALT0: u32 = 0o44 << 12;
const ALT5: u32 = 0o22 << 12;

/// Registers of the PL011 (DDI0183 3.2).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const LCRH: u64 = 0x2c;
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
const ICR: u64 = 0x44;
const BUSY: u32 = 1 << 3;
const RX_EMPTY: u32 = 1 << 4;
const TX_FULL: u32 = 1 << 5;
/// 8 bits, FIFOs.
const LINE: u32 = 0b11 << 5 | 1 << 4;
/// The UART, its receiver and its transmitter.
const ENABLE: u32 = 1 | 1 << 8 | 1 << 9;

/// Registers of the mini-UART, from its first (BCM2711 ARM Peripherals 2.2.2).
const MINI_IO: u64 = 0x00;
const MINI_LSR: u64 = 0x14;
const MINI_READY: u32 = 1;
const MINI_ROOM: u32 = 1 << 5;
const MINI_IDLE: u32 = 1 << 6;

/// What config.txt sets the PL011's clock to, should the firmware not say.
const CLOCK: u32 = 48_000_000;

/// Bytes that the PL011's receiver holds (DDI0183 2.4.2).
pub const DEPTH: usize = 16;

/// The line's UART.
pub struct Uart {
    kind: Kind,
}

enum Kind {
    /// With its clock in Hz; none if it was left as it was.
    Pl011(Option<u32>),
    /// As the firmware has set it: its clock is the VideoCore's.
    Mini,
}

impl Uart {
    /// The one that the devicetree `dtb` chooses, else the PL011, at [`BASE_RATE`] on the header's pins.
    pub fn open(dtb: &[u8]) -> Self {
        let is_mini = fdt::console_is(dtb, "brcm,bcm2835-aux-uart") == Some(true);
        let pins = board::read(GPFSEL1) & !PINS;
        let kind = if is_mini {
            board::write(GPFSEL1, pins | ALT5);
            Kind::Mini
        } else {
            board::write(GPFSEL1, pins | ALT0);
            Kind::Pl011(Some(board::uart_clock().unwrap_or(CLOCK)))
        };
        let mut uart = Self { kind };
        uart.set_rate(BASE_RATE);
        uart
    }

    /// The PL011, as it is, for last words.
    pub const fn as_it_is() -> Self {
        Self {
            kind: Kind::Pl011(None),
        }
    }

    /// The highest rate it can be set to; 0 if to none.
    pub const fn fastest(&self) -> u32 {
        match self.kind {
            Kind::Pl011(Some(clock)) => clock / 16,
            Kind::Pl011(None) | Kind::Mini => 0,
        }
    }

    /// Sets the rate, if it can; what is in the transmitter is lost (DDI0183 3.3.7, 3.3.8).
    pub fn set_rate(&mut self, rate: u32) {
        let Kind::Pl011(Some(clock)) = self.kind else {
            return;
        };
        // In 64ths: clock / (16 * rate).
        let divisor = (u64::from(clock) * 4 + u64::from(rate) / 2) / u64::from(rate.max(1));
        let divisor = u32::try_from(divisor.clamp(64, 0xffff << 6)).unwrap_or(64);
        board::write(PL011 + CR, 0);
        board::write(PL011 + IMSC, 0);
        board::write(PL011 + ICR, 0x7ff);
        board::write(PL011 + IBRD, divisor >> 6);
        board::write(PL011 + FBRD, divisor & 0x3f);
        board::write(PL011 + LCRH, LINE);
        board::write(PL011 + CR, ENABLE);
        // What came before is dropped. (QEMU offers no more until the data register has been read.)
        board::read(PL011 + DR);
    }

    /// Takes the bytes that have come, as many as `bytes` has room for; answers how many.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut count = 0;
        for (place, byte) in bytes
            .iter_mut()
            .zip(core::iter::from_fn(|| self.read_one()))
        {
            *place = byte;
            count += 1;
        }
        count
    }

    /// A byte that has come, if one has.
    fn read_one(&mut self) -> Option<u8> {
        match self.kind {
            Kind::Pl011(_) if board::read(PL011 + FR) & RX_EMPTY == 0 => {
                // Bits 8 to 11 tell of errors; a checksum does, too.
                Some(board::read(PL011 + DR) as u8)
            }
            Kind::Mini if board::read(MINI + MINI_LSR) & MINI_READY != 0 => {
                Some(board::read(MINI + MINI_IO) as u8)
            }
            _ => None,
        }
    }

    /// Whether it takes a byte.
    pub fn can_write(&self) -> bool {
        match self.kind {
            Kind::Pl011(_) => board::read(PL011 + FR) & TX_FULL == 0,
            Kind::Mini => board::read(MINI + MINI_LSR) & MINI_ROOM != 0,
        }
    }

    /// Gives it a byte.
    pub fn write(&mut self, byte: u8) {
        match self.kind {
            Kind::Pl011(_) => board::write(PL011 + DR, u32::from(byte)),
            Kind::Mini => board::write(MINI + MINI_IO, u32::from(byte)),
        }
    }

    /// Waits until the last bit is on the line.
    pub fn drain(&mut self) {
        loop {
            let is_idle = match self.kind {
                Kind::Pl011(_) => board::read(PL011 + FR) & BUSY == 0,
                Kind::Mini => board::read(MINI + MINI_LSR) & MINI_IDLE != 0,
            };
            if is_idle {
                return;
            }
        }
    }

    /// Writes a line for people.
    pub fn say(&mut self, line: fmt::Arguments<'_>) {
        // Writing cannot fail.
        let _ = write!(self, "{line}\r\n");
    }
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while !self.can_write() {
                core::hint::spin_loop();
            }
            self.write(byte);
        }
        Ok(())
    }
}
