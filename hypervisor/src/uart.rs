//! The UARTs: Arm's PL011 (DDI0183), and the small one in the AUX block of a BCM2835 and its successors (BCM2711 ARM
//! Peripherals, 2.2).
//!
//! What a loader has set up stays as it is, since whoever reads what it says reads us too.

use core::sync::atomic::{AtomicU64, Ordering};

use platform::{Console, UartKind};

use crate::registers::Registers;

/// A UART that runs.
#[derive(Clone, Copy)]
pub struct Uart {
    registers: Registers,
    kind: UartKind,
}

/// PL011 (DDI0183 3.2, 3.3).
mod pl011 {
    pub const FR: u64 = 0x18;
    pub const FR_BUSY: u32 = 1 << 3;
    pub const FR_RXFE: u32 = 1 << 4;
    pub const FR_TXFF: u32 = 1 << 5;
    pub const IBRD: u64 = 0x24;
    pub const FBRD: u64 = 0x28;
    pub const LCR_H: u64 = 0x2c;
    /// 8 bits, FIFOs.
    pub const LCR_H_8N1: u32 = 0b11 << 5 | 1 << 4;
    pub const CR: u64 = 0x30;
    pub const CR_ON: u32 = 1 << 9 | 1 << 8 | 1;
    pub const IMSC: u64 = 0x38;
    pub const RECEIVED: u32 = 1 << 6 | 1 << 4;
}

/// The UART of the AUX block (BCM2711 ARM Peripherals 2.2.2). Of IER the document is wrong: Linux's 8250_bcm2835aux,
/// and everybody else, has the 16550's bits.
mod mini {
    pub const IER: u64 = 0x04;
    pub const RECEIVED: u32 = 1 << 2 | 1;
    pub const IIR: u64 = 0x08;
    pub const CLEAR_FIFOS: u32 = 0b11 << 1;
    pub const LCR: u64 = 0x0c;
    pub const LCR_8N1: u32 = 0b11;
    pub const LSR: u64 = 0x14;
    pub const LSR_READY: u32 = 1;
    pub const LSR_ROOM: u32 = 1 << 5;
    pub const LSR_IDLE: u32 = 1 << 6;
    pub const CNTL: u64 = 0x20;
    pub const CNTL_ON: u32 = 0b11;
    pub const BAUD: u64 = 0x28;
    /// AUX_ENABLES, before the UART's own registers, and its bit there.
    pub const ENABLES: u64 = 0x3cu64.wrapping_neg();
    pub const ENABLE: u32 = 1;
}

/// What is sent and received; the same on both.
const DATA: u64 = 0;
/// A PL011 puts there what was wrong with a byte.
const DATA_ERRORS: u32 = 0xf00;
/// Where nobody has set up a line rate.
const BAUD_RATE: u32 = 115_200;

/// Where the console's registers are; 0 before there is one.
static BASE: AtomicU64 = AtomicU64::new(0);
/// Whether it is a PL011.
static IS_PL011: AtomicU64 = AtomicU64::new(0);

/// Starts the console's UART. `rate` finds how many Hz its clock has, and is only asked if nobody has set it up.
///
/// # Safety
///
/// `console` tells of a UART of this machine, mapped as device memory, that nobody else drives.
#[inline(never)]
pub unsafe fn start(console: &Console, rate: impl FnOnce() -> Option<u32>) {
    // SAFETY: the caller answers for the address.
    let registers = unsafe { Registers::at(console.base.start) };
    let set = |writes: &[(u64, u32)]| {
        for &(offset, value) in writes {
            registers.write(offset, value);
        }
    };
    let is_set = |divisor, enable| registers.read(divisor) != 0 && registers.read(enable) & 1 != 0;
    if console.kind == UartKind::Pl011 {
        if !is_set(pl011::IBRD, pl011::CR)
            && let Some(rate) = rate()
        {
            // In 64ths of a 16th of a bit.
            let divisor = rate.saturating_mul(4) / BAUD_RATE;
            set(&[
                (pl011::CR, 0),
                (pl011::IBRD, divisor >> 6),
                (pl011::FBRD, divisor & 0x3f),
                (pl011::LCR_H, pl011::LCR_H_8N1),
            ]);
        }
        set(&[(pl011::IMSC, 0), (pl011::CR, pl011::CR_ON)]);
    } else {
        let enables = registers.read(mini::ENABLES);
        registers.write(mini::ENABLES, enables | mini::ENABLE);
        if !is_set(mini::BAUD, mini::CNTL)
            && let Some(rate) = rate()
        {
            set(&[
                (mini::CNTL, 0),
                (mini::LCR, mini::LCR_8N1),
                (mini::IIR, mini::CLEAR_FIFOS),
                (mini::BAUD, (rate / (8 * BAUD_RATE)).saturating_sub(1)),
            ]);
        }
        set(&[(mini::IER, 0), (mini::CNTL, mini::CNTL_ON)]);
    }
    IS_PL011.store(
        u64::from(console.kind == UartKind::Pl011),
        Ordering::Relaxed,
    );
    BASE.store(console.base.start, Ordering::Relaxed);
}

/// The console's, if there is one.
pub fn get() -> Option<Uart> {
    let base = BASE.load(Ordering::Relaxed);
    let kind = if IS_PL011.load(Ordering::Relaxed) != 0 {
        UartKind::Pl011
    } else {
        UartKind::MiniUart
    };
    (base != 0).then_some(Uart {
        // SAFETY: `start` was promised them, for good.
        registers: unsafe { Registers::at(base) },
        kind,
    })
}

impl Uart {
    /// What a PL011 says by a flag that is down, and the other UART by one that is up.
    fn is(self, not: u32, flag: u32) -> bool {
        match self.kind {
            UartKind::Pl011 => self.registers.read(pl011::FR) & not == 0,
            UartKind::MiniUart => self.registers.read(mini::LSR) & flag != 0,
        }
    }

    /// Sends a byte, once there is room for it.
    pub fn put(self, byte: u8) {
        while !self.is(pl011::FR_TXFF, mini::LSR_ROOM) {
            core::hint::spin_loop();
        }
        self.registers.write(DATA, byte.into());
    }

    /// Takes a byte that has come in whole; one that has not is lost.
    pub fn take(self) -> Option<u8> {
        if !self.is(pl011::FR_RXFE, mini::LSR_READY) {
            return None;
        }
        let word = self.registers.read(DATA);
        (word & DATA_ERRORS == 0).then_some(word as u8)
    }

    /// Waits until what was sent has left.
    pub fn drain(self) {
        while !self.is(pl011::FR_BUSY, mini::LSR_IDLE) {}
    }

    /// Lets received bytes interrupt, or not.
    pub fn set_receive(self, on: bool) {
        let (offset, value) = match self.kind {
            UartKind::Pl011 => (pl011::IMSC, pl011::RECEIVED),
            UartKind::MiniUart => (mini::IER, mini::RECEIVED),
        };
        self.registers.write(offset, if on { value } else { 0 });
    }
}
