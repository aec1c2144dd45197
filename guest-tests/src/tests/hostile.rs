//! Guests that do what no kernel does. They may harm themselves, and nobody else.

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::gic;
use crate::rt::machine::machine;
use crate::rt::mmio::Device;
use crate::rt::timer::Timer;
use crate::rt::{cpu, exception, sysreg};
use crate::tests::timer::takes_interrupts;

/// The register frames of the distributor and of this CPU's redistributor, if there is one.
fn frames() -> impl Iterator<Item = Device> {
    let own = (!gic::v2::is_it()).then(|| {
        let redistributor = gic::redistributor();
        [redistributor.part(0, 0x1_0000), gic::private()]
    });
    [gic::distributor()]
        .into_iter()
        .chain(own.into_iter().flatten())
}

/// A sequence of numbers that looks like none.
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Brings up the interrupt controller again and expects interrupts.
fn expect_interrupts() -> TestResult {
    gic::start_distributor();
    gic::start_cpu();
    expect_that!(takes_interrupts(Timer::Virtual, 3));
    expect_that!(takes_interrupts(Timer::Physical, 3));
    let before = exception::count(0, 2);
    gic::send_sgi_to(cpu::affinity(0), 2);
    sysreg::with_interrupts(|| ());
    expect_eq!(exception::count(0, 2), before + 1);
    Ok(())
}

guest_test!(
    every_offset_of_the_interrupt_controller_can_be_read_in_every_size,
    cpus = 1,
    boot = shared,
    icount = false,
    timeout = 60
);
fn every_offset_of_the_interrupt_controller_can_be_read_in_every_size() -> TestResult {
    needs_hypervisor()?;
    for frame in frames() {
        for offset in (0..frame.region().size).step_by(4) {
            // What is no register, or not of this size, may abort; it must not kill.
            let _value = exception::catch(|| frame.read32(offset));
            if offset % 0x100 < 8 {
                let _value = exception::catch(|| frame.read8(offset + 1));
                let _value = exception::catch(|| frame.read64(offset & !7));
            }
        }
    }
    expect_interrupts()
}

guest_test!(
    garbage_in_every_register_of_the_interrupt_controller_harms_nobody,
    cpus = 1,
    boot = own,
    icount = false,
    timeout = 60
);
fn garbage_in_every_register_of_the_interrupt_controller_harms_nobody() -> TestResult {
    needs_hypervisor()?;
    let mut number = numbers(0x0123_4567_89ab_cdef);
    for frame in frames() {
        for _ in 0..20_000 {
            let (offset, value) = ((number() % frame.region().size) & !3, number());
            // All but the enable and the wake-up registers, which are set to rights at the end.
            let _done = exception::catch(|| match number() % 8 {
                0 => frame.write64(offset & !7, value),
                1 => frame.write8(offset | number() & 3, value as u8),
                _ => frame.write32(offset, value as u32),
            });
        }
    }
    expect_interrupts()
}

guest_test!(
    random_sgis_reach_somebody_or_nobody,
    cpus = 2,
    boot = shared
);
fn random_sgis_reach_somebody_or_nobody() -> TestResult {
    needs_hypervisor()?;
    let mut number = numbers(0xfeed_beef_1234_5678);
    for _ in 0..10_000 {
        // Not the SGI that turns CPUs off.
        let at = if gic::v2::is_it() { 0 } else { 24 };
        let value = number() & !(0xf << at) | (number() % 15) << at;
        gic::send_sgi_raw(value);
    }
    sysreg::with_interrupts(|| ());
    expect_interrupts()
}

guest_test!(
    garbage_in_the_registers_of_the_console_harms_nobody,
    cpus = 1,
    boot = shared
);
fn garbage_in_the_registers_of_the_console_harms_nobody() -> TestResult {
    needs_hypervisor()?;
    /// PL011: data, and control with UART, transmit and receive enabled (DDI0183 3.3).
    const UARTDR: u64 = 0x00;
    const UARTCR: u64 = 0x30;
    const UARTIMSC: u64 = 0x38;
    const ENABLED: u32 = 1 << 0 | 1 << 8 | 1 << 9;
    let uart = machine().uart;
    let mut number = numbers(0x1357_9bdf_0246_8ace);
    let before = uart.read32(UARTCR);
    for _ in 0..5000 {
        let (offset, value) = ((number() % uart.region().size) & !3, number());
        let _done = exception::catch(|| match offset {
            UARTDR => {}
            _ if number() & 3 == 0 => drop(uart.read32(offset)),
            _ => uart.write32(offset, value as u32),
        });
    }
    uart.write32(UARTIMSC, 0);
    uart.write32(UARTCR, before | ENABLED);
    expect_interrupts()
}
