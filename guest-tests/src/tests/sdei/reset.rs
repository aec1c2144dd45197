//! PRIVATE_RESET, SHARED_RESET, and a reset of the machine.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::{End, critical};
use crate::rt::timer::Timer;
use crate::rt::{psci, survivor};
use crate::tests::timer::takes_interrupts;

/// Critical and private.
const C1: u64 = 0x101;

fn private_reset() -> i64 {
    sdei::call(Call::PrivateReset, &[])
}

guest_test!(c225_private_reset_unregisters_whatever_does_not_run);
fn c225_private_reset_unregisters_whatever_does_not_run() -> TestResult {
    needs_sdei()?;
    expect_eq!(private_reset(), SUCCESS, "unregistered");
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(private_reset(), SUCCESS, "registered");
    expect_eq!(sdei::status(), 0);
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(private_reset(), SUCCESS, "enabled");
    expect_eq!(sdei::status(), 0);
    Ok(())
}

guest_test!(c226_c227_c239_private_reset_in_a_handler_is_denied_and_takes_effect_at_complete);
fn c226_c227_c239_private_reset_in_a_handler_is_denied_and_takes_effect_at_complete() -> TestResult
{
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, private_reset());
            note(1, sdei::status());
            // And again, in a handler that is unregistered. Nor can it start over but by completing.
            note(2, private_reset());
            note(3, sdei::register());
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    expect_eq!(
        [noted(0), noted(1), noted(2), noted(3)],
        [DENIED, UNREGISTER_PENDING, DENIED, DENIED]
    );
    expect_eq!(sdei::status(), 0);
    sdei::set_hook(0, None);
    get_ready()?;
    run_handler_here()
}

guest_test!(c229_shared_reset_succeeds_without_shared_events_and_keeps_private_ones);
fn c229_shared_reset_succeeds_without_shared_events_and_keeps_private_ones() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::call(Call::SharedReset, &[]), SUCCESS);
    get_ready()?;
    expect_eq!(sdei::call(Call::SharedReset, &[]), SUCCESS);
    expect_eq!(sdei::status(), ENABLED);
    run_handler_here()
}

guest_test!(c233_a_reset_forgets_what_was_pending);
fn c233_a_reset_forgets_what_was_pending() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    expect_eq!(sdei::mask(), 1);
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!(private_reset(), SUCCESS);
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 0);
    Ok(())
}

guest_test!(c234_a_reset_leaves_the_mask_alone);
fn c234_a_reset_leaves_the_mask_alone() -> TestResult {
    needs_sdei()?;
    for call in [Call::PrivateReset, Call::SharedReset] {
        expect_eq!(sdei::mask(), 0);
        expect_eq!(sdei::call(call, &[]), SUCCESS);
        expect_eq!(sdei::mask(), 0, "still masked after {call:?}");
        expect_eq!(sdei::unmask(), SUCCESS);
        expect_eq!(sdei::call(call, &[]), SUCCESS);
        expect_eq!(sdei::mask(), 1, "still unmasked after {call:?}");
    }
    Ok(())
}

guest_test!(c238_a_kernel_that_panics_in_its_handlers_leaves_them_and_the_next_takes_interrupts);
fn c238_a_kernel_that_panics_in_its_handlers_leaves_them_and_the_next_takes_interrupts()
-> TestResult {
    needs_sdei()?;
    for round in 1..=3 {
        get_ready()?;
        expect_eq!(sdei::register_critical(C1, 0, 0), SUCCESS);
        expect_eq!(sdei::call(Call::EventEnable, &[C1]), SUCCESS);
        sdei::set_hook(
            0,
            Some(|_| {
                sdei::raise(C1, sysreg::affinity());
                note(0, 1);
                End::Complete(0)
            }),
        );
        // What Linux does on the way to its capture kernel: masked for good, then out of the critical handler, then
        // out of the normal one, with interrupts masked and a timer that has run out.
        sdei::set_hook(
            critical(0),
            Some(|slot| {
                Timer::Virtual.fire_in(0);
                note(1, sdei::mask());
                sdei::end_both(slot, sdei::slot(0))
            }),
        );
        expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
        expect_eq!(noted(1), 1, "round {round}");
        expect_eq!(NOTES[0].get(), NOTHING, "the rest of the normal handler");
        // The next kernel.
        expect_that!(takes_interrupts(Timer::Virtual, 3), "round {round}");
        sdei::set_hook(0, None);
        expect_eq!(sdei::mask(), 0, "round {round}");
        expect_eq!(private_reset(), SUCCESS, "round {round}");
        expect_eq!(sdei::call(Call::SharedReset, &[]), SUCCESS);
        expect_eq!(sdei::status(), 0);
        get_ready()?;
        run_handler_here()?;
        expect_that!(takes_interrupts(Timer::Virtual, 3), "round {round}");
        expect_eq!(private_reset(), SUCCESS);
    }
    Ok(())
}

guest_test!(
    c213_a_machine_reset_from_a_handler_forgets_all_events,
    cpus = 2,
    boot = own,
    icount = false,
    timeout = 40
);
fn c213_a_machine_reset_from_a_handler_forgets_all_events() -> TestResult {
    needs_sdei()?;
    let boots = survivor::count_boot("sdei_reset");
    expect_eq!(sdei::status(), 0, "boot {boots}");
    expect_eq!(sdei::mask(), 0, "boot {boots}");
    expect_that!(cpu::is_off(1), "boot {boots}");
    start_target(|| {
        note(0, sdei::status());
        note(1, sdei::mask());
        sdei::set_hook(
            1,
            Some(|_| {
                note(2, 1);
                loop {
                    core::hint::spin_loop();
                }
            }),
        );
        spin_ready();
    })?;
    expect_eq!([noted(0), noted(1)], [0, 0], "boot {boots}");
    if boots == 3 {
        survivor::forget();
        return Ok(());
    }
    // CPU 1 is in its handler for ever, and so is this one when it resets.
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(eventually(|| noted(2) == 1));
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    sdei::set_hook(0, Some(|_| psci::system_reset()));
    sdei::signal(cpu::affinity(0));
    fail!("the machine was not reset");
}
