//! What must hold whichever comes first.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::exception;
use crate::rt::gic;

/// Rounds of each race, at least.
const ROUNDS: u64 = 3000;

/// CPU 1's side of a race with the storm: it gets ready, goes round until it had enough, and notes how many of
/// its rounds were wrong. They begin when an event has come and go on until another has, as the host may give
/// CPU 0 no turn in the time of all these rounds.
fn race(mut is_right: impl FnMut(u64) -> bool) {
    let runs = || sdei::slot(1).runs() + sdei::slot(2).runs();
    if sdei::get_ready() {
        READY.raise();
    }
    while runs() == 0 {
        sysreg::relax();
    }
    let before = runs();
    let mut wrong = 0;
    let mut round = 0;
    while round < ROUNDS || runs() == before {
        round += 1;
        wrong += i64::from(!is_right(round));
    }
    note(0, wrong);
    ENOUGH.raise();
}

/// CPU 0 signals CPU 1 as fast as it can until that had enough.
fn storm_until_enough() -> TestResult {
    while !ENOUGH.is_up() {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        if cpu::is_off(1) {
            break;
        }
    }
    expect_that!(cpu::wait_off(1));
    Ok(())
}

/// Whether the handler of CPU 1 stays out for as long as some calls take.
fn stays_out() -> bool {
    let before = sdei::slot(1).runs();
    for _ in 0..5 {
        sdei::call(Call::Version, &[]);
    }
    sdei::slot(1).runs() == before
}

guest_test!(
    c175_after_disable_returns_no_handler_starts,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c175_after_disable_returns_no_handler_starts() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        race(|_| {
            let is_out = sdei::disable() == SUCCESS && stays_out();
            sdei::enable() == SUCCESS && is_out
        });
    })?;
    storm_until_enough()?;
    expect_eq!(noted(0), 0);
    Ok(())
}

guest_test!(
    c085_an_exclusive_pair_that_an_event_interrupts_loses_no_atomicity,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c085_an_exclusive_pair_that_an_event_interrupts_loses_no_atomicity() -> TestResult {
    needs_sdei()?;
    const EVENTS: u64 = 100;
    static SUM: Cell64 = Cell64::new(0);
    SUM.set(0);
    start_target(|| {
        if sdei::get_ready() {
            READY.raise();
        }
        let mut mine = 0;
        while sdei::slot(1).runs() < EVENTS {
            SUM.add_exclusively();
            mine += 1;
        }
        note(0, mine);
        ENOUGH.raise();
    })?;
    let mut mine = 0;
    while !ENOUGH.is_up() && !cpu::is_off(1) {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        SUM.add_exclusively();
        mine += 1;
    }
    expect_that!(cpu::wait_off(1));
    expect_eq!(SUM.get(), NOTES[0].get() + mine);
    Ok(())
}

guest_test!(
    c090_an_access_to_a_device_under_events_happens_once,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c090_an_access_to_a_device_under_events_happens_once() -> TestResult {
    needs_sdei()?;
    const SGI: u32 = 5;
    start_target(|| {
        race(|round| {
            // Each store makes it pending, so each is one interrupt, and a second one would be another.
            gic::pend(SGI);
            sysreg::with_interrupts(|| ());
            u64::from(exception::count(1, SGI)) == round
        });
    })?;
    storm_until_enough()?;
    expect_eq!(noted(0), 0);
    Ok(())
}

guest_test!(
    c176_after_unregister_returns_no_handler_starts,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c176_after_unregister_returns_no_handler_starts() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        race(|_| {
            let is_out = sdei::unregister() == SUCCESS && stays_out();
            let is_back = sdei::register() == SUCCESS && sdei::enable() == SUCCESS;
            is_out && is_back
        });
    })?;
    storm_until_enough()?;
    expect_eq!(noted(0), 0);
    Ok(())
}

guest_test!(
    c177_after_mask_returns_no_handler_starts,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c177_after_mask_returns_no_handler_starts() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        race(|_| {
            let is_out = sdei::mask() == 1 && stays_out();
            sdei::unmask() == SUCCESS && is_out
        });
    })?;
    storm_until_enough()?;
    expect_eq!(noted(0), 0);
    Ok(())
}

guest_test!(
    c178_a_handler_never_runs_with_the_argument_of_another,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c178_a_handler_never_runs_with_the_argument_of_another() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        race(|round| {
            let is_gone = sdei::unregister() == SUCCESS;
            // In turns with CPU 1's slot and CPU 2's: each notes in x1 which it was given.
            let [entry, argument] = sdei::entry_of(1 + round as usize % 2);
            let status = sdei::call(Call::EventRegister, &[0, entry, argument, 0, 0]);
            is_gone && status == SUCCESS && sdei::enable() == SUCCESS
        });
    })?;
    storm_until_enough()?;
    expect_eq!(noted(0), 0);
    for index in [1, 2] {
        let slot = sdei::slot(index);
        let argument = sdei::entry_of(index)[1];
        expect_that!(slot.runs() == 0 || slot.x(1) == argument, "{index}");
    }
    Ok(())
}

guest_test!(
    c179_a_signal_that_races_with_cpu_off_leaves_no_ghost,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c179_a_signal_that_races_with_cpu_off_leaves_no_ghost() -> TestResult {
    needs_sdei()?;
    for round in 0..100 {
        start_target(|| {
            note(0, sdei::status());
            note(1, sdei::mask());
            if sdei::get_ready() {
                READY.raise();
            }
        })?;
        while !cpu::is_off(1) {
            expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS, "round {round}");
        }
        expect_eq!([noted(0), noted(1)], [0, 0], "round {round}");
    }
    // What was sent to the CPU while it was off is not there now.
    let before = sdei::slot(1).runs();
    start_target(|| {
        note(0, i64::from(sdei::get_ready()));
        READY.raise();
    })?;
    expect_that!(cpu::wait_off(1));
    expect_eq!(noted(0), 1);
    expect_eq!(sdei::slot(1).runs(), before);
    Ok(())
}

guest_test!(
    c270_random_calls_get_legal_answers_and_nothing_else,
    cpus = 1,
    boot = shared,
    icount = false,
    timeout = 60
);
fn c270_random_calls_get_legal_answers_and_nothing_else() -> TestResult {
    needs_sdei()?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let legal = [NOT_SUPPORTED, INVALID, DENIED, PENDING, OUT_OF_RESOURCE];
    for round in 0..50_000 {
        let id = 0xc400_0020 | (random() & 0x1f) as u32;
        if id == Call::PeUnmask as u32 {
            // Everything may get registered; unmasked, it would run.
            continue;
        }
        let mut argument = || match random() % 4 {
            0 => 0,
            1 => random() & 0xff,
            2 => cpu::affinity(0),
            _ => random(),
        };
        let arguments = [argument(), argument(), argument(), argument(), argument()];
        let answer = crate::rt::call::call(sdei::conduit(), id, &arguments);
        let fine = legal.contains(&answer)
            || match Call::from_id(id) {
                Some(Call::Version) => answer > 0,
                Some(Call::EventStatus) => (0..=3).contains(&answer),
                Some(Call::InterruptBind) => answer >> 30 == 1,
                Some(Call::Features) => answer >> 32 == 0,
                Some(_) => (0..=1).contains(&answer),
                None => false,
            };
        expect_that!(
            fine,
            "round {round}: {id:#x} {arguments:x?} answered {answer}"
        );
    }
    expect_eq!(sdei::slot(0).runs(), 0);
    // PE_MASK answered 0 all along, as this CPU was masked from the start.
    expect_eq!(sdei::mask(), 0);
    Ok(())
}
