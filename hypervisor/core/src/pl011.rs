//! An emulated PL011 UART (DDI0183), the one that QEMU's `virt` machine has. Bytes go out at once, so the
//! transmitter is always empty; time does not pass, so a byte that came in counts as having waited.
//!
//! Where DDI0183 and QEMU's model differ, this follows the model, since guests that run on the bare machine
//! are to run here unchanged: bytes go in and out whatever CR enables, and the receive interrupt is raised
//! by the first byte, whatever IFLS says.
//!
//! While nothing is received no read has a side effect, and a page with the registers' values ([`Image`]) can stand in
//! for them; [`Window`] says when it does.

mod image;

pub use image::{Change, Image, Window};

/// What an access asks of the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Outcome {
    /// A byte to send.
    pub transmit: Option<u8>,
    /// The level of the interrupt line from now on.
    pub line: bool,
    /// Whether the receiver takes another byte.
    pub room: bool,
    /// A register may read otherwise than before, or a read may have a side effect now.
    pub is_changed: bool,
}

/// The receive FIFO of a PL011 r1p4 or older, which is what the identification registers say.
const DEPTH: usize = 16;

/// The UART's registers and its receive FIFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pl011 {
    /// Data in bits 7 to 0, errors above, as UARTDR has them.
    fifo: [u16; DEPTH],
    first: usize,
    count: usize,
    /// A byte was lost since the last one got in.
    overrun: bool,
    /// UARTRSR.
    errors: u16,
    ilpr: u16,
    ibrd: u16,
    fbrd: u16,
    lcr_h: u16,
    cr: u16,
    ifls: u16,
    imsc: u16,
    ris: u16,
    dmacr: u16,
}

/// Register offsets (DDI0183 3.2).
mod offset {
    pub const DR: u64 = 0x00;
    pub const RSR: u64 = 0x04;
    pub const FR: u64 = 0x18;
    pub const ILPR: u64 = 0x20;
    pub const IBRD: u64 = 0x24;
    pub const FBRD: u64 = 0x28;
    pub const LCR_H: u64 = 0x2c;
    pub const CR: u64 = 0x30;
    pub const IFLS: u64 = 0x34;
    pub const IMSC: u64 = 0x38;
    pub const RIS: u64 = 0x3c;
    pub const MIS: u64 = 0x40;
    pub const ICR: u64 = 0x44;
    pub const DMACR: u64 = 0x48;
    pub const ID: u64 = 0xfe0;
}

/// UARTPeriphID0 to 3 and UARTPCellID0 to 3 (DDI0183 3.3.14), revision r1p3 or r1p4 as QEMU has it.
const ID: [u16; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

// UARTDR and, shifted down by 8, UARTRSR (3.3.1, 3.3.2).
const DR_BREAK: u16 = 1 << 10;
const DR_OVERRUN: u16 = 1 << 11;
// UARTFR (3.3.3).
const FR_RX_EMPTY: u16 = 1 << 4;
const FR_RX_FULL: u16 = 1 << 6;
const FR_TX_EMPTY: u16 = 1 << 7;
// UARTLCR_H (3.3.7).
const LCR_H_FIFO: u16 = 1 << 4;
// UARTCR (3.3.8).
const CR_LOOPBACK: u16 = 1 << 7;
const CR_RESET: u16 = 0x300;
const IFLS_RESET: u16 = 0x12;
// UARTIMSC, UARTRIS, UARTMIS, UARTICR (3.3.10 to 3.3.13).
const INT_RECEIVE: u16 = 1 << 4;
const INT_TRANSMIT: u16 = 1 << 5;
const INT_TIMEOUT: u16 = 1 << 6;
const INT_BREAK: u16 = 1 << 9;
const INT_OVERRUN: u16 = 1 << 10;
const INT_ALL: u16 = 0x7ff;

impl Default for Pl011 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pl011 {
    /// A UART after reset.
    pub const fn new() -> Self {
        Self {
            fifo: [0; DEPTH],
            first: 0,
            count: 0,
            overrun: false,
            errors: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: CR_RESET,
            ifls: IFLS_RESET,
            imsc: 0,
            ris: 0,
            dmacr: 0,
        }
    }

    /// Back to reset; what was received is lost.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// A load of `size` bytes at `offset`. Of eight bytes the register at the lower address is read first. What is no
    /// register reads as zero, and so does what no bus has: another size, or an address that is no multiple of it.
    #[inline]
    pub fn read(&mut self, offset: u64, size: u8) -> (u64, Outcome) {
        let before = self.count;
        let value = match (offset & 3, size) {
            (0, 4) => u64::from(self.read_register(offset)),
            (0 | 2, 2) | (_, 1) => {
                let register = u64::from(self.read_register(offset & !3));
                let value = register >> (8 * (offset & 3));
                if size == 1 { value & 0xff } else { value }
            }
            (0, 8) if offset & 4 == 0 => {
                let low = u64::from(self.read_register(offset));
                low | u64::from(self.read_register(offset | 4)) << 32
            }
            _ => 0,
        };
        (value, self.outcome(None, self.count != before))
    }

    /// A store of `size` bytes at `offset`. What is no register, or no size the bus has, is ignored.
    pub fn write(&mut self, offset: u64, size: u8, value: u32) -> Outcome {
        let value = match size {
            1 => (value & 0xff) as u16,
            // No register is wider.
            2 | 4 => value as u16,
            _ => return self.outcome(None, false),
        };
        if offset == offset::DR {
            // Mostly nothing changes: the interrupt is up since the character before.
            let is_changed = self.ris & INT_TRANSMIT == 0 || self.cr & CR_LOOPBACK != 0;
            self.ris |= INT_TRANSMIT;
            if self.cr & CR_LOOPBACK != 0 {
                self.push(value & 0xff);
            }
            return self.outcome(Some(value as u8), is_changed);
        }
        match offset {
            offset::RSR => self.errors = 0,
            offset::ILPR => self.ilpr = value & 0xff,
            offset::IBRD => self.ibrd = value,
            offset::FBRD => self.fbrd = value & 0x3f,
            offset::LCR_H => {
                if (self.lcr_h ^ value) & LCR_H_FIFO != 0 {
                    self.count = 0;
                    self.ris &= !(INT_RECEIVE | INT_TIMEOUT);
                }
                self.lcr_h = value & 0xff;
            }
            offset::CR => self.cr = value & 0xff87,
            offset::IFLS => self.ifls = value & 0x3f,
            offset::IMSC => self.imsc = value & INT_ALL,
            offset::ICR => self.ris &= !value,
            offset::DMACR => self.dmacr = value & 0x7,
            _ => {}
        }
        self.outcome(None, true)
    }

    /// A byte came in. One that finds the FIFO full is lost, which the guest can see; see
    /// [`can_receive`](Self::can_receive). The new level of the interrupt line.
    pub fn receive(&mut self, byte: u8) -> bool {
        if self.cr & CR_LOOPBACK == 0 {
            self.push(u16::from(byte));
        }
        self.line()
    }

    /// The line was held low for longer than a character (a "break"). The new level of the interrupt line.
    pub fn receive_break(&mut self) -> bool {
        if self.cr & CR_LOOPBACK == 0 {
            self.push(DR_BREAK);
            self.ris |= INT_BREAK;
        }
        self.line()
    }

    /// Whether there is room for another byte.
    pub fn can_receive(&self) -> bool {
        self.count < self.depth()
    }

    /// The level of the interrupt line.
    pub fn line(&self) -> bool {
        self.ris & self.imsc != 0
    }

    /// Whether no read has a side effect: nothing is received.
    pub fn is_quiet(&self) -> bool {
        self.count == 0
    }

    fn outcome(&self, transmit: Option<u8>, is_changed: bool) -> Outcome {
        Outcome {
            transmit,
            line: self.line(),
            room: self.can_receive(),
            is_changed,
        }
    }

    fn depth(&self) -> usize {
        if self.lcr_h & LCR_H_FIFO != 0 {
            DEPTH
        } else {
            1
        }
    }

    fn push(&mut self, entry: u16) {
        if !self.can_receive() {
            self.overrun = true;
            self.ris |= INT_OVERRUN;
            return;
        }
        let at = (self.first + self.count) % DEPTH;
        if let Some(slot) = self.fifo.get_mut(at) {
            let lost = if self.overrun { DR_OVERRUN } else { 0 };
            *slot = entry | lost;
            self.overrun = false;
            self.count += 1;
            self.ris |= INT_RECEIVE | INT_TIMEOUT;
        }
    }

    fn pop(&mut self) -> u16 {
        if self.count == 0 {
            return 0;
        }
        let entry = self.fifo.get(self.first).copied().unwrap_or(0);
        self.first = (self.first + 1) % DEPTH;
        self.count -= 1;
        if self.count == 0 {
            self.ris &= !(INT_RECEIVE | INT_TIMEOUT);
        }
        self.errors = entry >> 8;
        entry
    }

    #[inline]
    fn read_register(&mut self, offset: u64) -> u16 {
        match offset {
            offset::DR => self.pop(),
            _ => self.register(offset),
        }
    }

    /// What a read of a register finds if it has no side effect.
    #[inline]
    fn register(&self, offset: u64) -> u16 {
        match offset {
            offset::FR => self.flags(),
            offset::RSR => self.errors,
            offset::ILPR => self.ilpr,
            offset::IBRD => self.ibrd,
            offset::FBRD => self.fbrd,
            offset::LCR_H => self.lcr_h,
            offset::CR => self.cr,
            offset::IFLS => self.ifls,
            offset::IMSC => self.imsc,
            offset::RIS => self.ris,
            offset::MIS => self.ris & self.imsc,
            offset::DMACR => self.dmacr,
            offset::ID..0x1000 => {
                let index = (offset - offset::ID) / 4;
                ID.get(index as usize).copied().unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn flags(&self) -> u16 {
        let empty = if self.count == 0 { FR_RX_EMPTY } else { 0 };
        let full = if self.can_receive() { 0 } else { FR_RX_FULL };
        FR_TX_EMPTY | empty | full
    }
}
