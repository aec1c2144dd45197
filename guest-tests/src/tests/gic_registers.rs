//! Interrupts held back, ordered, pended by software, and shared ones (IHI0069 4, 12).

use crate::harness::TestResult;
use crate::rt::exception::{self, Frame, Source};
use crate::rt::gic::{self, gicd};
use crate::rt::machine::machine;
use crate::rt::sync::{Cell64, Flag, eventually, within_ms};
use crate::rt::timer::Timer;
use crate::rt::{console, cpu, sysreg};

guest_test!(a_disabled_sgi_stays_pending_until_it_is_enabled);
fn a_disabled_sgi_stays_pending_until_it_is_enabled() -> TestResult {
    gic::disable(3);
    if gic::v2::is_it() && gic::is_set(gicd::ISENABLER, 3) {
        skip!("its SGIs are always enabled, as IHI0048 4.3.5 allows");
    }
    expect_that!(!gic::is_set(gicd::ISENABLER, 3));
    gic::send_sgi_to(cpu::affinity(0), 3);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 3), 0);
    expect_that!(gic::is_set(gicd::ISPENDR, 3));
    gic::enable(3);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 3), 1);
    expect_that!(!gic::is_set(gicd::ISPENDR, 3));
    Ok(())
}

guest_test!(a_pending_interrupt_can_be_taken_back);
fn a_pending_interrupt_can_be_taken_back() -> TestResult {
    gic::send_sgi_to(cpu::affinity(0), 4);
    gic::take_back(4);
    expect_that!(!gic::is_set(gicd::ISPENDR, 4));
    expect_eq!(gic::highest_pending(), gic::NONE);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 4), 0);
    expect_eq!(gic::acknowledge(), gic::NONE);
    Ok(())
}

guest_test!(software_can_make_a_private_interrupt_pending);
fn software_can_make_a_private_interrupt_pending() -> TestResult {
    let intid = Timer::Physical.intid();
    gic::enable(intid);
    gic::private().write32(gicd::ISPENDR, gic::bit(intid));
    expect_that!(gic::is_set(gicd::ISPENDR, intid));
    let taken = sysreg::with_interrupts(|| eventually(|| exception::count(0, intid) == 1));
    expect_that!(taken);
    Ok(())
}

guest_test!(enables_and_priorities_read_back);
fn enables_and_priorities_read_back() -> TestResult {
    let private = gic::private();
    private.write32(gicd::ICENABLER, !0);
    expect_eq!(private.read32(gicd::ISENABLER), 0);
    private.write32(gicd::ISENABLER, 0x0000_00f0);
    expect_eq!(private.read32(gicd::ISENABLER), 0xf0);
    expect_eq!(private.read32(gicd::ICENABLER), 0xf0);
    private.write32(gicd::ICENABLER, 0x30);
    expect_eq!(private.read32(gicd::ISENABLER), 0xc0);
    private.write8(gicd::IPRIORITYR + 5, 0x40);
    expect_eq!(private.read8(gicd::IPRIORITYR + 5), 0x40);
    expect_eq!(private.read8(gicd::IPRIORITYR + 6), gic::PRIORITY);
    private.write32(gicd::IPRIORITYR + 8, 0xa080_6040);
    expect_eq!(private.read32(gicd::IPRIORITYR + 8), 0xa080_6040);
    Ok(())
}

guest_test!(the_priority_mask_holds_back_what_is_not_above_it);
fn the_priority_mask_holds_back_what_is_not_above_it() -> TestResult {
    gic::set_priority_mask(gic::PRIORITY);
    gic::send_sgi_to(cpu::affinity(0), 2);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 2), 0, "its priority equals the mask");
    gic::set_priority_mask(0xf0);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 2), 1);
    Ok(())
}

guest_test!(interrupts_are_taken_in_the_order_of_their_priorities);
fn interrupts_are_taken_in_the_order_of_their_priorities() -> TestResult {
    static ORDER: Cell64 = Cell64::new(0);
    ORDER.set(0);
    exception::set_hook(Some(|_: &mut Frame, intid| {
        ORDER.set(ORDER.get() << 8 | u64::from(intid));
        Source::Silence
    }));
    for (sgi, priority) in [(1, 0xc0), (2, 0x40), (3, 0x80), (4, 0x20)] {
        gic::private().write8(gicd::IPRIORITYR + sgi, priority);
    }
    for sgi in 1..=4 {
        gic::send_sgi_to(cpu::affinity(0), sgi);
    }
    expect_eq!(gic::highest_pending(), 4);
    sysreg::with_interrupts(|| ());
    expect_eq!(ORDER.get(), 0x0402_0301);
    Ok(())
}

guest_test!(a_higher_priority_preempts_a_handler_that_lets_it);
fn a_higher_priority_preempts_a_handler_that_lets_it() -> TestResult {
    static TRAIL: Cell64 = Cell64::new(0);
    TRAIL.set(0);
    exception::set_hook(Some(|frame: &mut Frame, intid| {
        TRAIL.set(TRAIL.get() << 4 | u64::from(intid));
        if intid == 1 {
            gic::send_sgi_to(cpu::affinity(0), 2);
            gic::send_sgi_to(cpu::affinity(0), 3);
            // The nested exception overwrites ELR_EL1 and SPSR_EL1; the vector restores ours from the frame.
            let _interrupted_at = frame.elr;
            sysreg::with_interrupts(|| ());
            TRAIL.set(TRAIL.get() << 4 | 0xe);
        }
        Source::Silence
    }));
    gic::private().write8(gicd::IPRIORITYR + 1, 0x80);
    gic::private().write8(gicd::IPRIORITYR + 2, 0x40);
    gic::private().write8(gicd::IPRIORITYR + 3, 0xc0);
    gic::send_sgi_to(cpu::affinity(0), 1);
    sysreg::with_interrupts(|| ());
    expect_eq!(
        TRAIL.get(),
        0x12e3,
        "1 begins, 2 preempts it, 1 ends, then 3"
    );
    expect_eq!(gic::running_priority(), gic::IDLE_PRIORITY);
    Ok(())
}

guest_test!(more_pending_interrupts_than_list_registers_all_arrive);
fn more_pending_interrupts_than_list_registers_all_arrive() -> TestResult {
    for _ in 0..10 {
        exception::forget();
        for sgi in 0..cpu::STOP_SGI {
            gic::send_sgi_to(cpu::affinity(0), sgi);
        }
        for intid in [Timer::Virtual.intid(), Timer::Physical.intid()] {
            gic::enable(intid);
            gic::private().write32(gicd::ISPENDR, gic::bit(intid));
        }
        sysreg::with_interrupts(|| {
            within_ms(1000, || {
                (0..cpu::STOP_SGI).all(|sgi| exception::count(0, sgi) > 0)
            })
        });
        for sgi in 0..cpu::STOP_SGI {
            expect_eq!(exception::count(0, sgi), 1, "SGI {sgi}");
        }
    }
    Ok(())
}

/// PL011: interrupt mask, and the transmit interrupt in it (DDI0183 3.3.10).
const UARTIMSC: u64 = 0x38;
const UARTRIS: u64 = 0x3c;
const UARTICR: u64 = 0x44;
const TXIM: u32 = 1 << 5;

guest_test!(the_console_interrupts_when_it_can_take_more, cpus = 2);
fn the_console_interrupts_when_it_can_take_more() -> TestResult {
    let uart = machine().uart;
    let Some(intid) = machine().uart_intid else {
        skip!("the console has no interrupt");
    };
    exception::set_hook(Some(|_: &mut Frame, intid| {
        if Some(intid) == machine().uart_intid {
            machine().uart.write32(UARTIMSC, 0);
        }
        Source::Silence
    }));
    gic::route(intid, cpu::affinity(0));
    gic::enable(intid);
    for round in 1..=3 {
        uart.write32(UARTICR, 0x7ff);
        console::say(format_args!(
            "# a line, so that the console has sent something"
        ));
        expect_that!(
            uart.read32(UARTRIS) & TXIM != 0,
            "the raw interrupt, round {round}"
        );
        uart.write32(UARTIMSC, TXIM);
        let taken = sysreg::with_interrupts(|| eventually(|| exception::count(0, intid) >= round));
        expect_that!(taken, "round {round}");
        expect_eq!(exception::count(0, intid), round);
    }
    gic::disable(intid);
    Ok(())
}

guest_test!(a_shared_interrupt_goes_where_it_is_routed, cpus = 2);
fn a_shared_interrupt_goes_where_it_is_routed() -> TestResult {
    static READY: Flag = Flag::new();
    static ENOUGH: Flag = Flag::new();
    let Some(intid) = machine().uart_intid else {
        skip!("the console has no interrupt");
    };
    READY.lower();
    ENOUGH.lower();
    cpu::start(1, || {
        sysreg::with_interrupts(|| {
            READY.raise();
            while !ENOUGH.is_up() {
                core::hint::spin_loop();
            }
        });
    });
    expect_that!(READY.wait());
    // Edge-triggered for this test, so that one write to ISPENDR is one interrupt.
    let gicd = gic::distributor();
    let (register, field) = (gicd::ICFGR + 4 * u64::from(intid / 16), intid % 16 * 2);
    let before = gicd.read32(register);
    gicd.write32(register, before | 0b10 << field);
    let mut reached = [false; 2];
    for (target, reached) in reached.iter_mut().enumerate() {
        gic::route(intid, cpu::affinity(target));
        gic::enable(intid);
        gicd.write32(gicd::ISPENDR + gic::word(intid), gic::bit(intid));
        *reached = sysreg::with_interrupts(|| eventually(|| exception::count(target, intid) == 1));
        gic::disable(intid);
    }
    gicd.write32(register, before);
    ENOUGH.raise();
    expect_eq!(reached, [true, true]);
    expect_eq!(exception::count(0, intid), 1);
    expect_eq!(exception::count(1, intid), 1);
    Ok(())
}

/// PL031: data, match, interrupt mask, clear (DDI0224 3.3).
const RTCDR: u64 = 0x00;
const RTCMR: u64 = 0x04;
const RTCIMSC: u64 = 0x10;
const RTCICR: u64 = 0x1c;

guest_test!(
    the_clock_of_the_machine_interrupts,
    cpus = 1,
    boot = shared,
    icount = false,
    timeout = 30
);
fn the_clock_of_the_machine_interrupts() -> TestResult {
    let Some((rtc, intid)) = machine().rtc else {
        skip!("the machine has no PL031");
    };
    exception::set_hook(Some(|_: &mut Frame, intid| {
        if let Some((rtc, rtc_intid)) = machine().rtc
            && rtc_intid == intid
        {
            rtc.write32(RTCIMSC, 0);
            rtc.write32(RTCICR, 1);
        }
        Source::Silence
    }));
    gic::route(intid, cpu::affinity(0));
    gic::enable(intid);
    for round in 1..=2 {
        rtc.write32(RTCICR, 1);
        rtc.write32(RTCIMSC, 1);
        rtc.write32(RTCMR, rtc.read32(RTCDR) + 1);
        let taken = sysreg::with_interrupts(|| eventually(|| exception::count(0, intid) == round));
        expect_that!(taken, "round {round}");
    }
    gic::disable(intid);
    Ok(())
}
