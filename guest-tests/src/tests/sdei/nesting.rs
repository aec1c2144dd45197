//! Critical events: over normal handlers, among themselves, and in every race with those.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::call::{Registers, call_all};
use crate::rt::sdei::{End, Slot, critical};
use crate::rt::sync::watch_for_ms;
use crate::rt::timer::Timer;
use crate::tests::timer::takes_interrupts;

/// Normal and private.
const N1: u64 = 0x100;
/// Critical and private; so is the next.
const C1: u64 = 0x101;
const C2: u64 = 0x102;
/// Critical and shared.
const SC: u64 = 0x202;

fn status_of(event: u64) -> i64 {
    sdei::call(Call::EventStatus, &[event])
}

fn enable(event: u64) -> i64 {
    sdei::call(Call::EventEnable, &[event])
}

fn context(n: u64) -> i64 {
    sdei::call(Call::EventContext, &[n])
}

/// Raises a private event on this CPU, or a shared one.
fn raise(event: u64) -> i64 {
    sdei::raise(event, sysreg::affinity())
}

/// Registers and enables a critical event here.
fn arm_critical(event: u64) -> i64 {
    sdei::register_critical(event, 0, 0) | enable(event)
}

/// Event 0 and C1 armed here, unmasked, and nothing noted.
fn get_both_ready() -> TestResult {
    get_ready()?;
    expect_eq!(arm_critical(C1), SUCCESS);
    Ok(())
}

/// How often the critical handler of this CPU ran.
fn critical_runs() -> u64 {
    sdei::slot(critical(sysreg::cpu_index())).runs()
}

/// The events whose handlers ran, in order, from note 8 on; the count is note 7.
fn log(slot: &Slot) {
    let n = NOTES[7].add(1) as usize;
    if let Some(note) = NOTES.get(8 + n) {
        note.set(slot.x(0));
    }
}

fn logged<const N: usize>() -> [i64; N] {
    core::array::from_fn(|n| noted(8 + n))
}

guest_test!(c130_a_normal_event_waits_for_a_normal_handler);
fn c130_a_normal_event_waits_for_a_normal_handler() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    note(7, 0);
    expect_eq!(sdei::register_event(N1, 0, 0), SUCCESS);
    expect_eq!(enable(N1), SUCCESS);
    sdei::set_hook(
        0,
        Some(|slot| {
            log(slot);
            if slot.x(0) == 0 {
                note(0, raise(N1));
                note(1, slot.runs() as i64);
                note(2, status_of(N1));
            }
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!([noted(0), noted(1), noted(2)], [SUCCESS, 1, ENABLED]);
    expect_eq!(logged::<2>(), [0, N1 as i64]);
    Ok(())
}

guest_test!(c131_c132_c133_a_critical_event_interrupts_a_normal_handler_and_ends_first);
fn c131_c132_c133_a_critical_event_interrupts_a_normal_handler_and_ends_first() -> TestResult {
    needs_sdei()?;
    get_both_ready()?;
    sdei::set_hook(
        0,
        Some(|slot| {
            note(0, context(1));
            note(1, raise(C1));
            // Back from the critical handler: the normal one's context is what it was.
            note(2, critical_runs() as i64);
            note(3, context(1));
            note(4, context(2));
            note(5, status_of(C1));
            note(6, i64::from(slot.x(0) == 0));
            End::Complete(0)
        }),
    );
    sdei::set_hook(
        critical(0),
        Some(|slot| {
            note(10, slot.x(0) as i64);
            // What it interrupted is the call above, answered already.
            note(11, context(0));
            note(12, context(1));
            note(13, status_of(0));
            note(14, status_of(C1));
            note(15, i64::from(slot.pstate() & 0x3cf == 0x3c5));
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    let me = cpu::affinity(0) as i64;
    expect_eq!([noted(0), noted(1), noted(2)], [0, SUCCESS, 1]);
    expect_eq!([noted(3), noted(4), noted(5)], [0, me, ENABLED]);
    expect_eq!(noted(6), 1);
    let c1 = C1 as i64;
    expect_eq!([noted(10), noted(11), noted(12)], [c1, SUCCESS, c1]);
    expect_eq!([noted(13), noted(14)], [RUNNING, RUNNING]);
    expect_eq!(noted(15), 1, "the normal handler is at EL1h, masked");
    expect_eq!([status_of(0), status_of(C1)], [ENABLED, ENABLED]);
    Ok(())
}

guest_test!(c134_nothing_interrupts_a_critical_handler_and_nothing_is_lost);
fn c134_nothing_interrupts_a_critical_handler_and_nothing_is_lost() -> TestResult {
    needs_sdei()?;
    get_both_ready()?;
    note(7, 0);
    expect_eq!([arm_critical(C2), arm_critical(SC)], [SUCCESS; 2]);
    expect_eq!(sdei::register_event(N1, 0, 0) | enable(N1), SUCCESS);
    sdei::set_hook(
        0,
        Some(|slot| {
            log(slot);
            End::Complete(0)
        }),
    );
    sdei::set_hook(
        critical(0),
        Some(|slot| {
            log(slot);
            if slot.x(0) == C1 {
                let answers = [N1, C2, SC].map(raise);
                let signal = sdei::signal(cpu::affinity(0));
                note(0, answers[0] | answers[1] | answers[2] | signal);
                note(1, slot.runs() as i64);
                note(2, sdei::slot(0).runs() as i64);
            }
            End::Complete(0)
        }),
    );
    expect_eq!(raise(C1), SUCCESS);
    expect_eq!([noted(0), noted(1), noted(2)], [SUCCESS, 1, 0]);
    let [first, second, third, fourth, fifth] = logged::<5>();
    expect_eq!(first, C1 as i64);
    let critical = [C2 as i64, SC as i64];
    expect_that!(critical.contains(&second) && critical.contains(&third));
    expect_that!([0, N1 as i64].contains(&fourth) && [0, N1 as i64].contains(&fifth));
    expect_that!(second != third && fourth != fifth);
    expect_eq!(noted(7), 5);
    Ok(())
}

guest_test!(c135_when_both_are_pending_the_critical_event_comes_first);
fn c135_when_both_are_pending_the_critical_event_comes_first() -> TestResult {
    needs_sdei()?;
    get_both_ready()?;
    note(7, 0);
    for index in [0, critical(0)] {
        sdei::set_hook(
            index,
            Some(|slot| {
                log(slot);
                End::Complete(0)
            }),
        );
    }
    for round in 0..5 {
        expect_eq!(sdei::mask(), 1);
        expect_eq!([sdei::signal(cpu::affinity(0)), raise(C1)], [SUCCESS; 2]);
        expect_eq!(noted(7), 2 * round);
        expect_eq!(sdei::unmask(), SUCCESS);
        expect_eq!(noted(7), 2 * round + 2);
    }
    for (n, event) in (0..10).zip([C1, 0].iter().cycle()) {
        expect_eq!(noted(8 + n), *event as i64, "handler {n}");
    }
    Ok(())
}

guest_test!(c136_a_mask_in_a_normal_handler_holds_back_a_critical_event);
fn c136_a_mask_in_a_normal_handler_holds_back_a_critical_event() -> TestResult {
    needs_sdei()?;
    get_both_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, sdei::mask());
            note(1, raise(C1));
            note(2, critical_runs() as i64);
            note(3, sdei::unmask());
            note(4, critical_runs() as i64);
            End::Complete(0)
        }),
    );
    run_handler_here()?;
    expect_eq!([noted(0), noted(1), noted(2)], [1, SUCCESS, 0]);
    expect_eq!([noted(3), noted(4)], [SUCCESS, 1], "from PE_UNMASK");
    Ok(())
}

guest_test!(
    c137_critical_events_at_the_end_of_normal_ones_are_neither_lost_nor_mixed_up,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 60
);
fn c137_critical_events_at_the_end_of_normal_ones_are_neither_lost_nor_mixed_up() -> TestResult {
    needs_sdei()?;
    const ROUNDS: u64 = 2000;
    start_target(|| {
        let mut wrong = i64::from(!sdei::get_ready() || arm_critical(C1) != 0);
        // Over a normal handler, or over the loop below; never over itself.
        sdei::set_hook(
            critical(1),
            Some(|slot| {
                NOTES[2].add(u64::from(slot.x(0) != C1));
                NOTES[3].add(u64::from(status_of(0) == RUNNING));
                End::Complete(0)
            }),
        );
        for n in 0..4 {
            note(n, 0);
        }
        READY.raise();
        // On a busy host the storm may come to little: it goes on until one has met a handler.
        let mut round = 0;
        while round < ROUNDS || noted(3) == 0 && round < 50 * ROUNDS {
            round += 1;
            let x: Registers = core::array::from_fn(|n| match n {
                0 => Call::EventSignal as u64,
                1 => 0,
                2 => cpu::affinity(1),
                n => round
                    .wrapping_mul(0x0101_0101_0101_0101)
                    .rotate_left(n as u32),
            });
            let mut expected = x;
            expected[0] = 0;
            let is_right = call_all(sdei::conduit(), x) == expected;
            wrong += i64::from(!is_right || sdei::slot(1).runs() != round);
        }
        note(0, wrong);
        note(1, 1);
        while !ENOUGH.is_up() {
            core::hint::spin_loop();
        }
    })?;
    let raise = || sdei::raise(C1, cpu::affinity(1));
    while noted(1) == 0 && !cpu::is_off(1) {
        expect_eq!(raise(), SUCCESS);
    }
    // The storm is over: the next one counts by itself.
    watch_for_ms(5);
    let before = sdei::slot(critical(1)).runs();
    expect_eq!(raise(), SUCCESS);
    // One more than that if the storm's last comes so late.
    let came = eventually(|| sdei::slot(critical(1)).runs() > before);
    release_target()?;
    expect_eq!(
        noted(0),
        0,
        "registers, or normal handlers that did not run once"
    );
    expect_that!(came, "{before} critical handlers");
    expect_eq!(noted(2), 0, "a critical handler for another event");
    expect_that!(noted(3) > 0, "none of {before} came over a normal handler");
    Ok(())
}

guest_test!(c138_a_critical_handler_can_leave_for_where_the_normal_one_completes);
fn c138_a_critical_handler_can_leave_for_where_the_normal_one_completes() -> TestResult {
    needs_sdei()?;
    get_both_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, 1);
            raise(C1);
            // Not reached: the critical handler has completed for it.
            note(1, 1);
            End::Complete(0)
        }),
    );
    sdei::set_hook(
        critical(0),
        Some(|slot| {
            note(2, 1);
            sdei::end_both(slot, sdei::slot(0))
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!([noted(0), noted(2)], [1, 1]);
    expect_eq!(NOTES[1].get(), NOTHING, "the rest of the normal handler");
    expect_eq!([status_of(0), status_of(C1)], [ENABLED; 2]);
    expect_eq!(sdei::call(Call::EventComplete, &[0]), DENIED);
    sdei::set_hook(0, None);
    sdei::set_hook(critical(0), None);
    run_handler_here()?;
    expect_eq!([raise(C1), critical_runs() as i64], [SUCCESS, 2]);
    Ok(())
}

guest_test!(c139_a_critical_handler_can_unregister_the_event_it_interrupted);
fn c139_a_critical_handler_can_unregister_the_event_it_interrupted() -> TestResult {
    needs_sdei()?;
    get_both_ready()?;
    sdei::set_hook(
        0,
        Some(|_| {
            raise(C1);
            note(2, status_of(0));
            note(3, sdei::unregister());
            End::Complete(0)
        }),
    );
    sdei::set_hook(
        critical(0),
        Some(|_| {
            note(0, sdei::unregister());
            note(1, status_of(0));
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!([noted(0), noted(1)], [PENDING, UNREGISTER_PENDING]);
    expect_eq!([noted(2), noted(3)], [UNREGISTER_PENDING, PENDING]);
    expect_eq!([status_of(0), status_of(C1)], [0, ENABLED]);
    sdei::set_hook(0, None);
    get_ready()?;
    run_handler_here()
}

guest_test!(
    c169_a_critical_handler_can_signal_itself_for_later_and_others_at_once,
    cpus = 2
);
fn c169_a_critical_handler_can_signal_itself_for_later_and_others_at_once() -> TestResult {
    needs_sdei()?;
    start_target(spin_ready)?;
    get_both_ready()?;
    sdei::set_hook(
        critical(0),
        Some(|_| {
            note(0, sdei::signal(cpu::affinity(0)));
            note(1, sdei::slot(0).runs() as i64);
            note(2, sdei::signal(cpu::affinity(1)));
            note(3, i64::from(entered(1, 1)));
            End::Complete(0)
        }),
    );
    expect_eq!(raise(C1), SUCCESS);
    expect_eq!([noted(0), noted(1)], [SUCCESS, 0]);
    expect_eq!([noted(2), noted(3)], [SUCCESS, 1]);
    expect_eq!(sdei::slot(0).runs(), 1, "when the critical one was over");
    release_target()
}

/// Work of CPU 1: stays in the handler that comes first until it had enough.
fn stay_in_handler() {
    fn stay(slot: &Slot) -> End {
        log(slot);
        while slot.x(0) == NOTES[0].get() && !ENOUGH.is_up() {
            core::hint::spin_loop();
        }
        End::Complete(0)
    }
    note(7, 0);
    sdei::set_hook(1, Some(stay));
    sdei::set_hook(critical(1), Some(stay));
    if sdei::get_ready() && arm_critical(C1) == 0 && arm_critical(C2) == 0 {
        READY.raise();
    }
    while !ENOUGH.is_up() {
        core::hint::spin_loop();
    }
}

guest_test!(
    c186_a_normal_handler_that_spins_holds_back_event_0_and_no_critical_event,
    cpus = 2
);
fn c186_a_normal_handler_that_spins_holds_back_event_0_and_no_critical_event() -> TestResult {
    needs_sdei()?;
    start_target(stay_in_handler)?;
    note(0, 0);
    let signal = || sdei::signal(cpu::affinity(1));
    expect_eq!(signal(), SUCCESS);
    // Each has logged before the next one may come: the critical one would be first in the log.
    expect_that!(eventually(|| noted(8) == 0));
    expect_eq!([signal(), sdei::raise(C1, cpu::affinity(1))], [SUCCESS; 2]);
    expect_that!(eventually(|| noted(9) == C1 as i64), "the critical one");
    expect_eq!(sdei::slot(1).runs(), 1);
    release_target()?;
    expect_eq!(logged::<3>(), [0, C1 as i64, 0], "and event 0 afterwards");
    Ok(())
}

guest_test!(
    c187_a_critical_handler_that_spins_holds_back_everything_and_nobody_else,
    cpus = 2
);
fn c187_a_critical_handler_that_spins_holds_back_everything_and_nobody_else() -> TestResult {
    needs_sdei()?;
    start_target(stay_in_handler)?;
    NOTES[0].set(C1);
    expect_eq!(sdei::raise(C1, cpu::affinity(1)), SUCCESS);
    expect_that!(entered(critical(1), 1));
    for _ in 0..3 {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_eq!(sdei::raise(C1, cpu::affinity(1)), SUCCESS);
        expect_eq!(sdei::raise(C2, cpu::affinity(1)), SUCCESS);
    }
    expect_that!(takes_interrupts(Timer::Virtual, 10));
    expect_eq!(
        [sdei::slot(1).runs(), sdei::slot(critical(1)).runs()],
        [0, 1]
    );
    release_target()?;
    expect_eq!(noted(7), 4, "each of the three once, merged");
    expect_eq!(noted(8), C1 as i64);
    expect_eq!(noted(11), 0, "event 0 comes last");
    Ok(())
}

guest_test!(
    c164_an_event_raised_on_a_cpu_that_is_off_is_gone_when_that_comes_on,
    cpus = 2
);
fn c164_an_event_raised_on_a_cpu_that_is_off_is_gone_when_that_comes_on() -> TestResult {
    needs_sdei()?;
    expect_that!(cpu::is_off(1));
    for event in [N1, C1] {
        expect_eq!(sdei::raise(event, cpu::affinity(1)), SUCCESS);
    }
    watch_for_ms(5);
    expect_that!(cpu::is_off(1), "it stays off");
    start_target(|| {
        let armed = [
            sdei::register_event(N1, 0, 0) | enable(N1),
            arm_critical(C1),
            arm_critical(C2),
            sdei::unmask(),
        ];
        if armed == [0; 4] {
            READY.raise();
        }
        while !ENOUGH.is_up() {
            core::hint::spin_loop();
        }
    })?;
    // What comes now is taken, and nothing else with it.
    expect_eq!(sdei::raise(C2, cpu::affinity(1)), SUCCESS);
    expect_that!(entered(critical(1), 1));
    release_target()?;
    expect_eq!(sdei::slot(critical(1)).x(0), C2);
    expect_eq!(
        [sdei::slot(1).runs(), sdei::slot(critical(1)).runs()],
        [0, 1]
    );
    Ok(())
}
