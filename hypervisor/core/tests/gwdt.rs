//! A guest's own watchdog, against a machine in memory: who looks, whom its signals reach, and what is done.

use hv_abi::console::RS;
use hv_abi::operator::{Request, Verb};
use hv_abi::watchdog::Act;
use hv_core::id::IntId;
use hv_core::vm::GwdtConfig;
use hv_testbed::{Built, DISTRIBUTOR, GWDT, Machine, Told};

const INTID: IntId = IntId(64);
const CONTROL: u64 = GWDT[0].start;
const REFRESH: u64 = GWDT[1].start;
const WCS: u64 = CONTROL;
const WOR: u64 = CONTROL + 0x8;
const WCV: u64 = CONTROL + 0x10;
/// WCS.EN, WCS.WS0.
const EN: u64 = 1;
const WS0: u64 = 2;

fn machine(act: Act) -> Machine {
    let mut built = Built::new(3);
    built.gwdt = Some(GwdtConfig { intid: INTID, act });
    let mut machine = built.start();
    machine.turn_on(0, 1);
    // The interrupt goes to vCPU 0: GICD_IGROUPR, GICD_ISENABLER, GICD_CTLR (IHI0069 12.9).
    machine.store(0, DISTRIBUTOR + 0x80 + 8, 4, 1);
    machine.store(0, DISTRIBUTOR + 0x100 + 8, 4, 1);
    machine.store(0, DISTRIBUTOR, 4, 0b10);
    machine.settle();
    machine
}

/// vCPU `n` sets it to 100 ticks, and switches it on.
fn switch_on(machine: &mut Machine, n: u8) {
    machine.store(n, WOR, 4, 100);
    machine.store(n, WCS, 4, EN);
}

/// Time passes, and everybody looks who is to.
fn wait(machine: &mut Machine, ticks: u64) {
    machine.wait(ticks);
    machine.settle();
}

fn ask(machine: &mut Machine, id: u32, verb: Verb) {
    let request = Request::new(id, verb, 0, 0);
    for byte in [RS, b'@'].into_iter().chain(format!("{request}\n").bytes()) {
        machine.receive(byte);
    }
    machine.settle();
}

/// What was done at second signals since this was asked last.
fn acts(machine: &Machine) -> Vec<Act> {
    let act = |told| match told {
        Told::Gwdt { act, .. } => Some(act),
        _ => None,
    };
    machine.answers().into_iter().filter_map(act).collect()
}

fn status(machine: &mut Machine) -> u64 {
    machine.load(0, WCS, 4).unwrap()
}

#[test]
fn the_first_signal_is_an_interrupt_until_the_guest_refreshes_it() {
    let mut machine = machine(Act::Report);
    switch_on(&mut machine, 1);
    wait(&mut machine, 100);
    assert_eq!(status(&mut machine), EN);
    assert_eq!(machine.acknowledge(0).map(|taken| taken.intid), None);
    wait(&mut machine, 1);
    assert_eq!(status(&mut machine), EN | WS0);
    let taken = machine.acknowledge(0).expect("an interrupt");
    assert_eq!(taken.intid, INTID);
    // A doubleword is its two words.
    let now = machine.now();
    assert_eq!(machine.load(0, WCV, 8), Some(now + 100));
    // Another vCPU refreshes it, and looks from then on.
    machine.wait(99);
    machine.store(0, REFRESH, 4, 0);
    assert_eq!(status(&mut machine), EN);
    wait(&mut machine, 100);
    assert_eq!(status(&mut machine), EN);
    machine.turn_off(1);
    wait(&mut machine, 1);
    assert_eq!(status(&mut machine), EN | WS0);
    assert_eq!(acts(&machine), []);
}

#[test]
fn the_second_signal_is_answered_once_until_the_guest_is_loaded_again() {
    let mut machine = machine(Act::Report);
    switch_on(&mut machine, 1);
    wait(&mut machine, 101);
    wait(&mut machine, 101);
    assert_eq!(acts(&machine), [Act::Report]);
    // A guest does not have us talk without end.
    machine.store(1, REFRESH, 4, 0);
    wait(&mut machine, 101);
    wait(&mut machine, 101);
    assert_eq!(acts(&machine), []);
    ask(&mut machine, 1, Verb::Reset);
    machine.finish_end();
    machine.settle();
    let _ = machine.answers();
    assert_eq!(status(&mut machine), 0, "it is off again");
    switch_on(&mut machine, 0);
    wait(&mut machine, 101);
    wait(&mut machine, 101);
    assert_eq!(acts(&machine), [Act::Report]);
}

#[test]
fn who_has_switched_itself_off_looks_still() {
    let mut machine = machine(Act::Nmi);
    switch_on(&mut machine, 1);
    machine.turn_off(1);
    wait(&mut machine, 101);
    assert_eq!(status(&mut machine), EN | WS0);
    wait(&mut machine, 101);
    assert_eq!(acts(&machine), [Act::Nmi]);
    assert_eq!([machine.nmis(0), machine.nmis(1)], [1, 0]);
}

#[test]
fn a_guest_that_is_given_up_is_reset_frozen_or_switched_off() {
    for act in [Act::Reset, Act::Freeze, Act::Off] {
        let mut machine = machine(act);
        switch_on(&mut machine, 1);
        wait(&mut machine, 101);
        machine.wait(101);
        machine.interrupt(1);
        if act != Act::Freeze {
            machine.finish_end();
        }
        machine.settle();
        assert_eq!(acts(&machine), [act]);
        let on = [machine.is_on(0), machine.is_on(1)];
        assert_eq!(on, [act == Act::Reset, false], "{act:?}");
        if act == Act::Freeze {
            ask(&mut machine, 1, Verb::Thaw);
            assert!(machine.is_on(0) && machine.is_on(1));
        }
    }
}

#[test]
fn no_signal_comes_while_the_vm_is_paused() {
    for (freeze, is_late) in [(Verb::Freeze, true), (Verb::FreezeClock, false)] {
        for is_keeper_off in [false, true] {
            let mut machine = machine(Act::Report);
            switch_on(&mut machine, 1);
            if is_keeper_off {
                machine.turn_off(1);
            }
            ask(&mut machine, 1, freeze);
            for _ in 0..5 {
                wait(&mut machine, 150);
            }
            ask(&mut machine, 2, Verb::Thaw);
            // Where its clock has run on, the first is due.
            let expected = if is_late { EN | WS0 } else { EN };
            assert_eq!(status(&mut machine), expected, "{freeze:?} {is_keeper_off}");
            wait(&mut machine, 101);
            assert_eq!(acts(&machine).len(), usize::from(is_late));
            assert_eq!(status(&mut machine) & WS0, WS0);
        }
    }
}

#[test]
fn nobody_looks_after_the_guest_has_ended() {
    let mut machine = machine(Act::Report);
    switch_on(&mut machine, 1);
    ask(&mut machine, 1, Verb::Off);
    machine.finish_end();
    machine.settle();
    assert_eq!([0, 1].map(|n| machine.is_on(n)), [false; 2]);
    wait(&mut machine, 500);
    assert_eq!(machine.alarm(1), None);
    assert_eq!(acts(&machine), []);
}
