//! EL0: what its programs cannot call, and events that come while they run.

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;
use crate::rt::user::{self, Errand};
use crate::rt::{exception, gic};

/// Exception classes (DDI0487 D24.2 ESR_ELx).
const UNKNOWN_REASON: u64 = 0x00;
const SVC: u64 = 0x15;

guest_test!(c008_calls_from_el0_are_undefined_and_do_nothing);
fn c008_calls_from_el0_are_undefined_and_do_nothing() -> TestResult {
    for _ in 0..3 {
        expect_eq!(user::run(Errand::Svc) >> 26, SVC);
        expect_eq!(user::run(Errand::Smc) >> 26, UNKNOWN_REASON, "SMC");
        expect_eq!(user::run(Errand::Hvc) >> 26, UNKNOWN_REASON, "HVC");
    }
    Ok(())
}

guest_test!(c079_an_event_at_el0_comes_back_to_el0, cpus = 2);
fn c079_an_event_at_el0_comes_back_to_el0() -> TestResult {
    needs_sdei()?;
    // Offset of "IRQ, lower level, AArch64" (DDI0487 D1.3.1).
    const IRQ_VECTOR: u64 = 0x480;
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|slot| {
                if slot.pc() != user::spin_here() {
                    return End::Complete(0);
                }
                NOTES[0].add(1);
                NOTES[1].add(slot.pstate() & 0x1f);
                match NOTES[0].get() {
                    // Back to EL0 at once; through the interrupt vector, C115; and out of EL0.
                    1..4 => End::Complete(0),
                    4..7 => End::Resume(sysreg::vector_base() + IRQ_VECTOR),
                    _ => End::Resume(user::way_back()),
                }
            }),
        );
        note(0, 0);
        note(1, 0);
        if sdei::get_ready() {
            READY.raise();
        }
        note(2, user::run(Errand::Spin) as i64);
        ENOUGH.raise();
    })?;
    let mut sgis = 0;
    while !ENOUGH.is_up() {
        let before = sdei::slot(1).runs();
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(eventually(
            || ENOUGH.is_up() || sdei::slot(1).runs() > before
        ));
        if ENOUGH.is_up() || noted(0) == 0 {
            continue;
        }
        // The program at EL0 has interrupts open: it runs on, and is interrupted as before.
        gic::send_sgi_to(cpu::affinity(1), 2);
        sgis += 1;
        let taken = eventually(|| ENOUGH.is_up() || exception::count(1, 2) == sgis);
        expect_that!(taken, "SGI {sgis}");
    }
    expect_that!(cpu::wait_off(1));
    expect_eq!([noted(0), noted(1), noted(2)], [7, 0, 0], "EL0t each time");
    Ok(())
}
