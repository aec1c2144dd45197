//! The list registers of a vCPU and the virtual GIC. Nothing here takes the VM's lock: what is this vCPU's own has one of its
//! own, and the distributor has another ([`Parts`]). Physical effects are performed before they are released.

use super::{Hardware, Pcpu, Vcpu, read_register, write_register};
use crate::exit::{MmioAccess, SysregAccess};
use crate::id::{IntId, VcpuId, VcpuSet};
use crate::regs::GuestRegs;
use crate::sdei;
use crate::vgic::interface::TrappedRegister;
use crate::vgic::lr::hcr;
use crate::vgic::{
    self, Effects, Filled, Frame, Held, ListReg, LrState, Parts, Read, Sticky, bits_of,
};

impl Vcpu {
    /// Brings what the list registers hold back into the virtual GIC; they are empty then, and chosen anew before the
    /// next entry. Whom to kick.
    pub fn fold(&mut self, gic: &impl Parts, cpu: &mut impl Hardware) -> VcpuSet {
        let mut effects = Effects::none();
        let deactivations = cpu.deactivations();
        let mut held = Held::of_vcpu(gic, self.id);
        let dropped = self.sample_lines(&mut held, cpu);
        held.fold(
            |index| cpu.list_register(index),
            deactivations,
            &mut effects,
        );
        perform(&effects, cpu);
        drop(held);
        if deactivations > 0 {
            // They have been done, and must not count again at the next fold. A refresh sets the rest.
            cpu.set_ich_hcr(hcr::EN);
        }
        self.empty_list_regs(0, cpu);
        self.is_vgic_stale = true;
        effects.kick.union(dropped)
    }

    /// Folds the list registers and chooses again what they hold. Whom to kick.
    pub fn refresh(&mut self, gic: &impl Parts, cpu: &mut impl Hardware) -> VcpuSet {
        let mut effects = Effects::none();
        let deactivations = cpu.deactivations();
        let mut held = Held::of_vcpu(gic, self.id);
        let mut dropped = self.sample_lines(&mut held, cpu);
        for block in bits_of(held.waiting_lines(self.fresh.take())) {
            dropped = dropped.union(sample(&mut held, self.id, block, cpu));
        }
        dropped.remove(self.id);
        held.fold(
            |index| cpu.list_register(index),
            deactivations,
            &mut effects,
        );
        self.sticky.clear();
        let (room, sticky) = (cpu.list_regs(), &mut self.sticky);
        let fill = |filled| write_list_reg(filled, sticky, cpu);
        let entry = held.populate(room, fill, &mut effects);
        perform(&effects, cpu);
        drop(held);
        self.empty_list_regs(entry.used, cpu);
        self.set_ich_hcr(entry.hcr, cpu);
        self.is_vgic_stale = false;
        effects.kick.union(dropped)
    }

    /// The list registers are about to be folded: takes a passed-through interrupt that the guest has not
    /// acknowledged, and whose line has dropped meanwhile, out of them. Whom to kick besides.
    fn sample_lines<P: Parts>(&self, held: &mut Held<'_, P>, cpu: &mut impl Hardware) -> VcpuSet {
        let mut kick = VcpuSet::EMPTY;
        if self.used == 0 {
            return kick;
        }
        for index in bits_of(held.listed_lines()) {
            let lr = cpu.list_register(index as usize);
            if lr.state == LrState::Pending {
                kick = kick.union(sample(held, self.id, lr.vintid / 32, cpu));
            }
        }
        kick.remove(self.id);
        kick
    }

    /// Takes a vCPU out of the virtual GIC: nothing pending, nothing active, list registers empty. Whom to kick.
    pub fn reset_interrupts(&mut self, gic: &impl Parts, cpu: &mut impl Hardware) -> VcpuSet {
        let mut effects = Effects::none();
        let mut held = Held::both(gic, self.id);
        held.reset_vcpu(
            |index| cpu.list_register(index),
            self.leftovers,
            &mut effects,
        );
        perform(&effects, cpu);
        drop(held);
        self.empty_list_regs(0, cpu);
        cpu.reset_virtual_interface();
        self.is_vgic_stale = true;
        effects.kick
    }

    /// Whether the virtual GIC has this vCPU as [`reset_interrupts`](Self::reset_interrupts) has left it. If so, and nothing of
    /// the distributor's concerns it, nothing goes into list registers, and it is ready to enter its guest.
    pub fn begin_fresh(&mut self, gic: &impl Parts, cpu: &mut impl Hardware) -> bool {
        if self.used != 0 || !self.is_vgic_stale {
            return false;
        }
        let mut held = Held::private(gic, self.id);
        if !held.is_pristine() {
            return false;
        }
        if let Some(hcr) = held.populate_nothing() {
            drop(held);
            self.fresh = None;
            self.set_ich_hcr(hcr, cpu);
            self.is_vgic_stale = false;
        }
        true
    }

    /// Sets ICH_HCR_EL2, unless a firmware's fault has made this vCPU deaf.
    #[inline]
    fn set_ich_hcr(&self, hcr: u64, cpu: &mut impl Hardware) {
        let is_deaf = self.sdei.fate() == sdei::Fate::Deaf;
        cpu.set_ich_hcr(if is_deaf { 0 } else { hcr });
    }

    /// A physical interrupt of the guest's has come. Whom to kick, and the interrupt if it is bound to an SDEI event.
    pub fn forward(
        &mut self,
        intid: IntId,
        gic: &impl Parts,
        cpu: &mut impl Hardware,
    ) -> (VcpuSet, Option<IntId>) {
        let mut effects = Effects::none();
        let mut held = Held::of_interrupt(gic, self.id, intid);
        let come = 1u32.checked_shl(intid.0).unwrap_or(0);
        let is_plain = come != 0 && !self.is_vgic_stale && !held.needs_populate();
        held.forward(self.id, intid, &mut effects);
        perform(&effects, cpu);
        self.fresh = Some(intid);
        // Whom an SDEI event's interrupt kicks is no matter of list registers alone.
        if is_plain && effects.bound.is_none() && self.seat(&mut held, come, cpu) {
            effects.kick.remove(self.id);
            self.fresh = None;
        }
        (effects.kick, effects.bound)
    }

    /// SGIs (bit n is SGI n) that siblings, or this vCPU itself, posted have come.
    pub fn take_sgis(&mut self, come: u32, gic: &impl Parts, cpu: &mut impl Hardware) {
        let mut held = Held::private(gic, self.id);
        let must_populate = self.is_vgic_stale || held.needs_populate();
        held.take_sgis(come as u16);
        if must_populate || !self.seat(&mut held, come, cpu) {
            self.must_refresh();
        }
    }

    /// The same with a GICv2: `sent` has a byte of senders for each SGI.
    pub fn take_sent(&mut self, sent: [u32; 4], gic: &impl Parts, cpu: &mut impl Hardware) {
        let mut held = Held::private(gic, self.id);
        let must_populate = self.is_vgic_stale || held.needs_populate();
        let mut come = 0;
        for (intid, senders) in (0..16).zip(sent.iter().flat_map(|word| word.to_le_bytes())) {
            if senders != 0 {
                held.take_sent(IntId(intid), senders);
                come |= 1 << intid;
            }
        }
        if must_populate || !self.seat(&mut held, come, cpu) {
            self.must_refresh();
        }
    }

    /// Puts private interrupts (bit n is INTID n) that have just come into unused list registers, and leaves the rest
    /// as they are, if that will do.
    fn seat<P: Parts>(
        &mut self,
        held: &mut Held<'_, P>,
        come: u32,
        cpu: &mut impl Hardware,
    ) -> bool {
        let existing = 1u32.checked_shl(cpu.list_regs() as u32);
        let existing = existing.unwrap_or(0).wrapping_sub(1);
        let unused = existing & u32::MAX.checked_shl(self.used as u32).unwrap_or(0);
        let (used, sticky) = (&mut self.used, &mut self.sticky);
        held.seat(come, unused, |filled| {
            *used = (*used).max(filled.index + 1);
            write_list_reg(filled, sticky, cpu);
        })
    }

    /// An access to a register of the virtual GIC; the pc goes on if it has been done. Whom to kick.
    pub fn access_gic(
        &mut self,
        (frame, offset): (Frame, u64),
        access: MmioAccess,
        regs: &mut GuestRegs,
        gic: &impl Parts,
        cpu: &mut impl Hardware,
    ) -> VcpuSet {
        let mut kick = VcpuSet::EMPTY;
        if frame.is_in_list_regs(offset, access.is_write) {
            if self.used > 0 {
                kick = self.fold(gic, cpu);
            }
            if !access.is_write
                && let Some((owner, block)) =
                    gic.published()
                        .shows_lines(self.id, frame, offset, access.size)
            {
                let mut held = Held::of_interrupt(gic, owner, IntId(32 * block));
                kick = kick.union(sample(&mut held, owner, block, cpu));
            }
        }
        if access.is_write {
            let value = read_register(regs, access.rt);
            let place = (frame, offset, access.size);
            let mut effects = Effects::none();
            vgic::write(gic, place, value, &mut effects, |effects| {
                perform(effects, cpu);
            });
            kick = kick.union(effects.kick);
        } else {
            match vgic::read(gic, self.id, frame, offset, access.size) {
                Read::Value(value) => write_register(regs, access.rt, access.extend(value)),
                // The answer is in others' list registers; the guest asks again when they have looked.
                Read::Again { kick: others } => {
                    // Populating in between is how the virtual GIC tells a load tried again from a later one.
                    self.must_refresh();
                    return kick.union(others);
                }
            }
        }
        regs.pc = regs.pc.wrapping_add(4);
        kick
    }

    /// A trapped ICC_DIR_EL1. Whom to kick.
    pub fn deactivate(
        &mut self,
        intid: IntId,
        gic: &impl Parts,
        cpu: &mut impl Hardware,
    ) -> VcpuSet {
        let kick = self.fold(gic, cpu);
        let mut held = Held::of_interrupt(gic, self.id, intid);
        let mut effects = Effects::none();
        held.deactivate(intid, &mut effects);
        perform(&effects, cpu);
        kick.union(effects.kick)
    }
}

/// Has the virtual GIC know how the lines of 32 interrupts are. Whom to kick.
fn sample<P: Parts>(
    held: &mut Held<'_, P>,
    owner: VcpuId,
    block: u32,
    cpu: &mut impl Hardware,
) -> VcpuSet {
    let Some(lines) = cpu.lines(owner, block) else {
        return VcpuSet::EMPTY;
    };
    let mut effects = Effects::none();
    held.sample(block, lines, &mut effects);
    perform(&effects, cpu);
    effects.kick
}

/// Performs what is to be done to physical interrupts, if anything is.
#[inline]
fn perform(effects: &Effects, cpu: &mut impl Hardware) {
    if effects.is_physical() {
        cpu.perform(effects);
    }
}

/// Fills a list register, and remembers what may go in again as it is.
fn write_list_reg(filled: Filled, sticky: &mut Sticky, cpu: &mut impl Hardware) {
    let word = cpu.list_register_word(filled.lr);
    cpu.set_list_register(filled.index, word);
    if filled.may_come_again {
        sticky.remember(IntId(filled.lr.vintid), filled.index, word);
    }
}

impl Vcpu {
    /// Only the first `used` list registers hold something; if none do, nothing may come again either.
    fn empty_list_regs(&mut self, used: usize, cpu: &mut impl Hardware) {
        for index in used..self.used {
            cpu.set_list_register(index, 0);
        }
        self.used = used;
        if used == 0 {
            self.sticky.clear();
        }
    }

    /// Its list registers are to be chosen anew before it enters its guest. Nothing may go into them as it was meanwhile.
    #[inline]
    pub(in crate::vm) fn must_refresh(&mut self) {
        self.is_vgic_stale = true;
        self.sticky.clear();
    }

    /// A private interrupt has come, and nobody has kicked: if it was in a list register before, which the guest has emptied, it
    /// goes into that again without a lock ([`crate::vgic::Sticky`]). Whether it has.
    #[inline(always)]
    pub(in crate::vm) fn reseat(&mut self, intid: IntId, cpu: &mut impl Hardware) -> bool {
        match self.sticky.reseat(intid, || cpu.empty_list_registers()) {
            Some((index, word)) => {
                cpu.set_list_register(index, word);
                true
            }
            None => false,
        }
    }

    /// The same for an SGI of a GICv2, from this vCPU.
    #[inline(always)]
    pub(in crate::vm) fn reseat_from(
        &mut self,
        intid: IntId,
        sender: u32,
        cpu: &mut impl Hardware,
    ) -> bool {
        match self.sticky.reseat(intid, || cpu.empty_list_registers()) {
            Some((index, word)) => {
                cpu.set_list_register(index, ListReg::with_sender_v2(word, sender));
                true
            }
            None => false,
        }
    }

    /// The same for SGI `4 * group` and the three after it of a GICv2, with a byte of senders each. One with several senders
    /// is not for this way. Those that are left.
    #[inline]
    pub(in crate::vm) fn reseat_sent(
        &mut self,
        group: usize,
        sent: u32,
        cpu: &mut impl Hardware,
    ) -> u32 {
        let (mut left, mut rest) = (sent, sent);
        while left != 0 {
            let byte = left.trailing_zeros() / 8;
            let mask = 0xff << (8 * byte);
            let senders = left & mask;
            left &= !mask;
            let intid = IntId(4 * group as u32 + byte);
            let sender = senders.trailing_zeros() % 8;
            if senders.is_power_of_two() && self.reseat_from(intid, sender, cpu) {
                rest &= !mask;
            }
        }
        rest
    }

    /// The guest has ended interrupts whose end has a maintenance interrupt, and nobody has kicked: those that may come
    /// again are deactivated, and their list registers are empty. False, and nothing done, if there are others.
    #[inline]
    pub(in crate::vm) fn end_listed(&mut self, cpu: &mut impl Hardware) -> bool {
        let ended = cpu.ended_list_registers();
        let indices = || (0..self.used).filter(|&index| ended >> index & 1 != 0);
        if ended == 0 || !indices().all(|index| self.sticky.ended(index).is_some()) {
            return false;
        }
        for index in indices() {
            if let Some(intid) = self.sticky.ended(index) {
                cpu.set_list_register(index, 0);
                cpu.deactivate(intid.0);
            }
        }
        true
    }
}

/// A register that traps beside ICC_DIR_EL1, if it is one.
#[cold]
pub(super) fn access_interface(
    access: SysregAccess,
    regs: &mut GuestRegs,
    pcpu: &mut impl Pcpu,
) -> bool {
    let Some(register) = TrappedRegister::find(access.register) else {
        return false;
    };
    let state = pcpu.interface_state();
    if access.is_read {
        write_register(regs, access.rt, register.read(&state));
        return true;
    }
    let vmcr = register.write(&state, read_register(regs, access.rt));
    if let Some(vmcr) = vmcr {
        pcpu.set_ich_vmcr(vmcr);
    }
    vmcr.is_some()
}
