//! The other kinds of devices that are mediated: each does once what it is for, and answers.

use super::{
    CONFIG, DEVICE_ID, DRIVER_FEATURES, DRIVER_FEATURES_SEL, DRIVER_OK, Device, ENTRIES,
    FEATURES_OK, MAGIC, NEXT, QUEUE_DESC, QUEUE_DEVICE, QUEUE_DRIVER, QUEUE_NOTIFY, QUEUE_READY,
    QUEUE_SEL, QUEUE_SIZE, STATUS, TestError, TestResult, VERSION, WRITE, address, describe, load,
    machine, store, sysreg, within_ms,
};
use crate::harness::needs_hypervisor;

// DeviceIDs (virtio 1.2, 5).
const NETWORK: u32 = 1;
const CONSOLE: u32 = 3;
const ENTROPY: u32 = 4;
const NINE_P: u32 = 9;

/// What each queue has of the memory of `rt::virtio`: a table, and at these offsets both rings.
const QUEUE: u64 = 0x1000;
const DRIVER: u64 = 0x400;
const RING: u64 = 0x800;
/// Where buffers are.
const SENT: u64 = 0x8000;
const RECEIVED: u64 = 0x9000;

/// A device that is set up.
struct Card {
    device: Device,
    /// What was offered in each queue.
    available: [u16; 2],
}

impl Card {
    /// The first of this kind, with so many queues, and with these of its own features.
    fn set_up(kind: u32, queues: u64, features: u32) -> Result<Self, TestError> {
        needs_hypervisor()?;
        let is_it = |device: Device| {
            let [magic, version, id] = [MAGIC, VERSION, DEVICE_ID].map(|at| device.read32(at));
            (magic, version, id) == (0x7472_6976, 2, kind)
        };
        let mut all = machine().transports().map(|(device, _)| device);
        let Some(device) = all.find(|&device| is_it(device)) else {
            fail!("there is no virtio device of kind {kind}");
        };
        for status in [0, 1, 3] {
            device.write32(STATUS, status);
        }
        for (select, features) in [(0, features), (1, 1)] {
            device.write32(DRIVER_FEATURES_SEL, select);
            device.write32(DRIVER_FEATURES, features);
        }
        device.write32(STATUS, 3 | FEATURES_OK);
        expect_eq!(device.read32(STATUS), 3 | FEATURES_OK);
        for queue in 0..queues {
            let at = QUEUE * queue;
            store(at + DRIVER, 0u32);
            store(at + RING, 0u32);
            device.write32(QUEUE_SEL, queue as u32);
            device.write32(QUEUE_SIZE, ENTRIES.into());
            let places = [
                (QUEUE_DESC, at),
                (QUEUE_DRIVER, at + DRIVER),
                (QUEUE_DEVICE, at + RING),
            ];
            for (register, place) in places {
                device.write32(register, address(place) as u32);
                device.write32(register + 4, (address(place) >> 32) as u32);
            }
            device.write32(QUEUE_READY, 1);
            expect_eq!(device.read32(QUEUE_READY), 1, "queue {queue}");
        }
        device.write32(STATUS, 3 | FEATURES_OK | DRIVER_OK);
        expect_eq!(device.read32(STATUS), 3 | FEATURES_OK | DRIVER_OK);
        Ok(Self {
            device,
            available: [0; 2],
        })
    }

    /// Offers the device a chain of these parts: where each is, how long, and whether it is to be written.
    fn offer(&mut self, queue: usize, parts: &[(u64, u32, bool)]) {
        let at = QUEUE * queue as u64;
        let last = parts.len() as u16 - 1;
        for (index, &(place, length, is_written)) in (0..).zip(parts) {
            let flags = [
                if index < last { NEXT } else { 0 },
                if is_written { WRITE } else { 0 },
            ];
            let entry = (address(place), length, flags[0] | flags[1], index + 1);
            describe(at, index, entry);
        }
        let available = &mut self.available[queue];
        store(at + DRIVER + 4 + 2 * u64::from(*available % ENTRIES), 0u16);
        sysreg::store_barrier();
        *available = available.wrapping_add(1);
        store(at + DRIVER + 2, *available);
        sysreg::store_barrier();
        self.device.write32(QUEUE_NOTIFY, queue as u32);
    }

    /// Waits until the device has used all that it was offered in a queue: how many bytes it wrote at last.
    fn wait(&self, queue: usize) -> Result<u32, TestError> {
        let at = QUEUE * queue as u64 + RING;
        let available = self.available[queue];
        if !within_ms(10_000, || load::<u16>(at + 2) == available) {
            let status = self.device.read32(STATUS);
            fail!("queue {queue} does not come back: status {status:#x}");
        }
        let slot = u64::from(available.wrapping_sub(1) % ENTRIES);
        Ok(load(at + 4 + 8 * slot + 4))
    }

    fn reset(&self) {
        self.device.write32(STATUS, 0);
    }
}

fn write(at: u64, bytes: &[u8]) {
    for (at, &byte) in (at..).zip(bytes) {
        store(at, byte);
    }
}

fn read<const N: usize>(at: u64) -> [u8; N] {
    core::array::from_fn(|index| load(at + index as u64))
}

guest_test!(
    a_mediated_network_card_asks_and_is_answered,
    cpus = 1,
    boot = own,
    icount = false,
    config = "virtio",
    timeout = 60
);
fn a_mediated_network_card_asks_and_is_answered() -> TestResult {
    // A header of 12 bytes in front of each frame (virtio 1.2, 5.1.6), and feature MAC (5.1.3).
    const HEADER: usize = 12;
    const FEATURE_MAC: u32 = 1 << 5;
    // QEMU's network: the host is 10.0.2.2.
    const OWN: [u8; 4] = [10, 0, 2, 15];
    const HOST: [u8; 4] = [10, 0, 2, 2];
    let mut card = Card::set_up(NETWORK, 2, FEATURE_MAC)?;
    let mac: [u8; 6] = core::array::from_fn(|at| card.device.read8(CONFIG + at as u64));
    expect_that!(mac != [0; 6]);
    // Who has the host's address (RFC 826)?
    let mut frame = [0; HEADER + 42];
    let parts: [&[u8]; 8] = [
        &[0; HEADER],
        &[0xff; 6],
        &mac,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac,
        &OWN,
        &[0; 6],
        &HOST,
    ];
    for (place, byte) in frame.iter_mut().zip(parts.iter().copied().flatten()) {
        *place = *byte;
    }
    write(SENT, &frame);
    card.offer(0, &[(RECEIVED, 2048, true)]);
    card.offer(1, &[(SENT, frame.len() as u32, false)]);
    card.wait(1)?;
    // The network may say other things, too, but no end of them.
    for _ in 0..16 {
        let length = card.wait(0)?;
        let kind: [u8; 8] = read(RECEIVED + HEADER as u64 + 14);
        if length >= frame.len() as u32 && kind == [0, 1, 8, 0, 6, 4, 0, 2] {
            let to: [u8; 6] = read(RECEIVED + HEADER as u64);
            let from: [u8; 4] = read(RECEIVED + HEADER as u64 + 28);
            expect_eq!((to, from), (mac, HOST));
            card.reset();
            return Ok(());
        }
        card.offer(0, &[(RECEIVED, 2048, true)]);
    }
    fail!("nobody says who has {HOST:?}")
}

guest_test!(
    a_mediated_entropy_device_fills_what_it_is_given,
    cpus = 1,
    boot = own,
    icount = false,
    config = "virtio",
    timeout = 60
);
fn a_mediated_entropy_device_fills_what_it_is_given() -> TestResult {
    let mut card = Card::set_up(ENTROPY, 1, 0)?;
    let mut seen = [[0; 32]; 2];
    for bytes in &mut seen {
        write(RECEIVED, &[0; 64]);
        // Two parts, of which it may fill fewer bytes than there are (virtio 1.2, 5.4.6).
        card.offer(0, &[(RECEIVED, 32, true), (RECEIVED + 48, 16, true)]);
        let length = card.wait(0)?;
        expect_that!((1..=48).contains(&length), "{length} bytes");
        *bytes = read(RECEIVED);
        expect_that!(*bytes != [0; 32]);
        expect_eq!(read::<16>(RECEIVED + 32), [0; 16]);
    }
    expect_that!(seen[0] != seen[1]);
    card.reset();
    Ok(())
}

guest_test!(
    a_mediated_console_sends_and_receives,
    cpus = 1,
    boot = own,
    icount = false,
    config = "virtio",
    timeout = 60
);
fn a_mediated_console_sends_and_receives() -> TestResult {
    // What is sent comes back.
    const TEXT: [u8; 26] = *b"through the mediator twice";
    let mut card = Card::set_up(CONSOLE, 2, 0)?;
    write(SENT, &TEXT);
    card.offer(
        1,
        &[
            (SENT, 10, false),
            (SENT + 10, TEXT.len() as u32 - 10, false),
        ],
    );
    card.wait(1)?;
    let mut count = 0;
    while count < TEXT.len() as u64 {
        card.offer(0, &[(RECEIVED + count, 100, true)]);
        let length = card.wait(0)?;
        expect_that!(length != 0);
        count += u64::from(length);
    }
    expect_eq!((read(RECEIVED), count), (TEXT, TEXT.len() as u64));
    card.reset();
    Ok(())
}

guest_test!(
    a_mediated_9p_device_agrees_on_a_version,
    cpus = 1,
    boot = own,
    icount = false,
    config = "virtio",
    timeout = 60
);
fn a_mediated_9p_device_agrees_on_a_version() -> TestResult {
    // Tversion and Rversion: size, type, tag, msize, and a string with its length (9P2000, version(5)).
    const ASKED: [u8; 21] = *b"\x15\0\0\0\x64\xff\xff\0\x20\0\0\x08\09P2000.L";
    let mut answer = ASKED;
    answer[4] = 0x65;
    let mut card = Card::set_up(NINE_P, 1, 0)?;
    write(SENT, &ASKED);
    card.offer(0, &[(SENT, 21, false), (RECEIVED, 256, true)]);
    expect_eq!(card.wait(0)?, 21);
    expect_eq!(read(RECEIVED), answer);
    card.reset();
    Ok(())
}
