use alloc::vec::Vec;

use super::*;
use crate::id::VcpuId;

const RAM: core::ops::Range<u64> = 0x4000_0000..0x8000_0000;
const ENTRY: u64 = 0x4100_0000;
const P0: VcpuId = VcpuId(0);
const P1: VcpuId = VcpuId(1);

fn siblings() -> [Mpidr; 3] {
    [0x0, 0x1, 0x1_0000_0100].map(Mpidr::new)
}

fn call(power: &mut Power, function: u32, args: [u64; 3]) -> Decision {
    let call = decode(function, args).expect("a function that exists");
    power.call(
        P0,
        call,
        || Endian::Little,
        siblings().as_slice(),
        |ipa| RAM.contains(&ipa),
        |_| false,
    )
}

fn answer(status: i64) -> Decision {
    Decision::Answer(status as u64)
}

#[test]
fn version_is_1_3() {
    let mut power = Power::new(P0);
    assert_eq!(call(&mut power, 0x8400_0000, [0; 3]), answer(0x10003));
}

#[test]
fn one_of_many_cpu_ons_wins() {
    let mut power = Power::new(P0);
    let decisions: Vec<_> = (0..8)
        .map(|context| call(&mut power, 0xC400_0003, [1, ENTRY, context]))
        .collect();
    let start = Start {
        vcpu: P1,
        entry: ENTRY,
        context: 0,
        x4: 0,
        endian: Endian::Little,
    };
    assert_eq!(decisions[0], Decision::Start(start));
    assert!(
        decisions[1..]
            .iter()
            .all(|&decision| decision == answer(-5))
    );
    power.started(P1);
    assert_eq!(call(&mut power, 0xC400_0003, [1, ENTRY, 9]), answer(-4));
}

#[test]
fn c215_only_one_cpu_on_succeeds_between_two_offs() {
    let mut power = Power::new(P0);
    for _ in 0..3 {
        let decision = call(&mut power, 0xC400_0003, [1, ENTRY, 0]);
        assert!(matches!(decision, Decision::Start(_)));
        power.started(P1);
        assert_eq!(call(&mut power, 0x8400_0002, [0; 3]), Decision::Off);
        // It is on until it has really stopped.
        assert_eq!(call(&mut power, 0xC400_0003, [1, ENTRY, 0]), answer(-4));
        assert_eq!(call(&mut power, 0xC400_0004, [1, 0, 0]), answer(0));
        power.stopped(P1);
        assert_eq!(call(&mut power, 0xC400_0004, [1, 0, 0]), answer(1));
    }
}

#[test]
fn one_taken_back_that_turns_itself_off_meanwhile_is_no_target_for_a_second_cpu_on() {
    let mut power = Power::new(P0);
    let _ = call(&mut power, 0xC400_0003, [1, ENTRY, 0]);
    // As if it had been on and parked: its START is on its way when it stops by itself.
    power.stopped(P1);
    assert_eq!(call(&mut power, 0xC400_0003, [1, ENTRY, 0]), answer(-5));
    power.started(P1);
    assert_eq!(call(&mut power, 0xC400_0004, [1, 0, 0]), answer(0));
}

#[test]
fn affinity_info_follows_a_start() {
    let mut power = Power::new(P0);
    assert_eq!(call(&mut power, 0xC400_0004, [1, 0, 0]), answer(1));
    let _ = call(&mut power, 0xC400_0003, [1, ENTRY, 0]);
    assert_eq!(call(&mut power, 0xC400_0004, [1, 0, 0]), answer(2));
    power.started(P1);
    assert_eq!(call(&mut power, 0xC400_0004, [1, 0, 0]), answer(0));
}

#[test]
fn affinity_info_of_nobody_or_of_a_cluster_is_invalid() {
    let mut power = Power::new(P0);
    assert_eq!(call(&mut power, 0xC400_0004, [7, 0, 0]), answer(-2));
    assert_eq!(call(&mut power, 0xC400_0004, [1 << 31, 0, 0]), answer(-2));
    assert_eq!(call(&mut power, 0xC400_0004, [0, 1, 0]), answer(-2));
}

#[test]
fn cpu_on_checks_target_then_address_then_state() {
    let mut power = Power::new(P0);
    let on = 0xC400_0003;
    // Nobody there, and nothing right besides.
    assert_eq!(call(&mut power, on, [9, 1, 0]), answer(-2));
    // Bits outside the affinity fields.
    for bit in [24, 25, 29, 30, 31, 40, 63] {
        assert_eq!(call(&mut power, on, [1 | 1 << bit, ENTRY, 0]), answer(-2));
    }
    // The caller itself is on, but the address comes first.
    assert_eq!(call(&mut power, on, [0, 0x1000, 0]), answer(-9));
    assert_eq!(call(&mut power, on, [0, ENTRY, 0]), answer(-4));
}

#[test]
fn c216_cpu_on_outside_ram_or_misaligned_is_an_invalid_address() {
    let mut power = Power::new(P0);
    for entry in [0, 0x3fff_fffc, 0x8000_0000, ENTRY + 1, ENTRY + 2, u64::MAX] {
        assert_eq!(call(&mut power, 0xC400_0003, [1, entry, 0]), answer(-9));
        assert_eq!(power.state(P1), AffinityState::Off);
    }
}

#[test]
fn smc32_arguments_are_32_bits_wide() {
    let mut power = Power::new(P0);
    let garbage = 0xdead_beef << 32;
    let start = Start {
        vcpu: P1,
        entry: ENTRY,
        context: 0xffff_ffff,
        x4: 0,
        endian: Endian::Little,
    };
    assert_eq!(
        call(
            &mut power,
            0x8400_0003,
            [garbage | 1, garbage | ENTRY, u64::MAX]
        ),
        Decision::Start(start)
    );
    assert_eq!(
        call(&mut power, 0x8400_0004, [garbage | 1, garbage, 0]),
        answer(2)
    );
}

#[test]
fn affinity_level_3_names_a_vcpu() {
    let mut power = Power::new(P0);
    let decision = call(&mut power, 0xC400_0003, [0x1_0000_0100, ENTRY, 5]);
    let start = Start {
        vcpu: VcpuId(2),
        entry: ENTRY,
        context: 5,
        x4: 0,
        endian: Endian::Little,
    };
    assert_eq!(decision, Decision::Start(start));
}

#[test]
fn a_vcpu_starts_with_its_callers_byte_order() {
    let mut power = Power::new(P0);
    let on = decode(0xC400_0003, [1, ENTRY, 0]).expect("CPU_ON");
    let siblings = siblings();
    let decision = power.call(
        P0,
        on,
        || Endian::Big,
        siblings.as_slice(),
        |ipa| RAM.contains(&ipa),
        |_| false,
    );
    let start = Start {
        vcpu: P1,
        entry: ENTRY,
        context: 0,
        x4: 0,
        endian: Endian::Big,
    };
    assert_eq!(decision, Decision::Start(start));
}

#[test]
fn features_knows_what_exists() {
    let mut power = Power::new(P0);
    let exists = [
        0x8400_0000,
        0x8400_0001,
        0xC400_0001,
        0x8400_0002,
        0x8400_0003,
        0xC400_0003,
        0x8400_0004,
        0xC400_0004,
        0x8400_0006,
        0x8400_0008,
        0x8400_0009,
        0x8400_000A,
        0x8400_000E,
        0xC400_000E,
        0x8400_0012,
        0xC400_0012,
        0x8000_0000,
    ];
    let off2 = [0x8400_0015, 0xC400_0015];
    for low in 0..0x40 {
        for base in [0x8400_0000, 0xC400_0000_u32, 0x8000_0000, 0xC000_0000] {
            let id = base | low;
            let expected = match id {
                id if exists.contains(&id) => 0,
                // Bit 0: HIBERNATE_OFF.
                id if off2.contains(&id) => 1,
                _ => -1,
            };
            let decision = call(&mut power, 0x8400_000A, [u64::from(id), 0, 0]);
            assert_eq!(decision, answer(expected), "{id:#x}");
        }
    }
}

#[test]
fn nothing_but_psci_is_decoded() {
    for id in [
        0x8400_0005,
        0xC400_0000,
        0xC400_0002,
        0xC400_0008,
        0x8400_000F,
        0x8400_0013,
        0x8400_0016,
        0xC400_0017,
        0xC400_0020,
        0x8000_0000,
        0x0400_0000,
        0,
        u32::MAX,
    ] {
        assert_eq!(decode(id, [0; 3]), None, "{id:#x}");
    }
}

#[test]
fn every_suspend_state_is_standby() {
    let mut power = Power::new(P0);
    let suspend = 0xC400_0001;
    assert_eq!(call(&mut power, suspend, [0, 0, 0]), Decision::Suspend);
    assert_eq!(
        call(&mut power, suspend, [0x0100_ffff, 0, 0]),
        Decision::Suspend
    );
    // A powerdown state says where to wake up.
    assert_eq!(
        call(&mut power, suspend, [0x1_0000, ENTRY, 0]),
        Decision::Suspend
    );
    assert_eq!(call(&mut power, suspend, [0x1_0000, 0x10, 0]), answer(-9));
}

#[test]
fn a_suspend_state_with_reserved_bits_is_invalid() {
    let mut power = Power::new(P0);
    for bit in (17..=23).chain(26..=31) {
        assert_eq!(
            call(&mut power, 0xC400_0001, [1 << bit, ENTRY, 0]),
            answer(-2)
        );
    }
}

#[test]
fn system_calls_stop_the_vm() {
    let mut power = Power::new(P0);
    assert_eq!(call(&mut power, 0x8400_0008, [0; 3]), Decision::SystemOff);
    assert_eq!(
        call(&mut power, 0x8400_0009, [0; 3]),
        Decision::SystemReset(Reset::Cold)
    );
}

#[test]
fn reset2_knows_the_warm_reset_and_the_vendors() {
    let mut power = Power::new(P0);
    let reset = |power: &mut Power, kind| call(power, 0xC400_0012, [kind, 77, 0]);
    assert_eq!(reset(&mut power, 0), Decision::SystemReset(Reset::Warm));
    let vendor = Reset::Vendor {
        kind: 0x8000_0003,
        cookie: 77,
    };
    assert_eq!(
        reset(&mut power, 0x8000_0003),
        Decision::SystemReset(vendor)
    );
    assert_eq!(reset(&mut power, 1), answer(-2));
    assert_eq!(reset(&mut power, 0x7fff_ffff), answer(-2));
}

#[test]
fn off2_turns_off_for_either_name_of_hibernation_and_without_a_cookie() {
    let mut power = Power::new(P0);
    for id in [0x8400_0015, 0xC400_0015] {
        for kind in [0, 1] {
            assert_eq!(call(&mut power, id, [kind, 0, 0]), Decision::SystemOff);
            assert_eq!(call(&mut power, id, [kind, 1, 0]), answer(-2), "a cookie");
        }
        for kind in [2, 3, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(call(&mut power, id, [kind, 0, 0]), answer(-2), "{kind:#x}");
        }
    }
    // Only the 64-bit form has a cookie whose upper half counts.
    let wide = 1 << 32;
    assert_eq!(call(&mut power, 0xC400_0015, [0, wide, 0]), answer(-2));
    assert_eq!(
        call(&mut power, 0x8400_0015, [wide, wide, 0]),
        Decision::SystemOff
    );
}

#[test]
fn the_system_can_be_suspended_by_the_last_vcpu_that_is_on() {
    let mut power = Power::new(P0);
    let suspended = Decision::SystemSuspend {
        entry: ENTRY,
        context: 7,
    };
    for id in [0x8400_000E, 0xC400_000E] {
        assert_eq!(call(&mut power, id, [ENTRY, 7, 0]), suspended);
    }
    let _ = call(&mut power, 0xC400_0003, [1, ENTRY, 0]);
    assert_eq!(call(&mut power, 0xC400_000E, [ENTRY, 7, 0]), answer(-3));
    power.started(P1);
    assert_eq!(call(&mut power, 0xC400_000E, [ENTRY, 7, 0]), answer(-3));
    power.stopped(P0);
    assert_eq!(
        call(&mut power, 0xC400_000E, [ENTRY, 7, 0]),
        suspended,
        "the one that is left, whichever it is"
    );
}

#[test]
fn a_system_that_would_wake_up_nowhere_is_not_suspended() {
    let mut power = Power::new(P0);
    let _ = call(&mut power, 0xC400_0003, [1, ENTRY, 0]);
    // The address is looked at before the others are.
    for entry in [0, 0x3fff_fffc, 0x8000_0000, ENTRY + 1, ENTRY + 2, u64::MAX] {
        assert_eq!(call(&mut power, 0xC400_000E, [entry, 0, 0]), answer(-9));
    }
}

#[test]
fn migration_is_not_needed() {
    let mut power = Power::new(P0);
    assert_eq!(call(&mut power, 0x8400_0006, [0; 3]), answer(2));
}

#[test]
fn a_vm_is_over_when_its_last_vcpu_is_off() {
    let mut power = Power::new(P0);
    let _ = call(&mut power, 0xC400_0003, [1, ENTRY, 0]);
    power.stopped(P0);
    assert!(!power.are_all_off(), "one is starting");
    power.started(P1);
    assert!(!power.are_all_off());
    power.stopped(P1);
    assert!(power.are_all_off());
    power.reset(P0);
    assert_eq!(power.state(P0), AffinityState::On);
    assert_eq!(power.state(P1), AffinityState::Off);
}
