//! The end: EL2's own exceptions and panics become one readable report, once everybody has stopped
//! (`stop.rs`).
//!
//! This path takes no lock and allocates nothing; it prints past the console's lock.

use core::arch::global_asm;
use core::mem::offset_of;

use crate::backtrace::callers;
use crate::percpu::{self, Percpu};
use crate::report_line as say;
use crate::stop::{self, Cause};
use crate::{memory, sysregs};

/// EL2's registers when an exception of its own was taken. Written by `vectors.S`.
#[repr(C)]
struct FaultFrame {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
    esr: u64,
    far: u64,
    slot: u64,
    _pad: u64,
}

const EARLY_STACK_SIZE: usize = 8 * 1024;

#[repr(C, align(4096))]
struct EarlyStack(core::cell::UnsafeCell<[u8; EARLY_STACK_SIZE]>);

// SAFETY: only `vectors.S` uses it, as a stack, on the one pCPU that runs before the blocks exist.
unsafe impl Sync for EarlyStack {}

static EARLY_STACK: EarlyStack = EarlyStack(core::cell::UnsafeCell::new([0; EARLY_STACK_SIZE]));

global_asm!(
    include_str!("vectors.S"),
    EMERGENCY_TOP = const offset_of!(Percpu, emergency_top),
    EARLY_STACK = sym EARLY_STACK,
    EARLY_STACK_SIZE = const EARLY_STACK_SIZE,
    FRAME_SIZE = const size_of::<FaultFrame>(),
    FRAME_X = const offset_of!(FaultFrame, x),
    FRAME_SP = const offset_of!(FaultFrame, sp),
    FRAME_PC = const offset_of!(FaultFrame, pc),
    FRAME_PSTATE = const offset_of!(FaultFrame, pstate),
    FRAME_ESR = const offset_of!(FaultFrame, esr),
    FRAME_FAR = const offset_of!(FaultFrame, far),
    FRAME_SLOT = const offset_of!(FaultFrame, slot),
    report = sym report_fault,
    IS_FAULT_INJECTION = const crate::fault_injection::IS_HERE as u32,
);

const _: () = assert!(
    size_of::<FaultFrame>().is_multiple_of(16),
    "SP stays aligned"
);

extern "C" fn report_fault(frame: &FaultFrame) -> ! {
    let is_overflow = memory::is_stack_guard(frame.far) && frame.slot & 3 == 0;
    let cause = if is_overflow {
        Cause::StackOverflow
    } else {
        Cause::Fault
    };
    stop::stop_machine(cause, &|| tell_of_fault(cause, frame))
}

fn tell_of_fault(cause: Cause, frame: &FaultFrame) {
    let vectors = ["synchronous exception", "IRQ", "FIQ", "SError"];
    let vector = vectors[frame.slot as usize & 3];
    say!("@hv-crash pcpu={} cause={}", percpu::index(), cause.name());
    if cause == Cause::StackOverflow {
        say!(
            "EL2 stack overflow: an access to the guard page at {:#x}",
            frame.far
        );
    } else {
        say!(
            "EL2 took a {vector} of its own (vector {}): {}",
            frame.slot,
            hv_core::exit::describe(frame.esr)
        );
    }
    say!(
        "ESR_EL2 {:#x}  FAR_EL2 {:#x}  pc {:#x}  pstate {:#x}",
        frame.esr,
        frame.far,
        frame.pc,
        frame.pstate
    );
    for (row, registers) in frame.x.chunks(4).enumerate() {
        let [a, b, c] = [0, 1, 2].map(|i| registers.get(i).copied().unwrap_or(0));
        match registers.get(3) {
            Some(d) => say!("x{:<2} {a:016x} {b:016x} {c:016x} {d:016x}", row * 4),
            None => say!(
                "x{:<2} {a:016x} {b:016x} {c:016x}  sp {:016x}",
                row * 4,
                frame.sp
            ),
        }
    }
    say!("backtrace (cargo xtask symbolize):");
    say!("  {:#x}", frame.pc);
    tell_of_callers(frame.x[29]);
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let frame = sysregs::frame_pointer();
    stop::stop_machine(Cause::Panic, &|| tell_of_panic(info, frame))
}

fn tell_of_panic(info: &core::panic::PanicInfo<'_>, frame: u64) {
    say!("@hv-crash pcpu={} cause=panic", percpu::index());
    match info.location() {
        Some(at) => say!(
            "EL2 panicked at {}:{}: {}",
            at.file(),
            at.line(),
            info.message()
        ),
        None => say!("EL2 panicked: {}", info.message()),
    }
    say!("backtrace (cargo xtask symbolize):");
    tell_of_callers(frame);
}

fn tell_of_callers(frame: u64) {
    for caller in callers(frame) {
        say!("  {caller:#x}");
    }
}
