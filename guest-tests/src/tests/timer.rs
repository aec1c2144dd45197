//! The generic timers: one time for all CPUs, interrupts that arrive, never early.

use hv_abi::psci::Status;

use crate::harness::TestResult;
use crate::rt::exception::{self, Frame, Source};
use crate::rt::sync::{Cell64, Flag, eventually};
use crate::rt::timer::{self, Timer};
use crate::rt::{cpu, gic, sysreg};

/// Takes `rounds` interrupts of `timer` on this CPU; false when one is missing.
pub fn takes_interrupts(timer: Timer, rounds: u32) -> bool {
    let me = sysreg::cpu_index();
    gic::enable(timer.intid());
    sysreg::with_interrupts(|| {
        for _ in 0..rounds {
            let before = exception::count(me, timer.intid());
            timer.fire_in(timer::ticks_of_us(200));
            if !eventually(|| exception::count(me, timer.intid()) > before) {
                return false;
            }
        }
        true
    })
}

guest_test!(the_virtual_timer_interrupts);
fn the_virtual_timer_interrupts() -> TestResult {
    expect_that!(takes_interrupts(Timer::Virtual, 50));
    Ok(())
}

guest_test!(the_physical_timer_interrupts);
fn the_physical_timer_interrupts() -> TestResult {
    expect_that!(takes_interrupts(Timer::Physical, 50));
    Ok(())
}

guest_test!(timers_are_never_early);
fn timers_are_never_early() -> TestResult {
    static EARLY: Flag = Flag::new();
    EARLY.lower();
    fn hook(_: &mut Frame, intid: u32) -> Source {
        if Timer::BOTH
            .iter()
            .any(|timer| timer.intid() == intid && !timer.has_expired())
        {
            EARLY.raise();
        }
        Source::Silence
    }
    exception::set_hook(Some(hook));
    for timer in Timer::BOTH {
        expect_that!(takes_interrupts(timer, 50), "{timer:?}");
    }
    expect_that!(!EARLY.is_up());
    Ok(())
}

guest_test!(a_timers_pending_bit_follows_its_line_while_nobody_takes_it);
fn a_timers_pending_bit_follows_its_line_while_nobody_takes_it() -> TestResult {
    for timer in Timer::BOTH {
        let intid = timer.intid();
        let is_pending = || gic::is_set(gic::gicd::ISPENDR, intid);
        // Disabled at the distributor, then enabled and masked at the CPU.
        for is_enabled in [false, true] {
            if is_enabled {
                gic::enable(intid);
            } else {
                gic::disable(intid);
            }
            for _ in 0..3 {
                timer.fire_in(0);
                expect_that!(eventually(is_pending), "{timer:?}");
                timer.stop();
                expect_that!(eventually(|| !is_pending()), "{timer:?}");
            }
        }
        sysreg::with_interrupts(|| ());
        expect_eq!(exception::count(0, intid), 0);
    }
    Ok(())
}

guest_test!(a_timer_that_nobody_silences_interrupts_again);
fn a_timer_that_nobody_silences_interrupts_again() -> TestResult {
    fn hook(_: &mut Frame, intid: u32) -> Source {
        // Level-sensitive: as long as the condition holds, the end of one is the start of the next.
        if exception::count(0, intid) < 4 {
            Source::Leave
        } else {
            Source::Silence
        }
    }
    exception::set_hook(Some(hook));
    for timer in Timer::BOTH {
        gic::enable(timer.intid());
        timer.fire_in(timer::ticks_of_us(100));
        let again =
            sysreg::with_interrupts(|| eventually(|| exception::count(0, timer.intid()) == 5));
        expect_that!(
            again,
            "{timer:?}: {} times",
            exception::count(0, timer.intid())
        );
    }
    Ok(())
}

guest_test!(wfi_ends_when_a_timer_expires_masked_or_not);
fn wfi_ends_when_a_timer_expires_masked_or_not() -> TestResult {
    for timer in Timer::BOTH {
        gic::enable(timer.intid());
        timer.fire_in(timer::ticks_of_us(10_000));
        while !timer.has_expired() {
            sysreg::wfi();
        }
        expect_eq!(
            exception::count(0, timer.intid()),
            0,
            "{timer:?} was masked"
        );
        let taken =
            sysreg::with_interrupts(|| eventually(|| exception::count(0, timer.intid()) == 1));
        expect_that!(taken, "{timer:?} after the mask was lifted");
    }
    Ok(())
}

guest_test!(both_timers_interrupt_every_cpu_at_once, cpus = 4);
fn both_timers_interrupt_every_cpu_at_once() -> TestResult {
    static FINE: Cell64 = Cell64::new(0);
    FINE.set(0);
    fn work() {
        if Timer::BOTH.iter().all(|timer| takes_interrupts(*timer, 50)) {
            FINE.add(1);
        }
    }
    for index in 1..cpu::count() {
        expect_eq!(cpu::start(index, work), Status::Success as i32);
    }
    work();
    expect_that!(
        eventually(|| FINE.get() == cpu::count() as u64),
        "{} CPUs are fine",
        FINE.get()
    );
    Ok(())
}

guest_test!(
    the_virtual_count_never_goes_back_from_one_cpu_to_the_next,
    cpus = 2
);
fn the_virtual_count_never_goes_back_from_one_cpu_to_the_next() -> TestResult {
    const TURNS: u64 = 400;
    static TURN: Cell64 = Cell64::new(0);
    static LATEST: Cell64 = Cell64::new(0);
    static BACK: Cell64 = Cell64::new(0);
    fn play(mine: u64) {
        for turn in (mine..TURNS).step_by(2) {
            if !eventually(|| TURN.get() == turn) {
                return;
            }
            let now = timer::counter();
            if now < LATEST.get() {
                BACK.add(1);
            }
            LATEST.set(now);
            TURN.set(turn + 1);
        }
    }
    for cell in [&TURN, &LATEST, &BACK] {
        cell.set(0);
    }
    expect_eq!(cpu::start(1, || play(1)), Status::Success as i32);
    play(0);
    expect_that!(eventually(|| TURN.get() == TURNS), "turn {}", TURN.get());
    expect_eq!(BACK.get(), 0);
    Ok(())
}
