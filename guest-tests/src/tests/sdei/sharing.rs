//! Shared events in the hands of several CPUs: routed, raced for, left behind.

use hv_abi::sdei::{Call, FIRST_BOUND_PRIVATE, FIRST_BOUND_SHARED, info};

use super::shared::{RM_PE, S1, get_info, set_routing, status_of};
use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;
use crate::rt::sync::watch_for_ms;

/// Affinities no vCPU has: reserved bits, and CPUs that are not there.
const NOBODY: [u64; 6] = [
    1 << 40,
    1 << 63,
    1 << 29,
    1 << 25,
    0xff_ffff,
    0x7f_0000_0000,
];
/// The handler that S1 has here, on whichever CPU it runs.
const HANDLER: usize = sdei::shared(0);

fn register(flags: u64, affinity: u64) -> i64 {
    sdei::register_at(HANDLER, S1, flags, affinity)
}

fn enable() -> i64 {
    sdei::call(Call::EventEnable, &[S1])
}

fn disable() -> i64 {
    sdei::call(Call::EventDisable, &[S1])
}

fn unregister() -> i64 {
    sdei::call(Call::EventUnregister, &[S1])
}

fn raise() -> i64 {
    sdei::raise(S1, 0)
}

fn runs() -> u64 {
    sdei::slot(HANDLER).runs()
}

/// Waits until the handler has run `count` times, and is through.
fn has_run(count: u64) -> bool {
    eventually(|| runs() == count && status_of(S1) == ENABLED)
}

/// Notes at its CPU's place how often the handler ran there, from 16 on.
fn note_where() {
    for index in 0..cpu::count().min(16) {
        note(16 + index, 0);
    }
    sdei::set_hook(
        HANDLER,
        Some(|_| {
            NOTES[16 + sysreg::cpu_index()].add(1);
            End::Complete(0)
        }),
    );
}

/// How often it ran on CPU `index`.
fn runs_on(index: usize) -> i64 {
    noted(16 + index)
}

/// Work of CPU 1: takes what comes until it had enough.
fn take_events() {
    if sdei::unmask() == 0 {
        READY.raise();
    }
    while !ENOUGH.is_up() {
        core::hint::spin_loop();
    }
}

guest_test!(c031_a_shared_event_is_not_registered_for_nobody);
fn c031_a_shared_event_is_not_registered_for_nobody() -> TestResult {
    needs_sdei()?;
    for affinity in NOBODY {
        expect_eq!(register(RM_PE, affinity), INVALID, "{affinity:#x}");
        expect_eq!(status_of(S1), 0);
        // Where any CPU will do, there is no affinity that could be wrong.
        expect_eq!(register(0, affinity), SUCCESS);
        expect_eq!(set_routing(S1, RM_PE, affinity), INVALID, "{affinity:#x}");
        expect_eq!(unregister(), SUCCESS);
    }
    Ok(())
}

guest_test!(
    c032_a_shared_event_takes_an_affinity_as_mpidr_reads,
    cpus = 2
);
fn c032_a_shared_event_takes_an_affinity_as_mpidr_reads() -> TestResult {
    needs_sdei()?;
    static RAW: Cell64 = Cell64::new(0);
    start_target(|| {
        RAW.set(sysreg::mpidr());
        take_events();
    })?;
    note_where();
    expect_that!(RAW.get() >> 31 & 1 == 1, "{:#x}", RAW.get());
    expect_eq!(sdei::unmask(), SUCCESS);
    for round in 1..=10 {
        expect_eq!(register(RM_PE, RAW.get()), SUCCESS);
        let affinity = get_info(S1, info::EV_ROUTING_AFF);
        expect_eq!(affinity, cpu::affinity(1) as i64);
        expect_eq!([enable(), raise()], [SUCCESS; 2]);
        expect_that!(has_run(round), "round {round}");
        expect_eq!(unregister(), SUCCESS);
    }
    release_target()?;
    expect_eq!([runs_on(0), runs_on(1)], [0, 10]);
    Ok(())
}

guest_test!(
    c043_of_many_who_register_a_shared_event_one_succeeds_whole,
    cpus = 4,
    boot = shared,
    icount = false,
    timeout = 60
);
fn c043_of_many_who_register_a_shared_event_one_succeeds_whole() -> TestResult {
    needs_sdei()?;
    const ROUNDS: u64 = 100;
    const CPUS: usize = 4;
    static ROUND: Cell64 = Cell64::new(0);
    static ANSWERS: Cell64 = Cell64::new(0);
    static WON: Cell64 = Cell64::new(0);
    static DENIALS: Cell64 = Cell64::new(0);

    fn race() {
        let place = sdei::shared(sysreg::cpu_index());
        match sdei::register_at(place, S1, 0, 0) {
            SUCCESS => {
                WON.set(place as u64);
            }
            DENIED => {
                DENIALS.add(1);
            }
            _ => {}
        }
        ANSWERS.add(1);
    }

    fn racer() {
        for round in 1..=ROUNDS {
            if !eventually(|| ROUND.get() >= round) {
                return;
            }
            race();
        }
    }

    for cell in [&ROUND, &ANSWERS, &DENIALS] {
        cell.set(0);
    }
    expect_eq!(sdei::unmask(), SUCCESS);
    for index in 1..CPUS {
        expect_eq!(cpu::start(index, racer), 0);
    }
    for round in 1..=ROUNDS {
        WON.set(u64::MAX);
        ROUND.set(round);
        race();
        expect_that!(eventually(|| ANSWERS.get() == CPUS as u64 * round));
        expect_eq!(DENIALS.get(), (CPUS as u64 - 1) * round, "round {round}");
        // The handler and the argument are the winner's, both.
        let winner = WON.get() as usize;
        let before = sdei::slot(winner).runs();
        expect_eq!([enable(), raise()], [SUCCESS; 2]);
        expect_eq!(sdei::slot(winner).runs(), before + 1, "round {round}");
        expect_eq!(unregister(), SUCCESS);
    }
    for index in 1..CPUS {
        expect_that!(cpu::wait_off(index));
    }
    Ok(())
}

guest_test!(
    c044_enable_and_unregister_of_two_cpus_leave_a_state_that_exists,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 60
);
fn c044_enable_and_unregister_of_two_cpus_leave_a_state_that_exists() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        READY.raise();
        let mut wrong = 0;
        while !ENOUGH.is_up() {
            wrong += i64::from(register(0, 0) != SUCCESS);
            wrong += i64::from(unregister() != SUCCESS);
        }
        note(0, wrong);
    })?;
    // It goes on until each was first at times: the host may let one CPU do a lot while the other stands still.
    let mut answers = [0, 0];
    while answers[0] + answers[1] < 6000 || answers.contains(&0) {
        match enable() {
            SUCCESS => answers[0] += 1,
            DENIED => answers[1] += 1,
            other => fail!("ENABLE answered {other}"),
        }
        let status = status_of(S1);
        expect_that!([0, REGISTERED, ENABLED].contains(&status), "{status}");
    }
    release_target()?;
    expect_eq!(noted(0), 0, "REGISTER and UNREGISTER are CPU 1's alone");
    expect_eq!(status_of(S1), 0);
    Ok(())
}

guest_test!(
    c064_an_event_that_is_pending_is_delivered_where_it_is_routed_to,
    cpus = 2
);
fn c064_an_event_that_is_pending_is_delivered_where_it_is_routed_to() -> TestResult {
    needs_sdei()?;
    start_target(take_events)?;
    note_where();
    expect_eq!(sdei::unmask(), SUCCESS);
    for round in 1..=10 {
        expect_eq!(register(0, 0), SUCCESS);
        expect_eq!(raise(), SUCCESS);
        let target = cpu::affinity(1);
        expect_eq!(set_routing(S1, RM_PE, target), SUCCESS, "round {round}");
        expect_eq!(enable(), SUCCESS);
        expect_that!(has_run(round), "round {round}");
        expect_eq!(unregister(), SUCCESS);
    }
    release_target()?;
    expect_eq!([runs_on(0), runs_on(1)], [0, 10]);
    Ok(())
}

guest_test!(
    each_trigger_of_a_shared_event_runs_one_handler_on_one_of_many_cpus,
    cpus = 4,
    boot = shared,
    icount = false,
    timeout = 60
);
fn each_trigger_of_a_shared_event_runs_one_handler_on_one_of_many_cpus() -> TestResult {
    needs_sdei()?;
    start_target(take_events)?;
    for index in 2..4 {
        expect_eq!(cpu::start(index, take_events), 0);
    }
    note_where();
    expect_eq!([register(0, 0), enable()], [SUCCESS; 2]);
    for round in 1..=200 {
        expect_eq!(raise(), SUCCESS);
        expect_that!(has_run(round), "round {round}: {} runs", runs());
    }
    release_target()?;
    for index in 2..4 {
        expect_that!(cpu::wait_off(index));
    }
    expect_eq!(runs_on(0), 0, "it is masked");
    expect_eq!(runs_on(1) + runs_on(2) + runs_on(3), 200);
    Ok(())
}

guest_test!(
    c209_a_shared_event_that_never_completes_denies_shared_reset,
    cpus = 2
);
fn c209_a_shared_event_that_never_completes_denies_shared_reset() -> TestResult {
    needs_sdei()?;
    start_target(take_events)?;
    sdei::set_hook(
        HANDLER,
        Some(|_| {
            let _in_time = ENOUGH.wait();
            End::Complete(0)
        }),
    );
    expect_eq!([register(0, 0), enable(), raise()], [SUCCESS; 3]);
    expect_that!(eventually(|| runs() == 1));
    let reset = || sdei::call(Call::SharedReset, &[]);
    expect_eq!([reset(), status_of(S1)], [DENIED, UNREGISTER_PENDING]);
    expect_eq!([reset(), register(0, 0)], [DENIED, DENIED]);
    release_target()?;
    expect_eq!([status_of(S1), reset()], [0, SUCCESS]);
    expect_eq!(register(0, 0), SUCCESS);
    Ok(())
}

guest_test!(
    c210_an_event_routed_to_a_cpu_that_is_off_waits_until_it_is_routed_elsewhere,
    cpus = 2
);
fn c210_an_event_routed_to_a_cpu_that_is_off_waits_until_it_is_routed_elsewhere() -> TestResult {
    needs_sdei()?;
    forget_notes();
    note_where();
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(register(RM_PE, cpu::affinity(1)), SUCCESS);
    expect_eq!([enable(), raise()], [SUCCESS; 2]);
    watch_for_ms(20);
    expect_that!(cpu::is_off(1), "it stays off");
    expect_eq!([runs() as i64, status_of(S1)], [0, ENABLED]);
    let here = cpu::affinity(0);
    expect_eq!(set_routing(S1, RM_PE, here), DENIED, "while enabled");
    expect_eq!([disable(), set_routing(S1, RM_PE, here)], [SUCCESS; 2]);
    expect_eq!(enable(), SUCCESS);
    expect_eq!([runs() as i64, runs_on(0)], [1, 1]);
    Ok(())
}

guest_test!(
    c254_c261_all_who_bind_an_interrupt_get_the_same_event,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c254_c261_all_who_bind_an_interrupt_get_the_same_event() -> TestResult {
    needs_sdei()?;
    const ROUNDS: u64 = 200;
    /// A PPI and an SPI that no device here has.
    const INTIDS: [u64; 2] = [20, 70];
    static ROUND: Cell64 = Cell64::new(0);
    static ANSWERS: Cell64 = Cell64::new(0);
    fn bind(round: u64) -> i64 {
        sdei::call(Call::InterruptBind, &[INTIDS[(round % 2) as usize]])
    }
    ROUND.set(0);
    ANSWERS.set(0);
    start_target(|| {
        READY.raise();
        for round in 1..=ROUNDS {
            if !eventually(|| ROUND.get() == round) {
                return;
            }
            note(0, bind(round));
            ANSWERS.set(round);
        }
    })?;
    for round in 1..=ROUNDS {
        ROUND.set(round);
        let mine = bind(round);
        expect_that!(eventually(|| ANSWERS.get() == round), "round {round}");
        let first = [FIRST_BOUND_PRIVATE, FIRST_BOUND_SHARED][(round % 2) as usize];
        expect_eq!([mine, noted(0)], [i64::from(first); 2], "round {round}");
        let release = || sdei::call(Call::InterruptRelease, &[first.into()]);
        expect_eq!([release(), release()], [SUCCESS, INVALID]);
    }
    expect_that!(cpu::wait_off(1));
    Ok(())
}

guest_test!(in_each_state_a_shared_event_denies_what_the_table_says);
fn in_each_state_a_shared_event_denies_what_the_table_says() -> TestResult {
    needs_sdei()?;
    forget_notes();
    let context = || sdei::call(Call::EventContext, &[0]);
    let complete = || sdei::call(Call::EventComplete, &[0]);
    let resume = || sdei::call(Call::EventCompleteAndResume, &[0x4000_0000]);
    let outside = || [context(), complete(), resume()];
    // DEN0054 6.1: unregistered, registered, enabled.
    expect_eq!(outside(), [DENIED; 3]);
    let denied = [enable(), disable(), unregister(), set_routing(S1, 0, 0)];
    expect_eq!(denied, [DENIED; 4]);
    expect_eq!([register(0, 0), status_of(S1)], [SUCCESS, REGISTERED]);
    expect_eq!(
        [register(0, 0), disable(), set_routing(S1, 0, 0)],
        [DENIED, SUCCESS, SUCCESS]
    );
    expect_eq!(outside(), [DENIED; 3]);
    expect_eq!(
        [enable(), enable(), status_of(S1)],
        [SUCCESS, SUCCESS, ENABLED]
    );
    expect_eq!([register(0, 0), set_routing(S1, 0, 0)], [DENIED; 2]);
    expect_eq!(outside(), [DENIED; 3]);
    // A platform event cannot be released in any of them.
    let release = || sdei::call(Call::InterruptRelease, &[S1]);
    expect_eq!(release(), INVALID);
    sdei::set_hook(
        HANDLER,
        Some(|_| {
            let answers = [
                status_of(S1),
                register(0, 0),
                enable(),
                set_routing(S1, 0, 0),
                disable(),
                status_of(S1),
                enable(),
                unregister(),
                status_of(S1),
                enable(),
                disable(),
                set_routing(S1, 0, 0),
                unregister(),
                register(0, 0),
                sdei::call(Call::EventContext, &[1]),
            ];
            for (n, answer) in answers.into_iter().enumerate() {
                note(n, answer);
            }
            End::Complete(0)
        }),
    );
    expect_eq!([sdei::unmask(), raise()], [SUCCESS; 2]);
    let expected = [
        RUNNING,
        DENIED,
        SUCCESS,
        DENIED,
        SUCCESS,
        DISABLED_RUNNING,
        SUCCESS,
        PENDING,
        UNREGISTER_PENDING,
        DENIED,
        DENIED,
        DENIED,
        PENDING,
        DENIED,
        S1 as i64,
    ];
    for (n, answer) in expected.into_iter().enumerate() {
        expect_eq!(noted(n), answer, "answer {n} in the handler");
    }
    expect_eq!(
        [status_of(S1), unregister(), release()],
        [0, DENIED, INVALID]
    );
    Ok(())
}
