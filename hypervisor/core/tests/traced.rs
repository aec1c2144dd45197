//! A guest whose calls are traced gets the answers of one whose calls are not, and each call is told of once.

use hv_abi::psci;
use hv_core::id::VcpuId;
use hv_core::vm::TracedCall;
use hv_testbed::{Built, Exit, Machine, Place, RAM};

const VERSION: u32 = 0xc400_0020;
const REGISTER: u32 = 0xc400_0021;
const ENABLE: u32 = 0xc400_0022;
const COMPLETE: u32 = 0xc400_0025;
const UNMASK: u32 = 0xc400_002c;
const SIGNAL: u32 = 0xc400_002f;
const UNKNOWN: u32 = 0xc400_003f;

/// HVC #0, as ESR_EL2 has it: its class, and IL.
const HVC: Exit = Exit::Synchronous {
    esr: 0x16 << 26 | 1 << 25,
    far: 0,
    hpfar: 0,
};

const HANDLER: u64 = RAM.start + 0x1000;

fn machine(traces_calls: bool) -> Machine {
    Built {
        traces_calls,
        ..Built::new(2)
    }
    .start()
}

/// Makes each kind of call: settled on the short way, by the dispatcher, with the VM's lock, for nobody; and those that do not
/// come back. All answers, and the registers of vCPU 0 afterwards.
fn calls(machine: &mut Machine) -> (Vec<u64>, Vec<u64>) {
    let mut answers = vec![
        machine.call(0, psci::VERSION, &[]),
        machine.call(0, VERSION, &[]),
        machine.call(0, REGISTER, &[0, HANDLER, 5, 0, 0]),
        machine.call(0, ENABLE, &[0]),
        machine.call(0, UNMASK, &[]),
        machine.call(0, UNKNOWN, &[1, 2]),
        machine.call(0, ENABLE, &[77]),
    ];
    machine.regs(0).x[0] = psci::VERSION.into();
    machine.exit(0, HVC);
    answers.push(machine.regs(0).x[0]);
    machine.turn_on(0, 1);
    // Signalled to itself, the call has returned when its event interrupts what follows.
    machine.call(0, SIGNAL, &[0, 0]);
    assert_eq!(machine.regs(0).pc, HANDLER);
    answers.push(machine.regs(0).x[1]);
    machine.call(0, COMPLETE, &[0]);
    answers.push(machine.regs(0).x[0]);
    machine.turn_off(1);
    let regs = machine.regs(0);
    let state = regs.x.into_iter().chain([regs.pc, regs.pstate]).collect();
    (answers, state)
}

#[test]
fn a_trace_changes_no_answer() {
    let (mut plain, mut traced) = (machine(false), machine(true));
    assert_eq!(calls(&mut plain), calls(&mut traced));
    assert_eq!(plain.take_calls(), []);
}

#[test]
fn each_call_is_told_of_once_with_its_answer_where_it_returns() {
    let mut machine = machine(true);
    let (answers, _) = calls(&mut machine);
    let told = machine.take_calls();
    let functions: Vec<u32> = told.iter().map(|call| call.function).collect();
    assert_eq!(
        functions,
        [
            psci::VERSION,
            VERSION,
            REGISTER,
            ENABLE,
            UNMASK,
            UNKNOWN,
            ENABLE,
            psci::VERSION,
            psci::CPU_ON[1],
            SIGNAL,
            COMPLETE,
            psci::CPU_OFF,
        ]
    );
    let given: Vec<u64> = told[..8].iter().map_while(|call| call.answer).collect();
    assert_eq!(given, answers[..8]);
    assert_eq!(
        told[2],
        TracedCall {
            vcpu: VcpuId(0),
            is_smc: true,
            function: REGISTER,
            arguments: [0, HANDLER, 5, 0, 0],
            answer: Some(0),
            ticks: told[2].ticks,
        }
    );
    assert!(!told[7].is_smc);
    let answer = |function: u32| {
        told.iter()
            .find(|call| call.function == function)
            .map(|call| call.answer)
    };
    assert_eq!(answer(SIGNAL), Some(Some(0)));
    assert_eq!(answer(COMPLETE), Some(None));
    assert_eq!(answer(psci::CPU_OFF), Some(None));
    assert_eq!(told.last().map(|call| call.vcpu), Some(VcpuId(1)));
    assert_eq!(machine.place(1), Place::Asleep);
}

#[test]
fn a_traced_vcpu_sleeps_as_any_other_and_is_told_of_before() {
    const ENTRY: u64 = RAM.start + 0x2000;
    let calls: [(u32, &[u64], Option<u64>); 2] = [
        // Standby: the call has its answer before the vCPU sleeps.
        (psci::CPU_SUSPEND[1], &[0, ENTRY, 7], Some(0)),
        // The vCPU begins at another place when it wakes.
        (psci::SYSTEM_SUSPEND[1], &[ENTRY, 7], None),
    ];
    for (function, arguments, answer) in calls {
        for traces_calls in [false, true] {
            let mut machine = machine(traces_calls);
            machine.take_calls();
            machine.call(0, function, arguments);
            assert_eq!(machine.place(0), Place::Asleep, "{function:#x}");
            let told = machine.take_calls();
            let told: Vec<_> = told
                .iter()
                .map(|call| (call.function, call.answer))
                .collect();
            let due = [(function, answer)];
            assert_eq!(told, due[..usize::from(traces_calls)]);
        }
    }
}
