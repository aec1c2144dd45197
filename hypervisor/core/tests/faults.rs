//! A guest that does nothing any more but fault, on a machine in memory: it has crashed once, and what comes after it has not.

use hv_abi::console::RS;
use hv_abi::operator::{Request, Verb};
use hv_abi::policy::{After, Policy};
use hv_abi::watchdog::Act;
use hv_core::vm::{IpaRange, Kernel, panic_event as event};
use hv_core::watch::Config;
use hv_testbed::{Built, Exit, Machine, PVPANIC};

/// Nothing is there.
const NOWHERE: u64 = 0x200_0000;
/// Where an exception of EL1's own goes, as VBAR_EL1 is 0 (DDI0487 D1.3.1).
const VECTOR: u64 = 0x200;
const LIMIT: u64 = 40;
/// More aborts than make an endless fault.
const MANY: u32 = 100_001;

const HELD: IpaRange = IpaRange {
    start: 0x7000_0000,
    size: 0x0400_0000,
};

/// Two vCPUs that are on, and a watchdog, whose looks are alarms.
fn machine(on_crash: Option<After>) -> Machine {
    let built = Built {
        held: HELD,
        policy: Policy {
            on_crash,
            ..Policy::USUAL
        },
        watchdog: Some(Config {
            limit: LIMIT,
            one: Act::Report,
            all: Act::Report,
        }),
        ..Built::new(2)
    };
    let mut machine = built.start();
    machine.turn_on(0, 1);
    machine.settle();
    machine
}

/// vCPU `n` loads from nowhere, again and again.
fn fault(machine: &mut Machine, n: u8, times: u32) {
    let start = machine.regs(n).clone();
    for _ in 0..times {
        *machine.regs(n) = start.clone();
        let _ = machine.load(n, NOWHERE, 4);
        assert_eq!(machine.regs(n).pc, VECTOR);
    }
    *machine.regs(n) = start;
}

/// A look at each vCPU, and what comes of it.
fn look(machine: &mut Machine) {
    machine.wait(LIMIT / 4);
    machine.settle();
    machine.finish_end();
    machine.settle();
}

fn ask(machine: &mut Machine, id: u32, verb: Verb) {
    let request = Request::new(id, verb, 0, 0);
    for byte in [RS, b'@'].into_iter().chain(format!("{request}\n").bytes()) {
        machine.receive(byte);
    }
    machine.interrupt(0);
    machine.finish_end();
    machine.settle();
}

#[test]
fn a_guest_whose_vcpus_all_fault_has_crashed_once() {
    for (after, next) in [
        (After::Restart, Kernel::Guest),
        (After::Dump, Kernel::Capture),
    ] {
        let mut machine = machine(Some(after));
        fault(&mut machine, 0, MANY);
        look(&mut machine);
        assert_eq!(machine.loaded(), [Kernel::Guest], "vCPU 1 goes on");
        fault(&mut machine, 1, MANY);
        fault(&mut machine, 0, 1);
        look(&mut machine);
        assert_eq!(machine.loaded(), [Kernel::Guest, next], "{after:?}");
        // What runs now has done nothing yet.
        for _ in 0..10 {
            look(&mut machine);
        }
        assert_eq!(machine.loaded(), [Kernel::Guest, next], "{after:?}");
        assert_eq!([machine.is_on(0), machine.is_on(1)], [true, false]);
    }
}

#[test]
fn the_capture_kernel_of_a_guest_that_faulted_is_not_taken_for_it() {
    let mut machine = machine(None);
    for n in [0, 1] {
        fault(&mut machine, n, MANY);
    }
    look(&mut machine);
    assert_eq!(machine.loaded(), [Kernel::Guest], "it is left as it is");
    ask(&mut machine, 1, Verb::Dump);
    let both = [Kernel::Guest, Kernel::Capture];
    assert_eq!(machine.loaded(), both);
    for _ in 0..10 {
        look(&mut machine);
    }
    assert_eq!(machine.loaded(), both);
}

#[test]
fn a_vcpu_that_has_left_its_faults_behind_does_not_count() {
    let mut machine = machine(Some(After::Stop));
    fault(&mut machine, 0, MANY);
    look(&mut machine);
    // It goes on, and is off and on besides.
    look(&mut machine);
    fault(&mut machine, 1, MANY);
    look(&mut machine);
    assert_eq!(machine.finished(), []);
    fault(&mut machine, 0, 1);
    // The next access is another.
    machine.regs(0).pc += 4;
    fault(&mut machine, 0, 1);
    look(&mut machine);
    assert_eq!(machine.finished(), []);
    machine.turn_off(1);
    machine.turn_on(0, 1);
    machine.settle();
    fault(&mut machine, 0, MANY);
    look(&mut machine);
    assert_eq!(machine.finished(), [], "vCPU 1 has begun anew");
    fault(&mut machine, 1, MANY);
    fault(&mut machine, 0, 1);
    look(&mut machine);
    assert_eq!(machine.finished(), [After::Stop]);
}

#[test]
fn a_panic_that_no_syndrome_describes_ends_the_guest_all_the_same() {
    let built = Built {
        has_pvpanic: true,
        policy: Policy {
            on_crash: Some(After::Stop),
            ..Policy::USUAL
        },
        ..Built::new(1)
    };
    let mut machine = built.start();
    machine.stand_at(0, 0x3800_1420); // strb w0, [x1], #1
    machine.regs(0).x[..2].copy_from_slice(&[event::PANICKED.into(), 0]);
    // A data abort from EL1, of a write, a translation fault of level 3, without ISV (DDI0487 D24.2, ESR_EL2).
    machine.exit(
        0,
        Exit::Synchronous {
            esr: 0x24 << 26 | 1 << 25 | 1 << 6 | 0b00_0111,
            far: 0,
            hpfar: PVPANIC >> 12 << 4,
        },
    );
    machine.finish_end();
    machine.settle();
    assert_eq!(machine.finished(), [After::Stop]);
}
