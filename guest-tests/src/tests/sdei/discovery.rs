//! Version, features, information, and what this SDEI has not got.

use hv_abi::sdei::{Call, feature, info};

use super::*;
use crate::harness::{needs_hypervisor, needs_sdei};
use crate::rt::call::{Conduit, call};
use crate::rt::machine::machine;

guest_test!(c001_c002_sdei_is_1_1_or_not_there_at_all_as_configured);
fn c001_c002_sdei_is_1_1_or_not_there_at_all_as_configured() -> TestResult {
    needs_hypervisor()?;
    if !machine().has_argument("nosdei") {
        expect_that!(
            machine().sdei_conduit.is_some(),
            "no node is compatible with arm,sdei-1.0"
        );
        let version = sdei::call(Call::Version, &[]);
        expect_that!(version >= 0, "{version}");
        expect_eq!(version >> 32, 0x1_0001);
        return Ok(());
    }
    expect_that!(machine().sdei_conduit.is_none(), "there is a node for SDEI");
    for sdei_call in Call::ALL {
        for conduit in Conduit::BOTH {
            expect_eq!(
                call(conduit, sdei_call as u32, &[0; 5]),
                NOT_SUPPORTED,
                "{sdei_call:?}"
            );
        }
    }
    Ok(())
}

guest_test!(c009_both_conduits_reach_one_and_the_same_registration);
fn c009_both_conduits_reach_one_and_the_same_registration() -> TestResult {
    needs_sdei()?;
    for (register, other) in [(Conduit::Hvc, Conduit::Smc), (Conduit::Smc, Conduit::Hvc)] {
        let [entry, argument] = sdei::entry();
        sdei::end_by(other);
        let by = |conduit: Conduit, sdei_call: Call, arguments: &[u64]| {
            call(conduit, sdei_call as u32, arguments)
        };
        expect_eq!(
            by(register, Call::EventRegister, &[0, entry, argument]),
            SUCCESS
        );
        expect_eq!(by(other, Call::EventStatus, &[0]), REGISTERED);
        expect_eq!(by(other, Call::EventEnable, &[0]), SUCCESS);
        expect_eq!(by(register, Call::PeUnmask, &[]), SUCCESS);
        let before = sdei::slot(0).runs();
        for conduit in [register, other] {
            // The handler ends by the other conduit; the answer of SIGNAL is there all the same.
            expect_eq!(
                by(conduit, Call::EventSignal, &[0, cpu::affinity(0)]),
                SUCCESS
            );
        }
        expect_eq!(sdei::slot(0).runs(), before + 2);
        expect_eq!(by(other, Call::PeMask, &[]), 1);
        expect_eq!(by(register, Call::EventUnregister, &[0]), SUCCESS);
    }
    Ok(())
}

guest_test!(c050_event_0_is_private_signalable_and_normal);
fn c050_event_0_is_private_signalable_and_normal() -> TestResult {
    needs_sdei()?;
    for round in 0..2 {
        for selector in [info::EV_TYPE, info::EV_SIGNALED, info::EV_PRIORITY] {
            let value = sdei::call(Call::EventGetInfo, &[0, u64::from(selector)]);
            expect_eq!(value, 0, "selector {selector}, registered: {round}");
        }
        if round == 0 {
            expect_eq!(sdei::register(), SUCCESS);
        }
    }
    Ok(())
}

guest_test!(c051_a_private_event_has_no_routing);
fn c051_a_private_event_has_no_routing() -> TestResult {
    needs_sdei()?;
    for selector in [info::EV_ROUTING_MODE, info::EV_ROUTING_AFF] {
        let value = sdei::call(Call::EventGetInfo, &[0, u64::from(selector)]);
        expect_eq!(value, INVALID, "selector {selector}");
    }
    Ok(())
}

guest_test!(c052_information_that_is_none_is_an_invalid_parameter);
fn c052_information_that_is_none_is_an_invalid_parameter() -> TestResult {
    needs_sdei()?;
    for (event, selector) in [
        (0, 5),
        (0, 0xffff_ffff),
        (UNKNOWN_EVENT, 0),
        (1, 0),
        (1 << 30, 0),
    ] {
        let value = sdei::call(Call::EventGetInfo, &[event, selector]);
        expect_eq!(value, INVALID, "event {event:#x}, selector {selector:#x}");
    }
    Ok(())
}

guest_test!(c058_c255_bind_slots_are_what_bind_gives);
fn c058_c255_bind_slots_are_what_bind_gives() -> TestResult {
    needs_sdei()?;
    let slots = sdei::call(Call::Features, &[u64::from(feature::BIND_SLOTS)]);
    expect_eq!(slots >> 32, 0);
    let (private, shared) = (slots & 0xffff, slots >> 16);
    let bind = |intid: u64| sdei::call(Call::InterruptBind, &[intid]);
    let mut bound = 0;
    for (first, slots) in [(16, private), (64, shared)] {
        for n in 0..slots as u64 {
            let event = bind(first + n);
            expect_eq!(event >> 30, 1, "INTID {} gives {event:#x}", first + n);
            bound += 1;
        }
        expect_eq!(bind(first + slots as u64), OUT_OF_RESOURCE);
        // What is bound stays bound to the same event, and one that is released makes room.
        let event = bind(first);
        expect_eq!(bind(first), event);
        expect_eq!(sdei::call(Call::InterruptRelease, &[event as u64]), SUCCESS);
        expect_eq!(bind(first + slots as u64) >> 30, 1);
    }
    expect_that!(bound >= 8, "{bound} slots");
    expect_eq!(
        sdei::call(Call::SharedReset, &[]),
        SUCCESS,
        "and all go free"
    );
    expect_eq!(bind(64) >> 30, 1);
    expect_eq!(sdei::call(Call::SharedReset, &[]), SUCCESS);
    Ok(())
}

guest_test!(c059_features_that_are_none_are_invalid);
fn c059_features_that_are_none_are_invalid() -> TestResult {
    needs_sdei()?;
    let relative = sdei::call(Call::Features, &[u64::from(feature::RELATIVE_MODE)]);
    expect_that!((0..=1).contains(&relative), "relative mode {relative}");
    for selector in [2, 0xffff_ffff] {
        expect_eq!(
            sdei::call(Call::Features, &[selector]),
            INVALID,
            "{selector:#x}"
        );
    }
    // Selectors are 32 bits wide.
    let slots = sdei::call(Call::Features, &[u64::from(feature::BIND_SLOTS)]);
    expect_eq!(sdei::call(Call::Features, &[1 << 32]), slots);
    Ok(())
}

guest_test!(c060_a_private_event_cannot_be_routed);
fn c060_a_private_event_cannot_be_routed() -> TestResult {
    needs_sdei()?;
    for event in [0, UNKNOWN_EVENT] {
        expect_eq!(sdei::call(Call::EventRoutingSet, &[event, 0, 0]), INVALID);
        expect_eq!(
            sdei::call(Call::EventRoutingSet, &[event, 1, cpu::affinity(0)]),
            INVALID
        );
    }
    Ok(())
}

guest_test!(c251_what_is_no_peripheral_interrupt_cannot_be_bound);
fn c251_what_is_no_peripheral_interrupt_cannot_be_bound() -> TestResult {
    needs_sdei()?;
    for intid in [0, 15, 1020, 1023, 8192, 0xffff_ffff] {
        expect_eq!(
            sdei::call(Call::InterruptBind, &[intid]),
            INVALID,
            "INTID {intid}"
        );
    }
    Ok(())
}

guest_test!(c252_an_event_that_is_not_bound_cannot_be_released);
fn c252_an_event_that_is_not_bound_cannot_be_released() -> TestResult {
    needs_sdei()?;
    for event in [0, 1, UNKNOWN_EVENT, 1 << 30, 0xffff_ffff] {
        expect_eq!(
            sdei::call(Call::InterruptRelease, &[event]),
            INVALID,
            "event {event:#x}"
        );
    }
    Ok(())
}

guest_test!(c253_the_secure_timer_cannot_be_bound);
fn c253_the_secure_timer_cannot_be_bound() -> TestResult {
    needs_sdei()?;
    let status = sdei::call(Call::InterruptBind, &[29]);
    expect_that!([INVALID, DENIED].contains(&status), "{status}");
    Ok(())
}
