//! Identification registers: a guest sees what it has, and what it has not got is undefined.

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::machine::machine;
use crate::rt::probe::{FEATURES, IDENTIFICATION};
use crate::rt::sync::{Cell64, Flag};
use crate::rt::{cpu, sysreg};

/// Exception class of an undefined instruction (DDI0487 D24.2 ESR_ELx).
const UNKNOWN_REASON: u64 = 0x00;

guest_test!(the_whole_identification_space_can_be_read);
fn the_whole_identification_space_can_be_read() -> TestResult {
    for (index, read) in IDENTIFICATION.iter().enumerate() {
        let (crm, op2) = (index / 8 + 1, index % 8);
        if let Err(fault) = read() {
            fail!("S3_0_C0_C{crm}_{op2} took {fault:#x?}");
        }
    }
    Ok(())
}

guest_test!(a_guest_has_neither_virtualization_nor_what_nobody_switches);
fn a_guest_has_neither_virtualization_nor_what_nobody_switches() -> TestResult {
    needs_hypervisor()?;
    let hidden = [
        "EL2", "SVE", "SME", "MTE", "MPAM", "AMU", "SPE", "TRBE", "BRBE", "GCS",
    ];
    for feature in &FEATURES {
        let family = feature.name.split(' ').next().unwrap_or("");
        if hidden.contains(&family) {
            expect_eq!((feature.field)(), 0, "{family}");
        }
    }
    Ok(())
}

guest_test!(registers_of_features_that_are_not_there_are_undefined);
fn registers_of_features_that_are_not_there_are_undefined() -> TestResult {
    needs_hypervisor()?;
    for feature in &FEATURES {
        if (feature.field)() != 0 {
            continue;
        }
        match sysreg::with_all_units_open(feature.read) {
            Ok(value) => fail!("{} reads {value:#x}", feature.name),
            Err(fault) => expect_eq!(fault.class(), UNKNOWN_REASON, "{}", feature.name),
        }
    }
    Ok(())
}

guest_test!(every_cpu_has_the_affinity_the_devicetree_says, cpus = 4);
fn every_cpu_has_the_affinity_the_devicetree_says() -> TestResult {
    static DONE: Flag = Flag::new();
    static AFFINITY: Cell64 = Cell64::new(0);
    for index in 1..cpu::count() {
        DONE.lower();
        cpu::start(index, || {
            AFFINITY.set(sysreg::affinity());
            DONE.raise();
        });
        expect_that!(DONE.wait(), "CPU {index}");
        expect_eq!(AFFINITY.get(), machine().cpus[index], "CPU {index}");
        expect_that!(cpu::wait_off(index));
    }
    // RES1, and uniprocessor only if there is one CPU (DDI0487 D24.2 MPIDR_EL1).
    expect_eq!(sysreg::mpidr() >> 31 & 1, 1);
    Ok(())
}

guest_test!(all_cpus_read_the_same_identification, cpus = 2);
fn all_cpus_read_the_same_identification() -> TestResult {
    static SUM: Cell64 = Cell64::new(0);
    static DONE: Flag = Flag::new();
    fn digest() -> u64 {
        IDENTIFICATION.iter().fold(0, |sum: u64, read| {
            sum.rotate_left(7) ^ read().unwrap_or(0x5a5a)
        })
    }
    DONE.lower();
    cpu::start(1, || {
        SUM.set(digest());
        DONE.raise();
    });
    expect_that!(DONE.wait());
    expect_eq!(SUM.get(), digest());
    Ok(())
}
