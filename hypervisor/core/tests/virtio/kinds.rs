//! Every queue of every kind of device: what a socket's has for its events goes the way of all others.

use hv_abi::virtio::{KINDS, Kind, USED, find, register, status};
use hv_core::virtio::Mediator;

use crate::device::{Chain, Model};
use crate::driver::{DATA, Rig, WRITE};
use crate::ram::PIECES;

/// Entries of each queue.
const SIZE: u16 = 4;
/// DeviceID of a socket, and its queue for events (virtio 1.2, 5.10.2).
const SOCKET: u32 = 19;
const EVENTS: u32 = 2;

/// Where queue `number` has its table, and its two rings.
fn places(number: u32) -> [u64; 3] {
    let base = PIECES[0].0 + 0x1000 * u64::from(number);
    [base, base + 0x400, base + 0x800]
}

/// A guest with such a device, all of whose queues are ready.
fn rig(kind: &'static Kind) -> Rig {
    let (model, area) = Model::new(kind.queues, SIZE.into());
    let mut rig = Rig::fresh(SIZE.into());
    rig.mediator = Mediator::new(kind, Box::new(model.clone()), area);
    rig.model = model;
    rig.agree();
    for number in 0..kind.queues as u32 {
        let [table, driver, device] = places(number);
        for ring in [driver, device] {
            rig.ram.set(ring, &[0; 4]);
        }
        let _ = rig.write(register::QUEUE_SEL, number);
        let _ = rig.write(register::QUEUE_SIZE, SIZE.into());
        for (offset, place) in [(0x80, table), (0x90, driver), (0xa0, device)] {
            let _ = rig.write(offset, place as u32);
            let _ = rig.write(offset + 4, (place >> 32) as u32);
        }
        let _ = rig.write(register::QUEUE_READY, 1);
    }
    let _ = rig.write(register::STATUS, 7 | status::FEATURES_OK);
    rig
}

/// Puts a buffer that the device writes into queue `number`, as its only descriptor, and notifies.
fn offer(rig: &mut Rig, number: u32, address: u64, size: u32) {
    let [table, driver, _] = places(number);
    rig.describe(table, 0, (address, size, WRITE, 0));
    rig.ram.set(driver + 4, &0_u16.to_le_bytes());
    rig.ram.set(driver + 2, &1_u16.to_le_bytes());
    let _ = rig.write(register::QUEUE_NOTIFY, number);
}

/// A buffer of each queue's own, and where that is for the device.
fn buffer(rig: &Rig, number: u32) -> (u64, u64) {
    let address = DATA + 0x100 * u64::from(number);
    let (pa, _) = hv_core::virtio::queue::Memory::locate(&rig.ram, address, 4).expect("RAM");
    (address, pa)
}

#[test]
fn each_queue_of_each_kind_goes_there_and_back_by_itself() {
    for kind in &KINDS {
        let mut rig = rig(kind);
        let numbers = 0..kind.queues as u32;
        for number in numbers.clone() {
            let (address, _) = buffer(&rig, number);
            offer(&mut rig, number, address, 4);
        }
        for number in numbers {
            let (_, pa) = buffer(&rig, number);
            let chains = rig.device().take(number as usize);
            let [Chain { head, parts }] = &chains[..] else {
                panic!("{kind:?}, queue {number}: {chains:?}");
            };
            assert_eq!(parts, &[(pa, 4, true)], "{kind:?}, queue {number}");
            rig.device().give_back(number as usize, u32::from(*head), 4);
            rig.interrupt();
            assert_eq!(rig.read(register::INTERRUPT_STATUS), USED);
            let _ = rig.write(register::INTERRUPT_ACK, USED);
            let [_, _, device] = places(number);
            assert_eq!(rig.half(device + 2), 1, "{kind:?}, queue {number}");
            // The descriptor's number, and how much of it is written.
            assert_eq!(rig.ram.get(device + 4, 8), [0, 0, 0, 0, 4, 0, 0, 0]);
        }
    }
}

#[test]
fn an_event_of_a_sockets_comes_to_its_guest_and_to_nothing_else() {
    let kind = find(SOCKET).expect("sockets are mediated");
    assert_eq!(kind.queues as u32, EVENTS + 1);
    // Its buffers are where the guest has RAM, or it stops.
    let end = PIECES[PIECES.len() - 1].0 + 0x10_0000;
    for address in [0, PIECES[0].0 - 4, end, u64::MAX - 3] {
        let mut rig = rig(kind);
        offer(&mut rig, EVENTS, address, 4);
        assert!(rig.is_broken(), "{address:#x}");
        assert_eq!(rig.device().take(EVENTS as usize), []);
        assert!(rig.device().notified.is_empty());
    }
}
