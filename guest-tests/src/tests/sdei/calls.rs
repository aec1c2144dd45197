//! REGISTER, ENABLE, DISABLE, UNREGISTER and STATUS while nothing runs.

use hv_abi::sdei::{Call, feature};

use super::*;
use crate::harness::needs_sdei;

fn register_with(arguments: &[u64]) -> i64 {
    sdei::call(Call::EventRegister, arguments)
}

guest_test!(c013_event_numbers_are_32_bits_and_never_negative);
fn c013_event_numbers_are_32_bits_and_never_negative() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::call(Call::EventStatus, &[0xffff_ffff]), INVALID);
    expect_eq!(sdei::call(Call::EventStatus, &[0x8000_0000]), INVALID);
    expect_eq!(sdei::call(Call::EventStatus, &[0x1_0000_0000]), REGISTERED);
    Ok(())
}

guest_test!(c020_a_fresh_event_has_status_0);
fn c020_a_fresh_event_has_status_0() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::status(), 0);
    Ok(())
}

guest_test!(c021_a_registered_event_has_status_1);
fn c021_a_registered_event_has_status_1() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::status(), REGISTERED);
    Ok(())
}

guest_test!(c022_a_second_registration_is_denied_and_the_first_stays);
fn c022_a_second_registration_is_denied_and_the_first_stays() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    let [entry, argument] = sdei::entry();
    expect_eq!(register_with(&[0, entry, argument, 0, 0]), DENIED);
    expect_eq!(register_with(&[0, entry + 0x40, !argument, 0, 0]), DENIED);
    expect_eq!(sdei::status(), ENABLED);
    run_handler_here()?;
    expect_eq!(sdei::slot(0).x(1), argument);
    Ok(())
}

guest_test!(c023_an_unknown_event_cannot_be_registered);
fn c023_an_unknown_event_cannot_be_registered() -> TestResult {
    needs_sdei()?;
    let [entry, argument] = sdei::entry();
    for event in [1, UNKNOWN_EVENT, 1 << 30, 0xffff_ffff] {
        expect_eq!(
            register_with(&[event, entry, argument, 0, 0]),
            INVALID,
            "event {event:#x}"
        );
    }
    Ok(())
}

guest_test!(c024_reserved_flags_are_invalid);
fn c024_reserved_flags_are_invalid() -> TestResult {
    needs_sdei()?;
    let [entry, argument] = sdei::entry();
    for flags in [1 << 2, 1 << 31, 1 << 32, 1 << 63, u64::MAX] {
        expect_eq!(
            register_with(&[0, entry, argument, flags, 0]),
            INVALID,
            "flags {flags:#x}"
        );
        expect_eq!(sdei::status(), 0, "flags {flags:#x}");
    }
    Ok(())
}

guest_test!(c025_a_relative_entry_works_or_is_refused_as_features_says);
fn c025_a_relative_entry_works_or_is_refused_as_features_says() -> TestResult {
    needs_sdei()?;
    let [entry, argument] = sdei::entry();
    let offset = entry.wrapping_sub(sysreg::vector_base());
    let status = register_with(&[0, offset, argument, 1 << 1, 0]);
    if sdei::call(Call::Features, &[u64::from(feature::RELATIVE_MODE)]) == 0 {
        expect_eq!(status, INVALID);
        return Ok(());
    }
    expect_eq!(status, SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    run_handler_here()
}

guest_test!(c027_entry_0_is_invalid);
fn c027_entry_0_is_invalid() -> TestResult {
    needs_sdei()?;
    expect_eq!(register_with(&[0, 0, 0, 0, 0]), INVALID);
    expect_eq!(sdei::status(), 0);
    Ok(())
}

guest_test!(c028_a_misaligned_or_impossible_entry_is_invalid);
fn c028_a_misaligned_or_impossible_entry_is_invalid() -> TestResult {
    needs_sdei()?;
    let [entry, argument] = sdei::entry();
    for wrong in [
        entry + 1,
        entry + 2,
        entry + 3,
        1 << 60,
        0x7fff_0000_0000_0000,
    ] {
        expect_eq!(
            register_with(&[0, wrong, argument, 0, 0]),
            INVALID,
            "entry {wrong:#x}"
        );
        expect_eq!(sdei::status(), 0);
    }
    Ok(())
}

guest_test!(
    c030_routing_flag_and_affinity_of_a_private_event_are_ignored,
    cpus = 2
);
fn c030_routing_flag_and_affinity_of_a_private_event_are_ignored() -> TestResult {
    needs_sdei()?;
    let [entry, argument] = sdei::entry();
    for affinity in [cpu::affinity(1), u64::MAX, 0x7f00] {
        expect_eq!(
            register_with(&[0, entry, argument, 1, affinity]),
            SUCCESS,
            "{affinity:#x}"
        );
        expect_eq!(sdei::enable(), SUCCESS);
        expect_eq!(sdei::unmask(), SUCCESS);
        run_handler_here()?;
        expect_eq!(sdei::unregister(), SUCCESS);
    }
    Ok(())
}

guest_test!(c033_a_registration_counts_on_its_own_cpu_only, cpus = 2);
fn c033_a_registration_counts_on_its_own_cpu_only() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    start_target(|| {
        note(0, sdei::status());
        note(1, sdei::register());
        note(2, sdei::status());
        READY.raise();
    })?;
    expect_eq!(noted(0), 0);
    expect_eq!(noted(1), SUCCESS);
    expect_eq!(noted(2), REGISTERED);
    expect_eq!(sdei::status(), REGISTERED);
    Ok(())
}

guest_test!(c035_an_unregistered_event_denies_everything);
fn c035_an_unregistered_event_denies_everything() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::enable(), DENIED);
    expect_eq!(sdei::disable(), DENIED);
    expect_eq!(sdei::unregister(), DENIED);
    expect_eq!(sdei::status(), 0);
    Ok(())
}

guest_test!(c036_an_unknown_event_is_an_invalid_parameter);
fn c036_an_unknown_event_is_an_invalid_parameter() -> TestResult {
    needs_sdei()?;
    let calls = [
        Call::EventEnable,
        Call::EventDisable,
        Call::EventUnregister,
        Call::EventStatus,
    ];
    for call in calls {
        for event in [1, UNKNOWN_EVENT, 0x7fff_ffff, 0xffff_ffff] {
            expect_eq!(
                sdei::call(call, &[event]),
                INVALID,
                "{call:?}, event {event:#x}"
            );
        }
    }
    Ok(())
}

guest_test!(c041_a_register_that_fails_changes_nothing);
fn c041_a_register_that_fails_changes_nothing() -> TestResult {
    needs_sdei()?;
    let [entry, argument] = sdei::entry();
    let fails = |state: i64| -> TestResult {
        let wrong = [
            ([UNKNOWN_EVENT, entry, argument, 0], INVALID),
            ([0, 0, argument, 0], INVALID),
            ([0, entry + 2, argument, 0], INVALID),
            ([0, entry | 1 << 55, argument, 0], INVALID),
            ([0, entry, argument, 1 << 2], INVALID),
            ([0, entry, argument, u64::MAX], INVALID),
        ];
        for (arguments, expected) in wrong {
            let answer = sdei::call(Call::EventRegister, &arguments);
            expect_eq!(answer, expected, "{arguments:#x?} in state {state}");
            expect_eq!(sdei::status(), state, "after {arguments:#x?}");
        }
        if state != 0 {
            let again = [0, entry + 4, !argument, 0];
            expect_eq!(sdei::call(Call::EventRegister, &again), DENIED);
            expect_eq!(sdei::status(), state);
        }
        Ok(())
    };
    fails(0)?;
    expect_eq!(sdei::register(), SUCCESS);
    fails(REGISTERED)?;
    expect_eq!([sdei::enable(), sdei::unmask()], [SUCCESS; 2]);
    fails(ENABLED)?;
    // The one that succeeded is the one that counts.
    run_handler_here()
}

guest_test!(c037_enabling_twice_succeeds_twice);
fn c037_enabling_twice_succeeds_twice() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::status(), ENABLED);
    Ok(())
}

guest_test!(c038_disabling_twice_succeeds_twice);
fn c038_disabling_twice_succeeds_twice() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::disable(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::disable(), SUCCESS);
    expect_eq!(sdei::disable(), SUCCESS);
    expect_eq!(sdei::status(), REGISTERED);
    Ok(())
}

guest_test!(c039_unregistering_an_enabled_event_leaves_nothing);
fn c039_unregistering_an_enabled_event_leaves_nothing() -> TestResult {
    needs_sdei()?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::unregister(), SUCCESS);
    expect_eq!(sdei::status(), 0);
    expect_eq!(sdei::enable(), DENIED);
    Ok(())
}

guest_test!(c040_a_new_registration_takes_its_own_argument);
fn c040_a_new_registration_takes_its_own_argument() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    run_handler_here()?;
    expect_eq!(sdei::unregister(), SUCCESS);
    // The handler of CPU 1 would do as well; what matters is which argument arrives.
    let [entry, argument] = sdei::entry_of(1);
    expect_eq!(register_with(&[0, entry, argument, 0, 0]), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    let (here, there) = (sdei::slot(0).runs(), sdei::slot(1).runs());
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    expect_eq!(sdei::slot(0).runs(), here);
    expect_eq!(sdei::slot(1).runs(), there + 1);
    expect_eq!(sdei::slot(1).x(1), argument);
    Ok(())
}

guest_test!(
    c042_thousands_of_registrations_leak_nothing,
    cpus = 4,
    boot = shared,
    icount = false,
    timeout = 60
);
fn c042_thousands_of_registrations_leak_nothing() -> TestResult {
    needs_sdei()?;
    static FINE: Cell64 = Cell64::new(0);
    FINE.set(0);
    fn cycle() {
        for _ in 0..2000 {
            let fine = [
                sdei::register(),
                sdei::enable(),
                sdei::disable(),
                sdei::unregister(),
            ];
            if fine != [SUCCESS; 4] {
                return;
            }
        }
        FINE.add(1);
    }
    for index in 1..cpu::count() {
        expect_eq!(cpu::start(index, cycle), 0);
    }
    cycle();
    expect_that!(
        eventually(|| FINE.get() == cpu::count() as u64),
        "{} CPUs",
        FINE.get()
    );
    expect_eq!(sdei::status(), 0);
    Ok(())
}
