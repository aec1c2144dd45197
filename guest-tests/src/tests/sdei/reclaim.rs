//! CPU_ON of a CPU that is parked inside an event: refused, unless the guest is configured to get it back.

use hv_abi::psci::{AffinityState, Status as Psci};

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;
use crate::rt::timer::Timer;
use crate::rt::{exception, gic, psci, wedge};
use crate::tests::timer::takes_interrupts;

/// Parks CPU 1 in its event, masked, as Linux does with a CPU that it stops. Before it does, it tries to switch
/// itself on.
fn park_target() -> TestResult {
    sdei::set_hook(
        1,
        Some(|_| {
            let masked = sdei::mask();
            let on = cpu::try_cpu_on(cpu::affinity(1), cpu::entry_address());
            note(5, i64::from(on));
            note(0, masked);
            loop {
                sysreg::wfi();
            }
        }),
    );
    start_target(|| {
        if sdei::get_ready() {
            READY.raise();
        }
        wedge::enter(wedge::Wedge::Spin);
    })?;
    // The stop IPI that it never takes.
    gic::send_sgi_to(cpu::affinity(1), 6);
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(eventually(|| noted(0) == 1), "parked");
    expect_eq!(noted(5), i64::from(Psci::AlreadyOn as i32), "itself");
    Ok(())
}

guest_test!(
    reclaim_takes_back_a_cpu_that_is_parked_in_its_event,
    cpus = 2,
    boot = own,
    icount = false,
    config = "reclaim"
);
fn reclaim_takes_back_a_cpu_that_is_parked_in_its_event() -> TestResult {
    needs_sdei()?;
    for round in 1..=10 {
        park_target()?;
        sdei::set_hook(1, None);
        let sgis = exception::count(1, 6);
        expect_eq!(
            cpu::take_back(1, || {
                note(1, sdei::status());
                note(2, sdei::mask());
                note(3, i64::from(sdei::get_ready()));
                note(4, i64::from(takes_interrupts(Timer::Virtual, 3)));
                sysreg::with_interrupts(|| {
                    let _in_time = ENOUGH.wait();
                });
            }),
            0,
            "round {round}"
        );
        expect_that!(eventually(|| noted(4) == 1), "round {round}");
        expect_eq!([noted(1), noted(2), noted(3)], [0, 0, 1]);
        let runs = sdei::slot(1).runs();
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(entered(1, runs + 1), "it takes event 0 again");
        release_target()?;
        expect_eq!(exception::count(1, 6), sgis, "the stale SGI is gone");
    }
    Ok(())
}

guest_test!(
    reclaim_leaves_alone_who_runs_or_may_yet_complete,
    cpus = 2,
    boot = own,
    icount = false,
    config = "reclaim"
);
fn reclaim_leaves_alone_who_runs_or_may_yet_complete() -> TestResult {
    needs_sdei()?;
    let on = || cpu::try_cpu_on(cpu::affinity(1), cpu::entry_address());
    sdei::set_hook(
        1,
        Some(|_| {
            READY.raise();
            let _in_time = ENOUGH.wait();
            End::Complete(0)
        }),
    );
    start_target(spin_ready)?;
    expect_eq!(on(), Psci::AlreadyOn as i32, "it runs");
    READY.lower();
    expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    expect_that!(READY.wait());
    expect_eq!(on(), Psci::AlreadyOn as i32, "in its handler, not masked");
    let state = psci::affinity_info(cpu::affinity(1));
    release_target()?;
    expect_eq!(state, AffinityState::On as i32);
    Ok(())
}

guest_test!(
    c188_without_reclaim_a_parked_cpu_is_already_on,
    cpus = 2,
    boot = own
);
fn c188_without_reclaim_a_parked_cpu_is_already_on() -> TestResult {
    needs_sdei()?;
    park_target()?;
    let status = cpu::try_cpu_on(cpu::affinity(1), cpu::entry_address());
    expect_eq!(status, Psci::AlreadyOn as i32);
    Ok(())
}
