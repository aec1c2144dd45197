//! What the firmware of a Raspberry Pi 4 leaves at EL3 when it is told `enable_gic=1`: a stub that takes every CPU to
//! EL2 and hands over as the board's own does, so that emulation begins where a board begins.
//!
//! It puts all interrupts into Group 1, opens the CPU interfaces, disables SMC, and keeps the other CPUs in the
//! spin table that the devicetree names. Bit for bit the same state; `stub.S` says what each value is.
#![no_std]
#![no_main]

use core::panic::PanicInfo;

#[expect(unsafe_code, reason = "the stub, which is assembly")]
mod stub {
    core::arch::global_asm!(include_str!("stub.S"));
}

/// There is nothing here that panics.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
