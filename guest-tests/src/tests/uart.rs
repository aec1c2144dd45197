//! The emulated PL011. While nothing is received its registers can be read from a page, without an exit; a test sees no
//! difference between that and an exit but by counting instructions (`metrics.rs`).

use crate::harness::{TestResult, needs_hypervisor};
use crate::rt::cpu;
use crate::rt::machine::machine;
use crate::rt::mmio::Device;
use crate::rt::sync::{Cell64, Flag};

/// Registers (DDI0183 3.2).
const DR: u64 = 0x00;
const FR: u64 = 0x18;
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;
/// Behind the last register that is no identification, and where those are.
const END: u64 = 0x4c;
const ID: u64 = 0xfe0;

/// UARTFR: nothing is received; nothing waits to be sent.
const RX_EMPTY: u32 = 1 << 4;
const QUIET: u32 = 1 << 7 | RX_EMPTY;
/// UARTLCR_H.FEN.
const FIFO: u32 = 1 << 4;
/// UARTCR.LBE: what is sent is received.
const LOOPBACK: u32 = 1 << 7;
/// UARTRIS: a transmit and a receive interrupt.
const TRANSMIT: u32 = 1 << 5;
const RECEIVE: u32 = 1 << 4;

/// Bytes that are sent: they are seen on the console, too.
const BYTES: [u8; 3] = [b'\n', b'\r', b'\n'];

/// Reads of UARTFR after which a page may be there, whatever was before.
const READS: usize = 40;

/// Runs `test` with the FIFO on and what is sent received, and has everything as before afterwards.
fn in_loopback(test: impl FnOnce(Device) -> TestResult) -> TestResult {
    let uart = machine().uart;
    let kept = [LCR_H, CR, IBRD, FBRD, IMSC].map(|offset| (offset, uart.read32(offset)));
    uart.write32(IMSC, 0);
    uart.write32(LCR_H, FIFO);
    uart.write32(CR, uart.read32(CR) | LOOPBACK);
    let result = test(uart);
    while uart.read32(FR) & RX_EMPTY == 0 {
        uart.read32(DR);
    }
    for (offset, value) in kept {
        uart.write32(offset, value);
    }
    uart.write32(ICR, 0x7ff);
    result
}

/// Reads until nothing is a reason any more to have reads exit.
fn settle(uart: Device) -> TestResult {
    for _ in 0..READS {
        expect_eq!(uart.read32(FR), QUIET);
    }
    Ok(())
}

guest_test!(received_bytes_are_seen_whatever_was_read_before);
fn received_bytes_are_seen_whatever_was_read_before() -> TestResult {
    needs_hypervisor()?;
    in_loopback(|uart| {
        for _ in 0..20 {
            settle(uart)?;
            expect_eq!(uart.read32(DR), 0, "nothing is received");
            for byte in BYTES {
                uart.write32(DR, byte.into());
                expect_eq!(uart.read32(FR) & RX_EMPTY, 0);
                expect_that!(uart.read32(RIS) & RECEIVE != 0);
            }
            for byte in BYTES {
                expect_eq!(uart.read32(DR), u32::from(byte));
            }
            expect_eq!(uart.read32(FR), QUIET);
            expect_eq!(uart.read32(RIS) & RECEIVE, 0);
        }
        Ok(())
    })
}

/// What is written to registers, and what they read as.
fn check_registers(uart: Device) -> TestResult {
    for [ibrd, fbrd, imsc] in [[0xabcd, 0x3f, 0], [0x1234, 0x21, TRANSMIT], [0, 0, 0x7ff]] {
        uart.write32(IBRD, ibrd);
        uart.write32(FBRD, fbrd);
        expect_eq!(uart.read32(IBRD), ibrd);
        expect_eq!(uart.read8(IBRD + 1), (ibrd >> 8) as u8);
        expect_eq!(uart.read64(IBRD & !7) >> 32, u64::from(ibrd));
        expect_eq!(uart.read64(FBRD) as u32, fbrd);
        uart.write32(ICR, 0x7ff);
        uart.write32(IMSC, 0);
        expect_eq!([RIS, MIS].map(|offset| uart.read32(offset)), [0, 0]);
        uart.write32(DR, b'\n'.into());
        expect_eq!(uart.read32(RIS) & TRANSMIT, TRANSMIT);
        expect_eq!(uart.read32(MIS), 0);
        uart.write32(IMSC, imsc);
        expect_eq!(uart.read32(IMSC), imsc);
        expect_eq!(uart.read32(MIS), uart.read32(RIS) & imsc);
        uart.write32(IMSC, 0);
    }
    Ok(())
}

guest_test!(registers_read_the_same_with_and_without_received_bytes);
fn registers_read_the_same_with_and_without_received_bytes() -> TestResult {
    needs_hypervisor()?;
    in_loopback(|uart| {
        let control = uart.read32(CR);
        // The interrupt is not enabled in the interrupt controller; nothing is received.
        uart.write32(CR, control & !LOOPBACK);
        settle(uart)?;
        check_registers(uart)?;
        // A byte waits to be read.
        uart.write32(CR, control);
        uart.write32(DR, b'\n'.into());
        expect_eq!(uart.read32(FR) & RX_EMPTY, 0);
        check_registers(uart)
    })
}

guest_test!(nothing_else_is_beside_the_registers);
fn nothing_else_is_beside_the_registers() -> TestResult {
    needs_hypervisor()?;
    let uart = machine().uart;
    settle(uart)?;
    let size = uart.region().size.min(0x1000);
    for offset in (END..size.min(ID)).step_by(4) {
        expect_eq!(uart.read32(offset), 0, "at {offset:#x}");
    }
    if size == 0x1000 {
        let id = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
        for (offset, value) in (ID..).step_by(4).zip(id) {
            expect_eq!(uart.read32(offset), value, "at {offset:#x}");
            uart.write32(offset, !value);
            expect_eq!(uart.read32(offset), value, "written, at {offset:#x}");
        }
    }
    Ok(())
}

/// The round that CPU 0 has a byte received in, and the one whose byte CPU 1 has read.
static SENT: Cell64 = Cell64::new(0);
static SEEN: Cell64 = Cell64::new(0);
static IS_OVER: Flag = Flag::new();
/// What CPU 1 found wrong: the flags that said that nothing is received, though something was.
static WRONG: Cell64 = Cell64::new(0);

/// CPU 1: reads the flags without end, so that it has the registers' translation at hand, and knows of each byte by memory.
fn watch() {
    let uart = machine().uart;
    let mut seen = 0;
    while !IS_OVER.is_up() {
        let flags = uart.read32(FR);
        if SENT.get() == seen {
            continue;
        }
        // It was received before it was said to be; these flags may be older.
        let _ = flags;
        if uart.read32(FR) & RX_EMPTY != 0 || uart.read32(DR) != u32::from(b'\n') {
            WRONG.add(1);
        }
        seen += 1;
        for _ in 0..READS {
            uart.read32(FR);
        }
        SEEN.set(seen);
    }
}

guest_test!(
    another_cpu_sees_what_is_received_at_once,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 60
);
fn another_cpu_sees_what_is_received_at_once() -> TestResult {
    needs_hypervisor()?;
    const ROUNDS: u64 = 200;
    in_loopback(|uart| {
        SENT.set(0);
        SEEN.set(0);
        WRONG.set(0);
        IS_OVER.lower();
        settle(uart)?;
        expect_eq!(cpu::start(1, watch), 0);
        let mut done = true;
        for round in 1..=ROUNDS {
            uart.write32(DR, b'\n'.into());
            SENT.set(round);
            done &= crate::rt::sync::eventually(|| SEEN.get() == round);
            if !done {
                break;
            }
        }
        IS_OVER.raise();
        expect_that!(cpu::wait_off(1));
        expect_that!(done, "CPU 1 has seen {} of {ROUNDS}", SEEN.get());
        expect_eq!(WRONG.get(), 0);
        Ok(())
    })
}
