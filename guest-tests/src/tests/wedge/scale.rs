//! Sixty-four CPUs, all but one of them stuck.

use super::*;
use crate::harness::{metric, needs_icount};
use crate::rt::sync::within_ms;
use crate::rt::timer;

const CPUS: usize = 64;

/// What Linux's last rung gives those that it stops.
const LIMIT_US: u64 = 100_000;

/// CPUs that event 0 has stopped where they were stuck.
static STOPPED: Cell64 = Cell64::new(0);

/// Stuck in WFI, or in a loop where the index is one of few: each that spins takes its share of all time.
fn plan(index: usize) -> Wedge {
    match index % 8 {
        0 => Wedge::Spin,
        _ => Wedge::Wfi,
    }
}

fn stop(slot: &sdei::Slot) -> End {
    if is_stuck(slot) {
        sdei::mask();
        STOPPED.add(1);
        loop {
            sysreg::wfi();
        }
    }
    End::Complete(0)
}

guest_test!(
    c174_of_64_cpus_all_but_one_are_stopped_within_100_ms,
    cpus = CPUS,
    boot = own,
    icount = true,
    config = "-",
    timeout = 120
);
fn c174_of_64_cpus_all_but_one_are_stopped_within_100_ms() -> TestResult {
    needs_icount()?;
    needs_sdei()?;
    expect_eq!(cpu::count(), CPUS);
    for (index, wedge) in PLANS.iter().enumerate().take(CPUS).skip(1) {
        *wedge.lock() = Some(plan(index));
        let status = cpu::start(index, || {
            let me = sysreg::cpu_index();
            sdei::set_hook(me, Some(stop));
            if sdei::get_ready() {
                READY.add(1);
                wedge::enter(plan(me));
            }
        });
        expect_eq!(status, 0, "CPU {index}");
        let is_ready = eventually(|| READY.get() == index as u64);
        expect_that!(is_ready, "CPU {index}");
    }
    watch_for_ms(300);
    expect_eq!(STOPPED.get(), 0);
    let start = timer::counter();
    for index in 1..CPUS {
        expect_eq!(sdei::signal(cpu::affinity(index)), 0, "CPU {index}");
    }
    let are_stopped = within_ms(10_000, || STOPPED.get() == CPUS as u64 - 1);
    let took = timer::counter() - start;
    metric("stop_of_63_wedged_cpus", took, "ns");
    expect_that!(are_stopped, "{} are", STOPPED.get());
    expect_that!(took <= timer::ticks_of_us(LIMIT_US), "it took {took} ticks");
    Ok(())
}
