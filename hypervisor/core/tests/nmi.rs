//! The rungs of an NMI: each has its time, the next follows where it does not help, and what each has come to is told.

use hv_abi::console::RS;
use hv_abi::operator::{Request, Verb};
use hv_abi::sdei::{Definition, Priority, Scope};
use hv_abi::watchdog::Last;
use hv_core::ladder::{Answer, Config, Rung};
use hv_core::sdei;
use hv_testbed::{Built, Machine, Place, RAM, Told};

const EVENT_REGISTER: u32 = 0xc400_0021;
const EVENT_ENABLE: u32 = 0xc400_0022;
const PE_UNMASK: u32 = 0xc400_002c;
const EVENT: u32 = 0x100;
const LIMIT: u64 = 80;

static EVENTS: [Definition; 1] = [Definition {
    number: EVENT,
    scope: Scope::Private,
    priority: Priority::Critical,
}];

/// Two vCPUs.
fn machine(event: u32, last: Last) -> Machine {
    let mut built = Built::new(2);
    built.sdei = sdei::Config {
        events: &EVENTS,
        ..built.sdei
    };
    built.nmi = Config {
        event,
        limit: LIMIT,
        last,
    };
    let mut machine = built.start();
    machine.turn_on(0, 1);
    machine
}

fn register(machine: &mut Machine) {
    let registered = machine.call(1, EVENT_REGISTER, &[EVENT.into(), RAM.start, 0, 0, 0]);
    assert_eq!(registered, 0);
    assert_eq!(machine.call(1, EVENT_ENABLE, &[EVENT.into()]), 0);
    assert_eq!(machine.call(1, PE_UNMASK, &[]), 0);
}

fn nmi(machine: &mut Machine) {
    let request = Request::new(7, Verb::Nmi, 0, 1);
    for byte in [RS, b'@'].into_iter().chain(format!("{request}\n").bytes()) {
        machine.receive(byte);
    }
    machine.settle();
}

fn pass(machine: &mut Machine, ticks: u64) {
    for _ in 0..ticks {
        machine.wait(1);
        machine.settle();
    }
}

fn told(machine: &Machine) -> Vec<(Rung, Answer)> {
    let all = machine.answers().into_iter();
    let rungs = all.filter_map(|told| match told {
        Told::Nmi {
            vcpu: 1,
            rung,
            answer,
        } => Some((rung, answer)),
        _ => None,
    });
    rungs.collect()
}

#[test]
fn an_serror_that_is_not_taken_is_said_to_wait_when_its_time_is_over() {
    for is_taken in [false, true] {
        let mut machine = machine(0, Last::Report);
        nmi(&mut machine);
        assert_eq!(machine.nmis(1), 1);
        if is_taken {
            machine.take_serror(1);
        }
        pass(&mut machine, LIMIT - 1);
        assert_eq!(told(&machine), []);
        pass(&mut machine, 1 + LIMIT / 8);
        let answer = if is_taken {
            Answer::Taken
        } else {
            Answer::Pending
        };
        let expected = [(Rung::SError, answer), (Rung::Last, Answer::Reported)];
        assert_eq!(told(&machine), expected);
        pass(&mut machine, 3 * LIMIT);
        assert_eq!(told(&machine), []);
        assert_eq!(machine.nmis(1), 1);
    }
}

#[test]
fn a_guest_that_starts_another_kernel_or_stops_cpus_has_obeyed() {
    for by_vectors in [false, true] {
        let mut machine = machine(0, Last::Freeze);
        nmi(&mut machine);
        machine.take_serror(1);
        pass(&mut machine, LIMIT / 2);
        if by_vectors {
            machine.el1(1).vbar = 0x4123_0800;
            machine.send_sgi(1, 0, 1);
        } else {
            machine.turn_off(0);
        }
        pass(&mut machine, LIMIT / 8);
        assert_eq!(told(&machine), [(Rung::SError, Answer::Works)]);
        pass(&mut machine, 3 * LIMIT);
        assert_eq!(told(&machine), []);
        assert!(machine.is_on(1));
    }
}

#[test]
fn every_vcpu_goes_on_record_and_the_one_that_has_the_nmi_before_it() {
    let mut machine = machine(EVENT, Last::Report);
    nmi(&mut machine);
    let all = machine.answers();
    let of = |id: u32, vcpu: u8| {
        all.iter().position(
            |told| matches!(told, Told::Vcpu { id: of, vcpu: by, .. } if (*of, *by) == (id, vcpu)),
        )
    };
    let begins = all.iter().position(|told| matches!(told, Told::Nmi { .. }));
    // By its own answer, and the other, which was not asked.
    assert!(of(7, 1).unwrap() < begins.unwrap(), "{all:?}");
    assert!(of(0, 0).is_some(), "{all:?}");
}

#[test]
fn an_event_that_is_not_registered_costs_no_time() {
    let mut machine = machine(EVENT, Last::Report);
    nmi(&mut machine);
    assert_eq!(told(&machine), [(Rung::Event, Answer::Unregistered)]);
    assert_eq!(machine.nmis(1), 1);
}

#[test]
fn an_event_that_the_guest_takes_and_does_nothing_about_is_followed_by_an_serror() {
    let mut machine = machine(EVENT, Last::Freeze);
    register(&mut machine);
    nmi(&mut machine);
    assert_eq!(machine.regs(1).pc, RAM.start, "it is in the handler");
    pass(&mut machine, LIMIT - 1);
    assert_eq!((told(&machine), machine.nmis(1)), (vec![], 0));
    pass(&mut machine, 1 + LIMIT / 8);
    assert_eq!(told(&machine), [(Rung::Event, Answer::Taken)]);
    assert_eq!(machine.nmis(1), 1);
    pass(&mut machine, LIMIT + LIMIT / 8);
    let expected = [
        (Rung::SError, Answer::Pending),
        (Rung::Last, Answer::Frozen),
    ];
    assert_eq!(told(&machine), expected);
    assert_eq!([0, 1].map(|n| machine.place(n)), [Place::Asleep; 2]);
}

#[test]
fn an_event_that_works_is_followed_by_nothing() {
    let mut machine = machine(EVENT, Last::Freeze);
    register(&mut machine);
    nmi(&mut machine);
    machine.turn_off(0);
    pass(&mut machine, LIMIT);
    assert_eq!(told(&machine), [(Rung::Event, Answer::Works)]);
    pass(&mut machine, 3 * LIMIT);
    assert_eq!((told(&machine), machine.nmis(1)), (vec![], 0));
}
