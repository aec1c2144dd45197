//! SIGNAL between CPUs.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;
use crate::rt::sync::watch_for_ms;
use crate::rt::timer::Timer;
use crate::rt::{exception, gic};
use crate::tests::timer::takes_interrupts;

fn signal_raw(event: u64, target: u64) -> i64 {
    sdei::call(Call::EventSignal, &[event, target])
}

guest_test!(
    c273_a_flood_of_signals_to_cpus_of_nobody_reaches_nobody,
    cpus = 2
);
fn c273_a_flood_of_signals_to_cpus_of_nobody_reaches_nobody() -> TestResult {
    needs_sdei()?;
    start_target(spin_ready)?;
    expect_eq!([sdei::register(), sdei::enable(), sdei::unmask()], [0; 3]);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Affinity bits only, so that nothing but the lookup refuses them.
        let target = state & 0xff_00ff_ffff;
        if (0..cpu::count()).any(|index| cpu::affinity(index) == target) {
            continue;
        }
        expect_eq!(signal_raw(0, target), INVALID, "target {target:#x}");
    }
    let runs = [sdei::slot(0).runs(), sdei::slot(1).runs()];
    release_target()?;
    expect_eq!(runs, [0, 0]);
    Ok(())
}

guest_test!(
    c160_every_cpu_signals_every_cpu,
    cpus = 4,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c160_every_cpu_signals_every_cpu() -> TestResult {
    needs_sdei()?;
    const CPUS: usize = 4;
    static UP: Cell64 = Cell64::new(0);
    static TURN: Cell64 = Cell64::new(0);
    static MISSING: Cell64 = Cell64::new(0);
    static GATHER: Flag = Flag::new();
    fn play() {
        let me = sysreg::cpu_index();
        if !sdei::get_ready() {
            return;
        }
        UP.add(1);
        if !eventually(|| TURN.get() == me as u64) {
            return;
        }
        for target in 0..CPUS {
            let before: [u64; CPUS] = core::array::from_fn(|index| sdei::slot(index).runs());
            let status = sdei::signal(cpu::affinity(target));
            if status != SUCCESS || !entered(target, before[target] + 1) {
                MISSING.add(1);
            }
            for other in (0..CPUS).filter(|other| *other != target) {
                if sdei::slot(other).runs() != before[other] {
                    MISSING.add(0x100);
                }
            }
        }
        TURN.add(1);
        let _all_had_their_turn = eventually(|| GATHER.is_up());
    }
    UP.set(0);
    TURN.set(CPUS as u64);
    MISSING.set(0);
    GATHER.lower();
    for index in 1..CPUS {
        expect_eq!(cpu::start(index, play), 0);
    }
    expect_that!(eventually(|| UP.get() == CPUS as u64 - 1));
    TURN.set(0);
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    for target in 0..CPUS {
        let before = sdei::slot(target).runs();
        expect_eq!(sdei::signal(cpu::affinity(target)), SUCCESS);
        expect_that!(entered(target, before + 1), "CPU {target}");
    }
    TURN.set(1);
    let all = eventually(|| TURN.get() == CPUS as u64);
    GATHER.raise();
    expect_that!(all, "turn {}", TURN.get());
    expect_eq!(MISSING.get(), 0, "signals missing, and on wrong CPUs");
    Ok(())
}

guest_test!(c161_only_event_0_can_be_signalled);
fn c161_only_event_0_can_be_signalled() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    for event in [1, UNKNOWN_EVENT, 1 << 30, 0xffff_ffff, u64::MAX] {
        expect_eq!(
            signal_raw(event, cpu::affinity(0)),
            INVALID,
            "event {event:#x}"
        );
    }
    expect_eq!(sdei::slot(0).runs(), 0);
    Ok(())
}

guest_test!(c162_nobody_cannot_be_signalled);
fn c162_nobody_cannot_be_signalled() -> TestResult {
    needs_sdei()?;
    let nobody = [
        0x7f00,
        0x7f_0000,
        0x7f_0000_0000,
        0xfe,
        1 << 40,
        1 << 63,
        1 << 25,
        1 << 29,
    ];
    for target in nobody.into_iter().chain([u64::MAX]) {
        expect_eq!(signal_raw(0, target), INVALID, "target {target:#x}");
    }
    Ok(())
}

guest_test!(c163_a_raw_mpidr_names_its_cpu);
fn c163_a_raw_mpidr_names_its_cpu() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    let targets = [
        sysreg::mpidr(),
        cpu::affinity(0) | 1 << 30,
        cpu::affinity(0) | 1 << 24,
    ];
    for (runs, target) in targets.into_iter().enumerate() {
        expect_eq!(signal_raw(0, target), SUCCESS, "target {target:#x}");
        expect_eq!(sdei::slot(0).runs(), runs as u64 + 1, "target {target:#x}");
    }
    Ok(())
}

guest_test!(
    c164_a_signal_to_a_cpu_that_is_off_is_dropped_and_wakes_nobody,
    cpus = 2
);
fn c164_a_signal_to_a_cpu_that_is_off_is_dropped_and_wakes_nobody() -> TestResult {
    needs_sdei()?;
    expect_that!(cpu::is_off(1));
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(cpu::is_off(1));
    start_target(spin_ready)?;
    let stale = sdei::slot(1).runs();
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    let fresh = entered(1, 1);
    release_target()?;
    expect_eq!(stale, 0);
    expect_that!(fresh);
    expect_eq!(sdei::slot(1).runs(), 1);
    Ok(())
}

guest_test!(
    c165_a_signal_to_a_cpu_without_a_handler_is_dropped,
    cpus = 2
);
fn c165_a_signal_to_a_cpu_without_a_handler_is_dropped() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        READY.raise();
        // Signalled now: wait for the sender, whose SIGNAL returned before it says so.
        let _in_time = ENOUGH.wait();
        note(0, sdei::call(Call::Version, &[]));
        note(1, i64::from(sdei::get_ready()));
        note(2, sdei::slot(1).runs() as i64);
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    watch_for_ms(5);
    release_target()?;
    expect_eq!([noted(1), noted(2)], [1, 0]);
    Ok(())
}

guest_test!(
    c166_a_signal_to_a_disabled_event_of_another_cpu_arrives_at_its_enable,
    cpus = 2
);
fn c166_a_signal_to_a_disabled_event_of_another_cpu_arrives_at_its_enable() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        note(0, sdei::register());
        note(1, sdei::unmask());
        READY.raise();
        let _in_time = ENOUGH.wait();
        note(2, sdei::slot(1).runs() as i64);
        note(3, sdei::enable());
        note(4, sdei::slot(1).runs() as i64);
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    release_target()?;
    expect_eq!(
        [noted(0), noted(1), noted(2), noted(3), noted(4)],
        [0, 0, 0, 0, 1]
    );
    Ok(())
}

guest_test!(
    c167_a_signal_to_a_masked_cpu_arrives_at_its_unmask,
    cpus = 2
);
fn c167_a_signal_to_a_masked_cpu_arrives_at_its_unmask() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        note(0, sdei::register());
        note(1, sdei::enable());
        READY.raise();
        let _in_time = ENOUGH.wait();
        note(2, sdei::slot(1).runs() as i64);
        note(3, sdei::unmask());
        note(4, sdei::slot(1).runs() as i64);
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    release_target()?;
    expect_eq!(
        [noted(0), noted(1), noted(2), noted(3), noted(4)],
        [0, 0, 0, 0, 1]
    );
    Ok(())
}

guest_test!(c168_signals_to_a_running_handler_run_it_once_more, cpus = 2);
fn c168_signals_to_a_running_handler_run_it_once_more() -> TestResult {
    needs_sdei()?;
    static INSIDE: Flag = Flag::new();
    INSIDE.lower();
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|slot| {
                if slot.runs() == 1 {
                    INSIDE.raise();
                    let _in_time = ENOUGH.wait();
                }
                End::Complete(0)
            }),
        );
        spin_ready();
    })?;
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(INSIDE.wait());
    for _ in 0..3 {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    }
    expect_eq!(sdei::slot(1).runs(), 1);
    ENOUGH.raise();
    expect_that!(entered(1, 2) || cpu::is_off(1));
    release_target()?;
    expect_eq!(sdei::slot(1).runs(), 2);
    Ok(())
}

guest_test!(c169_a_handler_can_signal_another_cpu, cpus = 2);
fn c169_a_handler_can_signal_another_cpu() -> TestResult {
    needs_sdei()?;
    start_target(spin_ready)?;
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    sdei::set_hook(
        0,
        Some(|_| {
            note(0, sdei::signal(cpu::affinity(1)));
            note(1, i64::from(entered(1, 1)));
            End::Complete(0)
        }),
    );
    expect_eq!(sdei::signal(cpu::affinity(0)), SUCCESS);
    release_target()?;
    expect_eq!([noted(0), noted(1)], [SUCCESS, 1]);
    Ok(())
}

guest_test!(
    c171_what_was_stored_before_the_signal_is_seen_by_the_handler,
    cpus = 2
);
fn c171_what_was_stored_before_the_signal_is_seen_by_the_handler() -> TestResult {
    needs_sdei()?;
    static STORED: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
    use core::sync::atomic::Ordering::Relaxed;
    STORED.store(0, Relaxed);
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|_| {
                note(0, STORED.load(Relaxed) as i64);
                End::Complete(0)
            }),
        );
        spin_ready();
    })?;
    for n in 1..=150 {
        STORED.store(n, Relaxed);
        expect_eq!(signal_raw(0, cpu::affinity(1)), SUCCESS);
        expect_that!(entered(1, n), "signal {n}");
        expect_that!(
            eventually(|| noted(0) == n as i64),
            "signal {n}: saw {}",
            noted(0)
        );
    }
    release_target()
}

guest_test!(c172_a_cpu_under_a_storm_of_signals_still_advances, cpus = 2);
fn c172_a_cpu_under_a_storm_of_signals_still_advances() -> TestResult {
    needs_sdei()?;
    /// At least.
    const SIGNALS: u64 = 20_000;
    static STEPS: Cell64 = Cell64::new(0);
    STEPS.set(0);
    start_target(|| {
        if sdei::get_ready() {
            READY.raise();
        }
        while !ENOUGH.is_up() {
            STEPS.add(1);
        }
        note(0, i64::from(takes_interrupts(Timer::Virtual, 3)));
    })?;
    // The storm has begun when an event has come, and goes on until CPU 1 has advanced and another has come: the
    // host may give CPU 1 no turn in the time of all these signals.
    let runs = || sdei::slot(1).runs();
    let (mut sent, mut first) = (0, None);
    while sent < SIGNALS || first.is_none_or(|(n, steps)| runs() == n || STEPS.get() == steps) {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        sent += 1;
        if first.is_none() && runs() > 0 {
            first = Some((runs(), STEPS.get()));
        }
    }
    release_target()?;
    expect_that!(runs() <= sent, "{} runs of {sent} signals", runs());
    expect_eq!(noted(0), 1);
    Ok(())
}

guest_test!(
    c173_a_storm_of_all_at_one_that_masks_and_unmasks_costs_no_interrupt,
    cpus = 4,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c173_a_storm_of_all_at_one_that_masks_and_unmasks_costs_no_interrupt() -> TestResult {
    needs_sdei()?;
    get_ready()?;
    ENOUGH.lower();
    for index in 1..4 {
        let status = cpu::start(index, || {
            // Once at least: on a busy host its turn may come when all is over.
            loop {
                sdei::signal(cpu::affinity(0));
                gic::send_sgi_to(cpu::affinity(0), sysreg::cpu_index() as u32);
                if ENOUGH.is_up() {
                    break;
                }
            }
        });
        expect_eq!(status, 0);
    }
    let mut fine = true;
    for _ in 0..300 {
        fine &= sdei::mask() == 1;
        fine &= takes_interrupts(Timer::Virtual, 1);
        fine &= sdei::unmask() == SUCCESS;
    }
    ENOUGH.raise();
    expect_that!(fine);
    for index in 1..4 {
        expect_that!(cpu::wait_off(index));
        sysreg::with_interrupts(|| ());
        expect_that!(exception::count(0, index as u32) > 0, "SGIs of CPU {index}");
    }
    expect_that!(sdei::slot(0).runs() > 0);
    Ok(())
}
