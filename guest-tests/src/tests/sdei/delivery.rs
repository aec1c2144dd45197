//! When the handler is entered, and what it sees.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::call::{Registers, call_all};
use crate::rt::exception::{self, Frame, Source};
use crate::rt::machine::machine;
use crate::rt::sdei::End;
use crate::rt::timer::{self, Timer};
use crate::rt::{gic, wedge};

/// PSTATE.M of EL1h (DDI0487 C5.2.19 SPSR_EL1).
const EL1H: u64 = 0b0101;
const DAIF: u64 = 0b1111 << 6;

guest_test!(c070_a_signal_to_self_is_handled_before_the_next_instruction);
fn c070_a_signal_to_self_is_handled_before_the_next_instruction() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    for run in 1..=10 {
        expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
        expect_eq!(sdei::slot(0).runs(), run);
        expect_eq!(sdei::slot(0).x(0), 0, "the event number");
        expect_eq!(sdei::status(), ENABLED);
    }
    Ok(())
}

guest_test!(c071_c278_the_handler_sees_the_interrupted_registers_and_nothing_else);
fn c071_c278_the_handler_sees_the_interrupted_registers_and_nothing_else() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    let x: Registers = core::array::from_fn(|n| match n {
        0 => Call::EventSignal as u64,
        1 => 0,
        2 => cpu::affinity(0),
        n => 0x0f0f_1111_2222_3333_u64.wrapping_mul(n as u64),
    });
    let mut expected = x;
    expected[0] = 0;
    expect_eq!(call_all(sdei::conduit(), x), expected, "after COMPLETE");
    let slot = sdei::slot(0);
    for (n, value) in x.into_iter().enumerate().skip(4) {
        expect_eq!(slot.x(n), value, "x{n} in the handler");
    }
    expect_eq!(slot.x(0), 0, "the event");
    expect_eq!(slot.x(1), sdei::entry()[1]);
    let home = machine().home();
    expect_that!(home.contains(slot.pc()), "{:#x}", slot.pc());
    expect_eq!(slot.pstate() & 0xf, EL1H);
    expect_eq!(slot.pstate() & DAIF, DAIF);
    Ok(())
}

guest_test!(c073_context_returns_the_interrupted_registers);
fn c073_context_returns_the_interrupted_registers() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            for n in 0..18 {
                note(n, sdei::call(Call::EventContext, &[n as u64]));
            }
            End::Complete(0)
        }),
    );
    let x: Registers = core::array::from_fn(|n| match n {
        0 => Call::EventSignal as u64,
        1 => 0,
        2 => cpu::affinity(0),
        n => 0x0123_4567_89ab_cdef_u64.rotate_left(n as u32),
    });
    call_all(sdei::conduit(), x);
    expect_eq!(noted(0), SUCCESS, "x0 is the answer of SIGNAL already");
    for (n, value) in x.into_iter().enumerate().skip(1) {
        expect_eq!(noted(n), value as i64, "x{n}");
    }
    Ok(())
}

guest_test!(c074_context_of_a_register_that_is_none_is_invalid);
fn c074_context_of_a_register_that_is_none_is_invalid() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            for (n, register) in [18, 0x100, 1 << 32 | 2, u64::MAX].into_iter().enumerate() {
                note(n, sdei::call(Call::EventContext, &[register]));
            }
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    expect_eq!(noted(0), INVALID);
    expect_eq!(noted(1), INVALID);
    expect_eq!(noted(2), cpu::affinity(0) as i64, "x2, by the low 32 bits");
    expect_eq!(noted(3), INVALID);
    Ok(())
}

guest_test!(c075_without_a_handler_there_is_no_context);
fn c075_without_a_handler_there_is_no_context() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::call(Call::EventContext, &[0]), DENIED);
    expect_eq!(sdei::call(Call::EventContext, &[17]), DENIED);
    expect_eq!(sdei::call(Call::EventContext, &[18]), INVALID);
    get_ready()?;
    run_handler_here()?;
    expect_eq!(sdei::call(Call::EventContext, &[0]), DENIED);
    Ok(())
}

guest_test!(c076_the_handler_runs_at_el1h_with_everything_masked);
fn c076_the_handler_runs_at_el1h_with_everything_masked() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    expect_eq!(
        sysreg::with_interrupts(|| sdei::signal(cpu::affinity(0))),
        SUCCESS
    );
    let slot = sdei::slot(0);
    let [_, daif, current_el, spsel] = slot.state();
    expect_eq!(daif, DAIF);
    expect_eq!(current_el, 0b01 << 2);
    expect_eq!(spsel, 1);
    // The interrupted code had interrupts open: D, A and F masked.
    expect_eq!(slot.pstate() & (DAIF | 0xf), DAIF & !(1 << 7) | EL1H);
    Ok(())
}

guest_test!(c081_an_event_at_el1t_comes_back_to_el1t, cpus = 2);
fn c081_an_event_at_el1t_comes_back_to_el1t() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|slot| {
                if !wedge::Wedge::Thread.code().contains(&slot.pc()) {
                    return End::Complete(0);
                }
                // The first runs complete and return to the loop; the last gets the CPU out.
                NOTES[1].add(slot.pstate() & 0x1f);
                NOTES[2].add(slot.state()[3]);
                match NOTES[0].add(1) {
                    2 => End::Resume(wedge::escape()),
                    _ => End::Complete(0),
                }
            }),
        );
        for n in 0..3 {
            note(n, 0);
        }
        if sdei::get_ready() {
            READY.raise();
        }
        wedge::enter(wedge::Wedge::Thread);
        ENOUGH.raise();
    })?;
    signal_until_enough()?;
    const EL1T: i64 = 0b0100;
    expect_eq!(noted(0), 3);
    expect_eq!(noted(1), 3 * EL1T, "EL1t in x3, each time");
    expect_eq!(noted(2), 3, "SPSel in the handler, each time");
    Ok(())
}

guest_test!(c084_an_event_leaves_the_exception_registers_alone);
fn c084_an_event_leaves_the_exception_registers_alone() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    for seed in 1..=4 {
        let planted = sysreg::plant(seed);
        let status = sdei::signal(cpu::affinity(0));
        let found = sysreg::harvest();
        expect_eq!(status, SUCCESS);
        expect_eq!(
            sdei::slot(0).exception_return(),
            [planted[0], planted[1]],
            "in the handler"
        );
        for ((name, planted), found) in sysreg::PLANTED.iter().zip(planted).zip(found) {
            // The test's own handler takes these two for scratch.
            if !name.starts_with("tpidr") {
                expect_eq!(found, planted, "{name}");
            }
        }
    }
    Ok(())
}

guest_test!(c093_an_interrupt_waits_while_the_handler_runs);
fn c093_an_interrupt_waits_while_the_handler_runs() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, i64::from(gic::highest_pending()));
            note(1, i64::from(exception::count(0, 3)));
            End::Complete(0)
        }),
    );
    gic::send_sgi_to(cpu::affinity(0), 3);
    run_handler_here()?;
    expect_eq!(noted(0), 3, "pending in the handler");
    expect_eq!(noted(1), 0);
    expect_eq!(exception::count(0, 3), 0);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 3), 1);
    Ok(())
}

guest_test!(c094_a_timer_that_expires_in_the_handler_interrupts_afterwards);
fn c094_a_timer_that_expires_in_the_handler_interrupts_afterwards() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    let intid = Timer::Virtual.intid();
    gic::enable(intid);
    sdei::set_hook(
        0,
        Some(|_| {
            Timer::Virtual.fire_in(timer::ticks_of_us(1000));
            note(0, i64::from(eventually(|| Timer::Virtual.has_expired())));
            note(1, i64::from(exception::count(0, Timer::Virtual.intid())));
            End::Complete(0)
        }),
    );
    let taken = sysreg::with_interrupts(|| {
        sdei::signal(cpu::affinity(0));
        eventually(|| exception::count(0, intid) == 1)
    });
    expect_eq!(noted(0), 1, "it expired");
    expect_eq!(noted(1), 0, "and waited");
    expect_that!(taken);
    Ok(())
}

guest_test!(
    c092_neither_an_interrupt_nor_an_event_that_come_together_is_lost,
    cpus = 2
);
fn c092_neither_an_interrupt_nor_an_event_that_come_together_is_lost() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        if sdei::get_ready() {
            READY.raise();
        }
        sysreg::with_interrupts(|| {
            while !ENOUGH.is_up() {
                core::hint::spin_loop();
            }
        });
    })?;
    for n in 1..=100 {
        gic::send_sgi_to(cpu::affinity(1), 5);
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(entered(1, n), "event {n}");
        expect_that!(
            eventually(|| exception::count(1, 5) == n as u32),
            "interrupt {n}"
        );
    }
    expect_eq!(sdei::slot(1).runs(), 100);
    release_target()
}

guest_test!(
    an_event_in_an_interrupt_handler_leaves_the_interrupt_active,
    cpus = 1
);
fn an_event_in_an_interrupt_handler_leaves_the_interrupt_active() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    exception::set_hook(Some(|_: &mut Frame, _| {
        note(0, gic::running_priority() as i64);
        note(1, sdei::signal(cpu::affinity(0)));
        note(2, gic::running_priority() as i64);
        Source::Silence
    }));
    gic::send_sgi_to(cpu::affinity(0), 4);
    sysreg::with_interrupts(|| ());
    expect_eq!(noted(0), i64::from(gic::PRIORITY));
    expect_eq!(noted(1), SUCCESS);
    expect_eq!(noted(2), i64::from(gic::PRIORITY));
    expect_eq!(sdei::slot(0).runs(), 1);
    expect_eq!(gic::running_priority(), gic::IDLE_PRIORITY);
    Ok(())
}

guest_test!(c095_enable_delivers_what_is_pending);
fn c095_enable_delivers_what_is_pending() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 0);
    expect_eq!(sdei::enable(), SUCCESS, "after COMPLETE");
    expect_eq!(sdei::slot(0).runs(), 1);
    Ok(())
}

guest_test!(c096_unmask_delivers_what_is_pending);
fn c096_unmask_delivers_what_is_pending() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 0);
    expect_eq!(sdei::unmask(), SUCCESS, "after COMPLETE");
    expect_eq!(sdei::slot(0).runs(), 1);
    Ok(())
}

guest_test!(c097_a_signal_without_a_handler_is_dropped);
fn c097_a_signal_without_a_handler_is_dropped() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    get_ready()?;
    expect_eq!(sdei::slot(0).runs(), 0);
    run_handler_here()
}

guest_test!(c098_a_signal_to_a_disabled_event_is_delivered_once_when_enabled);
fn c098_a_signal_to_a_disabled_event_is_delivered_once_when_enabled() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    expect_eq!(sdei::disable(), SUCCESS);
    for _ in 0..3 {
        expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    }
    expect_eq!(sdei::slot(0).runs(), 0);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 1);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 1);
    Ok(())
}

guest_test!(c100_disabling_holds_a_pending_event_back_until_it_is_enabled);
fn c100_disabling_holds_a_pending_event_back_until_it_is_enabled() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!(sdei::disable(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 0);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 1);
    Ok(())
}

guest_test!(c029_a_handler_that_is_nowhere_aborts_in_the_guest_alone);
fn c029_a_handler_that_is_nowhere_aborts_in_the_guest_alone() -> TestResult {
    needs_sdei()?;
    let [_, argument] = sdei::entry();
    expect_eq!(
        sdei::call(Call::EventRegister, &[0, wedge::nowhere(), argument, 0, 0]),
        SUCCESS
    );
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    let mut status = NOT_SUPPORTED;
    // The fetch aborts; the vector completes the event, and SIGNAL returns.
    let caught = exception::catch_in_event(|| status = sdei::signal(cpu::affinity(0)));
    expect_eq!(status, SUCCESS);
    match caught {
        Ok(()) => fail!("the handler at {:#x} did something", wedge::nowhere()),
        Err(fault) => expect_eq!(fault.elr, wedge::nowhere(), "{fault:#x?}"),
    }
    expect_eq!(sdei::status(), ENABLED);
    Ok(())
}
