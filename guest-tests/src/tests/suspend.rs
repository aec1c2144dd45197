//! SYSTEM_SUSPEND (DEN0022): who may, what wakes up, and what is left afterwards.

use hv_abi::psci::{self as abi, Status};
use hv_abi::sdei::Call;

use crate::harness::{TestResult, needs_hypervisor, needs_sdei};
use crate::rt::machine::machine;
use crate::rt::sdei::End;
use crate::rt::suspend::suspend;
use crate::rt::sync::{Cell64, Flag};
use crate::rt::timer::{self, Timer};
use crate::rt::{cpu, exception, gic, psci, sdei, sysreg};

/// The form with 64-bit arguments.
const SUSPEND: u32 = abi::SYSTEM_SUSPEND[1];

/// Sleeps until the virtual timer expires, which must not be early, and leaves its interrupt pending.
fn sleep_by(function: u32) -> TestResult {
    let timer = Timer::Virtual;
    gic::enable(timer.intid());
    timer.fire_in(timer::ticks_of_us(20_000));
    if let Err(status) = suspend(function) {
        fail!("SYSTEM_SUSPEND {function:#x} answered {status}");
    }
    expect_that!(timer.has_expired(), "it woke up for nothing");
    Ok(())
}

guest_test!(a_suspended_system_sleeps_until_an_interrupt_which_it_then_takes);
fn a_suspended_system_sleeps_until_an_interrupt_which_it_then_takes() -> TestResult {
    needs_hypervisor()?;
    for (round, function) in (1..).zip(abi::SYSTEM_SUSPEND) {
        sleep_by(function)?;
        expect_eq!(exception::count(0, Timer::Virtual.intid()), round - 1);
        sysreg::with_interrupts(|| ());
        expect_eq!(exception::count(0, Timer::Virtual.intid()), round);
        expect_eq!(gic::running_priority(), gic::IDLE_PRIORITY);
    }
    expect_that!(super::timer::takes_interrupts(Timer::Virtual, 10));
    expect_that!(super::timer::takes_interrupts(Timer::Physical, 10));
    Ok(())
}

guest_test!(a_cpu_wakes_up_at_el1h_masked_with_its_mmu_off);
fn a_cpu_wakes_up_at_el1h_masked_with_its_mmu_off() -> TestResult {
    needs_hypervisor()?;
    gic::send_sgi_to(cpu::affinity(0), 3);
    let awake = match suspend(SUSPEND) {
        Ok(awake) => awake,
        Err(status) => fail!("SYSTEM_SUSPEND answered {status}"),
    };
    const EL1: u64 = 0b01 << 2;
    const DAIF: u64 = 0b1111 << 6;
    /// SCTLR_EL1: M, C and I (DDI0487 D24.2).
    const TRANSLATION_AND_CACHES: u64 = 1 << 0 | 1 << 2 | 1 << 12;
    expect_eq!(awake.current_el, EL1);
    expect_eq!(awake.spsel, 1);
    expect_eq!(awake.daif, DAIF);
    expect_eq!(awake.sctlr & TRANSLATION_AND_CACHES, 0);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 3), 1, "what woke it up");
    Ok(())
}

guest_test!(an_interrupt_that_is_pending_wakes_up_at_once);
fn an_interrupt_that_is_pending_wakes_up_at_once() -> TestResult {
    needs_hypervisor()?;
    for round in 1..=10 {
        for sgi in 3..8 {
            gic::send_sgi_to(cpu::affinity(0), sgi);
        }
        // The priority mask is no reason to sleep on, and the interface forgets it.
        gic::set_priority_mask(0);
        expect_that!(suspend(SUSPEND).is_ok(), "round {round}");
        sysreg::with_interrupts(|| ());
        for sgi in 3..8 {
            expect_eq!(exception::count(0, sgi), round, "SGI {sgi}");
        }
    }
    Ok(())
}

guest_test!(only_the_last_cpu_can_suspend_the_system, cpus = 2);
fn only_the_last_cpu_can_suspend_the_system() -> TestResult {
    needs_hypervisor()?;
    static ON: Flag = Flag::new();
    static ENOUGH: Flag = Flag::new();
    ON.lower();
    ENOUGH.lower();
    let status = cpu::start(1, || {
        ON.raise();
        let _in_time = ENOUGH.wait();
    });
    expect_eq!(status, Status::Success as i32);
    expect_that!(ON.wait());
    gic::send_sgi_to(cpu::affinity(0), 3);
    let refused = abi::SYSTEM_SUSPEND.map(suspend);
    ENOUGH.raise();
    expect_eq!(refused, [Err(Status::Denied as i32); 2]);
    expect_that!(cpu::wait_off(1));
    expect_that!(suspend(SUSPEND).is_ok(), "alone");
    Ok(())
}

guest_test!(a_system_that_would_wake_up_nowhere_is_not_suspended);
fn a_system_that_would_wake_up_nowhere_is_not_suspended() -> TestResult {
    needs_hypervisor()?;
    // Should it be suspended, it wakes up at once, and where it must not.
    gic::send_sgi_to(cpu::affinity(0), 3);
    let home = machine().home();
    let outside = [
        0,
        home.base - 4,
        home.end(),
        machine().uart.region().base,
        cpu::entry_address() + 1,
        cpu::entry_address() + 2,
        u64::MAX,
    ];
    for entry in outside {
        let status = psci::call_psci(SUSPEND, &[entry, 0]);
        expect_eq!(status, Status::InvalidAddress as i32, "entry {entry:#x}");
    }
    Ok(())
}

guest_test!(c212_a_cpu_wakes_up_masked_and_with_its_events_registered);
fn c212_a_cpu_wakes_up_masked_and_with_its_events_registered() -> TestResult {
    needs_hypervisor()?;
    needs_sdei()?;
    const ENABLED: i64 = 3;
    for round in 0..5 {
        expect_eq!(sdei::register(), 0);
        expect_eq!([sdei::enable(), sdei::unmask()], [0, 0]);
        sleep_by(SUSPEND)?;
        expect_eq!(sdei::status(), ENABLED);
        expect_eq!(sdei::mask(), 0, "it was masked");
        expect_eq!(sdei::signal(cpu::affinity(0)), 0);
        expect_eq!(sdei::slot(0).runs(), round);
        expect_eq!(sdei::unmask(), 0);
        expect_eq!(sdei::slot(0).runs(), round + 1);
        expect_eq!([sdei::unregister(), sdei::mask()], [0, 1]);
        sysreg::with_interrupts(|| ());
    }
    Ok(())
}

guest_test!(an_event_that_is_masked_does_not_wake_up_and_is_not_lost);
fn an_event_that_is_masked_does_not_wake_up_and_is_not_lost() -> TestResult {
    needs_hypervisor()?;
    needs_sdei()?;
    expect_eq!(sdei::register(), 0);
    expect_eq!(sdei::enable(), 0);
    expect_eq!(sdei::signal(cpu::affinity(0)), 0);
    sleep_by(SUSPEND)?;
    expect_eq!(sdei::slot(0).runs(), 0);
    expect_eq!(sdei::unmask(), 0);
    expect_eq!(sdei::slot(0).runs(), 1);
    Ok(())
}

guest_test!(a_handler_that_suspended_the_system_can_complete);
fn a_handler_that_suspended_the_system_can_complete() -> TestResult {
    needs_hypervisor()?;
    needs_sdei()?;
    static STATUS: Cell64 = Cell64::new(0);
    STATUS.set(0);
    const RUNNING: u64 = 7;
    expect_that!(sdei::get_ready());
    sdei::set_hook(
        0,
        Some(|_| {
            gic::send_sgi_to(cpu::affinity(0), 3);
            if suspend(SUSPEND).is_ok() {
                STATUS.set(sdei::status() as u64);
            }
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), 0);
    expect_eq!(STATUS.get(), RUNNING);
    expect_eq!(sdei::mask(), 0, "it woke up masked");
    sdei::set_hook(0, None);
    expect_eq!([sdei::unmask(), sdei::signal(cpu::affinity(0))], [0, 0]);
    expect_eq!(sdei::slot(0).runs(), 2);
    Ok(())
}

guest_test!(an_event_that_is_due_wakes_up_and_is_taken_when_unmasked);
fn an_event_that_is_due_wakes_up_and_is_taken_when_unmasked() -> TestResult {
    needs_hypervisor()?;
    needs_sdei()?;
    let timer = Timer::Virtual;
    gic::disable(timer.intid());
    let event = sdei::call(Call::InterruptBind, &[timer.intid().into()]);
    expect_eq!(event >> 30, 1, "{event:#x}");
    let event = event as u64;
    sdei::set_hook(
        0,
        Some(|_| {
            Timer::Virtual.stop();
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::register_event(event, 0, 0), 0);
    let enabled = sdei::call(Call::EventEnable, &[event]);
    expect_eq!([enabled, sdei::unmask()], [0, 0]);
    for round in 1..=5 {
        timer.fire_in(timer::ticks_of_us(20_000));
        expect_that!(suspend(SUSPEND).is_ok(), "round {round}");
        expect_that!(timer.has_expired(), "it woke up for nothing");
        expect_eq!(sdei::slot(0).runs(), round - 1);
        expect_eq!([sdei::mask(), sdei::unmask()], [0, 0], "it was masked");
        expect_eq!(sdei::slot(0).runs(), round);
    }
    // Held back by the mask, it wakes nobody; a timer that interrupts does.
    expect_eq!(sdei::mask(), 1);
    timer.fire_in(timer::ticks_of_us(1000));
    gic::enable(Timer::Physical.intid());
    Timer::Physical.fire_in(timer::ticks_of_us(30_000));
    expect_that!(suspend(SUSPEND).is_ok());
    expect_that!(Timer::Physical.has_expired(), "the masked event woke it up");
    expect_eq!(sdei::slot(0).runs(), 5);
    expect_eq!(sdei::unmask(), 0);
    expect_eq!(sdei::slot(0).runs(), 6);
    Ok(())
}
