//! The watchdog over a guest, on a machine in memory: a vCPU is called wedged when it has not taken an interrupt for the limit, and
//! never while it takes them.

mod company;

use hv_abi::watchdog::Act;
use hv_core::id::IntId;
use hv_core::vgic::Model;
use hv_core::watch::{Config, Health};
use hv_testbed::{Built, DISTRIBUTOR, Machine, Place, REDISTRIBUTORS, SGI_FRAME, Told};

const TIMER: IntId = IntId(27);
const LIMIT: u64 = 40;
const LOOK: u64 = LIMIT / 4;

const D: u64 = 1 << 9;
const A: u64 = 1 << 8;
const I: u64 = 1 << 7;
const F: u64 = 1 << 6;

const EVENT_REGISTER: u32 = 0xc400_0021;
const EVENT_ENABLE: u32 = 0xc400_0022;
const EVENT_COMPLETE: u32 = 0xc400_0025;
const PE_UNMASK: u32 = 0xc400_002c;
const EVENT_SIGNAL: u32 = 0xc400_002f;
const WFI: u32 = 0xd503_207f;

/// Three vCPUs, all of their interrupts enabled, PSTATE as Linux has it at rest.
fn machine(model: Model, one: Act, all: Act) -> Machine {
    let built = Built {
        model,
        passed_through: vec![TIMER],
        watchdog: Some(Config {
            limit: LIMIT,
            one,
            all,
        }),
        ..Built::new(3)
    };
    let mut machine = built.start();
    for vcpu in [1, 2] {
        machine.turn_on(0, vcpu);
    }
    machine.store(0, DISTRIBUTOR, 4, 3);
    for vcpu in 0..3 {
        let own = match model {
            Model::V3 => REDISTRIBUTORS + u64::from(vcpu) * 0x2_0000 + SGI_FRAME,
            Model::V2 { .. } => DISTRIBUTOR,
        };
        machine.store(vcpu, own + 0x80, 4, 0xffff_ffff);
        machine.store(vcpu, own + 0x100, 4, 0xffff_ffff);
        mask(&mut machine, vcpu, 0);
    }
    machine.settle();
    machine
}

fn v3() -> Machine {
    machine(Model::V3, Act::Report, Act::Report)
}

const MODELS: [Model; 3] = [
    Model::V3,
    Model::V2 { resamples: false },
    Model::V2 { resamples: true },
];

fn mask(machine: &mut Machine, n: u8, bits: u64) {
    let mut regs = machine.regs(n);
    regs.pstate = regs.pstate & !(D | A | I | F) | bits;
}

/// Time passes, and everybody takes what comes.
fn pass(machine: &mut Machine, ticks: u64) {
    for _ in 0..ticks {
        machine.wait(1);
        machine.settle();
    }
}

fn send(machine: &mut Machine, from: u8, intid: u32, to: u8, model: Model) {
    match model {
        Model::V3 => machine.send_sgi(from, intid, 1 << to),
        Model::V2 { .. } => {
            let word = 1 << (16 + u32::from(to)) | intid;
            machine.store(from, DISTRIBUTOR + 0xf00, 4, word.into());
        }
    }
    machine.settle();
}

fn timer(machine: &mut Machine, n: u8, level: bool) {
    machine.physical().wire_mut(TIMER, n).level = level;
    machine.settle();
}

/// A vCPU, how it is, and what is done.
type Said = (u8, Health, Option<(Act, bool)>);

/// What the watchdog has said.
fn told(machine: &Machine) -> Vec<Said> {
    let all = machine.answers().into_iter();
    let of_health = all.filter_map(|told| match told {
        Told::Health {
            vcpu, health, done, ..
        } => Some((vcpu, health, done)),
        _ => None,
    });
    of_health.collect()
}

const REPORTED: Option<(Act, bool)> = Some((Act::Report, false));

#[test]
fn a_vcpu_that_masks_its_interrupts_for_the_limit_is_wedged_at_the_limit_and_one_look() {
    for model in MODELS {
        for offset in 0..LOOK {
            let mut machine = machine(model, Act::Report, Act::Report);
            pass(&mut machine, LOOK + offset);
            mask(&mut machine, 1, I | F);
            timer(&mut machine, 1, true);
            pass(&mut machine, LIMIT - 1);
            assert_eq!(told(&machine), [], "{model:?} {offset}");
            let mut waited = LIMIT - 1;
            let said = loop {
                pass(&mut machine, 1);
                waited += 1;
                let said = told(&machine);
                if !said.is_empty() {
                    break said;
                }
                assert!(waited <= LIMIT + LOOK, "{model:?} {offset}");
            };
            assert_eq!(said, [(1, Health::Wedged, REPORTED)]);
            // Once.
            pass(&mut machine, 3 * LIMIT);
            assert_eq!(told(&machine), []);
            // It takes it, and is seen to.
            mask(&mut machine, 1, 0);
            assert!(machine.acknowledge(1).is_some());
            timer(&mut machine, 1, false);
            machine.end(1);
            pass(&mut machine, LOOK);
            assert_eq!(told(&machine), [(1, Health::Alive, None)]);
        }
    }
}

#[test]
fn what_the_guest_should_not_take_is_not_waited_for() {
    // A mask, and nothing that it keeps off.
    let mut machine = v3();
    mask(&mut machine, 1, D | A | I | F);
    pass(&mut machine, 3 * LIMIT);
    assert_eq!(told(&machine), []);
    // The groups are off at the CPU interface.
    machine.interface(1).set_on(false);
    timer(&mut machine, 1, true);
    pass(&mut machine, 3 * LIMIT);
    assert_eq!(told(&machine), []);
}

#[test]
fn the_priority_mask_and_a_handler_without_end_keep_interrupts_off_as_well() {
    for by_priority in [true, false] {
        let mut machine = v3();
        if by_priority {
            machine.interface(1).set_mask(0);
        } else {
            send(&mut machine, 0, 1, 1, Model::V3);
            assert!(machine.acknowledge(1).is_some());
        }
        send(&mut machine, 0, 2, 1, Model::V3);
        pass(&mut machine, LIMIT + LOOK);
        assert_eq!(told(&machine), [(1, Health::Wedged, REPORTED)]);
    }
}

#[test]
fn a_vcpu_that_its_siblings_never_leave_alone_is_wedged_all_the_same() {
    for model in MODELS {
        let mut machine = machine(model, Act::Report, Act::Report);
        mask(&mut machine, 1, I | F);
        for _ in 0..LIMIT + LOOK {
            // Each has the list registers folded, as it waits already.
            send(&mut machine, 0, 3, 1, model);
            send(&mut machine, 2, 3, 1, model);
            let _ = machine.load(1, DISTRIBUTOR + 4, 4);
            pass(&mut machine, 1);
        }
        let wedged = (1, Health::Wedged, REPORTED);
        assert_eq!(told(&machine), [wedged], "{model:?}");
    }
}

#[test]
fn what_is_meant_is_stopped_and_disarms_what_is_done_about_one() {
    for parked in [true, false] {
        let mut machine = machine(Model::V3, Act::Nmi, Act::Nmi);
        if parked {
            // As Linux parks a CPU that it has stopped: everything masked, at WFI.
            mask(&mut machine, 1, D | A | I | F);
            machine.stand_at(1, WFI);
        } else {
            let registered = machine.call(1, EVENT_REGISTER, &[0, 0x4000_1000, 0, 0, 0]);
            assert_eq!(registered, 0);
            assert_eq!(machine.call(1, EVENT_ENABLE, &[0]), 0);
            assert_eq!(machine.call(1, PE_UNMASK, &[]), 0);
            assert_eq!(machine.call(0, EVENT_SIGNAL, &[0, 1]), 0);
            machine.settle();
        }
        timer(&mut machine, 1, true);
        pass(&mut machine, LIMIT + LOOK);
        assert_eq!(told(&machine), [(1, Health::Stopped, None)]);
        // Another that is wedged then is told, and no more.
        mask(&mut machine, 2, I | F);
        timer(&mut machine, 2, true);
        pass(&mut machine, LIMIT + LOOK);
        assert_eq!(told(&machine), [(2, Health::Wedged, REPORTED)]);
        // Nor are all wedged when this one is.
        mask(&mut machine, 0, I | F);
        timer(&mut machine, 0, true);
        pass(&mut machine, LIMIT + LOOK);
        assert_eq!(told(&machine), [(0, Health::Wedged, REPORTED)]);
        assert_eq!([0, 1, 2].map(|n| machine.nmis(n)), [0; 3]);
        if !parked {
            // The handler ends, and what has waited meanwhile is taken.
            machine.call(1, EVENT_COMPLETE, &[0]);
            pass(&mut machine, LIMIT - 1);
            assert_eq!(told(&machine), [(1, Health::Alive, None)]);
            assert!(machine.acknowledge(1).is_some());
        }
    }
}

#[test]
fn one_and_all_have_what_is_said_for_them_done_once() {
    let mut machine = machine(Model::V3, Act::Report, Act::Nmi);
    let wedge = |machine: &mut Machine, n: u8, bits| {
        mask(machine, n, bits);
        timer(machine, n, true);
        pass(machine, LIMIT + LOOK);
        told(machine)
    };
    assert_eq!(
        wedge(&mut machine, 1, I | F),
        [(1, Health::Wedged, REPORTED)]
    );
    assert_eq!(
        wedge(&mut machine, 0, I | F),
        [(0, Health::Wedged, REPORTED)]
    );
    // The last would not take an SError: the first that would gets it.
    let all = Some((Act::Nmi, true));
    assert_eq!(
        wedge(&mut machine, 2, A | I | F),
        [(2, Health::Wedged, all)]
    );
    assert_eq!([0, 1, 2].map(|n| machine.nmis(n)), [1, 0, 0]);
    pass(&mut machine, 3 * LIMIT);
    assert_eq!(told(&machine), []);
    assert_eq!(machine.nmis(0), 1);
}

#[test]
fn a_vcpu_that_is_off_is_not_waited_for() {
    let mut machine = machine(Model::V3, Act::Report, Act::Nmi);
    machine.turn_off(2);
    for n in [0, 1] {
        mask(&mut machine, n, I | F);
        timer(&mut machine, n, true);
    }
    pass(&mut machine, LIMIT + LOOK);
    let said = told(&machine);
    assert_eq!(said.len(), 2, "{said:?}");
    let (_, health, done) = said[1];
    assert_eq!((health, done), (Health::Wedged, Some((Act::Nmi, true))));
}

#[test]
fn a_frozen_guest_is_not_late() {
    let mut machine = machine(Model::V3, Act::Freeze, Act::Freeze);
    mask(&mut machine, 1, I | F);
    timer(&mut machine, 1, true);
    pass(&mut machine, LIMIT + LOOK);
    let freeze = Some((Act::Freeze, false));
    assert_eq!(told(&machine), [(1, Health::Wedged, freeze)]);
    assert_eq!([0, 1, 2].map(|n| machine.place(n)), [Place::Asleep; 3]);
    timer(&mut machine, 2, true);
    pass(&mut machine, 3 * LIMIT);
    assert_eq!(told(&machine), []);
}

#[test]
fn a_reset_and_an_off_end_the_guest_and_the_next_is_watched_anew() {
    let mut machine = machine(Model::V3, Act::Reset, Act::Off);
    mask(&mut machine, 1, I | F);
    timer(&mut machine, 1, true);
    for _ in 0..LIMIT + LOOK {
        machine.wait(1);
        machine.settle();
        machine.finish_end();
    }
    let reset = Some((Act::Reset, false));
    assert_eq!(told(&machine), [(1, Health::Wedged, reset)]);
    assert!(machine.is_on(0) && !machine.is_on(1));
    timer(&mut machine, 1, false);
    pass(&mut machine, 3 * LIMIT);
    assert_eq!(told(&machine), []);
}

#[test]
fn without_a_watchdog_there_is_no_alarm() {
    let mut machine = Built::new(1).start();
    let entries = machine.entries(0);
    pass(&mut machine, 1000);
    assert_eq!(machine.entries(0), entries);
}
