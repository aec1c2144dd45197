//! Interrupts that are bound to SDEI events (DEN0054 5.1.14): they leave the guest's view of the GIC, where their
//! registers read as zero and ignore writes, and are handed to whoever keeps the events instead.
//!
//! A physical one stays active, and so cannot fire again, until [`Vgic::end_bound`].

use super::irq::Irq;
use super::{Effects, Physical, SpiMask, Vgic};
use crate::id::{IntId, VcpuId};

impl Vgic {
    /// Whether the GIC has this interrupt.
    pub fn has(&self, intid: IntId) -> bool {
        self.irq(VcpuId(0), intid).is_some()
    }

    /// Takes an interrupt out of the guest's view, on all vCPUs if it is a PPI. False, and nothing done, while it
    /// is active or in a list register: a client disables it first, and waits until that has taken effect.
    pub fn bind(&mut self, intid: IntId, effects: &mut Effects) -> bool {
        let is_quiet = |irq: &Irq| !irq.shows_active() && irq.seat.is_none();
        if !self
            .copies(intid)
            .all(|vcpu| self.irq(vcpu, intid).is_some_and(is_quiet))
        {
            return false;
        }
        for vcpu in self.copies(intid) {
            self.update(vcpu, intid, effects, |irq| {
                irq.bound = true;
                irq.enabled = false;
                irq.latch = false;
                irq.line &= !irq.passed_through;
            });
        }
        let passed_through = self
            .irq(VcpuId(0), intid)
            .is_some_and(|irq| irq.passed_through);
        if passed_through && intid.is_spi() {
            let (block, bits) = (intid.0 / 32, 1 << (intid.0 % 32));
            effects.phys = Some(Physical::Enable(SpiMask { block, bits }));
        }
        true
    }

    /// Gives an interrupt back to the guest, disabled. What it was at when it was bound it is again.
    pub fn unbind(&mut self, intid: IntId) {
        // An interrupt that is disabled disturbs nobody.
        let mut effects = Effects::NONE;
        for vcpu in self.copies(intid) {
            self.update(vcpu, intid, &mut effects, |irq| {
                irq.bound = false;
                // What is still active physically is so on the guest's account from now on.
                irq.line |= irq.held && !irq.edge;
                irq.latch |= irq.held && irq.edge;
            });
        }
    }

    /// Whether an interrupt of `vcpu` is edge triggered.
    pub fn is_edge(&self, vcpu: VcpuId, intid: IntId) -> bool {
        self.irq(vcpu, intid).is_some_and(|irq| irq.edge)
    }

    /// Whether an emulated device holds the line of a level sensitive interrupt up. Nothing is known of a
    /// physical one: the GIC says that it is up by interrupting again.
    pub fn level(&self, vcpu: VcpuId, intid: IntId) -> Option<bool> {
        let irq = self.irq(vcpu, intid);
        let is_known = |irq: &&Irq| !irq.edge && !irq.passed_through;
        irq.filter(is_known).map(|irq| irq.line)
    }

    /// Lets a bound interrupt of `vcpu` fire again.
    pub fn end_bound(&mut self, vcpu: VcpuId, intid: IntId, effects: &mut Effects) {
        if let Some(irq) = self.irq_mut(vcpu, intid)
            && irq.bound
            && core::mem::take(&mut irq.held)
        {
            effects.deactivate.push(vcpu, intid);
        }
    }

    /// The vCPUs that have an interrupt of their own of this number; one stands for all that share it.
    fn copies(&self, intid: IntId) -> impl Iterator<Item = VcpuId> + use<> {
        let count = if intid.is_private() {
            self.vcpus.len()
        } else {
            1
        };
        (0..count as u8).map(VcpuId)
    }
}
