//! What one operation costs, in instructions: meaningful under `-icount shift=0` only, where the
//! counter advances a nanosecond an instruction, whoever executes it.

pub mod latency;

use core::arch::asm;

use super::call::Conduit;
use super::mmio::Device;
use super::timer;

/// Operations between two readings of the counter.
const BATCH: u64 = 32;
/// Batches of which the cheapest counts.
const ROUNDS: usize = 32;

/// Instructions in so many ticks.
pub fn instructions_of(ticks: u64) -> u64 {
    ticks * 1_000_000_000 / timer::frequency()
}

/// The cheapest of many batches, for one operation.
fn cheapest(batch: impl Fn() -> u64) -> u64 {
    let ticks = (0..ROUNDS).map(|_| batch()).min().unwrap_or(0);
    instructions_of(ticks) / BATCH
}

macro_rules! batch {
    ($operation:literal, $($operand:tt)*) => {{
        let (begin, end): (u64, u64);
        // SAFETY: the operations are calls by SMCCC, reads and writes of device registers or of
        // system registers, with every register they change named.
        unsafe {
            asm!(
                "isb", "mrs {begin}, cntvct_el0",
                ".rept 32", $operation, ".endr",
                "isb", "mrs {end}, cntvct_el0",
                begin = out(reg) begin, end = out(reg) end, $($operand)*, options(nostack),
            );
        }
        end - begin
    }};
}

/// A call of `id` with its arguments in place: the instruction and the move of the identifier.
pub fn call(conduit: Conduit, id: u32) -> u64 {
    cheapest(|| match conduit {
        Conduit::Hvc => batch!("mov w0, {id:w}\nhvc #0", id = in(reg) id,
            out("x0") _, out("x1") _, out("x2") _, out("x3") _),
        Conduit::Smc => batch!("mov w0, {id:w}\nsmc #0", id = in(reg) id,
            out("x0") _, out("x1") _, out("x2") _, out("x3") _),
    })
}

/// A 32-bit load from a device register.
pub fn read32(device: Device, offset: u64) -> u64 {
    let address = device.address(offset);
    cheapest(|| batch!("ldr {value:w}, [{address}]", value = out(reg) _, address = in(reg) address))
}

/// A 32-bit store of `value` to a device register: the mean of one that sets the bits and one that clears them.
pub fn write32(device: Device, [set, clear]: [u64; 2], value: u32) -> u64 {
    let (set, clear) = (device.address(set), device.address(clear));
    let both = cheapest(|| {
        batch!("str {value:w}, [{set}]\nstr {value:w}, [{clear}]",
            value = in(reg) value, set = in(reg) set, clear = in(reg) clear)
    });
    both / 2
}

/// A character sent as drivers of a PL011 do: a load of the flags at `flags`, a test, and a store of it at `data`.
pub fn character(device: Device, flags: u64, data: u64, value: u8) -> u64 {
    let (flags, data) = (device.address(flags), device.address(data));
    cheapest(|| {
        batch!("ldr {scratch:w}, [{flags}]\ntbnz {scratch:w}, #5, .\nstr {value:w}, [{data}]",
            scratch = out(reg) _, value = in(reg) u32::from(value), flags = in(reg) flags, data = in(reg) data)
    })
}

/// A read of an identification register.
pub fn read_identification() -> u64 {
    cheapest(|| batch!("mrs {value}, id_aa64pfr0_el1", value = out(reg) _))
}
