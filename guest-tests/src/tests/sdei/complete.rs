//! How handlers end: COMPLETE, COMPLETE_AND_RESUME, and UNREGISTER in between.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::call::{Conduit, Registers, call_all};
use crate::rt::sdei::End;
use crate::rt::{exception, gic, patterns, wedge};

guest_test!(c110_without_a_handler_complete_is_denied);
fn c110_without_a_handler_complete_is_denied() -> TestResult {
    needs_sdei()?;
    for status in [0, 1, 77] {
        expect_eq!(
            sdei::call(Call::EventComplete, &[status]),
            DENIED,
            "status {status}"
        );
    }
    Ok(())
}

guest_test!(c111_without_a_handler_complete_and_resume_is_denied_whatever_the_address);
fn c111_without_a_handler_complete_and_resume_is_denied_whatever_the_address() -> TestResult {
    needs_sdei()?;
    for address in [0, wedge::escape(), 3, 1 << 60, u64::MAX] {
        let status = sdei::call(Call::EventCompleteAndResume, &[address]);
        expect_eq!(status, DENIED, "address {address:#x}");
    }
    Ok(())
}

guest_test!(c112_any_status_completes);
fn c112_any_status_completes() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|slot| match slot.runs() {
            1 => End::Complete(77),
            2 => End::Complete(1),
            _ => End::Complete(u64::MAX),
        }),
    );
    for _ in 0..3 {
        run_handler_here()?;
        expect_eq!(sdei::status(), ENABLED);
    }
    Ok(())
}

guest_test!(c113_a_wrong_resume_address_is_invalid_and_the_handler_runs_on);
fn c113_a_wrong_resume_address_is_invalid_and_the_handler_runs_on() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            for (n, address) in [0, 1, 2, 1 << 60, 0x7fff_0000_0000_0000]
                .into_iter()
                .enumerate()
            {
                note(n, sdei::call(Call::EventCompleteAndResume, &[address]));
            }
            note(10, sdei::status());
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    for n in 0..5 {
        expect_eq!(noted(n), INVALID, "address {n}");
    }
    expect_eq!(noted(10), RUNNING);
    expect_eq!(sdei::status(), ENABLED);
    Ok(())
}

guest_test!(
    c114_resuming_at_the_interrupt_vector_is_as_if_an_interrupt_had_come,
    cpus = 2
);
fn c114_resuming_at_the_interrupt_vector_is_as_if_an_interrupt_had_come() -> TestResult {
    needs_sdei()?;
    // Offset of "IRQ, current level, SPx" (DDI0487 D1.3.1): what Linux does.
    const IRQ_VECTOR: u64 = 0x280;
    const TIMES: u64 = 40;
    start_target(|| {
        // As Linux does it: only where interrupts were open, so never inside the vector itself.
        sdei::set_hook(
            1,
            Some(|slot| {
                if slot.pc() != patterns::spin_here() {
                    return End::Complete(0);
                }
                match NOTES[1].add(1) {
                    TIMES.. => End::Resume(patterns::spin_end()),
                    _ => End::Resume(sysreg::vector_base() + IRQ_VECTOR),
                }
            }),
        );
        note(1, 0);
        if sdei::get_ready() {
            READY.raise();
        }
        let before = patterns::Context::pattern(5);
        let after = sysreg::with_interrupts(|| patterns::run(patterns::Across::Spin, &before));
        note(0, i64::from(after.first_difference(&before, &[]).is_some()));
        ENOUGH.raise();
    })?;
    let mut sgis = 0;
    while !ENOUGH.is_up() {
        let before = sdei::slot(1).runs();
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        let more = eventually(|| ENOUGH.is_up() || sdei::slot(1).runs() > before);
        expect_that!(more, "after {} runs", sdei::slot(1).runs());
        // An interrupt in between shows that nothing is stuck.
        gic::send_sgi_to(cpu::affinity(1), 2);
        sgis += 1;
        let taken = eventually(|| ENOUGH.is_up() || exception::count(1, 2) >= sgis);
        expect_that!(taken, "interrupt {sgis}");
    }
    expect_that!(cpu::wait_off(1));
    expect_eq!(noted(0), 0, "a register differs");
    Ok(())
}

guest_test!(c116_complete_and_resume_restores_x0_to_x17_and_keeps_the_rest);
fn c116_complete_and_resume_restores_x0_to_x17_and_keeps_the_rest() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    // Resumed where it was interrupted, the code cannot tell but for PSTATE, ELR and SPSR.
    sdei::set_hook(0, Some(|slot| End::Resume(slot.pc())));
    for round in 1..=3 {
        let x: Registers = core::array::from_fn(|n| match n {
            0 => Call::EventSignal as u64,
            1 => 0,
            2 => cpu::affinity(0),
            n => 0xf0f0_0000_0000_0000 + (round << 8) + n as u64,
        });
        let mut expected = x;
        expected[0] = 0;
        expect_eq!(call_all(sdei::conduit(), x), expected, "round {round}");
        let [elr, spsr] = sysreg::exception_return();
        expect_eq!(elr, sdei::slot(0).pc());
        expect_eq!(spsr, sdei::slot(0).pstate());
        // C117: the event is not stuck in running.
        expect_eq!(sdei::status(), ENABLED);
        expect_eq!(sdei::slot(0).runs(), round);
    }
    Ok(())
}

guest_test!(complete_and_resume_masks_everything);
fn complete_and_resume_masks_everything() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(0, Some(|slot| End::Resume(slot.pc())));
    let daif = sysreg::with_interrupts(|| {
        sdei::signal(cpu::affinity(0));
        sysreg::daif()
    });
    expect_eq!(daif, 0b1111 << 6);
    expect_eq!(
        sysreg::exception_return()[1] >> 7 & 1,
        0,
        "interrupts were open"
    );
    Ok(())
}

guest_test!(c118_what_the_handler_leaves_in_x18_to_x30_stays, cpus = 2);
fn c118_what_the_handler_leaves_in_x18_to_x30_stays() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|slot| {
                if slot.pc() != patterns::spin_here() {
                    return End::Complete(0);
                }
                for n in 18..31 {
                    slot.set_x(n, 0xabcd_0000 + n as u64);
                }
                match NOTES[2].add(1) {
                    0 => End::Complete(0),
                    _ => End::Resume(patterns::spin_end()),
                }
            }),
        );
        note(2, 0);
        if sdei::get_ready() {
            READY.raise();
        }
        let before = patterns::Context::pattern(9);
        let after = patterns::run(patterns::Across::Spin, &before);
        let kept = (0..18).all(|n| after.x[n] == before.x[n]);
        let set = (18..31).all(|n| after.x[n] == 0xabcd_0000 + n as u64);
        note(0, i64::from(kept));
        note(1, i64::from(set));
        ENOUGH.raise();
    })?;
    signal_until_enough()?;
    expect_eq!(noted(0), 1, "x0 to x17 as interrupted");
    expect_eq!(noted(1), 1, "x18 to x30 as the handler left them");
    Ok(())
}

guest_test!(c119_an_event_disabled_in_its_handler_is_disabled_afterwards);
fn c119_an_event_disabled_in_its_handler_is_disabled_afterwards() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, sdei::status());
            note(1, sdei::disable());
            note(2, sdei::status());
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    expect_eq!(noted(0), RUNNING);
    expect_eq!(noted(1), SUCCESS);
    expect_eq!(noted(2), DISABLED_RUNNING);
    expect_eq!(sdei::status(), REGISTERED);
    Ok(())
}

guest_test!(c120_c170_unregistering_in_the_handler_takes_effect_at_complete);
fn c120_c170_unregistering_in_the_handler_takes_effect_at_complete() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, sdei::unregister());
            note(1, sdei::status());
            note(2, sdei::call(Call::EventContext, &[2]));
            note(3, sdei::enable());
            note(4, sdei::disable());
            note(5, sdei::register());
            note(6, sdei::unregister());
            note(7, sdei::status());
            // A signal in this state is accepted, and dropped.
            note(8, sdei::signal(cpu::affinity(0)));
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    expect_eq!(noted(0), PENDING);
    expect_eq!(noted(1), UNREGISTER_PENDING);
    expect_eq!(noted(2), cpu::affinity(0) as i64, "CONTEXT");
    expect_eq!(noted(3), DENIED, "ENABLE");
    expect_eq!(noted(4), DENIED, "DISABLE");
    expect_eq!(noted(5), DENIED, "REGISTER");
    expect_eq!(noted(6), PENDING, "UNREGISTER again");
    expect_eq!(noted(7), UNREGISTER_PENDING);
    expect_eq!(noted(8), SUCCESS, "SIGNAL");
    expect_eq!(sdei::status(), 0);
    expect_eq!(sdei::unregister(), DENIED);
    sdei::set_hook(0, None);
    get_ready()?;
    expect_eq!(sdei::slot(0).runs(), 1, "nothing is left over");
    run_handler_here()
}

guest_test!(running_handlers_deny_a_second_registration);
fn running_handlers_deny_a_second_registration() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, sdei::register());
            note(1, sdei::call(Call::InterruptRelease, &[0]));
            note(2, sdei::enable());
            note(3, sdei::status());
            note(4, sdei::call(Call::Version, &[]));
            note(5, sdei::call(Call::EventGetInfo, &[0, 1]));
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    expect_eq!(noted(0), DENIED);
    expect_eq!(noted(1), INVALID);
    expect_eq!(noted(2), SUCCESS);
    expect_eq!(noted(3), RUNNING);
    expect_eq!(noted(4) >> 48, 1);
    expect_eq!(noted(5), 0);
    Ok(())
}

guest_test!(c121_completing_twice_is_denied_the_second_time);
fn c121_completing_twice_is_denied_the_second_time() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    run_handler_here()?;
    expect_eq!(sdei::call(Call::EventComplete, &[0]), DENIED);
    expect_eq!(
        sdei::call(Call::EventCompleteAndResume, &[wedge::escape()]),
        DENIED
    );
    Ok(())
}

guest_test!(c122_a_signal_to_a_running_event_runs_it_once_more);
fn c122_a_signal_to_a_running_event_runs_it_once_more() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|slot| {
            if slot.runs() == 1 {
                for n in 0..3 {
                    note(n, sdei::signal(cpu::affinity(0)));
                }
                note(3, slot.runs() as i64);
            }
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!([noted(0), noted(1), noted(2)], [SUCCESS; 3]);
    expect_eq!(noted(3), 1, "it does not nest");
    expect_eq!(sdei::slot(0).runs(), 2);
    Ok(())
}

guest_test!(a_pending_event_follows_a_complete_and_resume_at_its_address);
fn a_pending_event_follows_a_complete_and_resume_at_its_address() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|slot| {
            if slot.runs() == 1 {
                note(0, sdei::signal(cpu::affinity(0)));
                note(1, slot.pc() as i64);
                return End::Resume(slot.pc());
            }
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 2);
    expect_eq!(
        sdei::slot(0).pc() as i64,
        noted(1),
        "the resume address was interrupted"
    );
    expect_eq!(sysreg::exception_return()[0] as i64, noted(1));
    Ok(())
}

guest_test!(c123_complete_ignores_all_registers_but_its_own);
fn c123_complete_ignores_all_registers_but_its_own() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    // COMPLETE straight from the hook, with garbage in x1 to x17: it does not return here.
    sdei::set_hook(
        0,
        Some(|slot| {
            let mut x: Registers = [0x5555_5555_5555_5555; 18];
            x[0] = 0xffff_ffff_0000_0000 | Call::EventComplete as u64;
            sdei::complete_raw(slot, x)
        }),
    );
    for _ in 0..3 {
        run_handler_here()?;
    }
    Ok(())
}

guest_test!(c274_no_other_cpu_can_complete_an_event, cpus = 2);
fn c274_no_other_cpu_can_complete_an_event() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|_| {
                note(0, 1);
                let _in_time = ENOUGH.wait();
                End::Complete(0)
            }),
        );
        spin_ready();
        note(1, sdei::status());
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(entered(1, 1));
    for conduit in Conduit::BOTH {
        let status = crate::rt::call::call(conduit, Call::EventComplete as u32, &[0]);
        expect_eq!(status, DENIED, "{conduit:?}");
    }
    release_target()?;
    expect_eq!(noted(1), ENABLED);
    Ok(())
}
