//! The interrupt controller as a guest sees it (IHI0069, and where it is a GICv2, IHI0048).

use hv_abi::psci::Status;

use crate::harness::TestResult;
use crate::rt::exception::{self, Frame, Source};
use crate::rt::gic::{self, gicd};
use crate::rt::sync::{Cell64, Flag, eventually};
use crate::rt::{cpu, sysreg};

const SUCCESS: i32 = Status::Success as i32;

guest_test!(the_distributor_is_a_gicv3_with_room_for_every_cpu);
fn the_distributor_is_a_gicv3_with_room_for_every_cpu() -> TestResult {
    let gicd = gic::distributor();
    // PIDR2.ArchRev (IHI0069 12.8.37).
    expect_eq!(gicd.read32(gicd::PIDR2) >> 4 & 0xf, 3);
    let lines = gicd.read32(gicd::TYPER) & 0x1f;
    expect_that!((1..=31).contains(&lines), "ITLinesNumber {lines}");
    let control = gicd.read32(gicd::CTLR);
    expect_that!(control & 1 << 4 != 0, "affinity routing: {control:#x}");
    Ok(())
}

guest_test!(an_sgi_to_self_arrives_once);
fn an_sgi_to_self_arrives_once() -> TestResult {
    for sgi in 0..cpu::STOP_SGI {
        sysreg::with_interrupts(|| gic::send_sgi_to(cpu::affinity(0), sgi));
        let arrived = sysreg::with_interrupts(|| eventually(|| exception::count(0, sgi) > 0));
        expect_that!(arrived, "SGI {sgi}");
        expect_eq!(exception::count(0, sgi), 1, "SGI {sgi}");
    }
    Ok(())
}

guest_test!(a_masked_sgi_waits_and_then_arrives_once);
fn a_masked_sgi_waits_and_then_arrives_once() -> TestResult {
    for _ in 0..3 {
        gic::send_sgi_to(cpu::affinity(0), 2);
    }
    expect_eq!(exception::count(0, 2), 0);
    expect_eq!(gic::highest_pending(), 2);
    sysreg::with_interrupts(|| ());
    expect_eq!(
        exception::count(0, 2),
        1,
        "three sends of a pending SGI are one"
    );
    Ok(())
}

/// Lets CPU 1 take interrupts until told to stop.
fn start_receivers(indexes: &[usize], work: fn()) -> TestResult {
    READY.set(0);
    ENOUGH.lower();
    for index in indexes {
        expect_eq!(cpu::start(*index, work), SUCCESS, "CPU {index}");
    }
    expect_that!(eventually(|| READY.get() == indexes.len() as u64));
    Ok(())
}

static READY: Cell64 = Cell64::new(0);
static ENOUGH: Flag = Flag::new();

fn spin_with_interrupts() {
    sysreg::with_interrupts(|| {
        READY.add(1);
        while !ENOUGH.is_up() {
            core::hint::spin_loop();
        }
    });
}

fn wait_with_interrupts() {
    sysreg::with_interrupts(|| {
        READY.add(1);
        while !ENOUGH.is_up() {
            sysreg::wfi();
        }
    });
}

fn sgis_reach(receiver: fn()) -> TestResult {
    start_receivers(&[1], receiver)?;
    for n in 1..=100 {
        gic::send_sgi_to(cpu::affinity(1), 1);
        expect_that!(eventually(|| exception::count(1, 1) == n), "SGI {n}");
    }
    ENOUGH.raise();
    gic::send_sgi_to(cpu::affinity(1), 1);
    expect_that!(cpu::wait_off(1));
    expect_eq!(exception::count(0, 1), 0);
    Ok(())
}

guest_test!(sgis_reach_another_cpu_that_spins, cpus = 2);
fn sgis_reach_another_cpu_that_spins() -> TestResult {
    sgis_reach(spin_with_interrupts)
}

guest_test!(sgis_reach_another_cpu_in_wfi, cpus = 2);
fn sgis_reach_another_cpu_in_wfi() -> TestResult {
    sgis_reach(wait_with_interrupts)
}

guest_test!(an_sgi_to_all_others_reaches_each_but_the_sender, cpus = 4);
fn an_sgi_to_all_others_reaches_each_but_the_sender() -> TestResult {
    start_receivers(&[1, 2, 3], spin_with_interrupts)?;
    for n in 1..=50 {
        gic::send_sgi_to_others(6);
        let all = eventually(|| (1..4).all(|index| exception::count(index, 6) == n));
        expect_that!(all, "SGI {n}");
    }
    ENOUGH.raise();
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 6), 0);
    Ok(())
}

guest_test!(an_sgi_with_a_target_list_reaches_the_listed_only, cpus = 4);
fn an_sgi_with_a_target_list_reaches_the_listed_only() -> TestResult {
    start_receivers(&[1, 2, 3], spin_with_interrupts)?;
    let list = (cpu::affinity(1) | cpu::affinity(3)) & 0xf;
    expect_eq!(list, 3, "the test expects CPUs 1 and 3 in one list");
    gic::send_sgi_to_list(1 << 1 | 1 << 3, 7);
    let both = eventually(|| [1, 3].iter().all(|index| exception::count(*index, 7) == 1));
    ENOUGH.raise();
    expect_that!(both);
    expect_eq!(exception::count(2, 7), 0);
    expect_eq!(exception::count(0, 7), 0);
    Ok(())
}

guest_test!(an_sgi_to_nobody_is_harmless);
fn an_sgi_to_nobody_is_harmless() -> TestResult {
    if gic::v2::is_it() {
        // No target, and the filter that is reserved.
        for value in [0, 3 << 24 | 0xff << 16] {
            gic::send_sgi_raw(value | 8);
        }
    } else {
        for value in [
            0,
            1 << 15,
            0xff << 48 | 1,
            0xff << 32 | 1,
            0xff << 16 | 0xffff,
        ] {
            gic::send_sgi_raw(value | 8 << 24);
        }
    }
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 8), 0);
    gic::send_sgi_to(cpu::affinity(0), 8);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 8), 1);
    Ok(())
}

guest_test!(a_cpu_that_is_off_takes_no_sgi_when_it_comes_on, cpus = 2);
fn a_cpu_that_is_off_takes_no_sgi_when_it_comes_on() -> TestResult {
    expect_that!(cpu::is_off(1));
    gic::send_sgi_to(cpu::affinity(1), 9);
    expect_that!(cpu::is_off(1));
    start_receivers(&[1], spin_with_interrupts)?;
    gic::send_sgi_to(cpu::affinity(1), 10);
    let arrived = eventually(|| exception::count(1, 10) == 1);
    ENOUGH.raise();
    expect_that!(arrived);
    // The runtime clears what is pending before it enables the interface, as any kernel does.
    expect_eq!(exception::count(1, 9), 0);
    Ok(())
}

guest_test!(the_storm_of_all_cpus_at_one_loses_no_edge, cpus = 4);
fn the_storm_of_all_cpus_at_one_loses_no_edge() -> TestResult {
    static SENT: Cell64 = Cell64::new(0);
    SENT.set(0);
    fn storm() {
        let sgi = sysreg::cpu_index() as u32;
        for _ in 0..500 {
            gic::send_sgi_to(cpu::affinity(0), sgi);
        }
        // The last one cannot merge with an earlier one that was taken already.
        let before = exception::count(0, sgi);
        gic::send_sgi_to(cpu::affinity(0), sgi);
        if eventually(|| exception::count(0, sgi) > before) {
            SENT.add(1);
        }
    }
    for index in 1..4 {
        expect_eq!(cpu::start(index, storm), SUCCESS);
    }
    let all = sysreg::with_interrupts(|| eventually(|| SENT.get() == 3));
    expect_that!(all, "{} of 3", SENT.get());
    for index in 1..4 {
        let taken = exception::count(0, index);
        expect_that!((1..=501).contains(&taken), "SGI {index}: {taken}");
    }
    Ok(())
}

/// Nests SGIs 0 to 9, each of a higher priority than the last: more than there are list registers.
fn nest_ten_sgis() -> TestResult {
    let private = gic::private();
    for sgi in 0..10u8 {
        private.write8(gicd::IPRIORITYR + u64::from(sgi), 0xe0 - 0x10 * sgi);
    }
    for sgi in 0..10 {
        gic::send_sgi_to(cpu::affinity(0), sgi);
        expect_that!(eventually(|| gic::highest_pending() == sgi), "SGI {sgi}");
        expect_eq!(gic::acknowledge(), sgi);
    }
    expect_eq!(private.read32(gicd::ISACTIVER) & 0xffff, 0x3ff);
    Ok(())
}

guest_test!(more_active_interrupts_than_list_registers_end_in_order);
fn more_active_interrupts_than_list_registers_end_in_order() -> TestResult {
    nest_ten_sgis()?;
    for sgi in (0..10).rev() {
        gic::end(sgi);
        let active = gic::private().read32(gicd::ISACTIVER) & 0xffff;
        expect_eq!(active, (1 << sgi) - 1, "after the end of SGI {sgi}");
    }
    expect_eq!(gic::running_priority(), gic::IDLE_PRIORITY);
    Ok(())
}

guest_test!(a_priority_drop_deactivates_nothing);
fn a_priority_drop_deactivates_nothing() -> TestResult {
    let private = gic::private();
    gic::set_eoi_mode(true);
    nest_ten_sgis()?;
    for sgi in (0..10).rev() {
        gic::end(sgi);
    }
    let dropped = (
        private.read32(gicd::ISACTIVER) & 0xffff,
        gic::running_priority(),
    );
    let mut left = 0x3ff;
    let mut wrong = None;
    for sgi in [3, 9, 0, 5, 1, 8, 2, 7, 6, 4] {
        gic::deactivate(sgi);
        left &= !(1 << sgi);
        let active = private.read32(gicd::ISACTIVER) & 0xffff;
        if active != left {
            wrong.get_or_insert((sgi, active, left));
        }
    }
    // Each can come again.
    let mut again = 0;
    for sgi in 0..10 {
        gic::send_sgi_to(cpu::affinity(0), sgi);
        again += u32::from(eventually(|| gic::highest_pending() == sgi));
        gic::end(gic::acknowledge());
        gic::deactivate(sgi);
    }
    gic::set_eoi_mode(false);
    expect_eq!(dropped, (0x3ff, gic::IDLE_PRIORITY));
    expect_eq!(wrong, None, "SGI, active after it, and what should be");
    expect_eq!(again, 10);
    Ok(())
}

guest_test!(an_active_interrupt_shows_until_its_end);
fn an_active_interrupt_shows_until_its_end() -> TestResult {
    static SEEN: Cell64 = Cell64::new(0);
    fn hook(_: &mut Frame, intid: u32) -> Source {
        let active = u64::from(gic::is_set(gicd::ISACTIVER, intid));
        let pending = u64::from(gic::is_set(gicd::ISPENDR, intid));
        SEEN.set(active | pending << 1 | gic::running_priority() << 8);
        Source::Silence
    }
    exception::set_hook(Some(hook));
    gic::send_sgi_to(cpu::affinity(0), 3);
    sysreg::with_interrupts(|| ());
    expect_eq!(SEEN.get() & 0xff, 0b01, "active and not pending");
    expect_eq!(
        SEEN.get() >> 8,
        u64::from(gic::PRIORITY),
        "running priority"
    );
    expect_that!(!gic::is_set(gicd::ISACTIVER, 3));
    expect_eq!(gic::running_priority(), gic::IDLE_PRIORITY);
    Ok(())
}
