//! The machine: calls to the firmware, the UART, and two system registers.

use core::arch::{asm, global_asm};

global_asm!(include_str!("client.S"));

unsafe extern "C" {
    /// In `client.S`; the firmware enters it.
    safe fn event_handler();
}

/// Called by `client.S`, with a stack.
// SAFETY: nobody else has a symbol of this name.
#[unsafe(no_mangle)]
extern "C" fn run() {
    crate::run();
}

/// Called by `client.S` for each event.
// SAFETY: nobody else has a symbol of this name.
#[unsafe(no_mangle)]
extern "C" fn handle(event: u64, argument: u64, pc: u64, pstate: u64) {
    crate::handle(event, argument, pc, pstate);
}

/// D, A, I and F of PSTATE (DDI0487 C5.2.2).
const MASKS: u64 = 0xf << 6;

/// Calls the firmware with an SMC; x0 of its answer.
pub fn call(function: u32, arguments: [u64; 5]) -> i64 {
    let [x1, x2, x3, x4, x5] = arguments;
    let answer: i64;
    // SAFETY: a call by SMCCC changes x0 to x17 and nothing else of ours. An event that is dispatched meanwhile ends in
    // `client.S`, which leaves all registers, and the stack of who is interrupted, as they were.
    unsafe {
        asm!(
            "smc #0",
            inlateout("x0") u64::from(function) => answer,
            inlateout("x1") x1 => _, inlateout("x2") x2 => _, inlateout("x3") x3 => _,
            inlateout("x4") x4 => _, inlateout("x5") x5 => _,
            clobber_abi("C"),
        );
    }
    answer
}

/// Where the firmware enters the handler.
pub fn handler() -> u64 {
    event_handler as *const () as u64
}

/// Masks all that PSTATE can mask.
pub fn mask_interrupts() {
    // SAFETY: nothing here waits for an exception.
    unsafe { asm!("msr daifset, #0xf") };
}

/// Whether who was interrupted with this PSTATE had masked all.
pub const fn interrupted_masks(pstate: u64) -> bool {
    pstate & MASKS == MASKS
}

/// This CPU's affinity as EVENT_SIGNAL takes it (DEN0054 5.1.16).
pub fn mpidr() -> u64 {
    let mpidr: u64;
    // SAFETY: reading it has no effects.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr) };
    mpidr & 0xff_00ff_ffff
}

/// Writes to the UART, whose FIFO it waits for.
pub fn write(text: &str) {
    /// Of QEMU's `virt` (hw/arm/virt.c) and of a Raspberry Pi 4 (BCM2711 ARM Peripherals 1.2.4 and 11.5), whose RAM begins at 0.
    const UARTS: [usize; 2] = [0x0900_0000, 0xfe20_1000];
    /// Flag register, and its bit that says that the FIFO is full (DDI0183 3.3.3).
    const FR: usize = 0x18;
    const TXFF: u32 = 1 << 5;
    let is_board = (write as *const () as usize) < 1 << 30;
    let uart = UARTS[usize::from(is_board)];
    for byte in text.bytes() {
        // SAFETY: both machines have a PL011 there, which nobody else drives.
        while unsafe { ((uart + FR) as *const u32).read_volatile() } & TXFF != 0 {}
        // SAFETY: as above.
        unsafe { (uart as *mut u32).write_volatile(byte.into()) };
    }
}
