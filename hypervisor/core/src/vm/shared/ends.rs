//! How a VM comes to its end.

use super::Shared;
use crate::id::{VcpuId, VcpuSet};
use crate::vm::Ending;

impl Shared {
    /// `by` ends the VM. What becomes of that; none if it is ending already.
    #[must_use]
    pub fn stop(&mut self, by: VcpuId, ending: Ending) -> Option<Ending> {
        let ending = self.life.settle(ending);
        let is_first = self.life.stop(by, ending.end, self.vcpus);
        is_first.then_some(ending)
    }

    /// Whether nothing of it runs, and it is not about to start.
    pub const fn is_idle(&self) -> bool {
        self.life.is_idle() && !self.is_start_asked
    }

    /// `vcpu` does nothing any more but fault. If so do all that are on, the VM is to end as said.
    #[must_use]
    pub fn note_fault(&mut self, vcpu: VcpuId, ending: Ending) -> bool {
        self.faulting.insert(vcpu);
        let is_crash = self.power.on().without(self.faulting).is_empty();
        if is_crash {
            self.end_asked = Some(ending);
        }
        is_crash
    }

    /// `vcpu` does something else again, or begins.
    pub fn faults_no_more(&mut self, vcpu: VcpuId) {
        self.faulting.remove(vcpu);
    }

    /// How the operator or a watchdog has the VM end, once; not while it ends or is loaded: then that waits until it runs.
    #[must_use]
    pub fn take_end(&mut self) -> Option<Ending> {
        if self.life.may_start() {
            self.end_asked.take()
        } else {
            None
        }
    }

    /// The VM, which was frozen, is off.
    pub fn bury(&mut self) {
        self.life.bury();
        self.end_asked = None;
    }

    /// Who has to be told to leave: all but `by`.
    pub fn others(&self, by: VcpuId) -> VcpuSet {
        self.vcpus.without(VcpuSet::only(by))
    }
}
