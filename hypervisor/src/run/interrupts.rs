//! A vCPU's interrupts: physical ones taken, virtual ones in the list registers, accesses to the GIC.

use hv_abi::firmware::Fault;
use hv_core::exit::MmioAccess;
use hv_core::id::{IntId, VcpuSet};
use hv_core::mailbox::Requests;
use hv_core::sdei::Fate;
use hv_core::vgic::affinity::Sgi;
use hv_core::vgic::lr::{ListReg, hcr};
use hv_core::vgic::{Effects, Frame, Leftovers, Read};
use hv_core::vm::{read_register, write_register};

use super::{FIRST_SPECIAL, MAX_LIST_REGS, Runner};
use crate::gic;
use crate::stop;
use crate::vm::Shared;

impl Runner {
    /// Takes one physical interrupt.
    pub(super) fn take_interrupt(&mut self) {
        let taken = gic::acknowledge();
        let intid = taken.intid;
        if intid >= FIRST_SPECIAL {
            return;
        }
        taken.drop_priority();
        match intid {
            gic::DOORBELL => taken.deactivate(),
            gic::STOP => {
                taken.deactivate();
                stop::take_ipi(self.percpu);
            }
            _ if intid == self.own.maintenance => {
                self.is_vgic_stale = true;
                // The line stays up until the list registers are refreshed, so that comes first.
                self.refresh_vgic();
                taken.deactivate();
            }
            _ if intid == self.vm.console_intid => {
                self.receive();
                taken.deactivate();
            }
            _ if intid == self.own.alarm => {
                self.take_delayed();
                taken.deactivate();
            }
            // The guest's own: it stays active until the guest deactivates it.
            _ => {
                let kick = {
                    let vm = self.vm;
                    let mut shared = vm.lock();
                    let effects = shared.vgic.forward(self.me, IntId(intid));
                    self.arrive(&mut shared, &effects)
                };
                self.kick(kick);
            }
        }
    }

    /// Performs what an interrupt's arrival brought about, with the VM's lock held, and says whom to kick.
    #[must_use]
    pub(super) fn arrive(&mut self, shared: &mut Shared, effects: &Effects) -> VcpuSet {
        let kick = self.vm.perform(effects);
        match effects.bound {
            None => kick,
            Some(intid) => kick.union(self.take_bound(shared, intid)),
        }
    }

    /// Has everybody in `set` look at the virtual GIC, this vCPU included.
    #[inline]
    pub(super) fn kick(&mut self, set: VcpuSet) {
        self.is_vgic_stale |= self.vm.kick(self.me, set);
    }

    pub(super) fn send_sgi(&mut self, sgi: Sgi) {
        let requests = Requests::sgi(sgi.intid.0);
        for target in sgi.targets.iter() {
            if target == self.me {
                self.vm.mailbox(target).post(requests);
            } else {
                self.vm.ask(target, requests);
            }
        }
    }

    /// The list registers in use, as the hardware has them.
    #[inline]
    pub(super) fn read_list_regs(&self) -> [ListReg; MAX_LIST_REGS] {
        let mut lrs = [ListReg::EMPTY; MAX_LIST_REGS];
        for (index, lr) in lrs.iter_mut().enumerate().take(self.used) {
            *lr = gic::list_register(index);
        }
        lrs
    }

    #[inline]
    pub(super) fn write_list_regs(&mut self, lrs: &[ListReg; MAX_LIST_REGS], used: usize) {
        let written = used.max(self.used).min(self.list_regs);
        for (index, &lr) in lrs.iter().enumerate().take(written) {
            let lr = if index < used { lr } else { ListReg::EMPTY };
            gic::set_list_register(index, lr);
        }
        self.used = used;
    }

    /// Folds the list registers into the virtual GIC and chooses again what they hold.
    pub(super) fn refresh_vgic(&mut self) {
        let mut lrs = self.read_list_regs();
        let eoi_count = hcr::eoi_count(gic::ich_hcr());
        let (entry, kick) = {
            let mut shared = self.vm.lock();
            let (entry, effects) =
                shared
                    .vgic
                    .populate(self.me, &mut lrs[..self.list_regs], eoi_count);
            (entry, self.vm.perform(&effects))
        };
        self.write_list_regs(&lrs, entry.used);
        let is_deaf = self.vcpu.sdei.fate() == Fate::Deaf;
        gic::set_ich_hcr(if is_deaf { 0 } else { entry.hcr });
        self.is_vgic_stale = false;
        self.kick(kick);
    }

    /// Takes this vCPU out of the virtual GIC: nothing pending, nothing active, list registers empty.
    pub(super) fn leave_vgic(&mut self) {
        let mut lrs = self.read_list_regs();
        let kick = {
            let mut shared = self.vm.lock();
            let leftovers = if self.vm.sdei.firmware.has(Fault::OffKeepsPending) {
                Leftovers::Kept
            } else {
                Leftovers::Dropped
            };
            let lrs = &mut lrs[..self.list_regs];
            let effects = shared.vgic.reset_vcpu(self.me, lrs, leftovers);
            self.vm.perform(&effects)
        };
        self.write_list_regs(&lrs, 0);
        gic::reset_virtual_interface();
        self.vm.kick(self.me, kick);
        self.is_vgic_stale = true;
    }

    /// The virtual CPU interface was without power: its registers are as out of reset, and what was in its
    /// list registers is in the virtual GIC.
    pub(super) fn power_up_interrupts(&mut self) {
        let lrs = self.read_list_regs();
        let eoi_count = hcr::eoi_count(gic::ich_hcr());
        let kick = {
            let mut shared = self.vm.lock();
            let folded = shared.vgic.fold(self.me, &lrs[..self.list_regs], eoi_count);
            self.vm.perform(&folded)
        };
        self.write_folded();
        gic::reset_virtual_interface();
        self.kick(kick);
    }

    pub(super) fn deactivate(&mut self, intid: IntId) {
        let lrs = self.read_list_regs();
        let eoi_count = hcr::eoi_count(gic::ich_hcr());
        let kick = {
            let mut shared = self.vm.lock();
            let folded = shared.vgic.fold(self.me, &lrs[..self.list_regs], eoi_count);
            let kick = self.vm.perform(&folded);
            let effects = shared.vgic.deactivate(self.me, intid);
            kick.union(self.vm.perform(&effects))
        };
        self.write_folded();
        self.kick(kick);
    }

    pub(super) fn access_gic(&mut self, frame: Frame, offset: u64, access: MmioAccess) {
        let must_fold = self.used > 0 && frame.is_in_list_regs(offset, access.is_write);
        let (read, kick) = {
            let mut shared = self.vm.lock();
            let mut kick = VcpuSet::EMPTY;
            if must_fold {
                let lrs = self.read_list_regs();
                let eoi_count = hcr::eoi_count(gic::ich_hcr());
                let folded = shared.vgic.fold(self.me, &lrs[..self.list_regs], eoi_count);
                kick = self.vm.perform(&folded);
            }
            let read = if access.is_write {
                let value = read_register(&self.regs, access.rt);
                let effects = shared.vgic.write(frame, offset, access.size, value);
                kick = kick.union(self.vm.perform(&effects));
                None
            } else {
                Some(shared.vgic.read(self.me, frame, offset, access.size))
            };
            (read, kick)
        };
        if must_fold {
            self.write_folded();
        }
        self.kick(kick);
        match read {
            Some(Read::Value(value)) => {
                write_register(&mut self.regs, access.rt, access.extend(value));
            }
            // The answer is in others' list registers; the guest asks again when they have looked.
            Some(Read::Again { kick }) => {
                // Populating in between is how the virtual GIC tells a load tried again from a later one.
                self.is_vgic_stale = true;
                self.kick(kick);
                return;
            }
            None => {}
        }
        self.regs.pc = self.regs.pc.wrapping_add(4);
    }

    /// After a fold the list registers' contents are in the virtual GIC; they are chosen anew before
    /// the next entry.
    pub(super) fn write_folded(&mut self) {
        self.write_list_regs(&[ListReg::EMPTY; MAX_LIST_REGS], 0);
        self.is_vgic_stale = true;
    }
}
