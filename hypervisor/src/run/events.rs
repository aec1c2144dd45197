//! SDEI beyond the vCPU itself: what all vCPUs have in common, raised and delayed events.

use hv_abi::sdei::{Call, Status};
use hv_core::id::{IntId, VcpuId, VcpuSet};
use hv_core::mailbox::Requests;
use hv_core::sdei::{Fate, Ripple};
use hv_core::stop::watchdog::Watch;
use hv_core::time::Instant;
use hv_core::vgic::lr::hcr;

use super::{Leave, Runner};
use crate::gic;
use crate::sysregs::{self, LiveEl1};
use crate::vm::Shared;
use crate::watchdog;

impl Runner {
    /// A call about what all vCPUs have in common.
    pub(super) fn call_sdei(&mut self, call: Call) {
        let lrs = self.read_list_regs();
        let eoi_count = hcr::eoi_count(gic::ich_hcr());
        let (look, kick) = {
            let mut shared = self.vm.lock();
            let folded = shared.vgic.fold(self.me, &lrs[..self.list_regs], eoi_count);
            let kick = self.vm.perform(&folded);
            let Shared { commons, vgic, .. } = &mut *shared;
            let map = &self.vm.map;
            let ripple =
                self.vcpu
                    .call_common(call, &mut self.regs, &mut LiveEl1, map, (commons, vgic));
            (ripple.look, kick.union(self.vm.perform(&ripple.gic)))
        };
        self.write_folded();
        self.kick(kick);
        self.call_attention(look);
    }

    /// Takes a shared event that is due here, unless a sibling is faster.
    pub(super) fn dispatch_shared(&mut self) {
        let mut shared = self.vm.lock();
        let board = &self.vm.map.board;
        let commons = &mut shared.commons;
        self.vcpu
            .dispatch_shared(commons, &mut self.regs, &LiveEl1, board);
    }

    /// The platform raises an event.
    pub(super) fn raise(&mut self, event: u32, target: VcpuId) {
        let look = {
            let mut shared = self.vm.lock();
            shared.commons.raise(event, target, &self.vm.map.board)
        };
        match look {
            Some(look) => {
                self.regs.x[0] = 0;
                self.call_attention(look);
            }
            None => self.regs.x[0] = Status::InvalidParameters as i64 as u64,
        }
    }

    /// Looks for shared events, and takes the private ones that the platform has raised here.
    pub(super) fn take_raised(&mut self) -> Option<Leave> {
        self.vcpu.sdei.look();
        let raised = self.vm.lock().commons.take_raised(self.me);
        for place in raised {
            self.vcpu.sdei.post(place);
        }
        self.note_fate()
    }

    /// Takes a signal, now or when firmware gets round to it.
    pub(super) fn take_signal(&mut self) -> Option<Leave> {
        if let Some(at) = self.vcpu.sdei.post_signal(sysregs::now()) {
            self.set_alarm(Some(at));
        }
        self.note_fate()
    }

    /// The alarm has gone off: a delayed signal may have arrived, and may have done harm, or it is time to look
    /// whether the neighbour is stuck.
    pub(super) fn take_delayed(&mut self) {
        if let Some(watch) = &mut self.watch {
            watchdog::look(watch, self.percpu);
        }
        let next = self.vcpu.sdei.tick(sysregs::now());
        self.set_alarm(next);
        self.vm.mailbox(self.me).post(Requests::SDEI_LOOK);
    }

    /// Has the alarm go off at `at`, and whenever the neighbour is to be looked at.
    #[inline(never)]
    pub(super) fn set_alarm(&self, at: Option<Instant>) {
        let look = self.watch.as_ref().map(Watch::due);
        sysregs::set_alarm(at.into_iter().chain(look).min());
    }

    /// What firmware's faults have made of this vCPU.
    fn note_fate(&mut self) -> Option<Leave> {
        match self.vcpu.sdei.fate() {
            Fate::Sound => None,
            Fate::Deaf => {
                self.is_vgic_stale = true;
                None
            }
            Fate::Stuck => Some(Leave::Lost),
        }
    }

    /// An interrupt has arrived that is bound to an event. The VM's lock is held; says whom to kick.
    pub(super) fn take_bound(&mut self, shared: &mut Shared, intid: IntId) -> VcpuSet {
        let Shared { commons, vgic, .. } = shared;
        let board = &self.vm.map.board;
        let Ripple { look, gic } = self.vcpu.sdei.take_bound(intid, commons, vgic, board);
        self.call_attention(look);
        self.vm.perform(&gic)
    }

    /// Has everybody in `set` but this vCPU, which does so anyway, look at its events; raised ones are taken
    /// from the mailbox here, too.
    pub(super) fn call_attention(&self, set: VcpuSet) {
        for vcpu in set.iter() {
            if vcpu == self.me {
                self.vm.mailbox(vcpu).post(Requests::SDEI_LOOK);
            } else {
                self.vm.ask(vcpu, Requests::SDEI_LOOK);
            }
        }
    }
}
