//! A guest's clock over pauses, against a machine in memory.

use hv_abi::console::RS;
use hv_abi::operator::{Request, Verb};
use hv_testbed::{Built, Machine, RAM, Told};

const CPU_ON: u32 = 0xc400_0003;

fn say(machine: &mut Machine, id: u32, verb: Verb) {
    let request = Request::new(id, verb, 0, 0);
    for byte in [RS, b'@'].into_iter().chain(format!("{request}\n").bytes()) {
        machine.receive(byte);
    }
}

/// What is said of the VM, when everybody has had time for what is asked.
fn ask(machine: &mut Machine, id: u32, verb: Verb) -> Option<bool> {
    say(machine, id, verb);
    machine.settle();
    machine.answers().into_iter().find_map(|told| match told {
        Told::Vm {
            id: of, is_held, ..
        } if of == id => Some(is_held),
        _ => None,
    })
}

/// Three vCPUs that are on and one that is off.
fn machine() -> Machine {
    let mut machine = Built::new(4).start();
    machine.turn_on(0, 1);
    machine.turn_on(0, 2);
    machine
}

fn counters(machine: &Machine) -> [u64; 3] {
    [0, 1, 2].map(|n| machine.virtual_counter(n))
}

fn masked(machine: &Machine) -> [bool; 3] {
    [0, 1, 2].map(|n| machine.is_timer_masked(n))
}

#[test]
fn it_stands_still_on_all_vcpus_alike_while_a_pause_holds_it() {
    let mut machine = machine();
    machine.wait(1000);
    let before = machine.virtual_counter(0);
    say(&mut machine, 1, Verb::FreezeClock);
    machine.interrupt(0);
    machine.wait(10);
    machine.interrupt(1);
    assert_eq!(masked(&machine), [true, true, false]);
    // The last is still in the guest, and reads what it reads.
    machine.wait(10);
    assert!(machine.is_on(2));
    let last = machine.virtual_counter(2);
    assert_eq!(last, before + 20);
    machine.settle();
    assert_eq!(masked(&machine), [true; 3]);
    machine.wait(5000);
    assert_eq!(ask(&mut machine, 2, Verb::Status), Some(true));
    assert_eq!(ask(&mut machine, 3, Verb::Thaw), Some(false));
    assert_eq!(counters(&machine), [last; 3]);
    assert_eq!(masked(&machine), [false; 3]);
    // Who is switched on after that reads the same.
    machine.wait(7);
    let _ = machine.call(2, CPU_ON, &[3, RAM.start, 0]);
    machine.settle();
    assert!(machine.is_on(3));
    assert_eq!(machine.virtual_counter(3), last + 7);
}

#[test]
fn it_runs_on_while_a_pause_does_not_hold_it() {
    let mut machine = machine();
    assert_eq!(ask(&mut machine, 1, Verb::Freeze), Some(false));
    assert_eq!(masked(&machine), [false; 3]);
    machine.wait(5000);
    let _ = ask(&mut machine, 2, Verb::Thaw);
    assert_eq!(counters(&machine), [machine.now(); 3]);
    // A pause that is there already is held from then on.
    let _ = ask(&mut machine, 3, Verb::Freeze);
    machine.wait(100);
    assert_eq!(ask(&mut machine, 4, Verb::FreezeClock), Some(true));
    assert_eq!(masked(&machine), [true; 3]);
    machine.wait(30);
    // And stays so.
    let _ = ask(&mut machine, 5, Verb::Freeze);
    machine.wait(30);
    let _ = ask(&mut machine, 6, Verb::Thaw);
    assert_eq!(counters(&machine), [machine.now() - 60; 3]);
    assert_eq!(masked(&machine), [false; 3]);
}

#[test]
fn who_is_off_or_switches_itself_off_keeps_nobody() {
    let mut machine = machine();
    say(&mut machine, 1, Verb::FreezeClock);
    machine.interrupt(0);
    machine.interrupt(1);
    machine.wait(10);
    machine.turn_off(2);
    let left = machine.virtual_counter(0);
    machine.settle();
    machine.wait(500);
    let _ = ask(&mut machine, 2, Verb::Thaw);
    assert_eq!(machine.virtual_counter(0), left);
    assert_eq!(machine.virtual_counter(1), left);
}

#[test]
fn a_guest_that_is_loaded_anew_has_a_new_clock() {
    let mut machine = machine();
    let _ = ask(&mut machine, 1, Verb::FreezeClock);
    machine.wait(500);
    let _ = ask(&mut machine, 2, Verb::Thaw);
    assert!(machine.virtual_counter(0) < machine.now());
    let _ = ask(&mut machine, 3, Verb::FreezeClock);
    say(&mut machine, 4, Verb::Reset);
    machine.interrupt(0);
    machine.finish_end();
    machine.settle();
    assert!(machine.is_on(0));
    assert_eq!(machine.virtual_counter(0), machine.now());
    assert!(!machine.is_timer_masked(0));
    assert_eq!(ask(&mut machine, 5, Verb::Status), Some(false));
}
