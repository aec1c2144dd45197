//! What the firmware of a Raspberry Pi knows, asked by its mailbox (the firmware's "mailbox property interface"; the
//! registers are those of Linux's `bcm2835-mailbox`). Only before a guest runs, who may use it then.

use core::cell::UnsafeCell;

use crate::registers::Registers;
use crate::{memory, sysregs};

/// The clock of the PL011s.
pub const UART: u32 = 2;
/// The clock of the AUX block.
pub const CORE: u32 = 4;

const READ: u64 = 0x00;
const READ_STATUS: u64 = 0x18;
const EMPTY: u32 = 1 << 30;
const WRITE: u64 = 0x20;
const WRITE_STATUS: u64 = 0x38;
const FULL: u32 = 1 << 31;
/// The channel of properties: an address with the channel in its lowest four bits.
const PROPERTIES: u32 = 8;
const GET_CLOCK_RATE: u32 = 0x0003_0002;
const SUCCESS: u32 = 0x8000_0000;
/// The firmware reaches the first GiB of memory, here without its cache.
const UNCACHED: u32 = 0xc000_0000;
const REACH: u64 = 0x4000_0000;
/// How long it may take, in microseconds.
const LIMIT_US: u64 = 100_000;

/// A request and its answer: lines of a cache that nothing else is in.
#[repr(C, align(128))]
struct Message(UnsafeCell<[u32; 32]>);

// SAFETY: only `clock_rate` uses it, before there is a second pCPU.
unsafe impl Sync for Message {}

static MESSAGE: Message = Message(UnsafeCell::new([0; 32]));

/// Bytes of the mailbox's registers.
pub const SIZE: u64 = 0x40;

/// How many Hz the clock `id` has, if the firmware says.
///
/// # Safety
///
/// A mailbox is at `mailbox`, mapped as device memory, and there is only one pCPU so far.
pub unsafe fn clock_rate(mailbox: u64, id: u32) -> Option<u32> {
    let message = MESSAGE.0.get();
    let va = message.addr() as u64;
    let pa = memory::window_pa(va);
    let size = size_of::<Message>() as u64;
    if pa + size > REACH {
        return None;
    }
    let mut words = [0; 32];
    words[..8].copy_from_slice(&[32, 0, GET_CLOCK_RATE, 8, 0, id, 0, 0]);
    // SAFETY: nobody else uses it, by the contract of this function.
    unsafe { message.write_volatile(words) };
    sysregs::clean_to_poc(va, size);
    // SAFETY: the caller answers for the address.
    let registers = unsafe { Registers::at(mailbox) };
    let limit = sysregs::counter_frequency().ticks_in_us(LIMIT_US);
    let deadline = sysregs::now().after(limit);
    let request = pa as u32 | UNCACHED | PROPERTIES;
    let wait = |status, flag| {
        while registers.read(status) & flag != 0 {
            if sysregs::now() > deadline {
                return None;
            }
        }
        Some(())
    };
    wait(WRITE_STATUS, FULL)?;
    registers.write(WRITE, request);
    loop {
        wait(READ_STATUS, EMPTY)?;
        if registers.read(READ) == request {
            break;
        }
    }
    sysregs::clean_to_poc(va, size);
    // SAFETY: as above; the firmware has answered, and is done with it.
    let answer = unsafe { message.read_volatile() };
    (answer[1] == SUCCESS && answer[6] != 0).then_some(answer[6])
}
