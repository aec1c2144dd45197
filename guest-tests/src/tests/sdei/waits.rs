//! Events that come while a CPU waits for something else.

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sync::watch_for_ms;
use crate::rt::timer;

guest_test!(
    c087_an_event_ends_a_wfi_that_nothing_else_would_end,
    cpus = 2
);
fn c087_an_event_ends_a_wfi_that_nothing_else_would_end() -> TestResult {
    event_ends(sysreg::wfi)
}

guest_test!(
    c088_an_event_ends_a_wfe_that_nothing_else_would_end,
    cpus = 2
);
fn c088_an_event_ends_a_wfe_that_nothing_else_would_end() -> TestResult {
    event_ends(sysreg::wfe)
}

guest_test!(
    c089_an_event_ends_a_wfit_and_leaves_its_time_out_right,
    cpus = 2
);
fn c089_an_event_ends_a_wfit_and_leaves_its_time_out_right() -> TestResult {
    if !sysreg::has_timed_waits() {
        skip!("this CPU has no WFIT");
    }
    // An hour is for ever, and no deadline passes for an event.
    event_ends(|| sysreg::wfit(timer::counter() + timer::frequency() * 3600))?;
    event_ends(|| sysreg::wfet(timer::counter() + timer::frequency() * 3600))?;
    start_target(|| {
        let is_ready = sdei::get_ready();
        let before = sdei::slot(1).runs();
        note(0, i64::from(is_ready));
        READY.raise();
        let mut rounds = 0;
        // Again if no event has come: on a busy host the signaller's turn may be long in coming.
        while sdei::slot(1).runs() == before {
            let deadline = timer::counter() + timer::ticks_of_us(50_000);
            while timer::counter() < deadline {
                sysreg::wfit(deadline);
                rounds += 1;
            }
        }
        note(1, rounds);
    })?;
    while !cpu::is_off(1) {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        watch_for_ms(5);
    }
    expect_eq!(noted(0), 1);
    expect_that!(noted(1) >= 1, "a time-out passes among the events");
    Ok(())
}

/// CPU 1 waits by `wait`, again and again until it had an event, and goes on behind it.
fn event_ends(wait: fn()) -> TestResult {
    needs_sdei()?;
    static WAIT: spin::Mutex<fn()> = spin::Mutex::new(sysreg::wfi);
    *WAIT.lock() = wait;
    start_target(|| {
        let wait = *WAIT.lock();
        let before = sdei::slot(1).runs();
        if sdei::get_ready() {
            READY.raise();
        }
        while sdei::slot(1).runs() == before {
            wait();
        }
        note(0, (sdei::slot(1).runs() - before) as i64);
    })?;
    watch_for_ms(20);
    expect_that!(!cpu::is_off(1), "it waits");
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(cpu::wait_off(1), "it goes on behind the wait");
    expect_eq!(noted(0), 1);
    Ok(())
}
