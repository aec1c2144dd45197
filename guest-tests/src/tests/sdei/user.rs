//! EL0: what its programs cannot call, and events that come while they run.

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;
use crate::rt::user::{self, Errand};
use crate::rt::{exception, gic};

/// Exception classes (DDI0487 D24.2 ESR_ELx).
const UNKNOWN_REASON: u64 = 0x00;
const SVC: u64 = 0x15;
const SVC_AARCH32: u64 = 0x11;

guest_test!(c008_calls_from_el0_are_undefined_and_do_nothing);
fn c008_calls_from_el0_are_undefined_and_do_nothing() -> TestResult {
    for _ in 0..3 {
        expect_eq!(user::run(Errand::Svc) >> 26, SVC);
        expect_eq!(user::run(Errand::Smc) >> 26, UNKNOWN_REASON, "SMC");
        expect_eq!(user::run(Errand::Hvc) >> 26, UNKNOWN_REASON, "HVC");
    }
    Ok(())
}

guest_test!(
    c079_c115_c194_an_event_at_el0_goes_back_to_el0_also_through_the_vector,
    cpus = 2
);
fn c079_c115_c194_an_event_at_el0_goes_back_to_el0_also_through_the_vector() -> TestResult {
    // "IRQ, lower level, AArch64" (DDI0487 D1.3.1), and EL0t.
    goes_back(Errand::Spin, user::spin_here(), [0x480, 0b0_0000])
}

guest_test!(
    c115_c197_an_event_at_aarch32_el0_goes_back_to_it_also_through_the_vector,
    cpus = 2
);
fn c115_c197_an_event_at_aarch32_el0_goes_back_to_it_also_through_the_vector() -> TestResult {
    if !user::has_aarch32() {
        skip!("EL0 is AArch64 only");
    }
    // "IRQ, lower level, AArch32", and User mode.
    goes_back(Errand::SpinA32, user::spin_here_a32(), [0x680, 0b1_0000])
}

/// CPU 1 spins at EL0 at `here`; its handler finds it in `mode`, completes, resumes at the interrupt `vector`
/// as Linux does, and at last gets it out.
fn goes_back(errand: Errand, here: u64, [vector, mode]: [u64; 2]) -> TestResult {
    needs_sdei()?;
    static ERRAND: spin::Mutex<Errand> = spin::Mutex::new(Errand::Spin);
    static WHERE: [Cell64; 3] = [const { Cell64::new(0) }; 3];
    *ERRAND.lock() = errand;
    for (cell, value) in WHERE.iter().zip([here, vector, mode]) {
        cell.set(value);
    }
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|slot| {
                let [here, vector, mode] = WHERE.each_ref().map(Cell64::get);
                if slot.pc() != here {
                    return End::Complete(0);
                }
                NOTES[0].add(1);
                NOTES[1].add(u64::from(slot.pstate() & 0x1f != mode));
                match NOTES[0].get() {
                    // Back to EL0 at once; through the interrupt vector; and out of EL0.
                    1..4 => End::Complete(0),
                    4..7 => End::Resume(sysreg::vector_base() + vector),
                    _ => End::Resume(user::way_back()),
                }
            }),
        );
        note(0, 0);
        note(1, 0);
        if sdei::get_ready() {
            READY.raise();
        }
        let errand = *ERRAND.lock();
        note(2, user::run(errand) as i64);
        ENOUGH.raise();
    })?;
    let mut sgis = exception::count(1, 2);
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
    expect_eq!(
        [noted(0), noted(1), noted(2)],
        [7, 0, 0],
        "in the same mode each time"
    );
    Ok(())
}

guest_test!(
    c080_events_in_a_t32_program_with_it_blocks_leave_its_result_right,
    cpus = 2
);
fn c080_events_in_a_t32_program_with_it_blocks_leave_its_result_right() -> TestResult {
    needs_sdei()?;
    if !user::has_aarch32() {
        skip!("EL0 is AArch64 only");
    }
    // Long beside the way there and back, so that most events meet the program.
    const COUNT: u32 = 1_000_000;
    start_target(|| {
        // Events that met the program: AArch32, T set.
        note(0, 0);
        note(1, 0);
        sdei::set_hook(
            1,
            Some(|slot| {
                const USER_T32: u64 = 0b1_0000 | 1 << 5;
                NOTES[0].add(u64::from(slot.pstate() & 0x3f == USER_T32));
                End::Complete(0)
            }),
        );
        if sdei::get_ready() {
            READY.raise();
        }
        while noted(0) < 20 && noted(1) == 0 {
            let syndrome = user::run(Errand::CountT32(COUNT));
            note(2, syndrome as i64);
            let expected = [u64::from(COUNT), u64::from(COUNT) - 1];
            let is_right = syndrome >> 26 == SVC_AARCH32 && user::results() == expected;
            NOTES[1].add(u64::from(!is_right));
        }
        ENOUGH.raise();
    })?;
    signal_until_enough()?;
    expect_eq!(
        noted(1),
        0,
        "wrong results; the last syndrome is {:#x}, x1 and x2 are {:?}",
        noted(2),
        user::results()
    );
    Ok(())
}

guest_test!(
    c086_c195_a_program_that_is_stepped_takes_events_between_its_steps,
    cpus = 2
);
fn c086_c195_a_program_that_is_stepped_takes_events_between_its_steps() -> TestResult {
    needs_sdei()?;
    const STEPS: u64 = 4000;
    const STEP: u64 = 0x32;
    start_target(|| {
        note(0, 0);
        note(1, 0);
        sdei::set_hook(
            1,
            Some(|slot| {
                // Met at EL0, with the step still to be taken.
                const SS: u64 = 1 << 21;
                NOTES[0].add(u64::from(slot.pstate() & (SS | 0x1f) == SS));
                End::Complete(0)
            }),
        );
        if sdei::get_ready() {
            READY.raise();
        }
        // Until an event has come: on a busy host the signaller's turn may be long in coming.
        let is_right = loop {
            let class = user::run(Errand::Step(STEPS)) >> 26;
            // Two instructions a turn: a step that was lost or came twice would show.
            let is_right = class == STEP && user::results()[0] == STEPS / 2;
            if !is_right || sdei::slot(1).runs() > 0 {
                break is_right;
            }
        };
        note(1, i64::from(is_right));
        note(2, sdei::slot(1).runs() as i64);
        ENOUGH.raise();
    })?;
    signal_until_enough()?;
    expect_eq!(noted(1), 1, "every step is one instruction");
    expect_that!(noted(2) > 0, "{} events came", noted(2));
    Ok(())
}
