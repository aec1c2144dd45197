//! Any order of steps: no interrupt is lost, none is invented, none is in two list registers.

#[path = "support/machine.rs"]
mod machine;

use hv_core::id::IntId;
use machine::{EDGE, LEVEL, Machine, PULSE, SGIS, SPIS, TIMER, UART, VCPUS};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Interrupt(u8),
    Sync(u8),
    Acknowledge(u8),
    End(u8),
    Sgi(u8, u32, u16),
    Line(IntId, bool),
    Pulse,
    Level(IntId, u8, bool),
    Enable(u8, IntId, u8),
    Disable(u8, IntId, u8),
    SetPending(u8, IntId, u8),
    ClearPending(u8, IntId, u8),
    ClearActive(u8, IntId, u8),
    Route(u8, IntId, u8),
    Priority(u8, IntId, u8, u8),
    Group(u8, bool),
    Load(u8, IntId, u8),
    Poll(u8, IntId, u8),
    Kexec(u8),
    Reset(u8),
}

fn vcpu() -> impl Strategy<Value = u8> {
    0..VCPUS
}

fn spi() -> impl Strategy<Value = IntId> {
    prop::sample::select(&SPIS[..])
}

fn intid() -> impl Strategy<Value = IntId> {
    prop_oneof![2 => spi(), 1 => SGIS.prop_map(IntId), 1 => Just(TIMER)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => vcpu().prop_map(Step::Interrupt),
        8 => vcpu().prop_map(Step::Sync),
        12 => vcpu().prop_map(Step::Acknowledge),
        12 => vcpu().prop_map(Step::End),
        6 => (vcpu(), SGIS, 0u16..8).prop_map(|(from, n, to)| Step::Sgi(from, n, to)),
        6 => (prop::sample::select(&[UART, PULSE][..]), any::<bool>()).prop_map(|(it, on)| Step::Line(it, on)),
        6 => Just(Step::Pulse),
        6 => (prop::sample::select(&[TIMER, LEVEL][..]), vcpu(), any::<bool>())
            .prop_map(|(it, vcpu, on)| Step::Level(it, vcpu, on)),
        4 => (vcpu(), intid(), vcpu()).prop_map(|(me, it, of)| Step::Enable(me, it, of)),
        3 => (vcpu(), intid(), vcpu()).prop_map(|(me, it, of)| Step::Disable(me, it, of)),
        2 => (vcpu(), intid(), vcpu()).prop_map(|(me, it, of)| Step::SetPending(me, it, of)),
        1 => (vcpu(), intid(), vcpu()).prop_map(|(me, it, of)| Step::ClearPending(me, it, of)),
        1 => (vcpu(), intid(), vcpu()).prop_map(|(me, it, of)| Step::ClearActive(me, it, of)),
        3 => (vcpu(), spi(), vcpu()).prop_map(|(me, it, to)| Step::Route(me, it, to)),
        1 => (vcpu(), intid(), vcpu(), 0u8..16).prop_map(|(me, it, of, p)| Step::Priority(me, it, of, p << 4)),
        1 => (vcpu(), any::<bool>()).prop_map(|(me, on)| Step::Group(me, on)),
        1 => (vcpu(), intid(), vcpu()).prop_map(|(me, it, of)| Step::Load(me, it, of)),
        1 => (vcpu(), intid(), vcpu()).prop_map(|(me, it, of)| Step::Poll(me, it, of)),
        1 => vcpu().prop_map(Step::Kexec),
        1 => vcpu().prop_map(Step::Reset),
    ]
}

fn run(machine: &mut Machine, step: &Step) {
    match *step {
        Step::Interrupt(vcpu) => machine.interrupt(vcpu),
        Step::Sync(vcpu) => machine.sync(vcpu),
        Step::Acknowledge(vcpu) => drop(machine.acknowledge(vcpu)),
        Step::End(vcpu) => machine.end(vcpu),
        Step::Sgi(from, intid, targets) => machine.send_sgi(from, intid, targets),
        Step::Line(intid, level) => machine.set_line(intid, level),
        Step::Pulse => machine.pulse(),
        Step::Level(intid, vcpu, level) => machine.set_level(intid, vcpu, level),
        Step::Enable(me, intid, owner) => machine.enable(me, intid, owner),
        Step::Disable(me, intid, owner) => machine.disable(me, intid, owner),
        Step::SetPending(me, intid, owner) => machine.set_pending(me, intid, owner),
        Step::ClearPending(me, intid, owner) => machine.clear_pending(me, intid, owner),
        Step::ClearActive(me, intid, owner) => machine.clear_active(me, intid, owner),
        Step::Route(me, intid, target) => machine.route(me, intid, target),
        Step::Priority(me, intid, owner, priority) => {
            machine.set_priority(me, intid, owner, priority);
        }
        Step::Group(me, on) => machine.set_group1(me, on),
        Step::Load(me, intid, owner) => drop(machine.load_bit(me, 0x200, intid, owner)),
        Step::Poll(me, intid, owner) => machine.poll_active(me, intid, owner),
        Step::Kexec(vcpu) => machine.kexec(vcpu),
        Step::Reset(vcpu) => {
            machine.reset_vcpu(vcpu);
            machine.power_on(vcpu);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_interrupt_is_lost_and_none_is_invented(
        list_regs in 1usize..5,
        script in prop::collection::vec(step(), 0..120),
    ) {
        let mut machine = Machine::new(list_regs);
        for step in &script {
            run(&mut machine, step);
        }
        machine.drain();
        // And it goes on working.
        machine.pulse();
        machine.set_line(UART, true);
        machine.set_line(PULSE, true);
        for vcpu in 0..VCPUS {
            machine.set_level(TIMER, vcpu, true);
            machine.send_sgi(vcpu, 1, 0b111);
        }
        machine.set_level(LEVEL, 0, true);
        machine.drain();
    }
}

/// A script in which the same few private interrupts come, are taken and end over and over.
fn lively() -> impl Strategy<Value = Vec<Step>> {
    let round = (vcpu(), SGIS, any::<bool>()).prop_map(|(vcpu, sgi, timer)| {
        let raise = if timer {
            Step::Level(TIMER, vcpu, true)
        } else {
            Step::Sgi(vcpu, sgi, 1 << vcpu)
        };
        let mut steps = vec![raise, Step::Interrupt(vcpu), Step::Acknowledge(vcpu)];
        if timer {
            steps.push(Step::Level(TIMER, vcpu, false));
        }
        steps.push(Step::End(vcpu));
        steps
    });
    let steps = prop_oneof![3 => round, 1 => step().prop_map(|step| vec![step])];
    prop::collection::vec(steps, 0..60).prop_map(|steps| steps.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// What a guest acknowledges, step by step, does not depend on which way it came.
    #[test]
    fn the_short_way_leads_where_the_general_way_leads(
        list_regs in 1usize..5,
        script in lively(),
    ) {
        let mut short = Machine::new(list_regs);
        let mut general = Machine::new(list_regs).without_short_way();
        for step in &script {
            // The same in both: what a vCPU does next depends on nothing but what it has seen.
            run(&mut short, step);
            run(&mut general, step);
            prop_assert_eq!(short.acknowledged(), general.acknowledged(), "after {:?}", step);
        }
        prop_assert_eq!(general.reseated(), 0);
        short.drain();
        general.drain();
        prop_assert_eq!(short.acknowledged(), general.acknowledged());
    }
}

/// The short way is taken: else the properties above would say nothing about it.
#[test]
fn an_interrupt_that_comes_again_goes_the_short_way() {
    let mut machine = Machine::new(4);
    for round in 0..10 {
        for raise in [Step::Level(TIMER, 1, true), Step::Sgi(0, 2, 0b10)] {
            run(&mut machine, &raise);
            machine.interrupt(1);
            assert!(machine.acknowledge(1).is_some(), "round {round}");
            machine.set_level(TIMER, 1, false);
            machine.end(1);
        }
    }
    // All but the first of each, which goes into an unused list register beside the other.
    assert_eq!(machine.reseated(), 18);
    machine.drain();
}

/// From each stage of an interrupt's life, every script of three steps.
#[test]
fn every_short_script_from_every_stage_loses_nothing() {
    for intid in [EDGE, LEVEL, UART, PULSE, TIMER] {
        let raise = |on| match intid {
            EDGE => Step::Pulse,
            UART | PULSE => Step::Line(intid, on),
            _ => Step::Level(intid, 0, on),
        };
        let steps = [
            raise(true),
            raise(false),
            Step::Interrupt(0),
            Step::Acknowledge(0),
            Step::End(0),
            Step::Disable(1, intid, 0),
            Step::Enable(1, intid, 0),
            Step::SetPending(1, intid, 0),
            if intid.is_spi() {
                Step::Route(1, intid, 1)
            } else {
                Step::Reset(0)
            },
        ];
        let mut stage = Machine::new(1);
        for next in [raise(true), Step::Interrupt(0), Step::Acknowledge(0)] {
            for script in 0..steps.len().pow(3) {
                let mut machine = stage.clone();
                for place in 0..3 {
                    let index = script / steps.len().pow(place) % steps.len();
                    run(&mut machine, &steps[index]);
                }
                machine.drain();
            }
            run(&mut stage, &next);
        }
    }
}
