//! What the syndrome does not say: of accesses to an emulated device which they are, and of an abort on a walk at which level.

use super::{Leave, VcpuLoop};
use crate::a64::{SP, Transfer};
use crate::entry::Access;
use crate::exit::{Abort, Undescribed};
use crate::regs::pstate;
use crate::vm::{Action, Hardware, Verdict, Vm, uses_sp_el1, write_register};

/// One of an instruction's accesses meets no device.
struct NoDevice;

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// Does what the instruction at the pc does, if it is the one that made this access, of which `esr` and `far` tell. How the vCPU
    /// leaves its guest, if it does: a store to pvpanic may end that.
    #[cold]
    #[inline(never)]
    pub(super) fn decode(&mut self, access: Undescribed, (esr, far): (u64, u64)) -> Option<Leave> {
        let word = self.cpu.instruction(self.regs.pc);
        let attempts = &mut self.vcpu.attempts;
        let verdict = attempts.judge((access, far), &self.regs, &self.cpu, word);
        let done = match verdict {
            Verdict::Perform(transfer) => self.transfer(transfer, access.ipa),
            Verdict::Retry => Ok(None),
            Verdict::Refuse => Err(NoDevice),
        };
        done.unwrap_or_else(|NoDevice| {
            let (vcpu, regs) = (&mut self.vcpu, &mut self.regs);
            // An abort leaves nothing to do.
            let _ = vcpu.refuse_access((Access::Data, None), (esr, far), regs, &mut self.cpu);
            None
        })
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

    /// How the vCPU leaves its guest, if it does. If one of the accesses meets no device, none is made.
    fn transfer(&mut self, transfer: Transfer, ipa: u64) -> Result<Option<Leave>, NoDevice> {
        let map = self.vm.map();
        let is_device = |access| self.vcpu.find_device(access, map).is_some();
        if !transfer.accesses(ipa).all(is_device) {
            return Err(NoDevice);
        }
        let mut leave = None;
        let before = self.regs.clone();
        for access in transfer.accesses(ipa) {
            self.regs.pc = before.pc;
            // No access to a device aborts.
            match self.vcpu.find_device(access, self.vm.map()) {
                Some(Action::Locked(deferred)) => {
                    let outcome = self.finish(deferred);
                    leave = leave.or(self.follow(outcome));
                }
                Some(Action::Mediated(access)) => self.access_mediated(access),
                _ => {}
            }
            if self.regs.pc == before.pc {
                // The virtual GIC cannot answer a read yet: the guest executes the whole instruction again, as reads of
                // the registers that this concerns change nothing.
                self.regs = before;
                return Ok(leave);
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
        Ok(leave)
    }
}
