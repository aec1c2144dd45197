//! A load or store at a device, put together at run time: with write-back or of a pair, which no syndrome describes.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use super::exception::{Fault, catch};
use super::mmio::Device;

/// RET.
const RET: u32 = 0xd65f_03c0;

/// A word that is executed, and the way back.
#[repr(C, align(64))]
pub struct Slot([AtomicU32; 2]);

/// The registers that an instruction in a [`Slot`] may use: x1 as base, x2 and x3 as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// x1.
    pub base: u64,
    /// x2 and x3.
    pub data: [u64; 2],
}

impl Slot {
    /// One without an instruction.
    pub const fn new() -> Self {
        Self([AtomicU32::new(RET), AtomicU32::new(RET)])
    }

    /// Puts `word` there, for every CPU that fetches it from now on.
    pub fn put(&self, word: u32) {
        self.0[0].store(word, Ordering::SeqCst);
        let address = self.0.as_ptr();
        // SAFETY: maintenance of the slot's own line (DDI0487 B2.4.4, K13.5.4).
        unsafe {
            asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) address, options(nostack));
        }
    }

    /// Executes what stands there, for a word that accesses `device` alone and only by x1, x2 and x3. An exception is
    /// the result, and what the registers are then.
    pub fn execute(&self, device: Device, before: Registers) -> (Registers, Option<Fault>) {
        let region = device.region();
        assert!(
            region.contains(before.base) || region.end() == before.base,
            "{before:x?} is outside of the device"
        );
        let mut after = before;
        let result = catch(|| {
            // SAFETY: the word is a load or store at a device, or the test is lost; an exception goes on behind it,
            // at the RET. Other CPUs change only the word.
            unsafe {
                asm!("isb", "blr {slot}", slot = in(reg) self.0.as_ptr(),
                    inout("x1") after.base, inout("x2") after.data[0], inout("x3") after.data[1],
                    out("x30") _);
            }
        });
        (after, result.err())
    }
}

/// LDR w2, [sp], #16 with the register at `offset` of `device` as SP_EL1: what is loaded, and how far the stack pointer
/// moves. Interrupts are masked.
pub fn read_by_sp_el1(device: Device, offset: u64) -> (u32, u64) {
    let address = device.address(offset);
    let (value, moved): (u32, u64);
    // SAFETY: between the two moves nothing uses the stack: interrupts are masked, and the access is one that does not
    // fault, or the test is lost.
    unsafe {
        asm!("mov x9, sp", "mov sp, {address}", "ldr {value:w}, [sp], #16", "mov {moved}, sp", "mov sp, x9",
            address = in(reg) address, value = out(reg) value, moved = out(reg) moved, out("x9") _);
    }
    (value, moved.wrapping_sub(address))
}

/// The same with SP_EL0 in use at EL1.
pub fn read_by_sp_el0(device: Device, offset: u64) -> (u32, u64) {
    let address = device.address(offset);
    let (value, moved): (u32, u64);
    // SAFETY: as above; SP_EL0 is nobody's at EL1.
    unsafe {
        asm!("msr spsel, #0", "mov sp, {address}", "ldr {value:w}, [sp], #16", "mov {moved}, sp", "msr spsel, #1",
            address = in(reg) address, value = out(reg) value, moved = out(reg) moved);
    }
    (value, moved.wrapping_sub(address))
}
