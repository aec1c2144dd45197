//! The emulated PL011 as its drivers use it.

use hv_core::pl011::Pl011;
use proptest::prelude::*;

const DR: u64 = 0x00;
const FR: u64 = 0x18;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;
const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const RT: u32 = 1 << 6;
const OVERRUN: u32 = 1 << 10;

fn read(uart: &mut Pl011, offset: u64) -> u32 {
    uart.read(offset, 4).0 as u32
}

fn write(uart: &mut Pl011, offset: u64, value: u32) {
    let _ = uart.write(offset, 4, value);
}

/// Linux: `amba_device_try_add` and the table of amba-pl011.
#[test]
fn the_amba_bus_finds_an_arm_pl011() {
    let mut uart = Pl011::new();
    let mut word = |base: u64| {
        (0..4).fold(0, |id, n| {
            id | (read(&mut uart, base + 4 * n) & 0xff) << (8 * n)
        })
    };
    assert_eq!(word(0xff0), 0xb105_f00d);
    assert_eq!(word(0xfe0) & 0x000f_ffff, 0x0004_1011);
}

#[test]
fn a_byte_written_is_transmitted_at_once() {
    let mut uart = Pl011::new();
    assert_eq!(uart.write(DR, 4, 0x1234_5641).transmit, Some(0x41));
    assert_eq!(uart.write(DR, 1, 0x42).transmit, Some(0x42));
    assert_eq!(uart.write(DR, 8, 0x42).transmit, None);
    assert_eq!(uart.write(CR, 4, 0x301).transmit, None);
    // earlycon waits for TXFF clear, then for BUSY clear.
    assert_eq!(read(&mut uart, FR) & (1 << 5 | 1 << 3), 0);
}

/// Linux: `pl011_start_tx` writes, unmasks, and is called back for as long as it has something to say.
#[test]
fn the_transmit_interrupt_follows_the_first_byte() {
    let mut uart = Pl011::new();
    assert!(!uart.write(IMSC, 2, TX).line);
    assert!(uart.write(DR, 4, 0x41).line);
    assert_eq!(read(&mut uart, MIS), TX);
    assert!(!uart.write(IMSC, 2, 0).line);
    assert_eq!((read(&mut uart, RIS), read(&mut uart, MIS)), (TX, 0));
    assert!(!uart.write(ICR, 2, TX).line);
    assert_eq!(read(&mut uart, RIS), 0);
}

#[test]
fn a_received_byte_raises_the_line_until_it_is_read() {
    let mut uart = Pl011::new();
    write(&mut uart, LCR_H, 0x70);
    write(&mut uart, IMSC, RX | RT);
    assert!(uart.receive(b'a'));
    assert!(uart.receive(b'b'));
    assert_eq!(read(&mut uart, FR) & 0x50, 0);
    let (first, outcome) = uart.read(DR, 4);
    assert_eq!((first, outcome.line), (u64::from(b'a'), true));
    let (second, outcome) = uart.read(DR, 4);
    assert_eq!((second, outcome.line), (u64::from(b'b'), false));
    assert_eq!(read(&mut uart, FR), 0x90);
}

#[test]
fn the_fifo_is_16_deep_when_enabled_and_1_when_not() {
    let mut uart = Pl011::new();
    let _ = uart.receive(1);
    assert!(!uart.can_receive());
    assert_eq!(read(&mut uart, FR) & 0x40, 0x40);
    write(&mut uart, LCR_H, 0x70);
    assert_eq!(read(&mut uart, FR), 0x90, "switching the FIFO empties it");
    for n in 0..16 {
        assert!(uart.can_receive());
        let _ = uart.receive(n);
    }
    assert!(!uart.can_receive());
    assert!(uart.read(DR, 4).1.room);
}

#[test]
fn an_overrun_is_reported_once_with_the_next_byte() {
    let mut uart = Pl011::new();
    write(&mut uart, IMSC, OVERRUN);
    assert!(!uart.receive(1));
    assert!(uart.receive(2), "the overrun interrupt");
    assert_eq!(read(&mut uart, DR), 1);
    let _ = uart.receive(3);
    assert_eq!(read(&mut uart, DR), 0x803);
    assert_eq!(read(&mut uart, 0x04), 8, "UARTRSR");
    let _ = uart.receive(4);
    assert_eq!(read(&mut uart, DR), 4);
}

/// Linux turns a break on the console into SysRq.
#[test]
fn a_break_is_a_zero_byte_with_its_flag() {
    let mut uart = Pl011::new();
    write(&mut uart, IMSC, 1 << 9);
    assert!(uart.receive_break());
    assert_eq!(read(&mut uart, DR), 0x400);
    write(&mut uart, ICR, 1 << 9);
    assert!(!uart.line());
}

#[test]
fn loopback_feeds_the_receiver_and_cuts_it_from_the_wire() {
    let mut uart = Pl011::new();
    write(&mut uart, CR, 0x380);
    let _ = uart.receive(b'x');
    assert_eq!(read(&mut uart, FR) & 0x10, 0x10);
    write(&mut uart, DR, u32::from(b'y'));
    assert_eq!(read(&mut uart, DR), u32::from(b'y'));
}

#[test]
fn what_is_programmed_reads_back() {
    let mut uart = Pl011::new();
    assert_eq!(read(&mut uart, CR), 0x300);
    for (offset, value) in [
        (0x24, 13),
        (0x28, 1),
        (LCR_H, 0x70),
        (CR, 0x301),
        (0x34, 0x12),
        (0x48, 0),
    ] {
        write(&mut uart, offset, value);
        assert_eq!(read(&mut uart, offset), value, "offset {offset:#x}");
    }
}

proptest! {
    /// Bytes come out in the order they went in, none twice, and only what did not fit is missing.
    #[test]
    fn received_bytes_keep_their_order(script in proptest::collection::vec(any::<Option<u8>>(), 0..200)) {
        let mut uart = Pl011::new();
        write(&mut uart, LCR_H, 0x10);
        write(&mut uart, IMSC, RX);
        let mut model = std::collections::VecDeque::new();
        for step in script {
            match step {
                Some(byte) => {
                    if uart.can_receive() {
                        model.push_back(byte);
                        prop_assert!(uart.receive(byte));
                    }
                }
                None => {
                    let expected = model.pop_front().map_or(0, u32::from);
                    prop_assert_eq!(read(&mut uart, DR), expected);
                }
            }
            prop_assert_eq!(uart.line(), !model.is_empty());
            prop_assert_eq!(uart.can_receive(), model.len() < 16);
        }
    }

    #[test]
    fn no_access_panics(
        accesses in proptest::collection::vec((any::<bool>(), 0u64..0x1100, any::<u8>(), any::<u32>()), 0..100),
        far: u64,
    ) {
        let mut uart = Pl011::new();
        for (store, offset, size, value) in accesses {
            let size = if size < 128 { size & 0xf } else { size };
            if store {
                let outcome = uart.write(offset, size, value);
                prop_assert_eq!(outcome.line, read(&mut uart, MIS) != 0);
            } else {
                let _ = uart.read(offset, size);
            }
            let _ = uart.receive(value as u8);
        }
        let _ = uart.read(far, 4);
        let _ = uart.write(far, 4, 0);
    }
}
