//! The UARTs: Arm's PL011 (DDI0183), and the small one in the AUX block of a BCM2835 and its successors (BCM2711 ARM
//! Peripherals, 2.2).

use safe_mmio::fields::{ReadPure, ReadPureWrite, ReadWrite, WriteOnly};
use safe_mmio::{UniqueMmioPointer, field, field_shared};

use crate::pace::Transmitter;

/// Registers of a PL011 (DDI0183 3.2).
#[repr(C)]
pub struct Pl011Registers {
    /// What is sent and received. Reading takes a byte.
    data: ReadWrite<u32>,
    _reserved0: [u32; 5],
    flags: ReadPure<u32>,
    _reserved1: [u32; 2],
    divisor: ReadPureWrite<u32>,
    divisor_fraction: ReadPureWrite<u32>,
    line_control: ReadPureWrite<u32>,
    control: ReadPureWrite<u32>,
    _reserved2: u32,
    interrupt_mask: ReadPureWrite<u32>,
    _reserved3: [u32; 2],
    interrupt_clear: WriteOnly<u32>,
}

/// What was wrong with a byte, above it in the data register.
const DATA_ERRORS: u32 = 0xf00;
const FR_BUSY: u32 = 1 << 3;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
/// 8 bits, FIFOs.
const LCR_H_8N1: u32 = 0b11 << 5 | 1 << 4;
/// The UART, its transmitter and its receiver.
const CR_ON: u32 = 1 << 9 | 1 << 8 | 1;
/// Receive and receive timeout.
const INTERRUPT_RECEIVED: u32 = 1 << 6 | 1 << 4;
const EVERY_INTERRUPT: u32 = 0x7ff;

/// The AUX block up to the end of its UART (BCM2711 ARM Peripherals 2.1, 2.2.2). The UART's own registers begin at
/// [`AUX_UART`]. Of IER the document is wrong: Linux's 8250_bcm2835aux has the 16550's bits.
#[repr(C)]
pub struct AuxRegisters {
    _irq: u32,
    enables: ReadPureWrite<u32>,
    _reserved0: [u32; 14],
    data: ReadWrite<u32>,
    interrupt_enable: ReadPureWrite<u32>,
    fifo_control: ReadWrite<u32>,
    line_control: ReadPureWrite<u32>,
    _modem_control: u32,
    line_status: ReadPure<u32>,
    _modem_status: u32,
    _scratch: u32,
    control: ReadPureWrite<u32>,
    _status: u32,
    divisor: ReadPureWrite<u32>,
}

/// Where the UART's own registers begin in the AUX block; devicetrees name that place.
pub const AUX_UART: u64 = 0x40;

const ENABLES_UART: u32 = 1;
const IER_RECEIVED: u32 = 1 << 2 | 1;
const CLEAR_FIFOS: u32 = 0b11 << 1;
const LCR_8N1: u32 = 0b11;
const LSR_READY: u32 = 1;
const LSR_ROOM: u32 = 1 << 5;
const LSR_IDLE: u32 = 1 << 6;
const CNTL_ON: u32 = 0b11;

/// A UART.
pub enum Uart<'a> {
    /// Arm's PL011.
    Pl011(UniqueMmioPointer<'a, Pl011Registers>),
    /// The small one of the AUX block.
    Mini(UniqueMmioPointer<'a, AuxRegisters>),
}

impl Uart<'_> {
    /// Starts it, its interrupts masked. If it has been set up before, its line stays as it is, since whoever reads
    /// what the loader says reads us too; else it has 8 bits and `baud`, by its clock of as many Hz as `clock` finds, if
    /// that is known.
    pub fn start(&mut self, baud: u32, clock: impl FnOnce() -> Option<u32>) {
        if let Self::Mini(aux) = self {
            let mut enables = field!(*aux, enables);
            enables.modify(|enables| enables | ENABLES_UART);
        }
        if !self.is_set_up()
            && let Some(clock) = clock()
        {
            self.set_rate(clock, baud);
        }
        self.set_receive(false);
        match self {
            Self::Pl011(pl011) => field!(*pl011, control).write(CR_ON),
            Self::Mini(aux) => field!(*aux, control).write(CNTL_ON),
        }
    }

    fn is_set_up(&self) -> bool {
        let (divisor, control) = match self {
            Self::Pl011(pl011) => (
                field_shared!(*pl011, divisor).read(),
                field_shared!(*pl011, control).read(),
            ),
            Self::Mini(aux) => (
                field_shared!(*aux, divisor).read(),
                field_shared!(*aux, control).read(),
            ),
        };
        divisor != 0 && control & 1 != 0
    }

    /// Sets the line to 8 bits and `baud` by a clock of `clock` Hz, its interrupts masked, and turns it on. What is in
    /// the transmitter and the receiver is lost (DDI0183 3.3.7, 3.3.8).
    pub fn set_rate(&mut self, clock: u32, baud: u32) {
        match self {
            Self::Pl011(pl011) => {
                let divisor = pl011_divisor(clock, baud);
                field!(*pl011, control).write(0);
                field!(*pl011, interrupt_mask).write(0);
                field!(*pl011, interrupt_clear).write(EVERY_INTERRUPT);
                field!(*pl011, divisor).write(divisor >> 6);
                field!(*pl011, divisor_fraction).write(divisor & 0x3f);
                // This also makes the divisor count (DDI0183 3.3.7).
                field!(*pl011, line_control).write(LCR_H_8N1);
                field!(*pl011, control).write(CR_ON);
            }
            Self::Mini(aux) => {
                field!(*aux, control).write(0);
                field!(*aux, interrupt_enable).write(0);
                field!(*aux, line_control).write(LCR_8N1);
                field!(*aux, fifo_control).write(CLEAR_FIFOS);
                field!(*aux, divisor).write(mini_divisor(clock, baud));
                field!(*aux, control).write(CNTL_ON);
            }
        }
    }

    /// Whether it takes a byte.
    #[inline]
    pub fn can_write(&self) -> bool {
        match self {
            Self::Pl011(pl011) => field_shared!(*pl011, flags).read() & FR_TXFF == 0,
            Self::Mini(aux) => field_shared!(*aux, line_status).read() & LSR_ROOM != 0,
        }
    }

    /// Gives it a byte, which is lost unless it [can take one](Self::can_write).
    #[inline]
    pub fn write(&mut self, byte: u8) {
        match self {
            Self::Pl011(pl011) => field!(*pl011, data).write(byte.into()),
            Self::Mini(aux) => field!(*aux, data).write(byte.into()),
        }
    }

    /// Sends a byte, once there is room for it, however long that takes; [`Pace`](crate::pace::Pace) has a limit.
    #[inline]
    pub fn put(&mut self, byte: u8) {
        while !self.can_write() {
            core::hint::spin_loop();
        }
        self.write(byte);
    }

    /// What it has received, if anything. A PL011 puts what was wrong with the byte above it (DDI0183 3.3.1).
    #[inline]
    pub fn read(&mut self) -> Option<Received> {
        let word = match self {
            Self::Pl011(pl011) if field_shared!(*pl011, flags).read() & FR_RXFE == 0 => {
                field!(*pl011, data).read()
            }
            Self::Mini(aux) if field_shared!(*aux, line_status).read() & LSR_READY != 0 => {
                field!(*aux, data).read()
            }
            _ => return None,
        };
        Some(Received(word))
    }

    /// Drops what it has received last, whether that is anything or not.
    pub fn discard(&mut self) {
        match self {
            Self::Pl011(pl011) => field!(*pl011, data).read(),
            Self::Mini(aux) => field!(*aux, data).read(),
        };
    }

    /// Whether the last bit is on the line.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Pl011(pl011) => field_shared!(*pl011, flags).read() & FR_BUSY == 0,
            Self::Mini(aux) => field_shared!(*aux, line_status).read() & LSR_IDLE != 0,
        }
    }

    /// Waits until the last bit is on the line.
    pub fn drain(&self) {
        while !self.is_idle() {}
    }

    /// Lets received bytes interrupt, or not.
    pub fn set_receive(&mut self, on: bool) {
        match self {
            Self::Pl011(pl011) => {
                field!(*pl011, interrupt_mask).write(if on { INTERRUPT_RECEIVED } else { 0 });
            }
            Self::Mini(aux) => {
                field!(*aux, interrupt_enable).write(if on { IER_RECEIVED } else { 0 });
            }
        }
    }
}

impl Transmitter for Uart<'_> {
    #[inline]
    fn can_write(&self) -> bool {
        Self::can_write(self)
    }

    #[inline]
    fn write(&mut self, byte: u8) {
        Self::write(self, byte);
    }
}

/// What was received at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received(u32);

impl Received {
    /// The byte, however it came in.
    pub const fn byte(self) -> u8 {
        self.0 as u8
    }

    /// The byte, if it came in whole.
    pub const fn whole(self) -> Option<u8> {
        if self.0 & DATA_ERRORS == 0 {
            Some(self.0 as u8)
        } else {
            None
        }
    }
}

/// A PL011's divisor in 64ths: `clock / (16 * baud)` (DDI0183 3.3.6), within what its registers hold.
pub fn pl011_divisor(clock: u32, baud: u32) -> u32 {
    let baud = u64::from(baud.max(1));
    let divisor = (u64::from(clock) * 4 + baud / 2) / baud;
    divisor.clamp(64, 0xffff << 6) as u32
}

/// The mini-UART's divisor: `clock / (8 * baud) - 1` (BCM2711 ARM Peripherals 2.2.1), within its 16 bits.
pub fn mini_divisor(clock: u32, baud: u32) -> u32 {
    let divisor = u64::from(clock) / (8 * u64::from(baud.max(1)));
    divisor.saturating_sub(1).min(0xffff) as u32
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn registers_are_where_the_documents_have_them() {
        assert_eq!(offset_of!(Pl011Registers, flags), 0x18);
        assert_eq!(offset_of!(Pl011Registers, divisor), 0x24);
        assert_eq!(offset_of!(Pl011Registers, divisor_fraction), 0x28);
        assert_eq!(offset_of!(Pl011Registers, line_control), 0x2c);
        assert_eq!(offset_of!(Pl011Registers, control), 0x30);
        assert_eq!(offset_of!(Pl011Registers, interrupt_mask), 0x38);
        assert_eq!(offset_of!(Pl011Registers, interrupt_clear), 0x44);
        assert_eq!(size_of::<Pl011Registers>(), 0x48);
        assert_eq!(offset_of!(AuxRegisters, enables), 0x04);
        assert_eq!(offset_of!(AuxRegisters, data) as u64, AUX_UART);
        assert_eq!(offset_of!(AuxRegisters, interrupt_enable), 0x44);
        assert_eq!(offset_of!(AuxRegisters, fifo_control), 0x48);
        assert_eq!(offset_of!(AuxRegisters, line_control), 0x4c);
        assert_eq!(offset_of!(AuxRegisters, line_status), 0x54);
        assert_eq!(offset_of!(AuxRegisters, control), 0x60);
        assert_eq!(offset_of!(AuxRegisters, divisor), 0x68);
    }

    #[test]
    fn divisors_are_those_of_the_documents_examples() {
        // DDI0183 3.3.6: 4 MHz and 230400 baud have 1 and 5 64ths.
        assert_eq!(pl011_divisor(4_000_000, 230_400), 1 << 6 | 5);
        assert_eq!(pl011_divisor(48_000_000, 115_200), 26 << 6 | 3);
        assert_eq!(pl011_divisor(0, 0), 64);
        assert_eq!(pl011_divisor(u32::MAX, 1), 0xffff << 6);
        // BCM2711 ARM Peripherals 2.2.1: 500 MHz, 115200 baud.
        assert_eq!(mini_divisor(500_000_000, 115_200), 541);
        assert_eq!(mini_divisor(0, 0), 0);
        assert_eq!(mini_divisor(u32::MAX, 1), 0xffff);
    }

    #[test]
    fn a_byte_with_an_error_is_not_whole() {
        assert_eq!(Received(0x41).whole(), Some(b'A'));
        for error in [0x100, 0x200, 0x400, 0x800] {
            assert_eq!(Received(error | 0x41).whole(), None);
            assert_eq!(Received(error | 0x41).byte(), b'A');
        }
    }

    fn pl011() -> Pl011Registers {
        Pl011Registers {
            data: ReadWrite(0),
            _reserved0: [0; 5],
            flags: ReadPure(0),
            _reserved1: [0; 2],
            divisor: ReadPureWrite(0),
            divisor_fraction: ReadPureWrite(0),
            line_control: ReadPureWrite(0),
            control: ReadPureWrite(0),
            _reserved2: 0,
            interrupt_mask: ReadPureWrite(7),
            _reserved3: [0; 2],
            interrupt_clear: WriteOnly(0),
        }
    }

    #[test]
    fn a_line_that_is_set_up_stays_and_another_is_set() {
        let mut registers = pl011();
        let mut uart = Uart::Pl011((&mut registers).into());
        uart.start(115_200, || Some(48_000_000));
        assert_eq!((registers.divisor.0, registers.divisor_fraction.0), (26, 3));
        assert_eq!(registers.interrupt_mask.0, 0);
        assert_eq!(registers.control.0, CR_ON);
        let mut uart = Uart::Pl011((&mut registers).into());
        uart.start(9600, || panic!("nobody needs the clock"));
        assert_eq!((registers.divisor.0, registers.divisor_fraction.0), (26, 3));
        let mut unknown = pl011();
        Uart::Pl011((&mut unknown).into()).start(9600, || None);
        assert_eq!((unknown.divisor.0, unknown.control.0), (0, CR_ON));
    }

    #[test]
    fn flags_say_what_can_be_read_and_written() {
        let mut registers = pl011();
        registers.flags.0 = FR_TXFF | FR_RXFE;
        let mut uart = Uart::Pl011((&mut registers).into());
        assert!(!uart.can_write());
        assert_eq!(uart.read(), None);
        registers.flags.0 = 0;
        registers.data.0 = 0x141;
        let mut uart = Uart::Pl011((&mut registers).into());
        assert!(uart.can_write());
        assert_eq!(uart.read(), Some(Received(0x141)));
        uart.put(b'z');
        assert_eq!(registers.data.0, u32::from(b'z'));
    }
}
