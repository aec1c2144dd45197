//! Storms of signals: none is lost, the guest gets on, its timers tick.

use super::*;
use crate::harness::needs_sdei;
use crate::rt::exception;
use crate::rt::machine::MAX_CPUS;
use crate::rt::sdei::End;
use crate::rt::timer::Timer;
use crate::tests::timer::takes_interrupts;

/// Signals of each sender, and rounds of the others.
const SIGNALS: u64 = 500;

/// How many signals each CPU has sent, or is about to send; and what CPU 0's handler last knew of it.
static SENT: [Cell64; MAX_CPUS] = [const { Cell64::new(0) }; MAX_CPUS];
static SEEN: [Cell64; MAX_CPUS] = [const { Cell64::new(0) }; MAX_CPUS];
/// CPUs whose timer ticked as often as it was to.
static TICKED: Cell64 = Cell64::new(0);
/// CPU 1 has masked its events.
static MASKED: Flag = Flag::new();

/// Looks at what the senders have sent before they signalled.
fn see_all() {
    for (seen, sent) in SEEN.iter().zip(&SENT) {
        seen.set(sent.get());
    }
}

guest_test!(
    c173_storm_all_signal_one_which_masks_and_hears_the_last_of_each,
    cpus = 4,
    boot = own,
    icount = false,
    config = "-",
    timeout = 60
);
fn c173_storm_all_signal_one_which_masks_and_hears_the_last_of_each() -> TestResult {
    needs_sdei()?;
    sdei::set_hook(
        0,
        Some(|_| {
            see_all();
            End::Complete(0)
        }),
    );
    get_ready()?;
    for index in 1..cpu::count() {
        let status = cpu::start(index, || {
            let sent = &SENT[sysreg::cpu_index()];
            while sent.get() < SIGNALS {
                sent.add(1);
                if sdei::signal(cpu::affinity(0)) != SUCCESS {
                    break;
                }
            }
        });
        expect_eq!(status, 0);
    }
    for _ in 0..50 {
        expect_eq!(sdei::mask(), 1);
        expect_that!(takes_interrupts(Timer::Virtual, 1), "in the storm, masked");
        expect_eq!(sdei::unmask(), SUCCESS);
        expect_that!(takes_interrupts(Timer::Virtual, 1), "in the storm");
    }
    for (index, seen) in SEEN.iter().enumerate().take(cpu::count()).skip(1) {
        expect_that!(cpu::wait_off(index), "CPU {index}");
        expect_eq!(SENT[index].get(), SIGNALS, "CPU {index}");
        let is_heard = eventually(|| seen.get() == SIGNALS);
        expect_that!(is_heard, "CPU {index}: {} heard", seen.get());
    }
    let all = SIGNALS * (cpu::count() as u64 - 1);
    expect_that!(sdei::slot(0).runs() <= all, "{} runs", sdei::slot(0).runs());
    expect_that!(takes_interrupts(Timer::Physical, 10), "afterwards");
    Ok(())
}

guest_test!(
    storm_one_signals_all_and_each_hears_each_signal_once,
    cpus = 4,
    boot = own,
    icount = false,
    config = "-",
    timeout = 60
);
fn storm_one_signals_all_and_each_hears_each_signal_once() -> TestResult {
    needs_sdei()?;
    for (index, sent) in SENT.iter().enumerate().take(cpu::count()).skip(1) {
        let status = cpu::start(index, || {
            if sdei::get_ready() {
                SENT[sysreg::cpu_index()].set(1);
            }
            loop {
                if !takes_interrupts(Timer::Virtual, 1) {
                    return;
                }
                if ENOUGH.is_up() {
                    break;
                }
            }
            TICKED.add(1);
        });
        expect_eq!(status, 0);
        expect_that!(eventually(|| sent.get() == 1), "CPU {index}");
    }
    for round in 1..=SIGNALS {
        for index in 1..cpu::count() {
            expect_eq!(sdei::signal(cpu::affinity(index)), SUCCESS);
        }
        for index in 1..cpu::count() {
            expect_that!(entered(index, round), "CPU {index}, round {round}");
        }
    }
    ENOUGH.raise();
    for index in 1..cpu::count() {
        expect_that!(cpu::wait_off(index), "CPU {index}");
        expect_eq!(sdei::slot(index).runs(), SIGNALS, "CPU {index}");
        expect_that!(exception::count(index, Timer::Virtual.intid()) > 0);
    }
    expect_eq!(TICKED.get(), cpu::count() as u64 - 1);
    Ok(())
}

guest_test!(
    c177_storm_of_masks_loses_no_signal_and_enters_no_handler_masked,
    cpus = 2,
    boot = own,
    icount = false,
    config = "-",
    timeout = 60
);
fn c177_storm_of_masks_loses_no_signal_and_enters_no_handler_masked() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|_| {
                if MASKED.is_up() {
                    note(0, 1);
                }
                End::Complete(0)
            }),
        );
        if sdei::get_ready() {
            READY.raise();
        }
        let mut rounds = 0;
        while !ENOUGH.is_up() {
            sdei::mask();
            MASKED.raise();
            sdei::status();
            MASKED.lower();
            sdei::unmask();
            rounds += 1;
            if rounds % 16 == 0 && !takes_interrupts(Timer::Virtual, 1) {
                note(1, rounds);
                return;
            }
        }
    })?;
    for n in 1..=SIGNALS {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(entered(1, n), "signal {n}");
    }
    release_target()?;
    expect_eq!([noted(0), noted(1)], [NOTHING as i64; 2], "masked, timer");
    expect_eq!(sdei::slot(1).runs(), SIGNALS, "each once");
    expect_that!(exception::count(1, Timer::Virtual.intid()) > 0);
    Ok(())
}
