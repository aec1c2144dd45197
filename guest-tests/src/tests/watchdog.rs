//! The hypervisor's watchdog over the guest (`config = "watchdog"`: a limit of 20 ms, an SError for who is wedged): it finds a CPU that
//! takes no interrupt, by whatever means, at the limit and at most a look later, and no other.

use crate::harness::{TestResult, needs_hypervisor, needs_icount};
use crate::rt::exception::{self, Frame, Source};
use crate::rt::sync::Cell64;
use crate::rt::timer::{self, Timer};
use crate::rt::{cpu, gic, sysreg};

/// As the guest's configuration has it.
const LIMIT_US: u64 = 20_000;
const LOOK_US: u64 = LIMIT_US / 4;

/// Has the virtual timer's interrupt wait. Ticks until an SError does, too; none after ten limits.
fn until_serror() -> Option<u64> {
    let start = timer::counter();
    Timer::Virtual.fire_in(0);
    loop {
        let passed = timer::counter() - start;
        if sysreg::is_serror_pending() {
            return Some(passed);
        }
        if passed > timer::ticks_of_us(10 * LIMIT_US) {
            return None;
        }
    }
}

/// How this CPU keeps an interrupt off that waits from now on.
#[derive(Clone, Copy, Debug)]
enum Keeps {
    Pstate,
    PriorityMask,
    Handler,
}

/// What a handler has measured; 1 more, so that 0 is nothing.
static MEASURED: Cell64 = Cell64::new(0);

/// Ticks until the watchdog has found this CPU.
fn get_wedged(how: Keeps) -> Option<u64> {
    gic::enable(Timer::Virtual.intid());
    match how {
        Keeps::Pstate => until_serror(),
        Keeps::PriorityMask => {
            gic::set_priority_mask(gic::PRIORITY);
            sysreg::with_interrupts(until_serror)
        }
        Keeps::Handler => {
            fn hook(_: &mut Frame, intid: u32) -> Source {
                if intid == 1 {
                    MEASURED.set(until_serror().map_or(0, |ticks| ticks + 1));
                    Timer::Virtual.stop();
                }
                Source::Silence
            }
            exception::set_hook(Some(hook));
            gic::send_sgi_to(cpu::affinity(0), 1);
            sysreg::with_interrupts(|| crate::rt::sync::eventually(|| exception::count(0, 1) > 0));
            MEASURED.get().checked_sub(1)
        }
    }
}

fn is_found(how: Keeps) -> TestResult {
    needs_hypervisor()?;
    expect_that!(!sysreg::is_serror_pending());
    let ticks = get_wedged(how);
    let Some(ticks) = ticks else {
        fail!("nobody has found it: {how:?}");
    };
    expect_that!(
        ticks >= timer::ticks_of_us(LIMIT_US),
        "{how:?}: {ticks} ticks"
    );
    Ok(())
}

guest_test!(
    the_watchdog_finds_a_cpu_that_masks_interrupts,
    boot = own,
    config = "watchdog"
);
fn the_watchdog_finds_a_cpu_that_masks_interrupts() -> TestResult {
    is_found(Keeps::Pstate)
}

guest_test!(
    the_watchdog_finds_a_cpu_whose_priority_mask_keeps_interrupts_off,
    boot = own,
    config = "watchdog"
);
fn the_watchdog_finds_a_cpu_whose_priority_mask_keeps_interrupts_off() -> TestResult {
    is_found(Keeps::PriorityMask)
}

guest_test!(
    the_watchdog_finds_a_handler_without_end,
    boot = own,
    config = "watchdog"
);
fn the_watchdog_finds_a_handler_without_end() -> TestResult {
    is_found(Keeps::Handler)
}

guest_test!(
    the_watchdog_finds_a_wedge_at_the_limit_or_a_look_later,
    boot = own,
    icount = true,
    config = "watchdog"
);
fn the_watchdog_finds_a_wedge_at_the_limit_or_a_look_later() -> TestResult {
    /// From the alarm to the guest's load that sees the SError, in instructions.
    const WAY: u64 = 50_000;
    needs_hypervisor()?;
    needs_icount()?;
    let Some(ticks) = get_wedged(Keeps::Pstate) else {
        fail!("nobody has found it");
    };
    let (least, most) = (
        timer::ticks_of_us(LIMIT_US),
        timer::ticks_of_us(LIMIT_US + LOOK_US) + WAY,
    );
    expect_that!((least..most).contains(&ticks), "{ticks} ticks");
    Ok(())
}

guest_test!(
    the_watchdog_lets_be_who_takes_interrupts_now_and_then,
    boot = own,
    icount = true,
    config = "watchdog",
    timeout = 60
);
fn the_watchdog_lets_be_who_takes_interrupts_now_and_then() -> TestResult {
    needs_hypervisor()?;
    needs_icount()?;
    let timer = Timer::Virtual;
    gic::enable(timer.intid());
    let limit = timer::ticks_of_us(LIMIT_US);
    let wait = |ticks: u64| {
        let start = timer::counter();
        while timer::counter() - start < ticks {}
    };
    for round in 0..8 {
        timer.fire_in(0);
        match round % 4 {
            // A long critical section, again and again.
            0 | 1 => wait(limit * 9 / 10),
            // Nothing waits, whatever is masked.
            2 => {
                sysreg::with_interrupts(|| ());
                wait(limit * 3);
            }
            // Idle for several limits, and woken by what is masked.
            _ => {
                sysreg::with_interrupts(|| ());
                timer.fire_in(limit * 3);
                while !timer.has_expired() {
                    sysreg::wfi();
                }
            }
        }
        sysreg::with_interrupts(|| ());
        expect_that!(!sysreg::is_serror_pending(), "round {round}");
    }
    Ok(())
}
