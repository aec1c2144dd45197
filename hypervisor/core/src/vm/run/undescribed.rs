//! What the syndrome does not say: of accesses to an emulated device which they are, and of an abort on a walk at which level.

use super::VcpuLoop;
use crate::a64::{SP, Transfer};
use crate::entry::Access;
use crate::exit::{Abort, Undescribed};
use crate::regs::pstate;
use crate::vm::{Action, Hardware, Verdict, Vm, uses_sp_el1, write_register};

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// Does what the instruction at the pc does, if it is the one that made this access, of which `esr` and `far` tell.
    #[cold]
    #[inline(never)]
    pub(super) fn decode(&mut self, access: Undescribed, (esr, far): (u64, u64)) {
        let word = self.cpu.instruction(self.regs.pc);
        let attempts = &mut self.vcpu.attempts;
        let verdict = attempts.judge((access, far), &self.regs, &self.cpu, word);
        let is_done = match verdict {
            Verdict::Perform(transfer) => self.transfer(transfer, access.ipa),
            Verdict::Retry => true,
            Verdict::Refuse => false,
        };
        if !is_done {
            let (vcpu, regs) = (&mut self.vcpu, &mut self.regs);
            // An abort leaves nothing to do.
            let _ = vcpu.refuse_access((Access::Data, None), (esr, far), regs, &mut self.cpu);
        }
    }

    /// The guest's walk of its tables met nothing. Only they say at which level.
    #[cold]
    #[inline(never)]
    pub(super) fn refuse_walk(&mut self, abort: Abort, (esr, far): (u64, u64)) {
        let (map, vm) = (self.vm.map(), &self.vm);
        let level = self.cpu.regime().last_level(far, |ipa| {
            let mut entry = [0; 8];
            let is_ram = map.is_ram(ipa);
            is_ram.then(|| {
                vm.read_ram(ipa, &mut entry);
                entry
            })
        });
        let access = (Access::of(abort), Some(level));
        let (vcpu, regs) = (&mut self.vcpu, &mut self.regs);
        // An abort leaves nothing to do.
        let _ = vcpu.refuse_access(access, (esr, far), regs, &mut self.cpu);
    }

    /// False if one of the accesses meets no device; then none is made.
    fn transfer(&mut self, transfer: Transfer, ipa: u64) -> bool {
        let map = self.vm.map();
        let is_device = |access| self.vcpu.find_device(access, map).is_some();
        if !transfer.accesses(ipa).all(is_device) {
            return false;
        }
        let before = self.regs.clone();
        for access in transfer.accesses(ipa) {
            self.regs.pc = before.pc;
            // No access to a device makes the vCPU leave its guest, or aborts.
            match self.vcpu.find_device(access, self.vm.map()) {
                Some(Action::Locked(deferred)) => {
                    let outcome = self.finish(deferred);
                    let _ = self.follow(outcome);
                }
                Some(Action::Mediated(access)) => self.access_mediated(access),
                _ => {}
            }
            if self.regs.pc == before.pc {
                // The virtual GIC cannot answer a read yet: the guest executes the whole instruction again, as reads of
                // the registers that this concerns change nothing.
                self.regs = before;
                return true;
            }
        }
        match transfer.write_back {
            Some((SP, value)) => {
                let is_el1 = uses_sp_el1(before.pstate);
                self.cpu.set_stack_pointer(is_el1, value);
            }
            Some((register, value)) => write_register(&mut self.regs, register, value),
            None => {}
        }
        self.regs.pstate &= !pstate::BTYPE;
        true
    }
}
