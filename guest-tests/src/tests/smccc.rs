//! SMCCC (DEN0028): discovery, and what unknown calls answer.

use hv_abi::smccc::{
    self, ARCH_FEATURES, ARCH_SOC_ID, NOT_SUPPORTED, VENDOR_HYP_REVISION, VENDOR_HYP_UID, VERSION,
    VERSION_1_2,
};
use hv_abi::{psci, sdei, trng};

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::call::{Conduit, Registers, call, call_all, call_with_immediate};
use crate::rt::machine::machine;

/// Identifiers nobody answers, one or more from every range of DEN0028 table 6-2.
const UNKNOWN: [u32; 29] = [
    0x0000_0000, // yielding, reserved for old firmware
    0x0200_0000, // yielding, trusted OS
    0x3200_0000,
    0x7fff_ffff,
    0x8000_0000 + 0x7777, // architecture, unallocated
    ARCH_SOC_ID,
    ARCH_SOC_ID | 1 << 30,
    0x8100_0000, // CPU service
    0x8200_0000, // SiP service
    0xc200_0000,
    0x8300_0000, // OEM service
    0x8400_001f, // PSCI, unallocated
    0xc400_001e,
    0x8400_0020, // SDEI has no SMC32 forms
    0x8400_0021,
    0x8400_002f,
    0x8400_0032,
    sdei::Call::SharedReset as u32 + 1, // SDEI, unallocated
    sdei::LAST,
    0x8400_0060, // secure partition interface
    0x8500_0000, // standard hypervisor service
    0x8600_0000, // another hypervisor's service
    0x8600_ff00,
    0x8600_ff02,
    0xc600_ff01,
    0x8700_0000, // vendor EL3 monitor
    0xb000_0000, // trusted application
    0xb200_0000, // trusted OS
    0xffff_ffff,
];

guest_test!(unknown_calls_answer_not_supported_by_either_conduit);
fn unknown_calls_answer_not_supported_by_either_conduit() -> TestResult {
    needs_hypervisor()?;
    for conduit in Conduit::BOTH {
        for id in UNKNOWN {
            expect_eq!(
                call(conduit, id, &[1, 2, 3]),
                NOT_SUPPORTED,
                "{conduit:?} {id:#x}"
            );
        }
    }
    Ok(())
}

guest_test!(c003_every_unallocated_sdei_id_answers_not_supported);
fn c003_every_unallocated_sdei_id_answers_not_supported() -> TestResult {
    needs_hypervisor()?;
    for id in sdei::Call::SharedReset as u32 + 1..=sdei::LAST {
        for conduit in Conduit::BOTH {
            expect_eq!(call(conduit, id, &[]), NOT_SUPPORTED, "{conduit:?} {id:#x}");
        }
    }
    Ok(())
}

guest_test!(c004_no_sdei_call_has_an_smc32_form);
fn c004_no_sdei_call_has_an_smc32_form() -> TestResult {
    needs_hypervisor()?;
    for sdei_call in sdei::Call::ALL {
        let id = sdei_call as u32 & !(1 << 30);
        expect_eq!(call(machine().conduit, id, &[]), NOT_SUPPORTED, "{id:#x}");
    }
    Ok(())
}

guest_test!(c005_the_upper_half_of_x0_is_ignored);
fn c005_the_upper_half_of_x0_is_ignored() -> TestResult {
    needs_hypervisor()?;
    for conduit in Conduit::BOTH {
        let mut x: Registers = [0; 18];
        x[0] = 0xdead_beef_0000_0000 | u64::from(psci::VERSION);
        expect_eq!(
            call_all(conduit, x)[0],
            u64::from(psci::VERSION_1_3),
            "{conduit:?}"
        );
    }
    Ok(())
}

guest_test!(c006_a_nonzero_immediate_answers_not_supported_and_does_nothing);
fn c006_a_nonzero_immediate_answers_not_supported_and_does_nothing() -> TestResult {
    needs_hypervisor()?;
    let mut x: Registers = [0; 18];
    for id in [
        psci::VERSION,
        sdei::Call::Version as u32,
        psci::SYSTEM_OFF,
        psci::CPU_OFF,
    ] {
        x[0] = u64::from(id);
        for conduit in Conduit::BOTH {
            let small = call_with_immediate::<1>(conduit, x)[0] as i64;
            expect_eq!(small, NOT_SUPPORTED, "{conduit:?} #1 {id:#x}");
            let large = call_with_immediate::<0xabcd>(conduit, x)[0] as i64;
            expect_eq!(large, NOT_SUPPORTED, "{conduit:?} #0xabcd {id:#x}");
        }
    }
    Ok(())
}

guest_test!(smccc_is_discovered_through_psci_and_is_1_2);
fn smccc_is_discovered_through_psci_and_is_1_2() -> TestResult {
    needs_hypervisor()?;
    for conduit in Conduit::BOTH {
        expect_eq!(
            call(conduit, psci::FEATURES, &[u64::from(VERSION)]),
            0,
            "{conduit:?}"
        );
        let version = call(conduit, VERSION, &[]);
        expect_eq!(version, i64::from(VERSION_1_2), "{conduit:?}");
    }
    Ok(())
}

guest_test!(arch_features_knows_itself_and_denies_the_unknown);
fn arch_features_knows_itself_and_denies_the_unknown() -> TestResult {
    needs_hypervisor()?;
    let features = |id: u32| call(machine().conduit, ARCH_FEATURES, &[u64::from(id)]);
    expect_eq!(features(VERSION), 0);
    expect_eq!(features(ARCH_FEATURES), 0);
    for id in [
        ARCH_SOC_ID,
        0x8000_7777,
        0xc500_0020,
        0x0000_0000,
        0xffff_ffff,
    ] {
        expect_eq!(features(id), NOT_SUPPORTED, "{id:#x}");
    }
    Ok(())
}

guest_test!(calls_keep_x4_to_x17_even_those_that_answer_in_four_registers);
fn calls_keep_x4_to_x17_even_those_that_answer_in_four_registers() -> TestResult {
    needs_hypervisor()?;
    for id in [
        VERSION,
        VENDOR_HYP_UID,
        trng::GET_UUID,
        trng::RND64,
        0x8600_0000,
    ] {
        for conduit in Conduit::BOTH {
            let mut x: Registers = core::array::from_fn(|n| 0x0101_0101_0101_0101 * n as u64);
            x[0] = id.into();
            let after = call_all(conduit, x);
            expect_eq!(&after[4..], &x[4..], "{conduit:?} {id:#x}");
        }
    }
    Ok(())
}

guest_test!(the_hypervisor_says_who_it_is);
fn the_hypervisor_says_who_it_is() -> TestResult {
    needs_hypervisor()?;
    for conduit in Conduit::BOTH {
        let answer = |id: u32| {
            let mut x: Registers = [u64::MAX; 18];
            x[0] = id.into();
            let [a, b, c, d, ..] = call_all(conduit, x);
            [a, b, c, d]
        };
        let uuid = smccc::uuid_words(smccc::HYPERVISOR_UUID).map(u64::from);
        expect_eq!(answer(VENDOR_HYP_UID), uuid, "{conduit:?}");
        let [major, minor] = smccc::HYPERVISOR_REVISION.map(u64::from);
        expect_eq!(
            answer(VENDOR_HYP_REVISION),
            [major, minor, 0, 0],
            "{conduit:?}"
        );
    }
    Ok(())
}

guest_test!(both_conduits_answer_the_same);
fn both_conduits_answer_the_same() -> TestResult {
    needs_hypervisor()?;
    let discovery = [
        psci::VERSION,
        VERSION,
        psci::MIGRATE_INFO_TYPE,
        sdei::Call::Version as u32,
    ];
    for id in discovery {
        let by_hvc = call(Conduit::Hvc, id, &[]);
        expect_eq!(call(Conduit::Smc, id, &[]), by_hvc, "{id:#x}");
    }
    Ok(())
}
