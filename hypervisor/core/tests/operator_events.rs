//! The operator raises SDEI events that the VM's configuration defines, and no others.

use hv_abi::console::RS;
use hv_abi::operator::{Request, Verb};
use hv_abi::sdei::{Definition, Priority, Scope};
use hv_core::sdei;
use hv_core::vm::Stand;
use hv_testbed::{Built, Machine, RAM, Told};

const EVENT_REGISTER: u32 = 0xc400_0021;
const EVENT_ENABLE: u32 = 0xc400_0022;
const PE_UNMASK: u32 = 0xc400_002c;

const PRIVATE: u32 = 0x100;
const SHARED: u32 = 0x200;

static EVENTS: [Definition; 2] = [
    Definition {
        number: PRIVATE,
        scope: Scope::Private,
        priority: Priority::Normal,
    },
    Definition {
        number: SHARED,
        scope: Scope::Shared,
        priority: Priority::Normal,
    },
];

/// The handler of vCPU `n`.
fn entry(n: u8) -> u64 {
    RAM.start + 0x1000 * (1 + u64::from(n))
}

/// Two vCPUs that have registered the private event, the shared one routed to vCPU 1, and one that is off.
fn machine() -> Machine {
    let mut built = Built::new(3);
    built.sdei = sdei::Config {
        events: &EVENTS,
        ..built.sdei
    };
    let mut machine = built.start();
    machine.turn_on(0, 1);
    for n in [0, 1] {
        let registered = machine.call(n, EVENT_REGISTER, &[PRIVATE.into(), entry(n), 0, 0, 0]);
        assert_eq!(registered, 0);
        assert_eq!(machine.call(n, EVENT_ENABLE, &[PRIVATE.into()]), 0);
    }
    // Routed to the PE whose affinity is 1 (DEN0054 5.1.2).
    let arguments = [SHARED.into(), entry(2), 0, 1, 1];
    assert_eq!(machine.call(0, EVENT_REGISTER, &arguments), 0);
    assert_eq!(machine.call(0, EVENT_ENABLE, &[SHARED.into()]), 0);
    for n in [0, 1] {
        assert_eq!(machine.call(n, PE_UNMASK, &[]), 0);
    }
    machine.settle();
    machine
}

fn raise(machine: &mut Machine, id: u32, event: u32, vcpu: u8) -> Vec<Told> {
    let request = Request {
        event,
        ..Request::new(id, Verb::Raise, 0, vcpu)
    };
    for byte in [RS, b'@'].into_iter().chain(format!("{request}\n").bytes()) {
        machine.receive(byte);
    }
    machine.settle();
    machine.answers()
}

fn is_unknown(told: &[Told]) -> bool {
    matches!(
        told,
        [Told::Vm {
            is_unknown: true,
            ..
        }]
    )
}

fn stand(told: &[Told]) -> Option<(u8, Stand)> {
    told.iter().find_map(|told| match told {
        Told::Vcpu { vcpu, stand, .. } => Some((*vcpu, *stand)),
        _ => None,
    })
}

#[test]
fn a_private_event_is_taken_by_its_vcpu_and_raised_once() {
    let mut machine = machine();
    let before = machine.regs(0).pc;
    let told = raise(&mut machine, 1, PRIVATE, 1);
    assert_eq!(stand(&told), Some((1, Stand::On)));
    assert_eq!(machine.regs(1).pc, entry(1));
    assert_eq!(machine.regs(0).pc, before, "vCPU 0 was not asked");
    // The handler is elsewhere by now, and the repetition is answered and not done.
    machine.regs(1).pc = entry(1) + 8;
    let told = raise(&mut machine, 1, PRIVATE, 1);
    assert!(matches!(told[0], Told::Vm { is_again: true, .. }));
    assert_eq!(stand(&told), Some((1, Stand::On)));
    assert_eq!(machine.regs(1).pc, entry(1) + 8);
}

#[test]
fn a_shared_event_goes_where_the_guest_has_routed_it() {
    let mut machine = machine();
    let before = machine.regs(0).pc;
    let told = raise(&mut machine, 1, SHARED, 0);
    assert_eq!(stand(&told), Some((0, Stand::On)));
    assert_eq!(machine.regs(0).pc, before);
    assert_eq!(machine.regs(1).pc, entry(2));
}

#[test]
fn what_is_not_configured_or_not_there_is_not_raised() {
    let mut machine = machine();
    let before = [0, 1].map(|n| machine.regs(n).pc);
    for (id, event, vcpu) in [(1, 0, 0), (2, 0x101, 1), (3, PRIVATE, 3), (4, SHARED, 9)] {
        let told = raise(&mut machine, id, event, vcpu);
        assert!(is_unknown(&told), "{event:#x} on vCPU {vcpu}: {told:?}");
        // A repetition is told the same.
        let told = raise(&mut machine, id, event, vcpu);
        assert!(is_unknown(&told), "{event:#x} on vCPU {vcpu}: {told:?}");
    }
    let told = raise(&mut machine, 5, PRIVATE, 2);
    assert_eq!(stand(&told), Some((2, Stand::Off)));
    assert_eq!([0, 1].map(|n| machine.regs(n).pc), before);
    // What was raised on it while it was off is gone.
    machine.turn_on(0, 2);
    let start = machine.regs(2).pc;
    machine.settle();
    assert_eq!(machine.regs(2).pc, start);
}
