//! What is done to a virtual GIC as a whole: to the interrupts of several vCPUs, one after the other, or to one wherever it is.
//!
//! Interrupts that are bound to SDEI events (DEN0054 5.1.14) leave the guest's view of the GIC, where their
//! registers read as zero and ignore writes, and are handed to whoever keeps the events instead. A physical one stays
//! active, and so cannot fire again, until [`end_bound`].

use super::affinity::{Sgi, bit};
use super::irq::{Holder, Irq};
use super::parts::{Held, Parts, View};
use super::published::flag;
use super::{Effects, Physical, SpiMask, bits_of, enabled};
use crate::id::{IntId, VcpuId, VcpuSet};

impl<'a, P: Parts + 'a> Held<'a, P> {
    /// Whether an interrupt waits for `vcpu`, and is in no list register.
    pub fn awaits(&mut self, vcpu: VcpuId, intid: IntId) -> bool {
        let view = self.view();
        let groups = view.groups();
        let is_so = |irq: &Irq| irq.is_ready() && irq.target == Some(vcpu) && enabled(groups, irq);
        view.irq(intid).is_some_and(is_so)
    }

    /// A physical interrupt was acknowledged, and its priority dropped, on the pCPU of `vcpu`.
    pub fn forward(&mut self, vcpu: VcpuId, intid: IntId, effects: &mut Effects) {
        self.view().forward(vcpu, intid, effects);
    }

    /// The interrupt line of an emulated device is now `level`.
    pub fn set_line(&mut self, intid: IntId, level: bool) -> Effects {
        self.view().set_line(intid, level)
    }

    /// Takes over the SGIs (bit n is SGI n) that siblings posted to the vCPU. It must then populate.
    pub fn take_sgis(&mut self, bits: u16) {
        let (mut view, mut effects) = (self.view(), Effects::none());
        for intid in bits_of(u32::from(bits)) {
            view.update(IntId(intid), &mut effects, |irq| irq.latch = true);
        }
    }

    /// GICv2: takes over an SGI that these siblings (a bit each) posted to the vCPU. It must then populate.
    pub fn take_sent(&mut self, intid: IntId, senders: u8) {
        let (mut view, mut effects) = (self.view(), Effects::none());
        let senders = senders & view.everybody();
        view.update(intid, &mut effects, |irq| irq.send(senders));
    }

    /// ICC_DIR_EL1 or GICC_DIR by the vCPU, which has folded.
    pub fn deactivate(&mut self, intid: IntId, effects: &mut Effects) {
        self.view().deactivate(intid, effects);
    }
}

impl View<'_> {
    fn forward(&mut self, vcpu: VcpuId, intid: IntId, effects: &mut Effects) {
        let rules = self.published.rules();
        match self.irq_mut(intid) {
            Some(irq) if irq.bound && irq.passed_through => {
                irq.held = true;
                effects.bound = Some(intid);
            }
            Some(irq) if irq.passed_through => {
                self.update(intid, effects, |irq| {
                    irq.holder = match rules.is_v2 {
                        false => Holder::Anyone,
                        true if rules.resamples || irq.edge => Holder::Only(vcpu),
                        true => Holder::Nobody,
                    };
                    irq.fire();
                });
            }
            _ => effects.deactivate.push(vcpu, intid),
        }
    }

    fn set_line(&mut self, intid: IntId, level: bool) -> Effects {
        let mut effects = Effects::none();
        // Of an edge nothing but its rise counts.
        if let Some(irq) = self.irq_mut(intid).filter(|_| !level)
            && irq.edge
            && !irq.bound
            && !irq.passed_through
        {
            irq.line = false;
            return effects;
        }
        if self
            .irq(intid)
            .is_some_and(|irq| irq.line != level && !irq.passed_through)
        {
            self.update(intid, &mut effects, |irq| {
                irq.line = level;
                irq.latch |= level && irq.edge && !irq.bound;
            });
            let is_news = |irq: &Irq| irq.bound && (level || !irq.edge);
            if self.irq(intid).is_some_and(is_news) {
                effects.bound = Some(intid);
            }
        }
        effects
    }
}

/// An SGI sent through ICC_SGI0R_EL1 or ICC_ASGI1R_EL1: it reaches those targets that have it in group 0. Whom to kick.
/// (ICC_SGI1R_EL1 reaches either group and needs no look: IHI0069, GICD_CTLR.DS = 1.)
pub fn send_sgi_group0(parts: &impl Parts, sgi: Sgi) -> VcpuSet {
    let mut effects = Effects::none();
    for vcpu in sgi.targets.iter() {
        let mut held = Held::private(parts, vcpu);
        let mut view = held.view();
        if view.irq(sgi.intid).is_some_and(|irq| !irq.group1) {
            view.update(sgi.intid, &mut effects, |irq| irq.latch = true);
        }
    }
    effects.kick
}

/// GICD_SGIR by `from`, the general way. Whom to kick.
#[inline(never)]
pub(super) fn generate(parts: &impl Parts, from: VcpuId, value: u32) -> VcpuSet {
    let mut effects = Effects::none();
    let sgi = parts.published().affinities().generate(from, value);
    for vcpu in sgi.targets.iter() {
        let mut held = Held::private(parts, vcpu);
        held.view()
            .update(sgi.intid, &mut effects, |irq| irq.send(bit(from)));
    }
    effects.kick
}

/// GICD_CTLR.EnableGrp0 and EnableGrp1. Whom to kick.
#[inline(never)]
pub(super) fn set_groups(parts: &impl Parts, groups: [bool; 2]) -> VcpuSet {
    let published = parts.published();
    let mut distributor = parts.distributor();
    if distributor.groups == groups {
        return VcpuSet::EMPTY;
    }
    distributor.groups = groups;
    let mut kick = distributor.busy();
    for vcpu in kick.iter() {
        published.raise(vcpu, flag::SHARED | flag::DIRTY);
    }
    for vcpu in published.affinities().all().iter() {
        let Some(mut private) = parts.private(vcpu) else {
            continue;
        };
        private.groups = groups;
        let is_seated = private.is_seated();
        if is_seated {
            published.raise(vcpu, flag::UNSYNCED);
        }
        if is_seated || private.words.not_idle != 0 {
            private.is_dirty = true;
            kick.insert(vcpu);
        }
    }
    kick
}

/// Takes a block of SPIs and GICD_CTLR back to reset, after every vCPU has been. `perform` is given what is to be done
/// while the distributor is locked; nobody runs whom a kick could concern.
pub fn reset_spis(parts: &impl Parts, block: u32, perform: impl FnOnce(&Effects)) -> Effects {
    let _ = set_groups(parts, [false; 2]);
    let mut held = Held::distributor(parts);
    let effects = held.view().reset_spis(block);
    perform(&effects);
    effects
}

// Interrupts that are bound to events.

/// Whether the GIC has this interrupt.
pub fn has(parts: &impl Parts, intid: IntId) -> bool {
    let mut held = Held::of_interrupt(parts, VcpuId(0), intid);
    held.view().irq(intid).is_some()
}

/// Takes an interrupt out of the guest's view, on all vCPUs if it is a PPI. False, and nothing done, while it
/// is active or in a list register: a client disables it first, and waits until that has taken effect. The VM's lock is held, so
/// that nobody binds another in between.
pub fn bind(parts: &impl Parts, intid: IntId, effects: &mut Effects) -> bool {
    // Each copy leaves the guest's view first. One that is in use has all others come back.
    let take_out = |vcpu, effects: &mut Effects| {
        let mut held = Held::of_interrupt(parts, vcpu, intid);
        let mut view = held.view();
        let is_quiet = |irq: &Irq| !irq.shows_active() && irq.seat.is_none();
        let is_free = view.irq(intid).is_some_and(is_quiet);
        if is_free {
            view.update(intid, effects, |irq| irq.bound = true);
        }
        is_free
    };
    let copies = copies(parts, intid);
    let mut taken = VcpuSet::EMPTY;
    for vcpu in copies.iter() {
        if !take_out(vcpu, effects) {
            give_back(parts, intid, taken, effects);
            return false;
        }
        taken.insert(vcpu);
    }
    let mut passed_through = false;
    for vcpu in copies.iter() {
        let mut held = Held::of_interrupt(parts, vcpu, intid);
        held.view().update(intid, effects, |irq| {
            irq.enabled = false;
            irq.latch = false;
            irq.line &= !irq.passed_through;
            passed_through = irq.passed_through;
        });
    }
    if passed_through && intid.is_spi() {
        let (block, bits) = (intid.0 / 32, 1 << (intid.0 % 32));
        effects.phys = Some(Physical::Enable(SpiMask { block, bits }));
    }
    true
}

/// Gives an interrupt back to the guest, disabled. What it was at when it was bound it is again.
pub fn unbind(parts: &impl Parts, intid: IntId) {
    // An interrupt that is disabled disturbs nobody.
    let mut effects = Effects::none();
    give_back(parts, intid, copies(parts, intid), &mut effects);
}

fn give_back(parts: &impl Parts, intid: IntId, copies: VcpuSet, effects: &mut Effects) {
    for vcpu in copies.iter() {
        let mut held = Held::of_interrupt(parts, vcpu, intid);
        held.view().update(intid, effects, |irq| {
            irq.bound = false;
            // What is still active physically is so on the guest's account from now on.
            irq.line |= irq.held && !irq.edge;
            irq.latch |= irq.held && irq.edge;
        });
    }
}

/// Whether an interrupt of `vcpu` is edge triggered.
#[inline(never)]
pub fn is_edge(parts: &impl Parts, vcpu: VcpuId, intid: IntId) -> bool {
    let mut held = Held::of_interrupt(parts, vcpu, intid);
    held.view().irq(intid).is_some_and(|irq| irq.edge)
}

/// Whether an emulated device holds the line of a level sensitive interrupt up. Nothing is known of a
/// physical one: the GIC says that it is up by interrupting again.
#[inline(never)]
pub fn level(parts: &impl Parts, vcpu: VcpuId, intid: IntId) -> Option<bool> {
    let mut held = Held::of_interrupt(parts, vcpu, intid);
    let view = held.view();
    let is_known = |irq: &&Irq| !irq.edge && !irq.passed_through;
    view.irq(intid).filter(is_known).map(|irq| irq.line)
}

/// Lets a bound interrupt of `vcpu` fire again.
pub fn end_bound(parts: &impl Parts, vcpu: VcpuId, intid: IntId, effects: &mut Effects) {
    let mut held = Held::of_interrupt(parts, vcpu, intid);
    if let Some(irq) = held.view().irq_mut(intid)
        && irq.bound
        && core::mem::take(&mut irq.held)
    {
        effects.deactivate.push(vcpu, intid);
    }
}

/// The vCPUs that have an interrupt of their own of this number; one stands for all that share it.
fn copies(parts: &impl Parts, intid: IntId) -> VcpuSet {
    if intid.is_private() {
        parts.published().affinities().all()
    } else {
        VcpuSet::only(VcpuId(0))
    }
}
