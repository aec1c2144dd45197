//! PSCI (DEN0022): versions, and the way CPUs go on and off.

use hv_abi::psci::{self as abi, AffinityState, Status};

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::sync::{Cell64, Flag, eventually};
use crate::rt::timer::{self, Timer};
use crate::rt::{cpu, exception, gic, psci, sysreg};

const SUCCESS: i32 = Status::Success as i32;

guest_test!(psci_version_is_1_3);
fn psci_version_is_1_3() -> TestResult {
    needs_hypervisor()?;
    expect_eq!(psci::call_psci(abi::VERSION, &[]), abi::VERSION_1_3 as i32);
    Ok(())
}

guest_test!(psci_features_lists_what_there_is);
fn psci_features_lists_what_there_is() -> TestResult {
    needs_hypervisor()?;
    let features = |id: u32| psci::call_psci(abi::FEATURES, &[u64::from(id)]);
    let single = [
        abi::VERSION,
        abi::CPU_OFF,
        abi::MIGRATE_INFO_TYPE,
        abi::SYSTEM_OFF,
        abi::SYSTEM_RESET,
        abi::FEATURES,
    ];
    let paired = [
        abi::CPU_SUSPEND,
        abi::CPU_ON,
        abi::AFFINITY_INFO,
        abi::SYSTEM_SUSPEND,
        abi::SYSTEM_RESET2,
        abi::SYSTEM_OFF2,
    ];
    for id in single.iter().chain(paired.iter().flatten()) {
        expect_that!(features(*id) >= 0, "{id:#x}: {}", features(*id));
    }
    for id in abi::SYSTEM_OFF2 {
        expect_eq!(features(id), abi::HIBERNATE_OFF as i32, "{id:#x}");
    }
    // MIGRATE, CPU_FREEZE, NODE_HW_STATE, SET_SUSPEND_MODE, MEM_PROTECT, CLEAN_INV_MEMREGION,
    // SDEI_VERSION, unallocated.
    for id in [
        0x8400_0005,
        0x8400_000b,
        0x8400_000d,
        0x8400_000f,
        0x8400_0013,
        0x8400_0016,
        0xc400_0016,
        0xc400_0020,
        0x8400_001f,
        0xc400_0008,
    ] {
        expect_eq!(features(id), Status::NotSupported as i32, "{id:#x}");
    }
    Ok(())
}

guest_test!(no_trusted_os_needs_migration);
fn no_trusted_os_needs_migration() -> TestResult {
    expect_eq!(psci::call_psci(abi::MIGRATE_INFO_TYPE, &[]), 2);
    Ok(())
}

guest_test!(cpu_on_starts_a_cpu_that_turns_itself_off_again, cpus = 2);
fn cpu_on_starts_a_cpu_that_turns_itself_off_again() -> TestResult {
    static RAN: Flag = Flag::new();
    for round in 0..50 {
        RAN.lower();
        expect_eq!(
            psci::affinity_info(cpu::affinity(1)),
            AffinityState::Off as i32,
            "{round}"
        );
        expect_eq!(cpu::start(1, || RAN.raise()), SUCCESS, "{round}");
        expect_that!(RAN.wait(), "in round {round}");
        expect_that!(cpu::wait_off(1), "in round {round}");
    }
    Ok(())
}

guest_test!(all_cpus_go_on_and_off_together, cpus = 4);
fn all_cpus_go_on_and_off_together() -> TestResult {
    static RUNNING: Cell64 = Cell64::new(0);
    let others = cpu::count() as u64 - 1;
    for round in 0..10 {
        RUNNING.set(0);
        for index in 1..cpu::count() {
            let status = cpu::start(index, || {
                RUNNING.add(1);
            });
            expect_eq!(status, SUCCESS, "CPU {index}, round {round}");
        }
        expect_that!(eventually(|| RUNNING.get() == others), "in round {round}");
        for index in 1..cpu::count() {
            expect_that!(cpu::wait_off(index), "CPU {index}, round {round}");
        }
    }
    Ok(())
}

guest_test!(
    a_started_cpu_begins_at_el1h_masked_with_its_mmu_off,
    cpus = 2
);
fn a_started_cpu_begins_at_el1h_masked_with_its_mmu_off() -> TestResult {
    static RAN: Flag = Flag::new();
    RAN.lower();
    expect_eq!(cpu::start(1, || RAN.raise()), SUCCESS);
    expect_that!(RAN.wait());
    let state = cpu::entry_state(1);
    const EL1: u64 = 0b01 << 2;
    const DAIF: u64 = 0b1111 << 6;
    /// SCTLR_EL1: M, C, I (DDI0487 D24.2), and EE for the byte order.
    const TRANSLATION_AND_CACHES: u64 = 1 << 0 | 1 << 2 | 1 << 12;
    const BIG_ENDIAN: u64 = 1 << 25;
    expect_eq!(state.current_el, EL1);
    expect_eq!(state.spsel, 1);
    expect_eq!(state.daif, DAIF);
    expect_eq!(state.sctlr & (TRANSLATION_AND_CACHES | BIG_ENDIAN), 0);
    Ok(())
}

guest_test!(a_started_cpu_has_the_byte_order_of_its_caller, cpus = 2);
fn a_started_cpu_has_the_byte_order_of_its_caller() -> TestResult {
    needs_hypervisor()?;
    static RAN: Flag = Flag::new();
    /// SCTLR_EL1.EE (DDI0487 D24.2).
    const BIG_ENDIAN: u64 = 1 << 25;
    for (start, expected) in [
        (
            cpu::start_by_big_endian as fn(usize, cpu::Work) -> i32,
            BIG_ENDIAN,
        ),
        (cpu::start, 0),
    ] {
        RAN.lower();
        expect_eq!(start(1, || RAN.raise()), SUCCESS);
        expect_that!(RAN.wait());
        expect_eq!(cpu::entry_state(1).sctlr & BIG_ENDIAN, expected);
        expect_that!(cpu::wait_off(1));
    }
    Ok(())
}

guest_test!(a_restarted_cpu_begins_as_fresh_as_the_first_time, cpus = 2);
fn a_restarted_cpu_begins_as_fresh_as_the_first_time() -> TestResult {
    static RAN: Flag = Flag::new();
    for round in 0..3 {
        RAN.lower();
        // The last owner left it with the MMU on, interrupts open and one active.
        let status = cpu::start(1, || {
            gic::send_sgi_to(cpu::affinity(1), 3);
            let _active = gic::acknowledge();
            sysreg::unmask_interrupts();
            RAN.raise();
        });
        expect_eq!(status, SUCCESS, "round {round}");
        expect_that!(RAN.wait());
        let state = cpu::entry_state(1);
        expect_eq!(state.daif, 0b1111 << 6, "round {round}");
        expect_eq!(state.sctlr & 0b101, 0, "round {round}");
        expect_that!(cpu::wait_off(1));
    }
    Ok(())
}

guest_test!(cpu_on_hands_over_all_64_bits_of_the_context, cpus = 2);
fn cpu_on_hands_over_all_64_bits_of_the_context() -> TestResult {
    for context in [0, 0x0123_4567_89ab_cdef, u64::MAX, 1 << 63] {
        expect_eq!(cpu::probe_context(1, context), Ok(context));
    }
    Ok(())
}

guest_test!(
    exactly_one_of_many_racing_cpu_ons_wins,
    cpus = 4,
    boot = shared,
    icount = false,
    timeout = 60
);
fn exactly_one_of_many_racing_cpu_ons_wins() -> TestResult {
    // QEMU's own PSCI lets several win: it marks the target only once that runs.
    needs_hypervisor()?;
    const ROUNDS: u64 = 50;
    static ROUND: Cell64 = Cell64::new(0);
    static CONTEXT: Cell64 = Cell64::new(0);
    static ANSWERS: Cell64 = Cell64::new(0);
    static WON: Cell64 = Cell64::new(0);
    static REFUSED: Cell64 = Cell64::new(0);
    static STARTED: Cell64 = Cell64::new(0);

    fn race() {
        match cpu::race_to_start(1, CONTEXT.get()) {
            SUCCESS => WON.add(1),
            status if status == Status::AlreadyOn as i32 || status == Status::OnPending as i32 => {
                REFUSED.add(1)
            }
            _ => 0,
        };
        ANSWERS.add(1);
    }

    fn racer() {
        for round in 1..=ROUNDS {
            if !eventually(|| ROUND.get() >= round) {
                return;
            }
            race();
        }
    }

    for cell in [&ROUND, &ANSWERS, &WON, &REFUSED, &STARTED] {
        cell.set(0);
    }
    for index in [2, 3] {
        expect_eq!(cpu::start(index, racer), SUCCESS);
    }
    for round in 1..=ROUNDS {
        // It stays on until all have their answer; a late racer could win otherwise.
        let Some(context) = cpu::prepare(1, || {
            STARTED.add(1);
            let _in_time = eventually(|| ANSWERS.get() == 3 * ROUND.get());
        }) else {
            fail!("CPU 1 is not off before round {round}");
        };
        CONTEXT.set(context);
        ROUND.set(round);
        race();
        expect_that!(eventually(|| ANSWERS.get() == 3 * round), "round {round}");
        expect_eq!(WON.get(), round);
        expect_eq!(REFUSED.get(), 2 * round);
        expect_that!(eventually(|| STARTED.get() == round), "round {round}");
        expect_that!(cpu::wait_off(1), "round {round}");
    }
    Ok(())
}

guest_test!(cpu_suspend_sleeps_until_an_interrupt_is_pending_masked_or_not);
fn cpu_suspend_sleeps_until_an_interrupt_is_pending_masked_or_not() -> TestResult {
    let timer = Timer::Virtual;
    gic::enable(timer.intid());
    for id in abi::CPU_SUSPEND {
        let mut calls = 0;
        timer.fire_in(timer::ticks_of_us(50_000));
        while !timer.has_expired() {
            // Power state 0: standby of this CPU (DEN0022 5.4.2).
            expect_eq!(psci::call_psci(id, &[0, 0, 0]), SUCCESS);
            calls += 1;
        }
        // Taken now, so that nothing is pending when the next one begins.
        sysreg::with_interrupts(|| ());
        timer.stop();
        // Like WFI it may end early, but whoever spins instead of sleeping gets through more.
        expect_that!((1..100).contains(&calls), "{calls} calls in 50 ms");
    }
    expect_eq!(exception::count(0, timer.intid()), 2);
    Ok(())
}

guest_test!(cpu_suspend_returns_at_once_when_an_interrupt_is_pending);
fn cpu_suspend_returns_at_once_when_an_interrupt_is_pending() -> TestResult {
    gic::send_sgi_to(cpu::affinity(0), 4);
    expect_eq!(psci::call_psci(abi::CPU_SUSPEND[1], &[0, 0, 0]), SUCCESS);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 4), 1);
    Ok(())
}
