//! What `guest.S` calls at each exit ([`crate::guest::Handlers`]).

use hv_core::vm::{self, VcpuLoop};

use super::Pcpu;
use crate::guest::vector;
use crate::percpu::ExitEntry;
use crate::sysregs;

/// A synchronous exit of a guest.
pub(super) extern "C" fn synchronous<V: vm::Vm>(vcpu: &mut VcpuLoop<V, Pcpu>, pc: u64) -> bool {
    let esr = sysregs::esr();
    vcpu.hardware().0.remember(vector::SYNC, esr, pc);
    vcpu.settle_synchronous(esr)
}

/// A synchronous exit of a guest whose calls are traced.
pub(super) extern "C" fn traced<V: vm::Vm>(vcpu: &mut VcpuLoop<V, Pcpu>, pc: u64) -> bool {
    let esr = sysregs::esr();
    vcpu.hardware().0.remember(vector::SYNC, esr, pc);
    vcpu.settle_traced(esr)
}

/// An IRQ of a guest.
pub(super) extern "C" fn irq<V: vm::Vm>(vcpu: &mut VcpuLoop<V, Pcpu>, pc: u64) -> bool {
    vcpu.hardware().0.remember(vector::IRQ, 0, pc);
    vcpu.settle_interrupt()
}

/// An FIQ or SError of a guest.
pub(super) extern "C" fn other<V: vm::Vm>(
    vcpu: &mut VcpuLoop<V, Pcpu>,
    pc: u64,
    vector: u32,
) -> bool {
    if vector == vector::SERROR {
        vcpu.hardware().0.remember(vector, sysregs::esr(), pc);
        vcpu.settle_serror()
    } else {
        vcpu.hardware().0.remember(vector, 0, pc);
        vcpu.settle_interrupt()
    }
}

impl Pcpu {
    /// For a crash report.
    #[inline(always)]
    fn remember(&self, vector: u32, esr: u64, pc: u64) {
        let at = sysregs::now().0;
        self.percpu.last_exits.push(ExitEntry {
            at,
            vector,
            esr,
            pc,
        });
    }
}
