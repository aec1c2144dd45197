//! A guest's registers across every kind of exit: nothing changes but what the instruction changes.

use hv_abi::psci as abi;
use hv_abi::sdei;

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::exception::{self, Frame, Source};
use crate::rt::gic::{self, gicd};
use crate::rt::machine::machine;
use crate::rt::patterns::{self, Across, Context};
use crate::rt::sync::{Flag, eventually};
use crate::rt::timer::{self, Timer};
use crate::rt::{cpu, leftovers, probe, sysreg};

/// Seeds of the patterns: each register is once high, once low somewhere.
const SEEDS: [u64; 4] = [
    0x1234_5678_9abc_def1,
    0xfedc_ba98_7654_3211,
    3,
    0x8000_0000_0000_0001,
];

/// Runs `across` with some registers set, for every pattern; `results` are the registers it may change.
fn keeps(across: Across, set: &[(usize, u64)], results: &[usize]) -> TestResult {
    for seed in SEEDS {
        let mut before = Context::pattern(seed);
        for (register, value) in set {
            before.x[*register] = *value;
        }
        let after = patterns::run(across, &before);
        if let Some((kind, n)) = after.first_difference(&before, results) {
            fail!(
                "{across:?} changed {kind}{n}, seed {seed:#x}: {:#x}",
                after.x[n.min(30)]
            );
        }
    }
    Ok(())
}

guest_test!(the_patterns_hold_when_nothing_happens);
fn the_patterns_hold_when_nothing_happens() -> TestResult {
    keeps(Across::Nothing, &[], &[])?;
    keeps(Across::Yield, &[], &[])
}

guest_test!(c007_calls_change_x0_only);
fn c007_calls_change_x0_only() -> TestResult {
    let known = [
        abi::VERSION,
        abi::MIGRATE_INFO_TYPE,
        abi::FEATURES,
        abi::AFFINITY_INFO[1],
    ];
    let sdei = sdei::Call::ALL
        .iter()
        .map(|call| *call as u32)
        .filter(|id| {
            // These start or end events, which the SDEI tests look into.
            *id != sdei::Call::EventSignal as u32 && *id != sdei::Call::PeUnmask as u32
        });
    let unknown = [0x8200_0000, 0xc300_0001, 0x8400_001f, 0xffff_ffff, 0];
    let bare = machine().has_argument("bare");
    for id in known.into_iter().chain(unknown).chain(sdei) {
        keeps(Across::Hvc, &[(0, u64::from(id))], &[0])?;
        if !bare {
            keeps(Across::Smc, &[(0, u64::from(id))], &[0])?;
        }
    }
    Ok(())
}

guest_test!(an_identification_register_changes_its_target_only);
fn an_identification_register_changes_its_target_only() -> TestResult {
    keeps(Across::Identification, &[], &[5])
}

guest_test!(device_registers_change_the_loaded_register_only);
fn device_registers_change_the_loaded_register_only() -> TestResult {
    let iidr = gic::distributor().address(gicd::IIDR);
    let pending = gic::distributor().address(gicd::ISENABLER + 4);
    for address in [iidr, pending] {
        keeps(Across::Load, &[(0, address)], &[1])?;
        keeps(Across::LoadHigh, &[(29, address)], &[30])?;
        keeps(Across::LoadZero, &[(18, address)], &[])?;
    }
    if !gic::v2::is_it() {
        let typer = gic::redistributor().address(gic::GICR_TYPER);
        keeps(Across::Load64, &[(0, typer)], &[1])?;
    }
    // Writes of 0 to write-one-to-set registers; nothing but the exit happens.
    keeps(Across::Store, &[(0, pending), (1, 0)], &[])?;
    keeps(Across::StoreHigh, &[(29, pending), (30, 0)], &[])
}

guest_test!(the_console_changes_the_loaded_register_only);
fn the_console_changes_the_loaded_register_only() -> TestResult {
    const UARTFR: u64 = 0x18;
    const UARTIMSC: u64 = 0x38;
    let uart = machine().uart;
    keeps(Across::Load, &[(0, uart.address(UARTFR))], &[1])?;
    keeps(Across::Store, &[(0, uart.address(UARTIMSC)), (1, 0)], &[])
}

guest_test!(a_loaded_w_register_has_its_upper_half_cleared);
fn a_loaded_w_register_has_its_upper_half_cleared() -> TestResult {
    let gicd = gic::distributor();
    let mut before = Context::pattern(7);
    before.x[0] = gicd.address(gicd::IIDR);
    let after = patterns::run(Across::Load, &before);
    expect_eq!(after.x[1], u64::from(gicd.read32(gicd::IIDR)));
    Ok(())
}

guest_test!(an_external_abort_keeps_every_register);
fn an_external_abort_keeps_every_register() -> TestResult {
    let hole = machine().home().end();
    expect_that!(!probe::is_memory(hole));
    for across in [Across::Load, Across::Load64, Across::Store] {
        let mut outcome = Ok(());
        let caught = exception::catch(|| outcome = keeps_once(across, hole));
        outcome?;
        expect_that!(caught.is_err(), "{across:?} at {hole:#x} did not fault");
    }
    Ok(())
}

fn keeps_once(across: Across, address: u64) -> TestResult {
    keeps(across, &[(0, address)], &[])
}

guest_test!(sending_an_sgi_keeps_every_register);
fn sending_an_sgi_keeps_every_register() -> TestResult {
    // To self, masked: it becomes pending. To nobody: it goes nowhere.
    if gic::v2::is_it() {
        let register = gic::distributor().address(gicd::SGIR);
        let target = u64::from(gic::v2::target(cpu::affinity(0)));
        keeps(Across::Store, &[(0, register), (1, target << 16 | 3)], &[])?;
        keeps(Across::Store, &[(0, register), (1, 3)], &[])?;
    } else {
        let target = 1 << (cpu::affinity(0) & 0xf);
        keeps(Across::Sgi, &[(0, 3 << 24 | target)], &[])?;
        keeps(Across::Sgi, &[(0, 3 << 24)], &[])?;
    }
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 3), 1);
    Ok(())
}

guest_test!(wfi_keeps_every_register);
fn wfi_keeps_every_register() -> TestResult {
    let timer = Timer::Virtual;
    gic::enable(timer.intid());
    // With an interrupt pending WFI falls through.
    gic::send_sgi_to(cpu::affinity(0), 3);
    keeps(Across::Wfi, &[], &[])?;
    sysreg::with_interrupts(|| ());
    // Without one, it waits for the timer.
    for seed in SEEDS {
        let before = Context::pattern(seed);
        timer.fire_in(timer::ticks_of_us(5000));
        let after = patterns::run(Across::Wfi, &before);
        if let Some((kind, n)) = after.first_difference(&before, &[]) {
            fail!("WFI changed {kind}{n}, seed {seed:#x}");
        }
        timer.stop();
    }
    Ok(())
}

/// Interrupts that hit the spinning loop before it ends.
const INTERRUPTS: u32 = 50;

fn timer_interrupts_keep(timer: Timer, hook: exception::Hook) -> TestResult {
    gic::enable(timer.intid());
    exception::set_hook(Some(hook));
    let before = Context::pattern(SEEDS[0]);
    timer.fire_in(timer::ticks_of_us(200));
    let after = sysreg::with_interrupts(|| patterns::run(Across::Spin, &before));
    if let Some((kind, n)) = after.first_difference(&before, &[]) {
        fail!("an interrupt changed {kind}{n}");
    }
    expect_that!(exception::count(0, timer.intid()) >= INTERRUPTS);
    Ok(())
}

/// Whether the interrupt hit the loop; one that came earlier says nothing. In the loop, the vector must
/// have seen the patterns.
fn is_spinning(frame: &Frame, seed: u64) -> bool {
    let spinning = frame.elr == patterns::spin_here();
    assert!(
        !spinning || frame.x == Context::pattern(seed).x,
        "registers in the vector"
    );
    spinning
}

fn rearm(timer: Timer, frame: &mut Frame, intid: u32) -> Source {
    if !is_spinning(frame, SEEDS[0]) || exception::count(0, intid) < INTERRUPTS {
        timer.fire_in(timer::ticks_of_us(200));
    } else {
        timer.mask();
        frame.elr = patterns::spin_end();
    }
    Source::Leave
}

guest_test!(virtual_timer_interrupts_keep_every_register);
fn virtual_timer_interrupts_keep_every_register() -> TestResult {
    timer_interrupts_keep(Timer::Virtual, |frame, intid| {
        rearm(Timer::Virtual, frame, intid)
    })
}

guest_test!(physical_timer_interrupts_keep_every_register);
fn physical_timer_interrupts_keep_every_register() -> TestResult {
    timer_interrupts_keep(Timer::Physical, |frame, intid| {
        rearm(Timer::Physical, frame, intid)
    })
}

guest_test!(an_sgi_from_another_cpu_keeps_every_register, cpus = 2);
fn an_sgi_from_another_cpu_keeps_every_register() -> TestResult {
    fn count_to_the_end(frame: &mut Frame, intid: u32) -> Source {
        if is_spinning(frame, SEEDS[1]) && exception::count(0, intid) >= INTERRUPTS {
            frame.elr = patterns::spin_end();
        }
        Source::Leave
    }
    static ENOUGH: Flag = Flag::new();
    ENOUGH.lower();
    exception::set_hook(Some(count_to_the_end));
    let status = cpu::start(1, || {
        // As many as it takes: the first may come before the loop is reached.
        while !ENOUGH.is_up() {
            let before = exception::count(0, 7);
            gic::send_sgi_to(cpu::affinity(0), 7);
            if !eventually(|| ENOUGH.is_up() || exception::count(0, 7) > before) {
                return;
            }
        }
    });
    expect_eq!(status, 0);
    let before = Context::pattern(SEEDS[1]);
    let after = sysreg::with_interrupts(|| patterns::run(Across::Spin, &before));
    ENOUGH.raise();
    if let Some((kind, n)) = after.first_difference(&before, &[]) {
        fail!("an SGI changed {kind}{n}");
    }
    expect_that!(cpu::wait_off(1));
    Ok(())
}

guest_test!(el1_system_registers_survive_every_exit);
fn el1_system_registers_survive_every_exit() -> TestResult {
    needs_hypervisor()?;
    let gicd = gic::distributor();
    for round in 1..=4 {
        let planted = sysreg::plant(round);
        for conduit in crate::rt::call::Conduit::BOTH {
            crate::rt::call::call(conduit, abi::VERSION, &[]);
            crate::rt::call::call(conduit, 0x8200_0000, &[]);
        }
        gicd.read32(gicd::IIDR);
        gicd.write32(gicd::ISENABLER + 4, 0);
        gic::send_sgi_to(cpu::affinity(0), 3);
        let found = sysreg::harvest();
        for ((name, planted), found) in sysreg::PLANTED.iter().zip(planted).zip(found) {
            expect_eq!(found, planted, "{name}");
        }
    }
    Ok(())
}

guest_test!(
    cpu_off_leaves_locks_and_claim_tags_as_a_cold_reset,
    cpus = 2
);
fn cpu_off_leaves_locks_and_claim_tags_as_a_cold_reset() -> TestResult {
    needs_hypervisor()?;
    static SEEN: spin::Mutex<[[u64; 3]; 3]> = spin::Mutex::new([[0; 3]; 3]);
    let status = cpu::start(1, || {
        let before = leftovers::harvest_debug();
        leftovers::plant_debug();
        *SEEN.lock() = [before, leftovers::harvest_debug(), [0; 3]];
    });
    expect_eq!(status, 0);
    expect_that!(cpu::wait_off(1));
    let status = cpu::start(1, || SEEN.lock()[2] = leftovers::harvest_debug());
    expect_eq!(status, 0);
    expect_that!(cpu::wait_off(1));
    let [before, planted, left] = *SEEN.lock();
    expect_eq!(planted[0], 1, "the OS lock was not unlocked: {planted:x?}");
    expect_eq!((before, left), ([0; 3], [0; 3]), "{planted:x?}");
    Ok(())
}

guest_test!(cpu_off_leaves_nothing_in_any_register, cpus = 2);
fn cpu_off_leaves_nothing_in_any_register() -> TestResult {
    needs_hypervisor()?;
    static SEEN: spin::Mutex<([u64; leftovers::NAMES.len()], u64)> =
        spin::Mutex::new(([0; leftovers::NAMES.len()], 0));
    let status = cpu::start(1, || {
        leftovers::plant();
        leftovers::plant_vectors();
        *SEEN.lock() = (leftovers::harvest(), leftovers::harvest_vectors());
    });
    expect_eq!(status, 0);
    expect_that!(cpu::wait_off(1));
    let (planted, vectors) = *SEEN.lock();
    let there = planted.iter().filter(|value| **value != 0).count();
    expect_that!(there >= 10, "{planted:x?}");
    expect_eq!(vectors, 0xa5a5_a5a5_a5a5_a5a5);
    expect_eq!(
        cpu::start(1, || *SEEN.lock() =
            (leftovers::harvest(), leftovers::harvest_vectors())),
        0
    );
    expect_that!(cpu::wait_off(1));
    let (left, vectors) = *SEEN.lock();
    for (name, value) in leftovers::NAMES.iter().zip(left) {
        expect_eq!(value, 0, "{name}");
    }
    expect_eq!(vectors, 0, "V0 to V31");
    Ok(())
}
