//! What each call answers, outside of handlers.

use hv_abi::firmware::{Fault, Firmware};
use hv_abi::sdei::Call;
use hv_core::id::VcpuId;
use hv_core::sdei::Config;

use crate::vcpu::*;

#[test]
fn c001_version_is_1_1_unless_told_otherwise() {
    let mut vcpu = Vcpu::new();
    assert_eq!(vcpu.smc(Call::Version, &[]), 0x0001_0001_484c_474e);
    let mut vcpu = Vcpu::with(&Config {
        firmware: Firmware::only(Fault::Version10),
        ..Config::default()
    });
    assert_eq!(vcpu.smc(Call::Version, &[]), 0x0001_0000_0000_0000);
}

#[test]
fn c002_without_sdei_every_call_is_not_supported() {
    let mut vcpu = Vcpu::with(&Config::OFF);
    for call in Call::ALL {
        assert_eq!(
            vcpu.smc(call, &[0, ENTRY, 0, 0, 0]),
            NOT_SUPPORTED,
            "{call:?}"
        );
        assert!(vcpu.signal().is_none());
    }
    assert!(vcpu.pe.is_masked());
}

#[test]
fn c007_only_x0_and_the_pc_change() {
    let mut vcpu = Vcpu::new();
    // `smc` compares everything else.
    for call in Call::ALL {
        vcpu.smc(call, &[0x8000_0001, 3, 5, 7, 9]);
    }
    for call in Call::ALL {
        vcpu.smc(call, &[0, ENTRY, ARGUMENT, 0, 0]);
    }
}

#[test]
fn c013_events_are_32_bits_wide_and_not_negative() {
    let mut vcpu = Vcpu::new();
    assert_eq!(vcpu.smc(Call::EventStatus, &[0xffff_ffff]), INVALID);
    assert_eq!(vcpu.smc(Call::EventStatus, &[0x8000_0000]), INVALID);
    assert_eq!(vcpu.smc(Call::EventStatus, &[0x1_0000_0000]), OK);
    assert_eq!(vcpu.smc(Call::EventStatus, &[u64::MAX << 32]), OK);
}

#[test]
fn c020_c021_status_before_and_after_register() {
    let mut vcpu = Vcpu::new();
    assert_eq!(vcpu.status(0), 0);
    assert_eq!(vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 0, 0]), OK);
    assert_eq!(vcpu.status(0), 1);
}

#[test]
fn c022_register_again_is_denied_and_keeps_the_old_entry() {
    let mut vcpu = Vcpu::ready();
    assert_eq!(
        vcpu.smc(Call::EventRegister, &[0, ENTRY, ARGUMENT, 0, 0]),
        DENIED
    );
    assert_eq!(
        vcpu.smc(Call::EventRegister, &[0, ENTRY + 0x40, 7, 0, 0]),
        DENIED
    );
    vcpu.signal().expect("still enabled");
    assert_eq!((vcpu.regs.pc, vcpu.regs.x[1]), (ENTRY, ARGUMENT));
}

#[test]
fn c023_c036_c052_unknown_events_are_invalid() {
    let mut vcpu = Vcpu::new();
    for call in [
        Call::EventRegister,
        Call::EventEnable,
        Call::EventDisable,
        Call::EventUnregister,
        Call::EventStatus,
        Call::EventGetInfo,
        Call::EventRoutingSet,
        Call::InterruptRelease,
    ] {
        for event in [1, 0x100, 0x10000, 0x4000_0000] {
            assert_eq!(
                vcpu.smc(call, &[event, ENTRY, 0, 0, 0]),
                INVALID,
                "{call:?}"
            );
        }
    }
}

#[test]
fn c024_reserved_register_flags_are_invalid() {
    let mut vcpu = Vcpu::new();
    for bit in 2..64 {
        let args = [0, ENTRY, 0, 1 << bit, 0];
        assert_eq!(vcpu.smc(Call::EventRegister, &args), INVALID, "bit {bit}");
    }
    assert_eq!(vcpu.status(0), 0);
}

#[test]
fn c025_version_1_0_has_no_relative_mode() {
    let mut vcpu = Vcpu::with(&Config {
        firmware: Firmware::only(Fault::Version10),
        ..Config::default()
    });
    assert_eq!(vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 2, 0]), INVALID);
    assert_eq!(vcpu.smc(Call::Features, &[1]), INVALID);
}

#[test]
fn c026_a_relative_entry_counts_from_vbar_at_dispatch() {
    let mut vcpu = Vcpu::new();
    assert_eq!(vcpu.smc(Call::EventRegister, &[0, 0x7f2, 0, 2, 0]), INVALID);
    assert_eq!(vcpu.smc(Call::EventRegister, &[0, 0x1000, 0, 2, 0]), OK);
    vcpu.smc(Call::EventEnable, &[0]);
    vcpu.smc(Call::PeUnmask, &[]);
    vcpu.el1.vbar = 0xffff_8000_7000_0000;
    vcpu.signal().expect("registered");
    assert_eq!(vcpu.regs.pc, 0xffff_8000_7000_1000);
}

#[test]
fn c027_c028_entries_that_cannot_be_code_are_invalid() {
    let mut vcpu = Vcpu::new();
    for entry in [
        0,
        ENTRY + 1,
        ENTRY + 2,
        0x0010_0000_0000_0000,
        0x8000_0000_0000_0000,
        0xffef_ffff_ffff_f000,
        0x7fff_8000_0801_0000,
    ] {
        let args = [0, entry, 0, 0, 0];
        assert_eq!(vcpu.smc(Call::EventRegister, &args), INVALID, "{entry:#x}");
    }
    assert_eq!(vcpu.status(0), 0);
}

#[test]
fn c029_c083_any_canonical_entry_is_accepted() {
    for entry in [4, 0x4008_0000, 0x000f_ffff_ffff_fffc, 0xfff0_0000_0000_0000] {
        let mut vcpu = Vcpu::new();
        assert_eq!(
            vcpu.smc(Call::EventRegister, &[0, entry, 0, 0, 0]),
            OK,
            "{entry:#x}"
        );
    }
}

#[test]
fn c030_routing_of_a_private_event_is_ignored() {
    let mut vcpu = Vcpu::new();
    assert_eq!(
        vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 1, u64::MAX]),
        OK
    );
    vcpu.smc(Call::EventEnable, &[0]);
    vcpu.smc(Call::PeUnmask, &[]);
    assert!(vcpu.signal().is_some());
}

#[test]
fn c033_registration_is_each_vcpus_own() {
    let registered = Vcpu::ready();
    let mut other = Vcpu::new();
    assert_eq!(other.status(0), 0);
    assert!(!registered.pe.is_masked());
    assert!(other.pe.is_masked());
}

#[test]
fn c035_unregistered_events_are_denied() {
    let mut vcpu = Vcpu::new();
    for call in [Call::EventEnable, Call::EventDisable, Call::EventUnregister] {
        assert_eq!(vcpu.smc(call, &[0]), DENIED);
    }
}

#[test]
fn c037_c038_enable_and_disable_may_be_repeated() {
    let mut vcpu = Vcpu::new();
    vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 0, 0]);
    assert_eq!(vcpu.smc(Call::EventDisable, &[0]), OK);
    assert_eq!(vcpu.status(0), 1);
    assert_eq!(vcpu.smc(Call::EventEnable, &[0]), OK);
    assert_eq!(vcpu.smc(Call::EventEnable, &[0]), OK);
    assert_eq!(vcpu.status(0), 3);
    assert_eq!(vcpu.smc(Call::EventDisable, &[0]), OK);
    assert_eq!(vcpu.smc(Call::EventDisable, &[0]), OK);
    assert_eq!(vcpu.status(0), 1);
}

#[test]
fn c039_unregister_leaves_nothing_enabled() {
    let mut vcpu = Vcpu::ready();
    assert_eq!(vcpu.smc(Call::EventUnregister, &[0]), OK);
    assert_eq!(vcpu.status(0), 0);
    assert_eq!(vcpu.smc(Call::EventEnable, &[0]), DENIED);
    assert!(vcpu.signal().is_none());
}

#[test]
fn c040_a_new_registration_replaces_the_old_one() {
    let mut vcpu = Vcpu::ready();
    vcpu.smc(Call::EventUnregister, &[0]);
    assert_eq!(
        vcpu.smc(Call::EventRegister, &[0, ENTRY + 0x100, 99, 0, 0]),
        OK
    );
    vcpu.smc(Call::EventEnable, &[0]);
    vcpu.signal().expect("enabled again");
    assert_eq!((vcpu.regs.pc, vcpu.regs.x[1]), (ENTRY + 0x100, 99));
}

#[test]
fn c050_event_0_is_private_signalable_and_normal() {
    let mut vcpu = Vcpu::new();
    for info in 0..=2 {
        assert_eq!(vcpu.smc(Call::EventGetInfo, &[0, info]), 0);
        assert_eq!(vcpu.smc(Call::EventGetInfo, &[0, 1 << 32 | info]), 0);
    }
}

#[test]
fn c051_c052_routing_and_unknown_info_of_a_private_event_is_invalid() {
    let mut vcpu = Vcpu::ready();
    for info in [3, 4, 5, 0xffff_ffff] {
        assert_eq!(vcpu.smc(Call::EventGetInfo, &[0, info]), INVALID);
    }
}

#[test]
fn c056_c057_platform_events_tell_their_priority_and_cannot_be_signalled() {
    let mut vcpu = Vcpu::with_events();
    for (event, priority) in [(NORMAL, 0), (CRITICAL, 1)] {
        let event = u64::from(event);
        assert_eq!(vcpu.smc(Call::EventGetInfo, &[event, 0]), 0);
        assert_eq!(vcpu.smc(Call::EventGetInfo, &[event, 1]), 1);
        assert_eq!(vcpu.smc(Call::EventGetInfo, &[event, 2]), priority);
        assert_eq!(vcpu.smc(Call::EventSignal, &[event, 0]), INVALID);
    }
}

#[test]
fn c058_c059_features_tell_of_the_slots_and_of_relative_mode() {
    let mut vcpu = Vcpu::new();
    assert_eq!(vcpu.smc(Call::Features, &[0]), 4 << 16 | 4);
    assert_eq!(vcpu.smc(Call::Features, &[1]), 1);
    assert_eq!(vcpu.smc(Call::Features, &[2]), INVALID);
    assert_eq!(vcpu.smc(Call::Features, &[0xffff_ffff]), INVALID);
}

#[test]
fn c060_private_events_have_no_routing() {
    let mut vcpu = Vcpu::new();
    assert_eq!(vcpu.smc(Call::EventRoutingSet, &[0, 0, 0]), INVALID);
    vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 0, 0]);
    assert_eq!(vcpu.smc(Call::EventRoutingSet, &[0, 1, 0]), INVALID);
}

#[test]
fn c145_c146_mask_says_whether_it_changed_anything() {
    let mut vcpu = Vcpu::new();
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 0);
    assert_eq!(vcpu.smc(Call::PeUnmask, &[]), 0);
    assert_eq!(vcpu.smc(Call::PeUnmask, &[]), 0);
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 1);
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 0);
    assert_eq!(vcpu.smc(Call::PeUnmask, &[]), 0);
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 1);
}

#[test]
fn c160_signal_names_its_target() {
    let mut vcpu = Vcpu::new();
    for (index, mpidr) in (0..).zip(SIBLINGS).skip(1) {
        assert_eq!(vcpu.smc(Call::EventSignal, &[0, mpidr]), OK);
        assert_eq!(vcpu.signalled, Some(VcpuId(index)));
    }
}

#[test]
fn c161_only_event_0_can_be_signalled() {
    let mut vcpu = Vcpu::new();
    for event in [1, 0x10000, 0xffff_ffff] {
        assert_eq!(vcpu.smc(Call::EventSignal, &[event, 1]), INVALID);
        assert_eq!(vcpu.signalled, None);
    }
    assert_eq!(vcpu.smc(Call::EventSignal, &[1 << 32, 1]), OK);
}

#[test]
fn c162_signal_to_nobody_is_invalid() {
    let mut vcpu = Vcpu::new();
    for target in [2, 0x2_0000_0000, u64::MAX, 1 << 40 | 1, 1 << 63 | 1] {
        assert_eq!(
            vcpu.smc(Call::EventSignal, &[0, target]),
            INVALID,
            "{target:#x}"
        );
    }
    for bit in 25..=29 {
        let target = 1 << bit | 1;
        assert_eq!(
            vcpu.smc(Call::EventSignal, &[0, target]),
            INVALID,
            "{target:#x}"
        );
    }
    assert_eq!(vcpu.signalled, None);
}

#[test]
fn c163_signal_takes_mpidr_as_it_is_read() {
    let mut vcpu = Vcpu::new();
    for bits in [1 << 31, 1 << 30, 1 << 24, 0xc100_0000] {
        assert_eq!(vcpu.smc(Call::EventSignal, &[0, bits | 0x100]), OK);
        assert_eq!(vcpu.signalled, Some(VcpuId(2)));
    }
}

#[test]
fn c225_private_reset_unregisters() {
    for is_enabled in [false, true] {
        let mut vcpu = Vcpu::new();
        assert_eq!(vcpu.smc(Call::PrivateReset, &[]), OK);
        vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 0, 0]);
        if is_enabled {
            vcpu.smc(Call::EventEnable, &[0]);
        }
        assert_eq!(vcpu.smc(Call::PrivateReset, &[]), OK);
        assert_eq!(vcpu.status(0), 0);
    }
}

#[test]
fn c229_shared_reset_succeeds_without_shared_events_and_keeps_private_ones() {
    let mut vcpu = Vcpu::ready();
    assert_eq!(vcpu.smc(Call::SharedReset, &[]), OK);
    assert_eq!(vcpu.status(0), 3);
}

#[test]
fn c234_resets_leave_the_mask_alone() {
    let mut vcpu = Vcpu::ready();
    vcpu.smc(Call::PrivateReset, &[]);
    vcpu.smc(Call::SharedReset, &[]);
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 1);
    vcpu.smc(Call::PrivateReset, &[]);
    vcpu.smc(Call::SharedReset, &[]);
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 0);
}

#[test]
fn c250_c251_c253_without_slots_nothing_can_be_bound() {
    let mut vcpu = Vcpu::alone();
    for intid in [16, 27, 31, 32, 95, 1 << 32 | 40] {
        let answer = vcpu.smc(Call::InterruptBind, &[intid]);
        assert_eq!(answer, OUT_OF_RESOURCE, "{intid}");
    }
    for intid in [0, 15, 29, 96, 1019, 1020, 1023, 8192, 0xffff_ffff] {
        assert_eq!(vcpu.smc(Call::InterruptBind, &[intid]), INVALID, "{intid}");
    }
}

#[test]
fn c252_what_is_not_bound_cannot_be_released() {
    let mut vcpu = Vcpu::with_events();
    let platform = EVENTS.map(|event| u64::from(event.number));
    for event in platform.into_iter().chain([0, 1, 0x4000_0000, 0x4000_0100]) {
        assert_eq!(vcpu.smc(Call::InterruptRelease, &[event]), INVALID);
    }
}
