//! A flat binary, a kernel without a header, which says what it finds: where it is, every register at entry, which memory
//! there is, and the devicetree byte for byte. `cargo xtask test run/flat` has it say so on the bare machine and under the
//! hypervisor, and compares.
//!
//! It is linked at 0x80000, where a Raspberry Pi 4 has such a program, and runs wherever it is loaded.
#![no_std]
#![no_main]

use core::panic::PanicInfo;

#[expect(unsafe_code, reason = "the program, which is assembly")]
mod flat {
    core::arch::global_asm!(include_str!("flat.S"));
}

/// There is nothing here that panics.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
