//! PSCI (DEN0022 5.2.2): what wrong calls answer, and that they change nothing.

use hv_abi::psci::{self as abi, AffinityState, Status};

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::machine::machine;
use crate::rt::sync::Flag;
use crate::rt::{cpu, psci};

/// Affinities no vCPU has: unused Aff1, Aff2, Aff3, reserved bits, far out Aff0.
const NOBODY: [u64; 6] = [
    0x0000_7f00,
    0x007f_0000,
    0x7f_0000_0000,
    0x8000_0000_0000_0000,
    0x0000_00fe,
    u64::MAX,
];

guest_test!(cpu_on_of_nobody_is_an_invalid_parameter);
fn cpu_on_of_nobody_is_an_invalid_parameter() -> TestResult {
    for affinity in NOBODY {
        let status = cpu::try_cpu_on(affinity, cpu::entry_address());
        expect_eq!(
            status,
            Status::InvalidParameters as i32,
            "target {affinity:#x}"
        );
    }
    Ok(())
}

guest_test!(affinity_info_of_nobody_is_an_invalid_parameter);
fn affinity_info_of_nobody_is_an_invalid_parameter() -> TestResult {
    for affinity in NOBODY {
        let status = psci::affinity_info(affinity);
        expect_eq!(
            status,
            Status::InvalidParameters as i32,
            "target {affinity:#x}"
        );
    }
    Ok(())
}

guest_test!(affinity_info_of_a_level_that_is_none_is_an_invalid_parameter);
fn affinity_info_of_a_level_that_is_none_is_an_invalid_parameter() -> TestResult {
    needs_hypervisor()?;
    for id in abi::AFFINITY_INFO {
        let status = psci::call_psci(id, &[cpu::affinity(0), 4]);
        expect_eq!(status, Status::InvalidParameters as i32);
        let level_1 = psci::call_psci(id, &[cpu::affinity(0), 1]);
        let allowed = [AffinityState::On as i32, Status::InvalidParameters as i32];
        expect_that!(allowed.contains(&level_1), "level 1: {level_1}");
    }
    Ok(())
}

guest_test!(cpu_on_of_a_running_cpu_says_already_on, cpus = 2);
fn cpu_on_of_a_running_cpu_says_already_on() -> TestResult {
    static ON: Flag = Flag::new();
    static MAY_GO: Flag = Flag::new();
    ON.lower();
    MAY_GO.lower();
    let already_on = Status::AlreadyOn as i32;
    expect_eq!(
        cpu::try_cpu_on(cpu::affinity(0), cpu::entry_address()),
        already_on,
        "itself"
    );
    let status = cpu::start(1, || {
        ON.raise();
        let _in_time = MAY_GO.wait();
    });
    expect_eq!(status, Status::Success as i32);
    expect_that!(ON.wait());
    let again = cpu::try_cpu_on(cpu::affinity(1), cpu::entry_address());
    let state = psci::affinity_info(cpu::affinity(1));
    MAY_GO.raise();
    expect_eq!(again, already_on);
    expect_eq!(state, AffinityState::On as i32);
    expect_that!(cpu::wait_off(1));
    Ok(())
}

guest_test!(c216_cpu_on_at_no_memory_is_an_invalid_address, cpus = 2);
fn c216_cpu_on_at_no_memory_is_an_invalid_address() -> TestResult {
    needs_hypervisor()?;
    let home = machine().home();
    let outside = [
        0,
        home.base - 4,
        home.end(),
        machine().uart.region().base,
        1 << 47,
        0xffff_ffff_ffff_f000,
        cpu::entry_address() + 1,
        cpu::entry_address() + 2,
    ];
    for entry in outside {
        let status = cpu::try_cpu_on(cpu::affinity(1), entry);
        expect_eq!(status, Status::InvalidAddress as i32, "entry {entry:#x}");
        expect_that!(cpu::is_off(1), "after entry {entry:#x}");
    }
    Ok(())
}

guest_test!(smc32_forms_take_only_32_bits_of_each_argument, cpus = 2);
fn smc32_forms_take_only_32_bits_of_each_argument() -> TestResult {
    needs_hypervisor()?;
    let garbage = 0xdead_beef_0000_0000;
    let me = cpu::affinity(0) & 0xffff_ffff;
    let status = psci::call_psci(abi::AFFINITY_INFO[0], &[garbage | me, garbage]);
    expect_eq!(status, AffinityState::On as i32);
    let features = psci::call_psci(abi::FEATURES, &[garbage | u64::from(abi::VERSION)]);
    expect_eq!(features, 0);
    Ok(())
}

guest_test!(system_off2_of_an_unknown_type_or_with_a_cookie_is_refused);
fn system_off2_of_an_unknown_type_or_with_a_cookie_is_refused() -> TestResult {
    needs_hypervisor()?;
    for id in abi::SYSTEM_OFF2 {
        for arguments in [[2, 0], [0x8000_0000, 0], [0xffff_ffff, 0], [0, 1], [1, 1]] {
            let status = psci::call_psci(id, &arguments);
            let invalid = Status::InvalidParameters as i32;
            expect_eq!(status, invalid, "{id:#x} of {arguments:#x?}");
        }
    }
    Ok(())
}

guest_test!(memory_regions_cannot_be_cleaned_by_call);
fn memory_regions_cannot_be_cleaned_by_call() -> TestResult {
    needs_hypervisor()?;
    for id in abi::CLEAN_INV_MEMREGION {
        let status = psci::call_psci(id, &[machine().home().base, 4096]);
        expect_eq!(status, Status::NotSupported as i32, "{id:#x}");
    }
    Ok(())
}

guest_test!(system_reset2_of_an_unknown_type_is_refused);
fn system_reset2_of_an_unknown_type_is_refused() -> TestResult {
    needs_hypervisor()?;
    for kind in [1, 0x7fff_ffff] {
        let status = psci::call_psci(abi::SYSTEM_RESET2[1], &[kind, 0]);
        expect_eq!(status, Status::InvalidParameters as i32, "type {kind:#x}");
    }
    Ok(())
}
