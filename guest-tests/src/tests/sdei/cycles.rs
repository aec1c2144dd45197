//! A CPU wedged, stopped and started again, over and over: each life begins as the first.

use hv_abi::psci::AffinityState;
use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;
use crate::rt::timer::Timer;
use crate::rt::{exception, gic, psci, wedge};
use crate::tests::timer::takes_interrupts;

const CYCLES: u64 = 200;

/// The stop IPI that a wedged CPU never takes, and one that it never ends.
const STALE_SGI: u32 = 6;
const ACTIVE_SGI: u32 = 4;

/// Private, shared and bound events of the test VM.
const EVENTS: [u64; 5] = [0, 0x100, 0x101, 0x102, 0x200];

/// What CPU 1 found at the start of its life; 0 is as it must be.
static LEFT: Cell64 = Cell64::new(0);
/// CPU 1 is as it was at power-on, and takes events and interrupts.
static WHOLE: Cell64 = Cell64::new(0);
/// CPU 1 is about to be stuck.
static STUCK: Cell64 = Cell64::new(0);
/// CPU 1 was reached by event 0 in this cycle, and parks; in another cycle it turns itself off.
static STOPPED: Cell64 = Cell64::new(0);
static PARKS: Flag = Flag::new();

/// What is left of an earlier life, one bit for each kind.
fn leftovers() -> u64 {
    let was_masked = sdei::mask() == 0;
    let is_known = EVENTS
        .iter()
        .any(|&event| sdei::call(Call::EventStatus, &[event]) != 0);
    let private = gic::private();
    let sgis = |offset| private.read32(offset) & 0xffff;
    u64::from(!was_masked)
        | u64::from(is_known) << 1
        | u64::from(sdei::call(Call::EventContext, &[0]) != DENIED) << 2
        | u64::from(sgis(gic::gicd::ISPENDR) != 0) << 3
        | u64::from(sgis(gic::gicd::ISACTIVER) != 0) << 4
        | u64::from(gic::running_priority() != gic::IDLE_PRIORITY) << 5
}

/// A life of CPU 1: as the first one, and then stuck inside an interrupt.
fn live() {
    let me = sysreg::cpu_index();
    let runs = sdei::slot(me).runs();
    LEFT.set(leftovers());
    let is_whole = LEFT.get() == 0
        && takes_interrupts(Timer::Virtual, 2)
        && sdei::get_ready()
        && sdei::signal(cpu::affinity(me)) == SUCCESS
        && sdei::slot(me).runs() == runs + 1;
    if is_whole {
        WHOLE.add(1);
    }
    exception::set_hook(Some(|_, intid| {
        if intid == ACTIVE_SGI {
            sdei::set_hook(1, Some(stop));
            STUCK.add(1);
            wedge::enter(wedge::Wedge::Spin);
        }
        exception::Source::Silence
    }));
    gic::send_sgi_to(cpu::affinity(me), ACTIVE_SGI);
    sysreg::with_interrupts(|| {
        let _in_time = ENOUGH.wait();
    });
}

/// The handler of event 0: it never completes.
fn stop(_: &sdei::Slot) -> End {
    STOPPED.add(1);
    if !PARKS.is_up() {
        cpu::stop_here();
    }
    sdei::mask();
    loop {
        sysreg::wfi();
    }
}

guest_test!(
    c202_c203_after_200_cycles_of_wedge_stop_and_start_nothing_is_left,
    cpus = 2,
    boot = own,
    icount = false,
    config = "reclaim",
    timeout = 120
);
fn c202_c203_after_200_cycles_of_wedge_stop_and_start_nothing_is_left() -> TestResult {
    needs_sdei()?;
    expect_eq!(cpu::start(1, live), 0);
    for cycle in 1..=CYCLES {
        let is_whole = eventually(|| STUCK.get() == cycle);
        expect_eq!(LEFT.get(), 0, "cycle {cycle}");
        expect_that!(
            is_whole && WHOLE.get() == cycle,
            "cycle {cycle}: {} whole",
            WHOLE.get()
        );
        gic::send_sgi_to(cpu::affinity(1), STALE_SGI);
        // Every other time it is taken back; else it ends by CPU_OFF in its handler.
        let is_parked = cycle % 2 == 0;
        if is_parked {
            PARKS.raise();
        } else {
            PARKS.lower();
        }
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        expect_that!(eventually(|| STOPPED.get() == cycle), "cycle {cycle}");
        sdei::set_hook(1, None);
        if is_parked {
            let is_back = eventually(|| cpu::take_back(1, live) == 0);
            expect_that!(is_back, "cycle {cycle}");
        } else {
            expect_that!(cpu::wait_off(1), "cycle {cycle}");
            expect_eq!(cpu::start(1, live), 0, "cycle {cycle}");
        }
    }
    expect_that!(eventually(|| STUCK.get() == CYCLES + 1));
    expect_eq!(exception::count(1, STALE_SGI), 0, "none was ever taken");
    let state = psci::affinity_info(cpu::affinity(1));
    expect_eq!(state, AffinityState::On as i32);
    expect_that!(takes_interrupts(Timer::Virtual, 10), "CPU 0");
    Ok(())
}
