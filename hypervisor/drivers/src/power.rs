//! The watchdog in the power management block of a BCM2835 and its successors, which resets the board (registers as in
//! Linux's `bcm2835_wdt`).

use safe_mmio::fields::ReadPureWrite;
use safe_mmio::{UniqueMmioPointer, field};

/// The registers of the block up to those of the watchdog.
#[repr(C)]
pub struct Registers {
    _reserved: [u32; 7],
    reset_control: ReadPureWrite<u32>,
    reset_status: ReadPureWrite<u32>,
    watchdog: ReadPureWrite<u32>,
}

/// In what is written to any of them.
const PASSWORD: u32 = 0x5a00_0000;
const PASSWORD_BITS: u32 = 0xff00_0000;
/// RSTC: what the watchdog does.
const RSTC_ACTION: u32 = 0b11 << 4;
const RSTC_RESET: u32 = 0b10 << 4;
/// RSTS: the partition to boot from next, in bits 0, 2, 4, 6, 8 and 10. By the firmware's convention 63 is none: it
/// halts, and waits for power or its run pin.
const RSTS_HALT: u32 = 0x555;
/// WDOG: some 150 us, so that the write to RSTC is through.
const SOON: u32 = 10;

/// What the firmware does after the reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It boots as ever.
    Boot,
    /// It halts.
    Halt,
}

/// Resets the board in a while.
pub fn reset(block: &mut UniqueMmioPointer<'_, Registers>, next: Next) {
    let partition = match next {
        Next::Boot => 0,
        Next::Halt => RSTS_HALT,
    };
    field!(*block, reset_status)
        .modify(|status| PASSWORD | status & !PASSWORD_BITS & !RSTS_HALT | partition);
    field!(*block, watchdog).write(PASSWORD | SOON);
    field!(*block, reset_control)
        .modify(|control| PASSWORD | control & !PASSWORD_BITS & !RSTC_ACTION | RSTC_RESET);
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn registers_are_where_linux_has_them() {
        assert_eq!(offset_of!(Registers, reset_control), 0x1c);
        assert_eq!(offset_of!(Registers, reset_status), 0x20);
        assert_eq!(offset_of!(Registers, watchdog), 0x24);
    }

    #[test]
    fn every_write_has_the_password_and_keeps_what_is_not_ours() {
        for (next, status) in [(Next::Boot, 0x5a00_1000), (Next::Halt, 0x5a00_1555)] {
            let mut block = Registers {
                _reserved: [0; 7],
                reset_control: ReadPureWrite(0x0000_0102 | 0b11 << 4),
                reset_status: ReadPureWrite(0x0000_1555),
                watchdog: ReadPureWrite(0),
            };
            reset(&mut (&mut block).into(), next);
            assert_eq!(block.reset_status.0, status);
            assert_eq!(block.watchdog.0, 0x5a00_000a);
            assert_eq!(block.reset_control.0, 0x5a00_0122);
        }
    }
}
