//! Stage 2 has refused an access to RAM of the guest's: the crash kernel begins, or something writes to memory that is evidence.

use super::VcpuLoop;
use crate::entry;
use crate::evidence::{Access, Decision, Place};
use crate::exit::{self, Abort};
use crate::vm::{Hardware, Syndrome, Vm};

impl<V: Vm, C: Hardware> VcpuLoop<V, C> {
    /// Does what the pCPU says of this exit.
    #[cold]
    #[inline(never)]
    pub(super) fn handle_guarded_abort(&mut self) {
        let Syndrome { esr, far, hpfar } = self.cpu.syndrome();
        let abort = Abort::decode(esr, far, hpfar);
        let (me, pc) = (self.vcpu.id, self.regs.pc);
        let decision = if exit::is_permission_fault(esr) {
            let access = match abort.is_fetch && !abort.is_walk {
                true => Access::Fetch,
                // Read-only memory refuses a walk that sets a flag in the table.
                false => Access::Write,
            };
            let place = match abort.is_walk {
                true => Place::Physical(abort.ipa),
                false => Place::Virtual(far),
            };
            self.cpu.resolve_guarded_access(me, pc, access, place)
        } else {
            Decision::Refused
        };
        match decision {
            // Before this vCPU enters its guest again.
            Decision::Instant => self.pause_all(),
            Decision::FirstWrite | Decision::Retry => {}
            Decision::Refused if abort.is_walk => self.refuse_walk(abort, (esr, far)),
            Decision::Refused => {
                let access = (entry::Access::of(abort), None);
                let (vcpu, regs) = (&mut self.vcpu, &mut self.regs);
                // An abort leaves nothing to do.
                let _ = vcpu.refuse_access(access, (esr, far), regs, &mut self.cpu);
            }
        }
    }
}
