//! The mailbox to the firmware of a Raspberry Pi, which runs on its VideoCore (the firmware's "mailbox property
//! interface"; the registers are those of Linux's `bcm2835-mailbox`).

use safe_mmio::fields::{ReadOnly, ReadPure, WriteOnly};
use safe_mmio::{UniqueMmioPointer, field, field_shared};

/// The mailbox's registers.
#[repr(C)]
pub struct Registers {
    /// Reading takes a word.
    read: ReadOnly<u32>,
    _reserved0: [u32; 5],
    read_status: ReadPure<u32>,
    _reserved1: u32,
    write: WriteOnly<u32>,
    _reserved2: [u32; 5],
    write_status: ReadPure<u32>,
    _reserved3: u32,
}

/// Nothing is there to be read.
const EMPTY: u32 = 1 << 30;
/// Nothing can be written.
const FULL: u32 = 1 << 31;
/// The channel of properties: an address with the channel in its lowest four bits.
const PROPERTIES: u32 = 8;
const GET_CLOCK_RATE: u32 = 0x0003_0002;
const SUCCESS: u32 = 0x8000_0000;
/// Where the VideoCore sees the ARM's memory, around its own caches; it reaches the first GiB.
const UNCACHED: u32 = 0xc000_0000;
const REACH: u64 = 0x4000_0000;

/// How long the firmware may take to answer, in milliseconds.
pub const LIMIT_MS: u64 = 100;

/// The clocks that are asked for, by the firmware's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Clock {
    /// Of the PL011s.
    Uart = 2,
    /// Of the AUX block.
    Core = 4,
}

/// A request, and the firmware's answer in its place.
pub type Message = [u32; 8];

/// Asks how many Hz a clock has.
pub const fn ask_rate(clock: Clock) -> Message {
    [
        size_of::<Message>() as u32,
        0,
        GET_CLOCK_RATE,
        8,
        0,
        clock as u32,
        0,
        0,
    ]
}

/// How many Hz it has, if that is what the message now says.
pub const fn rate(answer: &Message) -> Option<u32> {
    let [_, status, .., rate, _] = *answer;
    if status == SUCCESS && rate != 0 {
        Some(rate)
    } else {
        None
    }
}

/// Has the firmware answer the message of `size` bytes at the physical address `pa`, a multiple of 16. The caller sees to
/// it that caches and write buffers are in order before and after. None if it cannot reach the message, or once
/// `is_late`.
pub fn exchange(
    mailbox: &mut UniqueMmioPointer<'_, Registers>,
    pa: u64,
    size: u64,
    is_late: impl Fn() -> bool,
) -> Option<()> {
    let request = request(pa, size)?;
    while field_shared!(*mailbox, write_status).read() & FULL != 0 {
        if is_late() {
            return None;
        }
    }
    field!(*mailbox, write).write(request);
    loop {
        while field_shared!(*mailbox, read_status).read() & EMPTY != 0 {
            if is_late() {
                return None;
            }
        }
        if field!(*mailbox, read).read() == request {
            return Some(());
        }
    }
}

/// What is written for a message, if the firmware can reach it.
fn request(pa: u64, size: u64) -> Option<u32> {
    let is_reached = pa.checked_add(size).is_some_and(|end| end <= REACH);
    (is_reached && pa.is_multiple_of(16)).then_some(pa as u32 | UNCACHED | PROPERTIES)
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn registers_are_where_linux_has_them() {
        assert_eq!(offset_of!(Registers, read_status), 0x18);
        assert_eq!(offset_of!(Registers, write), 0x20);
        assert_eq!(offset_of!(Registers, write_status), 0x38);
        assert_eq!(size_of::<Registers>(), 0x40);
    }

    #[test]
    fn a_rate_is_what_a_successful_answer_says() {
        let mut message = ask_rate(Clock::Core);
        assert_eq!(message, [32, 0, 0x3_0002, 8, 0, 4, 0, 0]);
        assert_eq!(rate(&message), None);
        message[1] = SUCCESS;
        assert_eq!(rate(&message), None, "no clock has 0 Hz");
        message[6] = 48_000_000;
        assert_eq!(rate(&message), Some(48_000_000));
        message[1] = 0x8000_0001;
        assert_eq!(rate(&message), None);
    }

    #[test]
    fn only_what_the_firmware_reaches_is_asked() {
        assert_eq!(request(0x20_0080, 128), Some(0xc020_0088));
        assert_eq!(request(REACH - 128, 128), Some(0xffff_ff88));
        assert_eq!(request(REACH - 112, 128), None);
        assert_eq!(request(0x20_0088, 128), None);
        assert_eq!(request(!15, 128), None);
    }

    fn registers(read: u32, read_status: u32, write_status: u32) -> Registers {
        Registers {
            read: ReadOnly(read),
            _reserved0: [0; 5],
            read_status: ReadPure(read_status),
            _reserved1: 0,
            write: WriteOnly(0),
            _reserved2: [0; 5],
            write_status: ReadPure(write_status),
            _reserved3: 0,
        }
    }

    #[test]
    fn a_firmware_that_answers_is_heard_and_one_that_does_not_is_given_up() {
        let mut answered = registers(0xc020_0088, 0, 0);
        let done = exchange(&mut (&mut answered).into(), 0x20_0080, 128, || true);
        assert_eq!((done, answered.write.0), (Some(()), 0xc020_0088));
        for mut silent in [registers(0, EMPTY, 0), registers(0, 0, FULL)] {
            assert_eq!(
                exchange(&mut (&mut silent).into(), 0x80, 128, || true),
                None
            );
        }
    }
}
