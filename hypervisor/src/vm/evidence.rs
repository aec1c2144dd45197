//! The memory of a guest whose crash kernel is watched ([`hv_core::evidence`]).

use core::sync::atomic::Ordering;

use hv_core::evidence::{Access, Decision, Place};
use hv_core::id::VcpuId;

use super::Vm;
use crate::{log, sysregs};

impl Vm {
    /// The guest is loaded: no vCPU runs, and this pCPU has the VMID.
    pub(super) fn arm(&self) {
        self.stage2.arm(&self.backing);
        self.guards_ram.store(self.is_watched, Ordering::Relaxed);
    }

    /// A capture kernel is loaded beside the guest's memory, which it may not write to.
    pub(super) fn disarm(&self) {
        self.stage2.disarm();
        self.guards_ram.store(true, Ordering::Relaxed);
    }

    /// Stage 2 has refused an access of the vCPU on this pCPU, by the instruction at `pc`.
    #[cold]
    pub fn resolve_guarded_access(
        &self,
        vcpu: VcpuId,
        pc: u64,
        access: Access,
        place: Place,
    ) -> Decision {
        let ipa = match place {
            Place::Physical(ipa) => Some(ipa),
            Place::Virtual(va) => sysregs::guest_physical(va),
        };
        let Some(ipa) = ipa.filter(|_| self.is_watched) else {
            return match self.is_watched {
                // A sibling has changed the guest's tables: the guest meets them anew.
                true => Decision::Retry,
                false => Decision::Refused,
            };
        };
        let decision = self.stage2.resolve(&self.backing, access, ipa);
        let (vm, vcpu) = (self.id.0, vcpu.0);
        match decision {
            Decision::Instant => log!("@kexec vm={vm} vcpu={vcpu} pc={pc:#x} ipa={ipa:#x}"),
            Decision::FirstWrite => {
                log!("@write vm={vm} ipa={ipa:#x} by=vcpu vcpu={vcpu} pc={pc:#x}")
            }
            Decision::Retry | Decision::Refused => {}
        }
        decision
    }

    /// The mediator of the guest's devices writes to the guest's RAM at `ipa`.
    #[cold]
    #[inline(never)]
    pub fn mediator_writes(&self, ipa: u64) {
        if self.stage2.resolve(&self.backing, Access::Write, ipa) == Decision::FirstWrite {
            log!("@write vm={} ipa={ipa:#x} by=mediator", self.id.0);
        }
    }
}
