//! Records of what a guest's vCPUs do that ends nowhere.

use core::fmt;

use hv_core::id::VcpuId;
use hv_core::vm::{FaultKind, TracedCall, panic_event};

use hv_core::regs::El1;

use crate::log;
use crate::sysregs::{self, LiveEl1};
use crate::vm::Vm;

/// Its guest has said these things by pvpanic.
pub fn of_panic(vm: &Vm, vcpu: VcpuId, events: u8) {
    let (vm, vcpu) = (vm.id.0, vcpu.0);
    let names = [
        (panic_event::PANICKED, "panicked"),
        (panic_event::CRASH_LOADED, "crash-loaded"),
        (panic_event::SHUTDOWN, "shutdown"),
    ];
    for (_, name) in names.iter().filter(|(event, _)| events & event != 0) {
        log!("@vm-panic vm={vm} vcpu={vcpu} event={name}");
    }
}

/// It has made a call, which took so many microseconds.
pub fn of_call(vm: &Vm, call: &TracedCall, us: u64) {
    struct Answer(Option<u64>);
    impl fmt::Display for Answer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self.0 {
                Some(x0) => write!(f, "{x0:#x}"),
                None => f.write_str("none"),
            }
        }
    }
    let (vm, vcpu) = (vm.id.0, call.vcpu.0);
    let conduit = if call.is_smc { "SMC" } else { "HVC" };
    let (function, answer) = (call.function, Answer(call.answer));
    let [x1, x2, x3, x4, x5] = call.arguments;
    log!(
        "@vm-call vm={vm} vcpu={vcpu} conduit={conduit} function={function:#x} x1={x1:#x} x2={x2:#x} x3={x3:#x} x4={x4:#x} x5={x5:#x} x0={answer} us={us}"
    );
}

/// It faults at a pc by an access to an address, both virtual addresses. How is in the syndrome of the exit that shows it, or if
/// its own vector faults, of which EL2 sees nothing, in EL1's.
pub fn of_fault(vm: &Vm, vcpu: VcpuId, kind: FaultKind, (pc, address): (u64, u64)) {
    let name = match kind {
        FaultKind::First => "vm-abort",
        FaultKind::Abort | FaultKind::Vector => "vm-fault",
    };
    let on = vm.vcpus_on();
    let esr = match kind {
        FaultKind::First | FaultKind::Abort => sysregs::esr(),
        FaultKind::Vector => LiveEl1.exception().esr,
    };
    let (vm, vcpu) = (vm.id.0, vcpu.0);
    log!("@{name} vm={vm} vcpu={vcpu} on={on} pc={pc:#x} address={address:#x} esr={esr:#x}");
}
