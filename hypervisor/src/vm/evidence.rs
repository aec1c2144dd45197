//! The memory of a guest whose crash kernel is watched ([`hv_core::evidence`]).

use core::sync::atomic::Ordering;

use hv_core::evidence::{Access, Meeting, Place};
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
    pub fn meet_evidence(&self, vcpu: VcpuId, pc: u64, access: Access, place: Place) -> Meeting {
        let ipa = match place {
            Place::Physical(ipa) => Some(ipa),
            Place::Virtual(va) => sysregs::guest_physical(va),
        };
        let Some(ipa) = ipa.filter(|_| self.is_watched) else {
            return match self.is_watched {
                // A sibling has changed the guest's tables: the guest meets them anew.
                true => Meeting::Again,
                false => Meeting::Refused,
            };
        };
        let meeting = self.stage2.meet(&self.backing, access, ipa);
        let (vm, vcpu) = (self.id.0, vcpu.0);
        match meeting {
            Meeting::Instant => log!("@kexec vm={vm} vcpu={vcpu} pc={pc:#x} ipa={ipa:#x}"),
            Meeting::Touched => log!("@write vm={vm} ipa={ipa:#x} by=vcpu vcpu={vcpu} pc={pc:#x}"),
            Meeting::Again | Meeting::Refused => {}
        }
        meeting
    }

    /// The mediator of the guest's devices writes to the guest's RAM at `ipa`.
    #[cold]
    #[inline(never)]
    pub fn mediator_writes(&self, ipa: u64) {
        if self.stage2.meet(&self.backing, Access::Write, ipa) == Meeting::Touched {
            log!("@write vm={} ipa={ipa:#x} by=mediator", self.id.0);
        }
    }
}
