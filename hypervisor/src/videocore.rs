//! What the firmware of a Raspberry Pi knows, asked by its mailbox (`hv_drivers::videocore`). Only before a guest runs,
//! which may use it then.

use core::cell::UnsafeCell;
use core::ptr::NonNull;

pub use hv_drivers::videocore::Clock;
use hv_drivers::videocore::{self, LIMIT_MS, Message, Registers};
use safe_mmio::UniqueMmioPointer;

use crate::{memory, sysregs};

/// Bytes of the mailbox's registers.
pub const SIZE: u64 = size_of::<Registers>() as u64;

/// A request and its answer: lines of a cache that nothing else is in.
#[repr(C, align(128))]
struct Place(UnsafeCell<Message>);

// SAFETY: only `clock_rate` uses it, before there is a second pCPU.
unsafe impl Sync for Place {}

static PLACE: Place = Place(UnsafeCell::new([0; 8]));

/// How many Hz a clock has, if the firmware says.
///
/// # Safety
///
/// A mailbox is at `mailbox`, mapped as device memory, and there is only one pCPU so far.
pub unsafe fn clock_rate(mailbox: u64, clock: Clock) -> Option<u32> {
    let registers = core::ptr::with_exposed_provenance_mut::<Registers>(mailbox as usize);
    // SAFETY: the caller answers for the address, and nobody else drives the mailbox.
    let mut registers = unsafe { UniqueMmioPointer::new(NonNull::new(registers)?) };
    let place = PLACE.0.get();
    let va = place.addr() as u64;
    let size = size_of::<Place>() as u64;
    // SAFETY: nobody else uses it: there is one pCPU.
    unsafe { place.write_volatile(videocore::ask_rate(clock)) };
    sysregs::clean_to_poc(va, size);
    let limit = sysregs::counter_frequency().ticks_in_us(1000 * LIMIT_MS);
    let deadline = sysregs::now().after(limit);
    let is_late = || sysregs::now() > deadline;
    videocore::exchange(&mut registers, memory::window_pa(va), size, is_late)?;
    sysregs::clean_to_poc(va, size);
    // SAFETY: as above; the firmware has answered, and is done with it.
    let answer = unsafe { place.read_volatile() };
    videocore::rate(&answer)
}
