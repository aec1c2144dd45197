//! Event 0 and CPUs that go off and come back.

use hv_abi::psci::{AffinityState, Status as Psci};

use super::*;
use crate::harness::{needs_hypervisor, needs_sdei};
use crate::rt::sdei::End;
use crate::rt::timer::Timer;
use crate::rt::{exception, gic, psci, wedge};
use crate::tests::timer::takes_interrupts;

/// Work of CPU 1: gets ready, notes that it is fresh, and that interrupts and the event work.
fn check_vital_signs() {
    note(0, sdei::status());
    note(1, sdei::mask());
    note(2, i64::from(sdei::get_ready()));
    note(3, i64::from(takes_interrupts(Timer::Virtual, 3)));
    note(4, i64::from(takes_interrupts(Timer::Physical, 3)));
    let before = sdei::slot(1).runs();
    note(5, sdei::signal(cpu::affinity(1)));
    note(6, (sdei::slot(1).runs() - before) as i64);
    note(7, sdei::status());
    READY.raise();
    // And an event and an SGI from outside.
    sysreg::with_interrupts(|| while !ENOUGH.is_up() {});
}

/// Starts CPU 1 anew and expects it to be as good as new.
fn expect_fresh_target() -> TestResult {
    sdei::set_hook(1, None);
    let sgis = exception::count(1, 6);
    start_target(check_vital_signs)?;
    expect_eq!(
        [noted(0), noted(1)],
        [0, 0],
        "STATUS and PE_MASK after CPU_ON"
    );
    expect_eq!(noted(2), 1, "registered, enabled, unmasked");
    expect_eq!([noted(3), noted(4)], [1, 1], "timer interrupts");
    expect_eq!(
        [noted(5), noted(6), noted(7)],
        [SUCCESS, 1, ENABLED],
        "a signal to itself"
    );
    let before = sdei::slot(1).runs();
    for n in 1..=3 {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(entered(1, before + n), "signal {n}");
    }
    gic::send_sgi_to(cpu::affinity(1), 6);
    expect_that!(eventually(|| exception::count(1, 6) == sgis + 1), "an SGI");
    release_target()
}

guest_test!(
    c200_a_cpu_that_comes_back_is_masked_and_unregistered,
    cpus = 2
);
fn c200_a_cpu_that_comes_back_is_masked_and_unregistered() -> TestResult {
    needs_sdei()?;
    for _ in 0..3 {
        start_target(|| {
            note(0, i64::from(sdei::get_ready()));
            READY.raise();
        })?;
        expect_eq!(noted(0), 1);
        expect_that!(cpu::wait_off(1));
        expect_fresh_target()?;
    }
    Ok(())
}

guest_test!(
    c201_a_cpu_can_come_back_hundreds_of_times_without_unregistering,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 60
);
fn c201_a_cpu_can_come_back_hundreds_of_times_without_unregistering() -> TestResult {
    needs_sdei()?;
    for round in 0..300 {
        start_target(|| {
            note(0, i64::from(sdei::get_ready()));
            READY.raise();
        })?;
        expect_eq!(noted(0), 1, "round {round}");
        expect_that!(cpu::wait_off(1), "round {round}");
    }
    Ok(())
}

guest_test!(c202_cpu_off_inside_the_handler_turns_the_cpu_off, cpus = 2);
fn c202_cpu_off_inside_the_handler_turns_the_cpu_off() -> TestResult {
    needs_sdei()?;
    start_target(off_in_handler)?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(cpu::wait_off(1), "AFFINITY_INFO");
    expect_eq!(sdei::slot(1).runs(), 1);
    Ok(())
}

fn off_in_handler() {
    sdei::set_hook(1, Some(|_| cpu::stop_here()));
    if sdei::get_ready() {
        READY.raise();
    }
    wedge::enter(wedge::Wedge::Spin);
}

guest_test!(
    c203_a_cpu_that_went_off_in_its_handler_comes_back_whole,
    cpus = 2
);
fn c203_a_cpu_that_went_off_in_its_handler_comes_back_whole() -> TestResult {
    needs_sdei()?;
    for round in 1..=5 {
        let before = sdei::slot(1).runs();
        start_target(off_in_handler)?;
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(cpu::wait_off(1), "round {round}");
        expect_eq!(sdei::slot(1).runs(), before + 1);
        expect_fresh_target()?;
    }
    Ok(())
}

guest_test!(
    c214_cpu_on_that_races_with_cpu_off_in_a_handler_starts_one_life,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c214_cpu_on_that_races_with_cpu_off_in_a_handler_starts_one_life() -> TestResult {
    needs_sdei()?;
    static LIVES: Cell64 = Cell64::new(0);
    LIVES.set(0);
    for round in 1..=20 {
        start_target(off_in_handler)?;
        let context = cpu::prepare_next(1, || {
            LIVES.add(1);
        });
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        let mut last = SUCCESS as i32;
        let started = eventually(|| {
            last = cpu::race_to_start(1, context);
            last != Psci::AlreadyOn as i32
        });
        expect_that!(started, "round {round}: still on");
        expect_eq!(last, Psci::Success as i32, "round {round}");
        expect_that!(eventually(|| LIVES.get() == round), "round {round}");
        expect_that!(cpu::wait_off(1), "round {round}");
        expect_eq!(LIVES.get(), round);
    }
    sdei::set_hook(1, None);
    expect_fresh_target()
}

guest_test!(
    c206_a_cpu_that_resumes_from_its_handler_into_cpu_off_comes_back_whole,
    cpus = 2
);
fn c206_a_cpu_that_resumes_from_its_handler_into_cpu_off_comes_back_whole() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|slot| {
                if wedge::Wedge::Spin.code().contains(&slot.pc()) {
                    return End::Resume(wedge::escape());
                }
                End::Complete(0)
            }),
        );
        if sdei::get_ready() {
            READY.raise();
        }
        // The way out of the wedge leads to the end of this function, and so to CPU_OFF.
        wedge::enter(wedge::Wedge::Spin);
        ENOUGH.raise();
    })?;
    signal_until_enough()?;
    expect_fresh_target()
}

guest_test!(
    cpu_off_in_an_interrupt_inside_which_an_event_came_leaves_nothing_active,
    cpus = 2
);
fn cpu_off_in_an_interrupt_inside_which_an_event_came_leaves_nothing_active() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(1, Some(|_| cpu::stop_here()));
        exception::set_hook(Some(|_, _| {
            READY.raise();
            wedge::enter(wedge::Wedge::Spin);
            exception::Source::Silence
        }));
        if sdei::get_ready() {
            gic::send_sgi_to(cpu::affinity(1), 4);
            sysreg::with_interrupts(|| while !ENOUGH.is_up() {});
        }
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(cpu::wait_off(1));
    exception::forget();
    expect_fresh_target()
}

guest_test!(
    c140_c204_a_cpu_that_went_off_in_two_handlers_comes_back_whole,
    cpus = 2
);
fn c140_c204_a_cpu_that_went_off_in_two_handlers_comes_back_whole() -> TestResult {
    needs_sdei()?;
    /// A critical event of the platform.
    const CRITICAL: u64 = 0x101;
    let inner = sdei::critical(1);
    for round in 1..=5 {
        let before = sdei::slot(inner).runs();
        start_target(|| {
            sdei::set_hook(
                1,
                Some(|_| {
                    sdei::raise(CRITICAL, sysreg::affinity());
                    End::Complete(0)
                }),
            );
            sdei::set_hook(sdei::critical(1), Some(|_| cpu::stop_here()));
            let armed = sdei::register_critical(CRITICAL, 0, 0) == 0
                && sdei::call(hv_abi::sdei::Call::EventEnable, &[CRITICAL]) == 0;
            if armed && sdei::get_ready() {
                READY.raise();
            }
            wedge::enter(wedge::Wedge::Spin);
        })?;
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(cpu::wait_off(1), "round {round}");
        expect_eq!(sdei::slot(inner).runs(), before + 1);
        expect_fresh_target()?;
    }
    Ok(())
}

guest_test!(c217_a_cpu_in_its_handler_is_on, cpus = 2);
fn c217_a_cpu_in_its_handler_is_on() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|_| {
                let _in_time = ENOUGH.wait();
                End::Complete(0)
            }),
        );
        spin_ready();
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(entered(1, 1));
    let state = psci::affinity_info(cpu::affinity(1));
    let on = cpu::try_cpu_on(cpu::affinity(1), cpu::entry_address());
    release_target()?;
    expect_eq!(state, AffinityState::On as i32);
    expect_eq!(on, Psci::AlreadyOn as i32);
    Ok(())
}

guest_test!(c228_private_reset_concerns_its_own_cpu_only, cpus = 2);
fn c228_private_reset_concerns_its_own_cpu_only() -> TestResult {
    needs_sdei()?;
    start_target(spin_ready)?;
    let status = sdei::call(hv_abi::sdei::Call::PrivateReset, &[]);
    let signal = sdei::signal(cpu::affinity(1));
    let delivered = entered(1, 1);
    release_target()?;
    expect_eq!(status, SUCCESS);
    expect_eq!(signal, SUCCESS);
    expect_that!(delivered);
    Ok(())
}

guest_test!(
    an_sgi_that_a_cpu_never_took_is_gone_when_it_is_off,
    cpus = 2
);
fn an_sgi_that_a_cpu_never_took_is_gone_when_it_is_off() -> TestResult {
    needs_hypervisor()?;
    start_target(|| {
        READY.raise();
        let _in_time = ENOUGH.wait();
    })?;
    gic::send_sgi_to(cpu::affinity(1), 6);
    release_target()?;
    let pending = gic::private_of(cpu::affinity(1)).read32(gic::gicd::ISPENDR);
    expect_eq!(pending & 1 << 6, 0);
    Ok(())
}
