//! A CPU that is stuck, and event 0 that reaches it all the same. One boot each.

mod company;
mod scale;

use core::ops::Range;

use crate::harness::{TestResult, needs_sdei};
use crate::rt::exception::{self, Source};
use crate::rt::machine::MAX_CPUS;
use crate::rt::sdei::End;
use crate::rt::sync::{Cell64, Flag, eventually, watch_for_ms};
use crate::rt::timer::Timer;
use crate::rt::wedge::{self, Wedge};
use crate::rt::{cpu, gic, sdei, sysreg};
use crate::tests::timer::takes_interrupts;

/// How each CPU is to be stuck.
static PLANS: [spin::Mutex<Option<Wedge>>; MAX_CPUS] = [const { spin::Mutex::new(None) }; MAX_CPUS];
/// CPUs that are about to be stuck.
static READY: Cell64 = Cell64::new(0);
/// CPUs that got out and found their timers and events in order.
static WHOLE: Cell64 = Cell64::new(0);

/// What the handler that got a CPU out found: its own later events do not count.
struct Found {
    runs: Cell64,
    pc: Cell64,
    pstate: Cell64,
    sp: Cell64,
    sctlr: Cell64,
}

static FOUND: [Found; MAX_CPUS] = [const {
    Found {
        runs: Cell64::new(0),
        pc: Cell64::new(0),
        pstate: Cell64::new(0),
        sp: Cell64::new(0),
        sctlr: Cell64::new(0),
    }
}; MAX_CPUS];

/// How often a handler found its CPU not stuck yet.
static EARLY: [Cell64; MAX_CPUS] = [const { Cell64::new(0) }; MAX_CPUS];

fn note_found(slot: &sdei::Slot) {
    let found = &FOUND[sysreg::cpu_index()];
    found.pc.set(slot.pc());
    found.pstate.set(slot.pstate());
    found.sp.set(slot.sp());
    found.sctlr.set(slot.sctlr());
    found.runs.add(1);
}

/// Whether the handler found its CPU where it is to be stuck, and not still on the way there.
fn is_stuck(slot: &sdei::Slot) -> bool {
    let plan = *PLANS[sysreg::cpu_index()].lock();
    plan.is_some_and(|wedge| expected_code(wedge).contains(&slot.pc()))
}

/// Notes where the CPU was, and gets it out.
fn rescue(slot: &sdei::Slot) -> End {
    if !is_stuck(slot) {
        EARLY[sysreg::cpu_index()].add(1);
        return End::Complete(0);
    }
    note_found(slot);
    End::Resume(wedge::escape())
}

/// Gets stuck as planned, and once out, shows that interrupts and events still work here.
fn get_stuck() {
    let me = sysreg::cpu_index();
    let Some(wedge) = *PLANS[me].lock() else {
        return;
    };
    sdei::set_hook(me, Some(rescue));
    if !sdei::get_ready() {
        return;
    }
    READY.add(1);
    wedge::enter(wedge);
    sdei::set_hook(me, None);
    let before = sdei::slot(me).runs();
    let event = sdei::signal(cpu::affinity(me)) == 0 && sdei::slot(me).runs() == before + 1;
    if event && takes_interrupts(Timer::Virtual, 3) && takes_interrupts(Timer::Physical, 3) {
        WHOLE.add(1);
    }
}

/// Where the handler may find the CPU: in the loop, or, for vectors that are nowhere, there.
fn expected_code(wedge: Wedge) -> Range<u64> {
    match wedge {
        Wedge::Vectors => wedge::nowhere()..wedge::nowhere() + 0x800,
        wedge => wedge.code(),
    }
}

/// Waits until so many CPUs are about to be stuck, and have had time for the rest of the way.
fn wait_until_stuck(count: u64) -> TestResult {
    let all = eventually(|| READY.get() == count);
    expect_that!(all, "{} CPUs are ready", READY.get());
    watch_for_ms(20);
    Ok(())
}

/// Signals CPU `index` until its handler found it stuck: once, unless that found it still on its way there.
fn reach(index: usize) -> bool {
    let (found, early) = (&FOUND[index].runs, &EARLY[index]);
    let mut known = early.get();
    let mut is_sent = sdei::signal(cpu::affinity(index)) == 0;
    let is_found = eventually(|| {
        let now = early.get();
        if now != known {
            known = now;
            is_sent &= sdei::signal(cpu::affinity(index)) == 0;
        }
        found.get() == 1
    });
    is_sent && is_found
}

/// Signals CPU `index`, which is stuck in `wedge`, and expects its handler to run there.
fn expect_reached(index: usize, wedge: Wedge) -> TestResult {
    let (found, slot) = (&FOUND[index], sdei::slot(index));
    expect_that!(
        reach(index) && found.runs.get() == 1,
        "CPU {index} in {wedge:?} at {:#x?}: {} runs, the last one at {:#x}",
        expected_code(wedge),
        slot.runs(),
        slot.pc()
    );
    expect_that!(expected_code(wedge).contains(&found.pc.get()));
    expect_eq!(found.pstate.get() >> 6 & 0xf, 0xf, "DAIF in x3, {wedge:?}");
    Ok(())
}

/// CPU 0 signals CPU 1, which is stuck in `wedge`.
fn reaches(wedge: Wedge) -> TestResult {
    needs_sdei()?;
    *PLANS[1].lock() = Some(wedge);
    expect_eq!(cpu::start(1, get_stuck), 0);
    wait_until_stuck(1)?;
    expect_eq!(sdei::slot(1).runs(), 0);
    expect_that!(!cpu::is_off(1), "CPU 1 is not stuck");
    expect_reached(1, wedge)?;
    expect_that!(cpu::wait_off(1), "CPU 1 did not get out of {wedge:?}");
    expect_eq!(WHOLE.get(), 1, "CPU 1 is out, but not whole");
    Ok(())
}

guest_test!(
    c180_event_0_reaches_a_cpu_that_spins_masked,
    cpus = 2,
    boot = own
);
fn c180_event_0_reaches_a_cpu_that_spins_masked() -> TestResult {
    reaches(Wedge::Spin)
}

guest_test!(
    event_0_reaches_a_cpu_that_waits_for_a_lock_masked,
    cpus = 2,
    boot = own
);
fn event_0_reaches_a_cpu_that_waits_for_a_lock_masked() -> TestResult {
    reaches(Wedge::Lock)
}

guest_test!(
    c181_event_0_reaches_a_cpu_in_wfi_masked,
    cpus = 2,
    boot = own
);
fn c181_event_0_reaches_a_cpu_in_wfi_masked() -> TestResult {
    reaches(Wedge::Wfi)
}

guest_test!(
    c182_event_0_reaches_a_cpu_whose_wfi_falls_through,
    cpus = 2,
    boot = own
);
fn c182_event_0_reaches_a_cpu_whose_wfi_falls_through() -> TestResult {
    needs_sdei()?;
    // An SGI that stays pending: the CPU enables its interface before it gets stuck, masked.
    *PLANS[1].lock() = Some(Wedge::Wfi);
    expect_eq!(cpu::start(1, get_stuck), 0);
    wait_until_stuck(1)?;
    gic::send_sgi_to(cpu::affinity(1), 3);
    watch_for_ms(20);
    expect_reached(1, Wedge::Wfi)?;
    expect_that!(cpu::wait_off(1));
    expect_eq!(WHOLE.get(), 1);
    expect_eq!(exception::count(1, 3), 1, "the SGI came when it could");
    Ok(())
}

guest_test!(c183_event_0_reaches_a_cpu_in_wfe, cpus = 2, boot = own);
fn c183_event_0_reaches_a_cpu_in_wfe() -> TestResult {
    reaches(Wedge::Wfe)
}

guest_test!(
    c082_event_0_reaches_a_cpu_without_a_stack,
    cpus = 2,
    boot = own
);
fn c082_event_0_reaches_a_cpu_without_a_stack() -> TestResult {
    reaches(Wedge::Stack)?;
    expect_eq!(FOUND[1].sp.get(), 0xdead_5ead_0000_0001);
    Ok(())
}

guest_test!(
    c196_event_0_reaches_a_cpu_with_its_mmu_off,
    cpus = 2,
    boot = own
);
fn c196_event_0_reaches_a_cpu_with_its_mmu_off() -> TestResult {
    reaches(Wedge::Mmu)?;
    expect_eq!(FOUND[1].sctlr.get() & 1, 0);
    Ok(())
}

guest_test!(
    c189_event_0_reaches_a_cpu_that_faults_for_ever,
    cpus = 2,
    boot = own
);
fn c189_event_0_reaches_a_cpu_that_faults_for_ever() -> TestResult {
    reaches(Wedge::Vectors)
}

guest_test!(
    c190_event_0_reaches_a_cpu_that_calls_for_ever,
    cpus = 2,
    boot = own
);
fn c190_event_0_reaches_a_cpu_that_calls_for_ever() -> TestResult {
    reaches(Wedge::Call)
}

guest_test!(
    event_0_reaches_a_cpu_on_its_other_stack_pointer,
    cpus = 2,
    boot = own
);
fn event_0_reaches_a_cpu_on_its_other_stack_pointer() -> TestResult {
    reaches(Wedge::Thread)
}

guest_test!(
    c184_event_0_reaches_a_cpu_in_an_interrupt_handler,
    cpus = 2,
    boot = own
);
fn c184_event_0_reaches_a_cpu_in_an_interrupt_handler() -> TestResult {
    needs_sdei()?;
    static OUT: Flag = Flag::new();
    static PRIORITIES: [Cell64; 2] = [const { Cell64::new(0) }; 2];
    *PLANS[1].lock() = Some(Wedge::Spin);
    let status = cpu::start(1, || {
        sdei::set_hook(1, Some(rescue));
        exception::set_hook(Some(|_, intid| {
            if intid == 4 {
                PRIORITIES[0].set(gic::running_priority());
                READY.add(1);
                wedge::enter(Wedge::Spin);
                PRIORITIES[1].set(gic::running_priority());
            }
            Source::Silence
        }));
        if sdei::get_ready() {
            gic::send_sgi_to(cpu::affinity(1), 4);
            // A second one stays pending behind the active one.
            sysreg::with_interrupts(|| {
                if eventually(|| exception::count(1, 5) == 1) {
                    OUT.raise();
                }
            });
        }
    });
    expect_eq!(status, 0);
    wait_until_stuck(1)?;
    gic::send_sgi_to(cpu::affinity(1), 5);
    watch_for_ms(5);
    expect_eq!(exception::count(1, 5), 0);
    expect_reached(1, Wedge::Spin)?;
    expect_that!(
        OUT.wait(),
        "the second interrupt came after the end of the first"
    );
    expect_eq!(exception::count(1, 4), 1);
    for priority in &PRIORITIES {
        expect_eq!(priority.get(), u64::from(gic::PRIORITY));
    }
    expect_that!(cpu::wait_off(1));
    Ok(())
}

guest_test!(
    c185_event_0_reaches_a_cpu_that_masks_by_priority,
    cpus = 2,
    boot = own
);
fn c185_event_0_reaches_a_cpu_that_masks_by_priority() -> TestResult {
    needs_sdei()?;
    let status = cpu::start(1, || {
        // Interrupts open in PSTATE, and all held back by the priority mask, as pseudo-NMI does.
        gic::set_priority_mask(0);
        if sdei::get_ready() {
            READY.add(1);
        }
        sysreg::with_interrupts(|| {
            if eventually(|| sdei::slot(1).runs() == 1) {
                gic::set_priority_mask(0xf0);
                if takes_interrupts(Timer::Virtual, 3) {
                    WHOLE.add(1);
                }
            }
        });
    });
    expect_eq!(status, 0);
    wait_until_stuck(1)?;
    expect_eq!(sdei::signal(cpu::affinity(1)), 0);
    expect_that!(cpu::wait_off(1));
    expect_eq!(WHOLE.get(), 1);
    Ok(())
}
