//! What a guest finds in the registers.

use hv_abi::virtio::{CONFIG_CHANGED, INDIRECT_DESC, KINDS, MAGIC, find, register, status};
use hv_core::virtio::Mediator;

use crate::device::Model;
use crate::driver::{BLOCK, DEVICE, DRIVER, Rig, TABLE};
use crate::ram::PIECES;

#[test]
fn a_transport_is_what_virtio_1_2_says() {
    let rig = Rig::fresh(1024);
    for (offset, value) in [
        (register::MAGIC, MAGIC),
        (register::VERSION, 2),
        (register::DEVICE_ID, 2),
        (register::VENDOR_ID, 0x554d_4551),
        (register::QUEUE_SIZE_MAX, 1024),
        (register::QUEUE_READY, 0),
        (register::INTERRUPT_STATUS, 0),
        (register::STATUS, 0),
        (register::CONFIG_GENERATION, 7),
        // No shared memory regions (4.2.2).
        (0xb0, u32::MAX),
        (0xb4, u32::MAX),
        (0xb8, u32::MAX),
        (0xbc, u32::MAX),
        // Neither reset of queues nor anything written.
        (0xc0, 0),
        (register::QUEUE_NOTIFY, 0),
        (0xf8, 0),
    ] {
        assert_eq!(rig.read(offset), value, "{offset:#x}");
    }
    // They are words.
    for (offset, size) in [(0u64, 1u8), (0, 2), (0, 8), (2, 2), (1, 4)] {
        assert_eq!(rig.mediator.read(offset, size), 0, "{offset} {size}");
    }
}

#[test]
fn only_features_that_can_be_checked_are_offered() {
    let mut rig = Rig::fresh(1024);
    let mut offered = [0; 4];
    for (select, offered) in (0..).zip(&mut offered) {
        let _ = rig.write(register::DEVICE_FEATURES_SEL, select);
        *offered = rig.read(register::DEVICE_FEATURES);
    }
    // Of a block device's all but several queues; tables of descriptors; VERSION_1.
    assert_eq!(offered, [0x10ff_ffff & !(1 << 12), 1, 0, 0]);
    rig.agree();
    // The device is not told of tables.
    assert_eq!(rig.device().accepted, [0x00ff_ffff & !(1 << 12), 1]);
    // Whatever the device has, no more is accepted: packed rings, notification data, addresses by the platform.
    for (select, bit) in [(0, 12), (0, 29), (1, 1), (1, 2), (1, 6), (1, 8), (1, 31)] {
        let mut rig = Rig::fresh(1024);
        let _ = rig.write(register::STATUS, 3);
        for (word, features) in [(0, INDIRECT_DESC), (1, 1)] {
            let more = if word == select { 1 << bit } else { 0 };
            let _ = rig.write(register::DRIVER_FEATURES_SEL, word);
            let _ = rig.write(register::DRIVER_FEATURES, features | more);
        }
        let _ = rig.write(register::STATUS, 3 | status::FEATURES_OK);
        assert_eq!(rig.read(register::STATUS), 3, "{select} {bit}");
        rig.place(4, [TABLE, DRIVER, DEVICE]);
        assert_eq!(rig.read(register::QUEUE_READY), 0);
        assert!(!rig.device().queues[0].is_ready);
    }
}

#[test]
fn without_version_1_nothing_is_agreed_on() {
    let mut rig = Rig::fresh(1024);
    let _ = rig.write(register::STATUS, 3 | status::FEATURES_OK);
    assert_eq!(rig.read(register::STATUS), 3);
}

#[test]
fn features_are_agreed_on_once() {
    let mut rig = Rig::fresh(1024);
    rig.agree();
    let _ = rig.write(register::DRIVER_FEATURES_SEL, 0);
    let _ = rig.write(register::DRIVER_FEATURES, 0);
    let _ = rig.write(register::STATUS, 7 | status::FEATURES_OK);
    assert_ne!(rig.device().accepted[0], 0);
}

#[test]
fn the_configuration_is_the_devices_in_any_width_and_in_order() {
    let mut rig = Rig::fresh(1024);
    rig.device().config.clear();
    assert_eq!(rig.mediator.read(0x103, 1), 0x103);
    assert_eq!(rig.mediator.read(0x106, 2), 0x106);
    assert_eq!(rig.mediator.read(0x108, 8), 0x10c << 32 | 0x108);
    let _ = rig.mediator.write(0x120, 1, 0xff, &mut rig.ram);
    let _ = rig.mediator.write(0x128, 8, 5 << 32 | 6, &mut rig.ram);
    let expected = [
        (0x103, 1, None),
        (0x106, 2, None),
        (0x108, 4, None),
        (0x10c, 4, None),
        (0x120, 1, Some(0xff)),
        (0x128, 4, Some(6)),
        (0x12c, 4, Some(5)),
    ];
    assert_eq!(rig.device().config, expected);
    // Nothing is behind it, and nothing across words.
    for (offset, size) in [(0x1fc, 8), (0x101, 2), (0x102, 4)] {
        assert_eq!(rig.mediator.read(offset, size), 0);
        let _ = rig.mediator.write(offset, size, 1, &mut rig.ram);
    }
    assert_eq!(rig.device().config.len(), expected.len());
}

#[test]
fn a_queue_that_is_no_ram_breaks_the_device_until_it_is_reset() {
    let end = PIECES[2].0 + PIECES[2].2;
    for (size, places) in [
        (4, [end, DRIVER, DEVICE]),
        (4, [TABLE, end - 8, DEVICE]),
        (4, [TABLE, DRIVER, end - 32]),
        (4, [TABLE, DRIVER, u64::MAX - 3]),
        (4, [TABLE + 8, DRIVER, DEVICE]),
        (4, [TABLE, DRIVER + 1, DEVICE]),
        (4, [TABLE, DRIVER, DEVICE + 2]),
        (3, [TABLE, DRIVER, DEVICE]),
        (0, [TABLE, DRIVER, DEVICE]),
        (2048, [TABLE, DRIVER, DEVICE]),
        // Across the hole behind the second piece.
        (1024, [PIECES[1].0 + 0x4010, DRIVER, DEVICE]),
    ] {
        let mut rig = Rig::fresh(1024);
        rig.agree();
        rig.place(size, places);
        assert!(rig.is_broken(), "{size} {places:x?}");
        assert_eq!(rig.read(register::QUEUE_READY), 0);
        assert!(!rig.device().queues[0].is_ready);
        // It interrupts for that only once the driver is ready for it.
        assert_eq!(rig.read(register::INTERRUPT_STATUS), 0);
        rig.set_up(4);
        assert!(!rig.is_broken());
    }
}

#[test]
fn a_queue_is_used_once_between_two_resets() {
    let mut rig = Rig::new(4, 1024);
    // Nothing moves while it is in use.
    rig.place(2, [TABLE, DRIVER, TABLE]);
    assert_eq!(rig.read(register::QUEUE_READY), 1);
    let _ = rig.write(register::QUEUE_READY, 0);
    assert_eq!(rig.read(register::QUEUE_READY), 0);
    assert!(!rig.device().queues[0].is_ready);
    let _ = rig.write(register::QUEUE_READY, 1);
    assert_eq!(rig.read(register::QUEUE_READY), 0);
    rig.set_up(4);
}

#[test]
fn other_queues_and_what_is_no_register_change_nothing() {
    let mut rig = Rig::new(4, 1024);
    let _ = rig.write(register::QUEUE_SEL, 1);
    for offset in [register::QUEUE_SIZE_MAX, register::QUEUE_READY] {
        assert_eq!(rig.read(offset), 0);
    }
    for offset in (0x80..0x100).step_by(4) {
        let _ = rig.write(offset, 1);
    }
    let _ = rig.write(register::QUEUE_READY, 1);
    for number in [1, 2, u32::MAX] {
        let _ = rig.write(register::QUEUE_NOTIFY, number);
    }
    assert!(!rig.is_broken() && rig.device().notified.is_empty());
}

#[test]
fn a_change_of_the_configuration_is_passed_on() {
    let mut rig = Rig::new(4, 1024);
    rig.device().interrupts = CONFIG_CHANGED;
    rig.interrupt();
    assert_eq!(rig.device().interrupts, 0, "acknowledged");
    assert!(rig.mediator.level());
    assert_eq!(rig.read(register::INTERRUPT_STATUS), CONFIG_CHANGED);
    let _ = rig.write(register::INTERRUPT_ACK, CONFIG_CHANGED);
    assert!(!rig.mediator.level());
}

#[test]
fn every_type_has_its_queues_and_no_more() {
    for kind in &KINDS {
        let (model, area) = Model::new(kind.queues, 256);
        let mut mediator = Mediator::new(kind, Box::new(model), area);
        let mut ram = crate::ram::Ram::new();
        for number in 0..=kind.queues {
            let _ = mediator.write(register::QUEUE_SEL, 4, number as u64, &mut ram);
            let most = mediator.read(register::QUEUE_SIZE_MAX, 4);
            assert_eq!(most, if number < kind.queues { 256 } else { 0 });
        }
        assert_eq!(find(kind.id), Some(kind));
    }
    assert_eq!(find(5), None, "a balloon");
    assert_eq!(BLOCK.name, "block");
}
