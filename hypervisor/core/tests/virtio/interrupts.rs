//! A mediated device's interrupt on its way to the guest, which may be frozen or begin anew meanwhile.

use hv_abi::operator::{Request, Span, Typed, Verb};
use hv_abi::virtio::{CONFIG_CHANGED, TRANSPORT_SIZE, register, status};
use hv_core::id::IntId;
use hv_core::virtio::Mediator;
use hv_core::vm::{IpaRange, Transport};
use hv_testbed::{Built, Machine};

use crate::device::Model;
use crate::driver::BLOCK;

const TRANSPORT: u64 = 0x0a00_0000;
const INTID: IntId = IntId(48);
/// GICD_ISPENDR.
const ISPENDR: u64 = 0x200;

/// A machine whose guest has one mediated device.
fn machine() -> (Machine, Model) {
    let (model, area) = Model::new(BLOCK.queues, 8);
    let mediator = Mediator::new(BLOCK, Box::new(model.clone()), area);
    let transport = Transport {
        registers: IpaRange {
            start: TRANSPORT,
            size: TRANSPORT_SIZE,
        },
        intid: INTID,
    };
    let built = Built {
        others: vec![INTID],
        ..Built::new(2)
    };
    let machine = built.start_with(vec![(transport, mediator)]);
    let wire = || machine.physical();
    wire().wire_mut(INTID, 0).enabled = true;
    wire().wire_mut(INTID, 0).edge = true;
    (machine, model)
}

/// The device's configuration changes, and it says so.
fn change(machine: &Machine, model: &Model) {
    model.0.lock().unwrap().interrupts = CONFIG_CHANGED;
    machine.physical().wire_mut(INTID, 0).pending = true;
}

fn is_pending(machine: &mut Machine) -> bool {
    machine.poll_bit(0, ISPENDR, INTID, 0)
}

fn is_active(machine: &Machine) -> bool {
    machine.physical().wire(INTID, 0).active
}

/// Whether the device has been told that its interrupt was seen.
fn is_acknowledged(model: &Model) -> bool {
    model.0.lock().unwrap().interrupts == 0
}

fn say(machine: &mut Machine, id: u32, verb: Verb) {
    let request = Request {
        id,
        verb,
        vm: 0,
        vcpu: 0,
        span: Span::default(),
        event: 0,
        typed: Typed::NONE,
    };
    for byte in [hv_abi::console::RS, b'@']
        .into_iter()
        .chain(format!("{request}\n").bytes())
    {
        machine.receive(byte);
    }
}

fn ask(machine: &mut Machine, id: u32, verb: Verb) {
    say(machine, id, verb);
    machine.settle();
}

fn interrupts(machine: &mut Machine) -> Option<u64> {
    machine.load(0, TRANSPORT + register::INTERRUPT_STATUS, 4)
}

#[test]
fn the_line_is_up_until_the_guest_has_acknowledged_everything() {
    let (mut machine, model) = machine();
    assert!(!is_pending(&mut machine));
    change(&machine, &model);
    machine.settle();
    assert!(is_acknowledged(&model) && !is_active(&machine));
    assert!(is_pending(&mut machine));
    assert_eq!(interrupts(&mut machine), Some(u64::from(CONFIG_CHANGED)));
    let acknowledge = TRANSPORT + register::INTERRUPT_ACK;
    machine.store(0, acknowledge, 4, 1);
    assert!(is_pending(&mut machine), "that was another");
    machine.store(0, acknowledge, 4, u64::from(CONFIG_CHANGED));
    assert!(!is_pending(&mut machine));
    assert_eq!(interrupts(&mut machine), Some(0));
}

#[test]
fn a_frozen_guest_is_told_when_it_goes_on() {
    let (mut machine, model) = machine();
    ask(&mut machine, 1, Verb::Freeze);
    change(&machine, &model);
    machine.settle();
    // It stays active, so that it does not come again, and nobody has looked at the device.
    assert!(is_active(&machine) && !is_acknowledged(&model));
    ask(&mut machine, 2, Verb::Thaw);
    assert!(!is_active(&machine) && is_acknowledged(&model));
    assert!(is_pending(&mut machine));
    // What comes later comes at once.
    machine.store(0, TRANSPORT + register::INTERRUPT_ACK, 4, 2);
    change(&machine, &model);
    machine.settle();
    assert!(is_pending(&mut machine) && !is_active(&machine));
}

/// The device wants to be reset, and its line stays up until it is.
fn fail(machine: &Machine, model: &Model) {
    model.0.lock().unwrap().status |= status::NEEDS_RESET;
    change(machine, model);
}

#[test]
fn a_device_whose_line_stays_up_interrupts_once_until_it_is_reset() {
    let (mut machine, model) = machine();
    fail(&machine, &model);
    machine.settle();
    // The guest is told, and has its CPU for itself.
    assert!(is_active(&machine) && is_acknowledged(&model));
    assert!(is_pending(&mut machine));
    let read = machine.load(0, TRANSPORT + register::STATUS, 4).unwrap();
    assert_ne!(read & u64::from(status::NEEDS_RESET), 0);
    // It is no other after it was frozen, though the device then says nothing.
    ask(&mut machine, 1, Verb::Freeze);
    ask(&mut machine, 2, Verb::Thaw);
    assert!(is_active(&machine));
    machine.store(0, TRANSPORT + register::STATUS, 4, 0);
    assert!(!is_active(&machine) && !is_pending(&mut machine));
    // And it interrupts again.
    change(&machine, &model);
    machine.settle();
    assert!(is_pending(&mut machine) && !is_active(&machine));
}

#[test]
fn a_guest_that_begins_anew_may_be_interrupted_by_a_device_that_had_failed() {
    let (mut machine, model) = machine();
    fail(&machine, &model);
    machine.settle();
    assert!(is_active(&machine));
    machine.reset(0);
    machine.settle();
    assert!(!is_active(&machine) && !is_pending(&mut machine));
}

#[test]
fn a_guest_that_is_off_is_given_nothing_back() {
    let (mut machine, model) = machine();
    let resets = model.0.lock().unwrap().resets;
    machine.call(0, hv_abi::psci::SYSTEM_OFF, &[]);
    machine.finish_end();
    assert!(model.0.lock().unwrap().resets > resets);
    change(&machine, &model);
    machine.settle();
    assert!(is_active(&machine) && !is_acknowledged(&model));
}

#[test]
fn a_guest_that_begins_anew_finds_its_device_reset() {
    for is_frozen in [false, true] {
        let (mut machine, model) = machine();
        let resets = model.0.lock().unwrap().resets;
        if is_frozen {
            ask(&mut machine, 1, Verb::Freeze);
        }
        change(&machine, &model);
        machine.settle();
        assert_eq!(is_active(&machine), is_frozen);
        if is_frozen {
            say(&mut machine, 2, Verb::Reset);
            machine.interrupt(0);
            machine.finish_end();
        } else {
            machine.reset(0);
        }
        machine.settle();
        assert!(model.0.lock().unwrap().resets > resets);
        assert!(!is_active(&machine));
        assert!(!is_pending(&mut machine), "frozen: {is_frozen}");
        assert_eq!(interrupts(&mut machine), Some(0));
    }
}
