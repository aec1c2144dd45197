//! PE_MASK and PE_UNMASK.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;
use crate::rt::sync::watch_for_ms;
use crate::rt::timer::{self, Timer};
use crate::rt::{exception, psci};
use crate::tests::timer::takes_interrupts;

/// CPU 1 has been signalled.
static SIGNALLED: Flag = Flag::new();

guest_test!(c145_a_cpu_starts_masked, cpus = 2);
fn c145_a_cpu_starts_masked() -> TestResult {
    needs_sdei()?;
    for _ in 0..2 {
        start_target(|| {
            note(0, sdei::mask());
            note(1, sdei::unmask());
            note(2, sdei::status());
            READY.raise();
        })?;
        expect_eq!(noted(0), 0, "it was masked");
        expect_eq!(noted(1), SUCCESS);
        expect_eq!(noted(2), 0);
        expect_that!(cpu::wait_off(1));
    }
    Ok(())
}

guest_test!(c146_mask_says_whether_it_changed_anything);
fn c146_mask_says_whether_it_changed_anything() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!([sdei::mask(), sdei::mask()], [1, 0]);
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::mask(), 1);
    Ok(())
}

guest_test!(c147_a_masked_cpu_takes_a_pending_event_once_when_unmasked);
fn c147_a_masked_cpu_takes_a_pending_event_once_when_unmasked() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    expect_eq!(sdei::mask(), 1);
    for _ in 0..3 {
        expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    }
    expect_eq!(sdei::status(), ENABLED);
    expect_eq!(sdei::slot(0).runs(), 0);
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 1);
    expect_eq!(sdei::mask(), 1, "the handler left the mask alone");
    Ok(())
}

guest_test!(
    c148_interrupts_keep_flowing_on_a_masked_cpu_that_is_signalled,
    cpus = 2
);
fn c148_interrupts_keep_flowing_on_a_masked_cpu_that_is_signalled() -> TestResult {
    needs_sdei()?;
    SIGNALLED.lower();
    start_target(|| {
        if sdei::get_ready() && sdei::mask() == 1 {
            READY.raise();
        }
        note(0, i64::from(takes_interrupts(Timer::Virtual, 300)));
        // On a busy host the signaller's turn may come after all of these.
        let _in_time = SIGNALLED.wait();
        note(1, sdei::slot(1).runs() as i64);
        note(2, sdei::unmask());
        note(3, sdei::slot(1).runs() as i64);
        ENOUGH.raise();
    })?;
    while !ENOUGH.is_up() && !cpu::is_off(1) {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        SIGNALLED.raise();
    }
    expect_that!(cpu::wait_off(1));
    expect_eq!([noted(0), noted(1), noted(2)], [1, 0, 0]);
    expect_that!(noted(3) >= 1, "it ran {} times once unmasked", noted(3));
    Ok(())
}

guest_test!(
    c149_a_signalled_cpu_with_the_event_disabled_makes_progress,
    cpus = 2
);
fn c149_a_signalled_cpu_with_the_event_disabled_makes_progress() -> TestResult {
    needs_sdei()?;
    SIGNALLED.lower();
    start_target(|| {
        if sdei::get_ready() && sdei::disable() == 0 {
            READY.raise();
        }
        let _in_time = SIGNALLED.wait();
        note(0, i64::from(takes_interrupts(Timer::Physical, 100)));
        note(1, sdei::slot(1).runs() as i64);
        note(2, sdei::enable());
        ENOUGH.raise();
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    SIGNALLED.raise();
    expect_that!(ENOUGH.wait());
    expect_that!(cpu::wait_off(1));
    expect_eq!([noted(0), noted(1), noted(2)], [1, 0, 0]);
    expect_eq!(sdei::slot(1).runs(), 1);
    Ok(())
}

guest_test!(c153_a_mask_counts_on_its_own_cpu_only, cpus = 2);
fn c153_a_mask_counts_on_its_own_cpu_only() -> TestResult {
    needs_sdei()?;
    start_target(spin_ready)?;
    expect_eq!(sdei::mask(), 0);
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    let delivered = entered(1, 1);
    expect_that!(delivered);
    release_target()
}

guest_test!(mask_and_unmask_work_inside_a_handler);
fn mask_and_unmask_work_inside_a_handler() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, sdei::mask());
            note(1, sdei::mask());
            note(2, sdei::signal(cpu::affinity(0)));
            note(3, sdei::status());
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    expect_eq!([noted(0), noted(1), noted(2)], [1, 0, SUCCESS]);
    expect_eq!(noted(3), RUNNING);
    // The mask outlives the handler, and what was pending waits for it.
    expect_eq!(sdei::slot(0).runs(), 1);
    sdei::set_hook(0, None);
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 2);
    Ok(())
}

guest_test!(unmasking_in_a_handler_does_not_nest_it);
fn unmasking_in_a_handler_does_not_nest_it() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|slot| {
            if slot.runs() == 1 {
                note(0, sdei::mask());
                note(1, sdei::signal(cpu::affinity(0)));
                note(2, sdei::unmask());
                note(3, slot.runs() as i64);
            }
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!(
        [noted(0), noted(1), noted(2), noted(3)],
        [1, SUCCESS, SUCCESS, 1]
    );
    expect_eq!(sdei::slot(0).runs(), 2);
    Ok(())
}

guest_test!(c211_an_event_wakes_a_cpu_from_cpu_suspend, cpus = 2);
fn c211_an_event_wakes_a_cpu_from_cpu_suspend() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        if sdei::get_ready() {
            READY.raise();
        }
        let mut refused = 0;
        while sdei::slot(1).runs() == 0 {
            let status = psci::call_psci(hv_abi::psci::CPU_SUSPEND[1], &[0, 0, 0]);
            refused += i64::from(status != 0);
        }
        note(0, refused);
        note(1, sdei::slot(1).runs() as i64);
    })?;
    watch_for_ms(20);
    expect_that!(!cpu::is_off(1), "it sleeps");
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(cpu::wait_off(1));
    expect_eq!([noted(0), noted(1)], [0, 1]);
    Ok(())
}

guest_test!(c211_a_shared_event_wakes_a_cpu_from_cpu_suspend, cpus = 2);
fn c211_a_shared_event_wakes_a_cpu_from_cpu_suspend() -> TestResult {
    needs_sdei()?;
    /// A shared event of the platform, of whichever priority.
    const EVENTS: [u64; 2] = [0x200, 0x202];
    for event in EVENTS {
        start_target(|| {
            let before = sdei::slot(1).runs();
            let [normal, critical] = EVENTS.map(|event| sdei::register_event(event, 0, 0));
            let enabled = EVENTS.map(|event| sdei::call(Call::EventEnable, &[event]));
            if [normal, critical] == [0, 0] && enabled == [0, 0] && sdei::unmask() == 0 {
                READY.raise();
            }
            let mut refused = 0;
            while sdei::slot(1).runs() == before {
                let status = psci::call_psci(hv_abi::psci::CPU_SUSPEND[1], &[0, 0, 0]);
                refused += i64::from(status != 0);
            }
            note(0, refused);
            note(1, sdei::slot(1).x(0) as i64);
            note(2, sdei::call(Call::SharedReset, &[]));
        })?;
        watch_for_ms(20);
        expect_that!(!cpu::is_off(1), "it sleeps");
        expect_eq!(sdei::raise(event, 0), SUCCESS);
        expect_that!(cpu::wait_off(1), "{event:#x}");
        expect_eq!([noted(0), noted(1), noted(2)], [0, event as i64, SUCCESS]);
    }
    Ok(())
}

guest_test!(a_handler_that_takes_long_delays_interrupts_and_loses_none);
fn a_handler_that_takes_long_delays_interrupts_and_loses_none() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            let end = timer::counter() + timer::ticks_of_us(20_000);
            while timer::counter() < end {
                // Calls inside a handler work as outside.
                sdei::call(Call::Version, &[]);
            }
            End::Complete(0)
        }),
    );
    crate::rt::gic::enable(Timer::Virtual.intid());
    for round in 1..=3 {
        Timer::Virtual.fire_in(timer::ticks_of_us(5000));
        let taken = sysreg::with_interrupts(|| {
            sdei::signal(cpu::affinity(0));
            eventually(|| exception::count(0, Timer::Virtual.intid()) == round)
        });
        expect_that!(taken, "round {round}");
    }
    Ok(())
}
