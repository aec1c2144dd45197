//! The virtual GIC between its list registers and its vCPUs, and the emulated UART, whose line it takes.

use super::{Next, Outcome, Shared};
use crate::exit::MmioAccess;
use crate::id::{IntId, VcpuId, VcpuSet};
use crate::pl011::{self, Change};
use crate::regs::GuestRegs;
use crate::sdei::{self, Board, SdeiEffects};
use crate::vgic::lr::hcr;
use crate::vgic::{Effects, Frame, ListReg, LrState, MAX_LIST_REGS, Read, bits_of};
use crate::vm::{GuestMap, Hardware, Vcpu, read_register, write_register};

impl Shared {
    /// Brings what the list registers hold back into the virtual GIC; they are empty then, and chosen anew before the
    /// next entry. Whom to kick.
    pub fn fold(&mut self, vcpu: &mut Vcpu, cpu: &mut impl Hardware) -> VcpuSet {
        let lrs = vcpu.read_list_regs(cpu);
        let dropped = self.sample_lines(vcpu, &lrs, cpu);
        let deactivations = cpu.deactivations();
        let effects = self.vgic.fold(vcpu.id, existing(&lrs, cpu), deactivations);
        cpu.perform(&effects);
        if deactivations > 0 {
            // They have been done, and must not count again at the next fold. A refresh sets the rest.
            cpu.set_ich_hcr(hcr::EN);
        }
        vcpu.write_list_regs(&[ListReg::EMPTY; MAX_LIST_REGS], 0, 0, cpu);
        vcpu.is_vgic_stale = true;
        effects.kick.union(dropped)
    }

    /// Folds the list registers and chooses again what they hold. Whom to kick.
    pub fn refresh(&mut self, vcpu: &mut Vcpu, cpu: &mut impl Hardware) -> VcpuSet {
        let mut lrs = vcpu.read_list_regs(cpu);
        let mut dropped = self.sample_lines(vcpu, &lrs, cpu);
        for block in bits_of(self.vgic.waiting_lines(vcpu.id, vcpu.fresh.take())) {
            dropped = dropped.union(self.sample(vcpu.id, block, cpu));
        }
        dropped.remove(vcpu.id);
        let deactivations = cpu.deactivations();
        let there = existing_mut(&mut lrs, cpu);
        let (entry, effects) = self.vgic.populate(vcpu.id, there, deactivations);
        cpu.perform(&effects);
        vcpu.write_list_regs(&lrs, entry.used, entry.again, cpu);
        let is_deaf = vcpu.sdei.fate() == sdei::Fate::Deaf;
        cpu.set_ich_hcr(if is_deaf { 0 } else { entry.hcr });
        vcpu.is_vgic_stale = false;
        effects.kick.union(dropped)
    }

    /// The list registers `lrs` of `vcpu` are about to be folded: takes a passed-through interrupt that the guest has not
    /// acknowledged, and whose line has dropped meanwhile, out of them. Whom to kick besides.
    fn sample_lines(
        &mut self,
        vcpu: &Vcpu,
        lrs: &[ListReg; MAX_LIST_REGS],
        cpu: &mut impl Hardware,
    ) -> VcpuSet {
        let mut kick = VcpuSet::EMPTY;
        for lr in lrs.iter().take(vcpu.used) {
            let intid = IntId(lr.vintid);
            if lr.state == LrState::Pending && self.vgic.has_physical_line(vcpu.id, intid) {
                kick = kick.union(self.sample(vcpu.id, intid.0 / 32, cpu));
            }
        }
        kick.remove(vcpu.id);
        kick
    }

    /// Has the virtual GIC know how the lines of 32 interrupts are. Whom to kick.
    fn sample(&mut self, owner: VcpuId, block: u32, cpu: &mut impl Hardware) -> VcpuSet {
        let Some(lines) = cpu.lines(owner, block) else {
            return VcpuSet::EMPTY;
        };
        let effects = self.vgic.sample(owner, block, lines);
        cpu.perform(&effects);
        effects.kick
    }

    /// Takes a vCPU out of the virtual GIC: nothing pending, nothing active, list registers empty. Whom to kick.
    pub fn reset_interrupts(&mut self, vcpu: &mut Vcpu, cpu: &mut impl Hardware) -> VcpuSet {
        let mut lrs = vcpu.read_list_regs(cpu);
        let there = existing_mut(&mut lrs, cpu);
        let effects = self.vgic.reset_vcpu(vcpu.id, there, self.leftovers);
        cpu.perform(&effects);
        vcpu.write_list_regs(&lrs, 0, 0, cpu);
        cpu.reset_virtual_interface();
        vcpu.is_vgic_stale = true;
        effects.kick
    }

    /// A physical interrupt of the guest's has come.
    pub fn forward(
        &mut self,
        intid: IntId,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        board: &Board,
    ) -> Outcome {
        let must_populate = vcpu.is_vgic_stale || self.vgic.needs_populate(vcpu.id);
        let effects = self.vgic.forward(vcpu.id, intid);
        vcpu.fresh = Some(intid);
        let mut outcome = self.arrive(&effects, vcpu, cpu, board);
        let come = 1u32.checked_shl(intid.0).unwrap_or(0);
        // Whom an SDEI event's interrupt kicks is no matter of list registers alone.
        let is_plain = effects.bound.is_none() && !must_populate && come != 0;
        if is_plain && self.seat(come, vcpu, cpu) {
            outcome.kick.remove(vcpu.id);
            vcpu.fresh = None;
        }
        outcome
    }

    /// SGIs (bit n is SGI n) that siblings, or this vCPU itself, posted have come.
    pub fn take_sgis(&mut self, come: u32, vcpu: &mut Vcpu, cpu: &mut impl Hardware) {
        let must_populate = vcpu.is_vgic_stale || self.vgic.needs_populate(vcpu.id);
        self.vgic.take_sgis(vcpu.id, come as u16);
        vcpu.is_vgic_stale |= must_populate || !self.seat(come, vcpu, cpu);
    }

    /// The same with a GICv2: `sent` has a byte of senders for each SGI.
    pub fn take_sent(&mut self, sent: [u32; 4], vcpu: &mut Vcpu, cpu: &mut impl Hardware) {
        let must_populate = vcpu.is_vgic_stale || self.vgic.needs_populate(vcpu.id);
        let mut come = 0;
        for (intid, senders) in (0..16).zip(sent.iter().flat_map(|word| word.to_le_bytes())) {
            if senders != 0 {
                self.vgic.take_sent(vcpu.id, IntId(intid), senders);
                come |= 1 << intid;
            }
        }
        vcpu.is_vgic_stale |= must_populate || !self.seat(come, vcpu, cpu);
    }

    /// Puts private interrupts (bit n is INTID n) that have just come into unused list registers, and leaves the rest
    /// as they are, if that will do.
    fn seat(&mut self, come: u32, vcpu: &mut Vcpu, cpu: &mut impl Hardware) -> bool {
        let mut lrs = [ListReg::EMPTY; MAX_LIST_REGS];
        let there = existing_mut(&mut lrs, cpu);
        let Some((used, again)) = self.vgic.seat(vcpu.id, come, there, vcpu.used) else {
            return false;
        };
        for (index, &lr) in lrs.iter().enumerate().take(used).skip(vcpu.used) {
            vcpu.write_list_reg(index, lr, again, cpu);
        }
        vcpu.used = used;
        true
    }

    /// Performs what an interrupt's arrival brought about; one that is bound goes to its SDEI event.
    fn arrive(
        &mut self,
        effects: &Effects,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        board: &Board,
    ) -> Outcome {
        cpu.perform(effects);
        let mut outcome = Outcome::kick(effects.kick);
        if let Some(intid) = effects.bound {
            let (shared_events, vgic) = (&mut self.shared_events, &mut self.vgic);
            let SdeiEffects { look, gic } = vcpu.sdei.take_bound(intid, shared_events, vgic, board);
            cpu.perform(&gic);
            outcome.kick = outcome.kick.union(gic.kick);
            outcome.look = look;
        }
        outcome
    }

    pub(super) fn access_gic(
        &mut self,
        (frame, offset): (Frame, u64),
        access: MmioAccess,
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
    ) -> VcpuSet {
        let mut kick = VcpuSet::EMPTY;
        if frame.is_in_list_regs(offset, access.is_write) {
            if vcpu.used > 0 {
                kick = self.fold(vcpu, cpu);
            }
            if !access.is_write
                && let Some((owner, block)) =
                    self.vgic.shows_lines(vcpu.id, frame, offset, access.size)
            {
                kick = kick.union(self.sample(owner, block, cpu));
            }
        }
        if access.is_write {
            let value = read_register(regs, access.rt);
            let effects = self.vgic.write(frame, offset, access.size, value);
            cpu.perform(&effects);
            kick = kick.union(effects.kick);
        } else {
            match self.vgic.read(vcpu.id, frame, offset, access.size) {
                Read::Value(value) => write_register(regs, access.rt, access.extend(value)),
                // The answer is in others' list registers; the guest asks again when they have looked.
                Read::Again { kick: others } => {
                    // Populating in between is how the virtual GIC tells a load tried again from a later one.
                    vcpu.is_vgic_stale = true;
                    return kick.union(others);
                }
            }
        }
        regs.pc = regs.pc.wrapping_add(4);
        kick
    }

    #[inline]
    pub(super) fn access_uart(
        &mut self,
        offset: u64,
        access: MmioAccess,
        vcpu: &mut Vcpu,
        regs: &mut GuestRegs,
        cpu: &mut impl Hardware,
        map: &GuestMap,
    ) -> Outcome {
        let (done, change) = if access.is_write {
            let value = read_register(regs, access.rt) as u32;
            let done = self.uart.write(offset, access.size, value);
            let change = if done.is_changed {
                self.uart_window.changed(&self.uart)
            } else {
                Change::Keep
            };
            (done, change)
        } else {
            let (value, done) = self.uart.read(offset, access.size);
            write_register(regs, access.rt, access.extend(value));
            (done, self.uart_window.read(&self.uart))
        };
        regs.pc = regs.pc.wrapping_add(4);
        let next = done.transmit.map_or(Next::Continue, Next::Transmit);
        let is_plain = change == Change::Keep && done.line == self.uart_line;
        if is_plain && !self.is_receive_held {
            return Outcome::next(next);
        }
        let outcome = self.settle_uart(done, change, vcpu, cpu, &map.board);
        Outcome { next, ..outcome }
    }

    /// What an access to the UART has brought about besides a byte to send.
    #[cold]
    #[inline(never)]
    fn settle_uart(
        &mut self,
        done: pl011::Outcome,
        change: Change,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        board: &Board,
    ) -> Outcome {
        // Before anybody can learn of the access by its interrupt or by what this vCPU does next.
        self.change_uart_page(change, cpu);
        if done.room && core::mem::take(&mut self.is_receive_held) {
            cpu.set_receive(true);
        }
        if done.line == self.uart_line {
            return Outcome::NOTHING;
        }
        self.set_uart_line(done.line, vcpu, cpu, board)
    }

    /// The console has received something: as many bytes as the guest's UART has room for.
    pub fn receive(&mut self, vcpu: &mut Vcpu, cpu: &mut impl Hardware, board: &Board) -> Outcome {
        let mut outcome = Outcome::NOTHING;
        loop {
            if !self.uart.can_receive() {
                self.is_receive_held = true;
                cpu.set_receive(false);
                break;
            }
            let Some(byte) = cpu.receive() else {
                break;
            };
            let line = self.uart.receive(byte);
            let change = self.uart_window.changed(&self.uart);
            self.change_uart_page(change, cpu);
            if line != self.uart_line {
                let change = self.set_uart_line(line, vcpu, cpu, board);
                outcome.kick = outcome.kick.union(change.kick);
                outcome.look = outcome.look.union(change.look);
            }
        }
        outcome
    }

    /// Does what the emulated UART's window asks for.
    #[cold]
    #[inline(never)]
    pub(super) fn change_uart_page(&self, change: Change, cpu: &mut impl Hardware) {
        match change {
            Change::Keep => {}
            Change::Write => cpu.write_uart_page(&self.uart.image()),
            Change::Open => {
                cpu.write_uart_page(&self.uart.image());
                cpu.show_uart_page(true);
            }
            Change::Close => cpu.show_uart_page(false),
        }
    }

    /// The emulated UART's line has changed.
    #[inline(never)]
    fn set_uart_line(
        &mut self,
        line: bool,
        vcpu: &mut Vcpu,
        cpu: &mut impl Hardware,
        board: &Board,
    ) -> Outcome {
        self.uart_line = line;
        let effects = self.vgic.set_line(self.uart_intid, None, line);
        self.arrive(&effects, vcpu, cpu, board)
    }
}

/// Those list registers that the hardware has.
fn existing<'a>(lrs: &'a [ListReg; MAX_LIST_REGS], cpu: &impl Hardware) -> &'a [ListReg] {
    lrs.get(..cpu.list_regs()).unwrap_or(lrs)
}

fn existing_mut<'a>(
    lrs: &'a mut [ListReg; MAX_LIST_REGS],
    cpu: &impl Hardware,
) -> &'a mut [ListReg] {
    let count = cpu.list_regs().min(MAX_LIST_REGS);
    lrs.get_mut(..count).unwrap_or(&mut [])
}

impl Vcpu {
    /// The list registers in use, as the hardware has them.
    #[inline]
    fn read_list_regs(&self, cpu: &impl Hardware) -> [ListReg; MAX_LIST_REGS] {
        let mut lrs = [ListReg::EMPTY; MAX_LIST_REGS];
        for (index, lr) in lrs.iter_mut().enumerate().take(self.used) {
            *lr = cpu.list_register(index);
        }
        lrs
    }

    /// Fills the first `used` list registers and empties the others; `again` says which may come again as they are.
    #[inline]
    fn write_list_regs(
        &mut self,
        lrs: &[ListReg; MAX_LIST_REGS],
        used: usize,
        again: u32,
        cpu: &mut impl Hardware,
    ) {
        let written = used.max(self.used).min(cpu.list_regs());
        self.sticky.clear();
        for (index, &lr) in lrs.iter().enumerate().take(written) {
            if index < used {
                self.write_list_reg(index, lr, again, cpu);
            } else {
                cpu.set_list_register(index, 0);
            }
        }
        self.used = used;
    }

    fn write_list_reg(&mut self, index: usize, lr: ListReg, again: u32, cpu: &mut impl Hardware) {
        let word = cpu.list_register_word(lr);
        cpu.set_list_register(index, word);
        self.sticky.remember(again, IntId(lr.vintid), index, word);
    }

    /// Private interrupts (bit n is INTID n) have come, and nobody has kicked: those that were in a list register
    /// before, which the guest has emptied, go into it again without the VM's lock ([`crate::vgic::Sticky`]). The rest
    /// is returned.
    #[inline]
    pub(in crate::vm) fn reseat(&mut self, come: u32, cpu: &mut impl Hardware) -> u32 {
        if self.is_vgic_stale || !self.sticky.may_reseat(come) {
            return come;
        }
        let empty = cpu.empty_list_registers();
        let mut rest = come;
        let mut left = come;
        while left != 0 {
            let intid = left.trailing_zeros();
            left &= left - 1;
            if let Some((index, word)) = self.sticky.reseat(IntId(intid), empty) {
                cpu.set_list_register(index, word);
                rest &= !(1 << intid);
            }
        }
        rest
    }

    /// The same for SGI `4 * group` and the three after it of a GICv2, with a byte of senders each. One with several senders
    /// is not for this way.
    #[inline]
    pub(in crate::vm) fn reseat_sent(
        &mut self,
        group: usize,
        sent: u32,
        cpu: &mut impl Hardware,
    ) -> u32 {
        let (mut left, mut rest) = (sent, sent);
        if self.is_vgic_stale {
            return rest;
        }
        while left != 0 {
            let byte = left.trailing_zeros() / 8;
            let mask = 0xff << (8 * byte);
            let senders = left & mask;
            left &= !mask;
            let intid = IntId(4 * group as u32 + byte);
            if !senders.is_power_of_two() || !self.sticky.may_reseat(1 << intid.0) {
                continue;
            }
            if let Some((index, word)) = self.sticky.reseat(intid, cpu.empty_list_registers()) {
                let sender = senders.trailing_zeros() % 8;
                cpu.set_list_register(index, ListReg::with_sender_v2(word, sender));
                rest &= !mask;
            }
        }
        rest
    }

    /// The guest has ended interrupts whose end has a maintenance interrupt, and nobody has kicked: those that may come
    /// again are deactivated, and their list registers are empty. False, and nothing done, if there are others.
    #[inline]
    pub(in crate::vm) fn end_listed(&mut self, cpu: &mut impl Hardware) -> bool {
        if self.is_vgic_stale {
            return false;
        }
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
