//! A guest that is dumped: its registers are kept, its capture kernel runs beside it, and it starts anew.

use hv_abi::console::RS;
use hv_abi::operator::{Request, Verb};
use hv_abi::policy::{After, Policy};
use hv_core::id::VcpuId;
use hv_core::vm::{IpaRange, Kernel, Refusal};
use hv_testbed::{Built, Machine, RAM, Told};

const CPU_ON: u32 = 0xc400_0003;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
/// INVALID_ADDRESS, as x0 has it.
const INVALID_ADDRESS: u64 = -9_i64 as u64;

const HELD: IpaRange = IpaRange {
    start: 0x7000_0000,
    size: 0x0400_0000,
};

/// Four vCPUs, of which vCPU 3 is off.
fn machine(held: IpaRange, policy: Policy) -> Machine {
    let mut machine = Built {
        held,
        policy,
        ..Built::new(4)
    }
    .start();
    for target in [1, 2] {
        machine.turn_on(0, target);
    }
    machine
}

fn ask(machine: &mut Machine, id: u32, verb: Verb) -> Vec<Told> {
    let request = Request::new(id, verb, 0, 0);
    for byte in [RS, b'@'].into_iter().chain(format!("{request}\n").bytes()) {
        machine.receive(byte);
    }
    machine.interrupt(0);
    machine.finish_end();
    machine.settle();
    machine.answers()
}

fn refusal(told: &[Told]) -> Option<Refusal> {
    match told[0] {
        Told::Vm { refusal, .. } => refusal,
        ref other => panic!("{other:?}"),
    }
}

/// The guest on `n` makes a call from which it does not come back.
fn end(machine: &mut Machine, n: u8, function: u32) {
    let _ = machine.call(n, function, &[]);
    machine.finish_end();
    machine.settle();
}

fn on(machine: &Machine) -> [bool; 4] {
    [0, 1, 2, 3].map(|n| machine.is_on(n))
}

const BOOT: [bool; 4] = [true, false, false, false];

#[test]
fn the_operator_has_a_guest_dumped_whatever_it_does() {
    for is_paused in [false, true] {
        let mut machine = machine(HELD, Policy::USUAL);
        for n in 0..3 {
            machine.regs(n).pc = 0x4777_0000 + u64::from(n);
        }
        if is_paused {
            let _ = ask(&mut machine, 1, Verb::Freeze);
        }
        let told = ask(&mut machine, 2, Verb::Dump);
        assert_eq!(refusal(&told), None);
        // Those that were on, and no other.
        let mut kept = machine.take_kept();
        kept.sort();
        let of = |n: u8| (VcpuId(n), 0x4777_0000 + u64::from(n));
        assert_eq!(kept, [0, 1, 2].map(of), "{is_paused}");
        assert_eq!(machine.loaded(), [Kernel::Guest, Kernel::Capture]);
        assert_eq!(on(&machine), BOOT);
        // It is dumped once.
        let told = ask(&mut machine, 3, Verb::Dump);
        assert_eq!(refusal(&told), Some(Refusal::Dumping));
        // Its other CPUs can be had, in its own memory.
        assert_eq!(machine.call(0, CPU_ON, &[1, RAM.start, 0]), INVALID_ADDRESS);
        assert_eq!(machine.call(0, CPU_ON, &[1, HELD.start, 0]), 0);
        machine.settle();
        assert!(machine.is_on(1));
        end(&mut machine, 1, SYSTEM_OFF);
        let all = [Kernel::Guest, Kernel::Capture, Kernel::Guest];
        assert_eq!(machine.loaded(), all);
        assert_eq!((on(&machine), machine.finished()), (BOOT, vec![]));
        assert_eq!(
            machine.call(0, CPU_ON, &[1, HELD.start, 0]),
            INVALID_ADDRESS
        );
        assert_eq!(machine.call(0, CPU_ON, &[1, RAM.start, 0]), 0);
    }
}

#[test]
fn without_memory_for_it_there_is_no_dump() {
    let mut machine = machine(IpaRange::default(), Policy::USUAL);
    let told = ask(&mut machine, 1, Verb::Dump);
    assert_eq!(refusal(&told), Some(Refusal::NoDump));
    assert_eq!(on(&machine), [true, true, true, false]);
    assert_eq!(machine.loaded(), [Kernel::Guest]);
}

#[test]
fn what_the_configuration_dumps_is_dumped_and_its_capture_kernel_is_not() {
    let policy = Policy {
        on_off: After::Dump,
        on_reset: After::Dump,
        ..Policy::USUAL
    };
    for first in [SYSTEM_OFF, SYSTEM_RESET] {
        for second in [SYSTEM_OFF, SYSTEM_RESET] {
            let mut machine = machine(HELD, policy);
            end(&mut machine, 1, first);
            assert_eq!(machine.loaded(), [Kernel::Guest, Kernel::Capture]);
            assert_eq!(on(&machine), BOOT);
            end(&mut machine, 0, second);
            let all = [Kernel::Guest, Kernel::Capture, Kernel::Guest];
            assert_eq!(machine.loaded(), all);
            assert_eq!((on(&machine), machine.finished()), (BOOT, vec![]));
        }
    }
}

#[test]
fn the_operator_ends_a_capture_kernel_as_a_guest() {
    let mut machine = machine(HELD, Policy::USUAL);
    let _ = ask(&mut machine, 1, Verb::Dump);
    let _ = ask(&mut machine, 2, Verb::Off);
    assert_eq!(on(&machine), [false; 4]);
    assert_eq!(machine.finished(), [After::Stop]);
    let _ = ask(&mut machine, 3, Verb::Start);
    let all = [Kernel::Guest, Kernel::Capture, Kernel::Guest];
    assert_eq!((machine.loaded(), on(&machine)), (all.to_vec(), BOOT));
}
