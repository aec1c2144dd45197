//! Stuck CPUs among others: parked ones, several, the boot CPU, and one that nobody signals.

use hv_abi::psci::{AffinityState, Status as Psci};
use hv_abi::sdei::Call;

use super::*;
use crate::rt::psci;

/// CPU 1 parked by event 0, as Linux parks what it stops: its handler masks and never completes.
fn park_cpu_1() -> TestResult {
    static PARKED: Flag = Flag::new();
    *PLANS[1].lock() = Some(Wedge::Spin);
    let status = cpu::start(1, || {
        sdei::set_hook(
            1,
            Some(|slot| {
                if !is_stuck(slot) {
                    return End::Complete(0);
                }
                sdei::mask();
                note_found(slot);
                PARKED.raise();
                sysreg::park()
            }),
        );
        if sdei::get_ready() {
            READY.add(1);
        }
        wedge::enter(Wedge::Spin);
    });
    expect_eq!(status, 0);
    wait_until_stuck(1)?;
    expect_reached(1, Wedge::Spin)?;
    expect_that!(PARKED.wait());
    Ok(())
}

guest_test!(
    c208_beside_a_cpu_parked_in_its_handler_another_starts_over,
    cpus = 2,
    boot = own
);
fn c208_beside_a_cpu_parked_in_its_handler_another_starts_over() -> TestResult {
    needs_sdei()?;
    park_cpu_1()?;
    expect_that!(sdei::get_ready());
    // What a capture kernel does first, and it may find its predecessor's registration.
    for call in [Call::PrivateReset, Call::SharedReset] {
        expect_eq!(sdei::call(call, &[]), 0, "{call:?}");
    }
    expect_eq!(sdei::status(), 0);
    let before = sdei::slot(0).runs();
    expect_that!(sdei::get_ready());
    expect_eq!(sdei::signal(cpu::affinity(0)), 0);
    expect_eq!(sdei::slot(0).runs(), before + 1);
    expect_that!(takes_interrupts(Timer::Virtual, 10));
    Ok(())
}

guest_test!(
    c188_a_cpu_parked_in_its_handler_holds_the_event_and_harms_nobody,
    cpus = 3,
    boot = own
);
fn c188_a_cpu_parked_in_its_handler_holds_the_event_and_harms_nobody() -> TestResult {
    needs_sdei()?;
    park_cpu_1()?;
    let runs = sdei::slot(1).runs();
    for _ in 0..3 {
        expect_eq!(
            sdei::signal(cpu::affinity(1)),
            0,
            "the signal stays pending"
        );
    }
    watch_for_ms(20);
    expect_eq!(sdei::slot(1).runs(), runs);
    let on = cpu::try_cpu_on(cpu::affinity(1), cpu::entry_address());
    expect_eq!(on, Psci::AlreadyOn as i32);
    expect_eq!(
        psci::affinity_info(cpu::affinity(1)),
        AffinityState::On as i32
    );
    // The others are as alive as before: one that gets stuck can be reached, timers tick.
    *PLANS[2].lock() = Some(Wedge::Spin);
    expect_eq!(cpu::start(2, get_stuck), 0);
    wait_until_stuck(2)?;
    expect_reached(2, Wedge::Spin)?;
    expect_that!(cpu::wait_off(2));
    expect_eq!(WHOLE.get(), 1);
    expect_that!(takes_interrupts(Timer::Virtual, 10));
    expect_that!(takes_interrupts(Timer::Physical, 10));
    Ok(())
}

guest_test!(
    event_0_reaches_the_boot_cpu_when_another_signals_it,
    cpus = 2,
    boot = own
);
fn event_0_reaches_the_boot_cpu_when_another_signals_it() -> TestResult {
    needs_sdei()?;
    static REACHED: Flag = Flag::new();
    let status = cpu::start(1, || {
        if eventually(|| READY.get() == 1) {
            watch_for_ms(20);
            if reach(0) {
                REACHED.raise();
            }
        }
    });
    expect_eq!(status, 0);
    *PLANS[0].lock() = Some(Wedge::Spin);
    get_stuck();
    expect_that!(REACHED.wait());
    expect_that!(expected_code(Wedge::Spin).contains(&FOUND[0].pc.get()));
    expect_eq!(WHOLE.get(), 1);
    Ok(())
}

guest_test!(
    event_0_reaches_all_others_stuck_in_different_ways,
    cpus = 4,
    boot = own
);
fn event_0_reaches_all_others_stuck_in_different_ways() -> TestResult {
    needs_sdei()?;
    let ways = [Wedge::Lock, Wedge::Wfi, Wedge::Mmu];
    for (index, wedge) in (1..).zip(ways) {
        *PLANS[index].lock() = Some(wedge);
        expect_eq!(cpu::start(index, get_stuck), 0);
    }
    wait_until_stuck(3)?;
    for (index, wedge) in (1..).zip(ways) {
        expect_reached(index, wedge)?;
        expect_that!(cpu::wait_off(index), "CPU {index}");
    }
    expect_eq!(WHOLE.get(), 3);
    Ok(())
}

guest_test!(
    without_a_signal_a_stuck_cpu_stays_stuck,
    cpus = 2,
    boot = own
);
fn without_a_signal_a_stuck_cpu_stays_stuck() -> TestResult {
    needs_sdei()?;
    *PLANS[1].lock() = Some(Wedge::Spin);
    expect_eq!(cpu::start(1, get_stuck), 0);
    wait_until_stuck(1)?;
    // The negative control: an SGI does not get through, however long one waits.
    gic::send_sgi_to(cpu::affinity(1), 3);
    watch_for_ms(200);
    expect_eq!(exception::count(1, 3), 0);
    expect_eq!(sdei::slot(1).runs(), 0);
    expect_that!(!cpu::is_off(1));
    Ok(())
}
