//! The vectors: who handles which exception, and a report for those that nobody expects.

use core::arch::global_asm;

use super::exception::{self, Fault, Frame, Source};
use super::{cpu, gic, sdei, sysreg, timer, user};

global_asm!(
    include_str!("vectors.S"),
    frame_bytes = const size_of::<Frame>(),
    exception = sym enter,
);

/// Slots of the vector table, in its order.
const SYNC_SPX: u64 = 4;
const IRQ_SPX: u64 = 5;
const SYNC_EL0: u64 = 8;
const IRQ_EL0: u64 = 9;
const SYNC_AARCH32: u64 = 12;
const IRQ_AARCH32: u64 = 13;
const SLOTS: [&str; 16] = [
    "synchronous, SP0",
    "IRQ, SP0",
    "FIQ, SP0",
    "SError, SP0",
    "synchronous",
    "IRQ",
    "FIQ",
    "SError",
    "synchronous from EL0",
    "IRQ from EL0",
    "FIQ from EL0",
    "SError from EL0",
    "synchronous from AArch32",
    "IRQ from AArch32",
    "FIQ from AArch32",
    "SError from AArch32",
];

/// Every vector ends here.
extern "C" fn enter(frame: &mut Frame, slot: u64) {
    match slot {
        IRQ_SPX | IRQ_EL0 | IRQ_AARCH32 => take_interrupt(frame),
        SYNC_EL0 | SYNC_AARCH32 => user::come_back(frame),
        SYNC_SPX if exception::is_catching() => take_fault(frame),
        _ => report(frame, slot),
    }
}

fn take_fault(frame: &mut Frame) {
    let fault = Fault {
        esr: frame.esr,
        far: frame.far,
        elr: frame.elr,
    };
    exception::keep(fault);
    if exception::is_catching_in_event() {
        sdei::complete_from_exception(frame);
    }
    const FETCH_ABORT: u64 = 0x21;
    frame.elr = if fault.class() == FETCH_ABORT {
        frame.x[30]
    } else {
        frame.elr + 4
    };
}

fn take_interrupt(frame: &mut Frame) {
    let intid = gic::acknowledge();
    if intid == gic::NONE {
        return;
    }
    let source = exception::hook().map_or(Source::Silence, |hook| hook(frame, intid));
    for timer in timer::Timer::BOTH {
        if source == Source::Silence && intid == timer.intid() {
            timer.mask();
        }
    }
    exception::count_one(intid);
    gic::end(intid);
    if intid == cpu::STOP_SGI {
        cpu::stop_here();
    }
}

fn report(frame: &Frame, slot: u64) -> ! {
    panic!(
        "unexpected exception on CPU {} ({}): esr {:#x} elr {:#x} (image + {:#x}) \
         far {:#x} spsr {:#x} sp {:#x} x30 {:#x} (image + {:#x})",
        sysreg::cpu_index(),
        SLOTS.get(slot as usize).unwrap_or(&"?"),
        frame.esr,
        frame.elr,
        cpu::image_offset(frame.elr),
        frame.far,
        frame.spsr,
        frame.sp,
        frame.x[30],
        cpu::image_offset(frame.x[30]),
    )
}
