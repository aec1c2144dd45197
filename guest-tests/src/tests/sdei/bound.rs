//! Interrupts bound to events: a PPI and an SPI of the machine, and an SPI that the hypervisor emulates.

use hv_abi::sdei::{Call, FIRST_BOUND_SHARED};

use super::*;
use crate::harness::needs_sdei;
use crate::rt::gic::gicd;
use crate::rt::machine::machine;
use crate::rt::sdei::End;
use crate::rt::timer::{self, Timer};
use crate::rt::{exception, gic};
use crate::tests::timer::takes_interrupts;

fn bind(intid: u32) -> i64 {
    sdei::call(Call::InterruptBind, &[u64::from(intid)])
}

fn release(event: u64) -> i64 {
    sdei::call(Call::InterruptRelease, &[event])
}

/// Registers and enables the bound `event` here, and unmasks.
fn arm(event: u64) -> TestResult {
    forget_notes();
    expect_eq!(sdei::register_event(event, 0, 0), SUCCESS);
    expect_eq!(sdei::call(Call::EventEnable, &[event]), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    Ok(())
}

guest_test!(c257_c258_a_bound_timer_is_an_event_and_no_interrupt);
fn c257_c258_a_bound_timer_is_an_event_and_no_interrupt() -> TestResult {
    needs_sdei()?;
    for timer in Timer::BOTH {
        gic::disable(timer.intid());
        let event = bind(timer.intid());
        expect_eq!(event >> 30, 1, "{timer:?}: {event:#x}");
        let event = event as u64;
        arm(event)?;
        // The line stays up until the timer is stopped, so the event comes again after each COMPLETE.
        sdei::set_hook(
            0,
            Some(|slot| {
                note(0, sdei::call(Call::EventStatus, &[slot.x(0)]));
                if slot.runs() % 3 == 0 {
                    Timer::BOTH.into_iter().for_each(Timer::stop);
                }
                End::Complete(0)
            }),
        );
        let (runs, interrupts) = (sdei::slot(0).runs(), exception::count(0, timer.intid()));
        timer.fire_in(timer::ticks_of_us(100));
        let came = sysreg::with_interrupts(|| entered(0, runs + 3));
        expect_that!(came, "{timer:?}: {} runs", sdei::slot(0).runs() - runs);
        expect_eq!(noted(0), RUNNING);
        expect_eq!(sdei::slot(0).runs(), runs + 3, "{timer:?}");
        expect_eq!(exception::count(0, timer.intid()), interrupts);

        expect_eq!(release(event), DENIED, "registered");
        expect_eq!(sdei::call(Call::EventUnregister, &[event]), SUCCESS);
        expect_eq!(release(event), SUCCESS);
        expect_eq!(sdei::call(Call::EventStatus, &[event]), INVALID);
        expect_that!(takes_interrupts(timer, 3), "{timer:?} is the guest's again");
    }
    Ok(())
}

guest_test!(c259_c262_a_bound_interrupt_is_out_of_sight_and_comes_back_disabled);
fn c259_c262_a_bound_interrupt_is_out_of_sight_and_comes_back_disabled() -> TestResult {
    needs_sdei()?;
    let intid = Timer::Virtual.intid();
    gic::enable(intid);
    gic::disable(intid);
    let event = bind(intid);
    expect_eq!(event >> 30, 1);
    let bank = gic::private();
    for register in [
        gicd::ISENABLER,
        gicd::ISPENDR,
        gicd::ISACTIVER,
        gicd::IGROUPR,
    ] {
        bank.write32(register, 1 << intid);
        let value = bank.read32(register);
        expect_eq!(value & 1 << intid, 0, "{register:#x}");
    }
    bank.write8(gicd::IPRIORITYR + u64::from(intid), 0x40);
    expect_eq!(bank.read8(gicd::IPRIORITYR + u64::from(intid)), 0);
    expect_eq!(release(event as u64), SUCCESS);
    expect_that!(
        !gic::is_set(gicd::ISENABLER, intid),
        "it comes back disabled"
    );
    let is_group1 = gic::group() != 0;
    expect_eq!(gic::is_set(gicd::IGROUPR, intid), is_group1, "in its group");
    let priority = bank.read8(gicd::IPRIORITYR + u64::from(intid));
    expect_eq!(priority, gic::PRIORITY, "with its priority");
    Ok(())
}

guest_test!(c256_an_active_interrupt_cannot_be_bound);
fn c256_an_active_interrupt_cannot_be_bound() -> TestResult {
    needs_sdei()?;
    let intid = Timer::Physical.intid();
    gic::disable(intid);
    gic::private().write32(gicd::ISACTIVER, 1 << intid);
    expect_eq!(bind(intid), DENIED);
    gic::private().write32(gicd::ICACTIVER, 1 << intid);
    let event = bind(intid);
    expect_eq!(event >> 30, 1);
    expect_eq!(release(event as u64), SUCCESS);
    Ok(())
}

/// PL031 registers (DDI0224): data, match, mask, clear.
const RTCDR: u64 = 0x00;
const RTCMR: u64 = 0x04;
const RTCIMSC: u64 = 0x10;
const RTCICR: u64 = 0x1c;

guest_test!(
    c257_the_clocks_interrupt_is_an_event_on_a_cpu_that_can_take_it,
    cpus = 2
);
fn c257_the_clocks_interrupt_is_an_event_on_a_cpu_that_can_take_it() -> TestResult {
    needs_sdei()?;
    let Some((rtc, intid)) = machine().rtc else {
        skip!("there is no clock");
    };
    // CPU 0 stays masked, so CPU 1 takes it wherever the interrupt goes.
    let event = bind(intid);
    expect_eq!(event >> 30, 1);
    start_target(|| {
        sdei::set_hook(
            1,
            Some(|_| {
                if let Some((rtc, _)) = machine().rtc {
                    rtc.write32(RTCICR, 1);
                    rtc.write32(RTCIMSC, 0);
                }
                End::Complete(0)
            }),
        );
        let event = u64::from(FIRST_BOUND_SHARED);
        let armed = sdei::register_event(event, 0, 0) == 0
            && sdei::call(Call::EventEnable, &[event]) == 0
            && sdei::unmask() == 0;
        if armed {
            READY.raise();
        }
        while !ENOUGH.is_up() {
            core::hint::spin_loop();
        }
    })?;
    rtc.write32(RTCICR, 1);
    rtc.write32(RTCIMSC, 1);
    rtc.write32(RTCMR, rtc.read32(RTCDR) + 1);
    let came = entered(1, 1);
    release_target()?;
    expect_that!(came);
    expect_eq!(sdei::slot(1).runs(), 1);
    expect_eq!(sdei::slot(0).runs(), 0);
    let unregistered = sdei::call(Call::EventUnregister, &[event as u64]);
    expect_eq!(unregistered, SUCCESS);
    expect_eq!(release(event as u64), SUCCESS);
    Ok(())
}

/// PL011 registers (DDI0183 3.2): interrupt mask, raw status, clear; the transmit interrupt.
const UARTIMSC: u64 = 0x38;
const UARTICR: u64 = 0x44;
const TXIM: u32 = 1 << 5;

guest_test!(c258_the_consoles_line_is_an_event_for_as_long_as_it_is_up);
fn c258_the_consoles_line_is_an_event_for_as_long_as_it_is_up() -> TestResult {
    needs_sdei()?;
    let uart = machine().uart;
    let Some(intid) = machine().uart_intid else {
        skip!("the console has no interrupt");
    };
    uart.write32(UARTIMSC, 0);
    let event = bind(intid);
    expect_eq!(event, i64::from(FIRST_BOUND_SHARED));
    let event = event as u64;
    arm(event)?;
    sdei::set_hook(
        0,
        Some(|slot| {
            if slot.runs() % 3 == 0 {
                machine().uart.write32(UARTIMSC, 0);
            }
            End::Complete(0)
        }),
    );
    crate::rt::console::say(format_args!(
        "# a line, so that the console has sent something"
    ));
    uart.write32(UARTIMSC, TXIM);
    let runs = sdei::slot(0).runs();
    uart.write32(UARTIMSC, 0);
    uart.write32(UARTICR, 0x7ff);
    expect_eq!(runs, 3, "before the next instruction, until it is masked");
    expect_eq!(sdei::call(Call::EventUnregister, &[event]), SUCCESS);
    expect_eq!(release(event), SUCCESS);
    Ok(())
}
