//! Events that all CPUs have in common. The platform raises them when a test asks for it.

use hv_abi::sdei::{Call, info};

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;

/// Normal and shared; so is the next.
pub const S1: u64 = 0x200;
const S2: u64 = 0x201;
/// Critical and shared.
const SC: u64 = 0x202;

pub const RM_PE: u64 = 1;

pub fn status_of(event: u64) -> i64 {
    sdei::call(Call::EventStatus, &[event])
}

pub fn get_info(event: u64, info: u32) -> i64 {
    sdei::call(Call::EventGetInfo, &[event, u64::from(info)])
}

pub fn set_routing(event: u64, mode: u64, affinity: u64) -> i64 {
    sdei::call(Call::EventRoutingSet, &[event, mode, affinity])
}

/// Registers `event` for whoever calls this and enables it.
fn arm(event: u64, flags: u64, affinity: u64) -> TestResult {
    expect_eq!(sdei::register_event(event, flags, affinity), SUCCESS);
    expect_eq!(sdei::call(Call::EventEnable, &[event]), SUCCESS);
    Ok(())
}

guest_test!(c056_events_are_what_the_configuration_says);
fn c056_events_are_what_the_configuration_says() -> TestResult {
    needs_sdei()?;
    for (event, shared, critical) in [(0x100, 0, 0), (0x101, 0, 1), (S1, 1, 0), (SC, 1, 1)] {
        expect_eq!(get_info(event, info::EV_TYPE), shared, "{event:#x}");
        expect_eq!(get_info(event, info::EV_SIGNALED), 1, "{event:#x}");
        expect_eq!(get_info(event, info::EV_PRIORITY), critical, "{event:#x}");
    }
    Ok(())
}

guest_test!(
    c053_c054_c055_routing_is_told_of_registered_events,
    cpus = 2
);
fn c053_c054_c055_routing_is_told_of_registered_events() -> TestResult {
    needs_sdei()?;
    let mode = || get_info(S1, info::EV_ROUTING_MODE);
    let affinity = || get_info(S1, info::EV_ROUTING_AFF);
    expect_eq!([mode(), affinity()], [DENIED, DENIED], "unregistered");
    expect_eq!(sdei::register_event(S1, 0, 0), SUCCESS);
    expect_eq!([mode(), affinity()], [0, INVALID], "RM_ANY");
    let target = cpu::affinity(1);
    expect_eq!(set_routing(S1, RM_PE, target), SUCCESS);
    expect_eq!([mode(), affinity()], [1, target as i64], "RM_PE");
    Ok(())
}

guest_test!(c061_c063_routing_is_set_only_between_register_and_enable);
fn c061_c063_routing_is_set_only_between_register_and_enable() -> TestResult {
    needs_sdei()?;
    forget_notes();
    expect_eq!(set_routing(S1, 0, 0), DENIED, "unregistered");
    expect_eq!(sdei::register_event(S1, 0, 0), SUCCESS);
    expect_eq!(set_routing(S1, 2, 0), INVALID, "mode");
    expect_eq!(set_routing(S1, RM_PE, 1 << 40), INVALID, "affinity");
    expect_eq!(set_routing(S1, RM_PE, 0xff_ffff), INVALID, "no such CPU");
    expect_eq!(set_routing(S1, 0, 0), SUCCESS);
    expect_eq!(sdei::call(Call::EventEnable, &[S1]), SUCCESS);
    expect_eq!(set_routing(S1, 0, 0), DENIED, "enabled");
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, set_routing(S1, 0, 0));
            sdei::call(Call::EventDisable, &[S1]);
            note(1, set_routing(S1, 0, 0));
            sdei::call(Call::EventUnregister, &[S1]);
            note(2, set_routing(S1, 0, 0));
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::raise(S1, 0), SUCCESS);
    expect_eq!([noted(0), noted(1), noted(2)], [DENIED; 3], "7, 5, 4");
    expect_eq!(status_of(S1), 0);
    Ok(())
}

guest_test!(c034_a_shared_event_is_registered_for_all, cpus = 2);
fn c034_a_shared_event_is_registered_for_all() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register_event(S1, 0, 0), SUCCESS);
    start_target(|| {
        note(0, status_of(S1));
        note(1, sdei::register_event(S1, 0, 0));
        note(2, sdei::call(Call::EventUnregister, &[S1]));
        READY.raise();
    })?;
    expect_that!(cpu::wait_off(1));
    expect_eq!(
        [noted(0), noted(1), noted(2)],
        [REGISTERED, DENIED, SUCCESS]
    );
    expect_eq!(status_of(S1), 0);
    Ok(())
}

guest_test!(c150_a_masked_cpu_leaves_a_shared_event_to_another, cpus = 2);
fn c150_a_masked_cpu_leaves_a_shared_event_to_another() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        let armed = sdei::register_event(S1, 0, 0) == 0
            && sdei::call(Call::EventEnable, &[S1]) == 0
            && sdei::unmask() == 0;
        if armed {
            READY.raise();
        }
        while !ENOUGH.is_up() {
            core::hint::spin_loop();
        }
    })?;
    for n in 1..=20 {
        expect_eq!(sdei::raise(S1, 0), SUCCESS);
        expect_that!(entered(1, n), "trigger {n}");
    }
    release_target()?;
    expect_eq!(sdei::slot(1).runs(), 20, "each once");
    Ok(())
}

guest_test!(
    c151_a_shared_event_waits_for_the_first_cpu_that_unmasks,
    cpus = 2
);
fn c151_a_shared_event_waits_for_the_first_cpu_that_unmasks() -> TestResult {
    needs_sdei()?;
    arm(S1, 0, 0)?;
    expect_eq!(sdei::raise(S1, 0), SUCCESS);
    expect_eq!(status_of(S1), ENABLED);
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), 1, "before the next instruction");
    expect_eq!(status_of(S1), ENABLED);
    Ok(())
}

guest_test!(
    c062_c152_an_event_routed_to_a_cpu_waits_for_that_one,
    cpus = 2
);
fn c062_c152_an_event_routed_to_a_cpu_waits_for_that_one() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::register_event(S1, RM_PE, cpu::affinity(1));
        sdei::call(Call::EventEnable, &[S1]);
        READY.raise();
        let _in_time = ENOUGH.wait();
        sdei::unmask();
    })?;
    expect_eq!(sdei::unmask(), SUCCESS);
    expect_eq!(sdei::raise(S1, 0), SUCCESS);
    expect_eq!(status_of(S1), ENABLED, "CPU 1 is masked");
    release_target()?;
    expect_eq!(sdei::slot(1).runs(), 1);
    expect_eq!(sdei::slot(0).runs(), 0);
    Ok(())
}

guest_test!(
    c205_a_cpu_that_goes_off_in_a_shared_event_lets_it_go,
    cpus = 2
);
fn c205_a_cpu_that_goes_off_in_a_shared_event_lets_it_go() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(1, Some(|_| cpu::stop_here()));
        let armed = sdei::register_event(S1, 0, 0) == 0
            && sdei::call(Call::EventEnable, &[S1]) == 0
            && sdei::unmask() == 0;
        if armed {
            READY.raise();
        }
        loop {
            core::hint::spin_loop();
        }
    })?;
    expect_eq!(sdei::raise(S1, 0), SUCCESS);
    expect_that!(cpu::wait_off(1));
    expect_eq!(
        status_of(S1),
        ENABLED,
        "it runs no more, and is still there"
    );
    Ok(())
}

guest_test!(c230_c231_shared_reset_ends_all_shared_events_that_do_not_run);
fn c230_c231_shared_reset_ends_all_shared_events_that_do_not_run() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    let reset = || sdei::call(Call::SharedReset, &[]);
    arm(S1, 0, 0)?;
    expect_eq!(sdei::register_event(S2, 0, 0), SUCCESS);
    expect_eq!(reset(), SUCCESS);
    expect_eq!([status_of(S1), status_of(S2)], [0, 0]);
    expect_eq!(sdei::status(), ENABLED, "private events are kept");

    arm(S1, 0, 0)?;
    expect_eq!(sdei::register_event(S2, 0, 0), SUCCESS);
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, sdei::call(Call::SharedReset, &[]));
            note(1, status_of(S1));
            note(2, status_of(S2));
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::raise(S1, 0), SUCCESS);
    expect_eq!(
        [noted(0), noted(1), noted(2)],
        [DENIED, UNREGISTER_PENDING, 0]
    );
    expect_eq!(status_of(S1), 0);
    Ok(())
}

guest_test!(an_event_nobody_defined_cannot_be_raised);
fn an_event_nobody_defined_cannot_be_raised() -> TestResult {
    needs_sdei()?;
    for event in [0, 1, UNKNOWN_EVENT, 1 << 30] {
        expect_eq!(sdei::raise(event, 0), INVALID, "{event:#x}");
    }
    Ok(())
}

guest_test!(
    c232_c260_an_event_in_use_elsewhere_keeps_its_binding,
    cpus = 2
);
fn c232_c260_an_event_in_use_elsewhere_keeps_its_binding() -> TestResult {
    const PPI: u64 = 20;
    needs_sdei()?;
    let event = sdei::call(Call::InterruptBind, &[PPI]);
    expect_eq!(event, 1 << 30);
    start_target(|| {
        note(0, sdei::register_event(1 << 30, 0, 0));
        READY.raise();
        let _in_time = ENOUGH.wait();
    })?;
    let release = || sdei::call(Call::InterruptRelease, &[1 << 30]);
    let denied = [release(), sdei::call(Call::SharedReset, &[])];
    let bound = sdei::call(Call::InterruptBind, &[PPI]);
    release_target()?;
    expect_eq!(noted(0), SUCCESS);
    expect_eq!(denied, [DENIED, DENIED]);
    expect_eq!(bound, event, "still bound");
    expect_eq!(release(), SUCCESS, "CPU 1 is off");
    Ok(())
}
