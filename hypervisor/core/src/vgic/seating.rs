//! Moving interrupts between the shared state and the list registers of one vCPU.

use super::frame::Wait;
use super::irq::{Holder, Irq, Seat};
use super::lr::{ListReg, LrSource, LrState, hcr};
use super::parts::{Distributor, Held, Parts, View};
use super::published::flag;
use super::{Effects, MAX_LIST_REGS, bits_of, enabled};
use crate::id::{IntId, VcpuId, VcpuSet};

/// What a vCPU enters its guest with, beside its list registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Entry {
    /// How many list registers are in use, from the first on.
    pub used: usize,
    /// ICH_HCR_EL2: the interface on, writes of ICC_DIR_EL1 trapped (the shell clears [`hcr::TDIR`] where
    /// ICH_VTR_EL2.TDS is 0), a maintenance interrupt when there is more to place than there was room for.
    pub hcr: u64,
}

/// Interrupts in the order in which they get a list register, at most as many as there are.
struct Queue {
    keys: [u32; MAX_LIST_REGS],
    used: usize,
    limit: usize,
    /// An SPI is among them, or would be with more room.
    has_spi: bool,
    /// [`Entry::hcr`]
    hcr: u64,
}

/// The waiting room: who is first is by class, priority, INTID, which is also the order of the words.
mod key {
    /// Active interrupts go first: their end must find them in a list register.
    pub const PENDING: u32 = 1 << 24;

    pub const fn new(active: bool, priority: u8, intid: u32) -> u32 {
        (if active { 0 } else { PENDING }) | (priority as u32) << 16 | intid & 0xffff
    }

    pub const fn intid(key: u32) -> u32 {
        key & 0xffff
    }
}

impl Queue {
    fn new(limit: usize) -> Self {
        Self {
            keys: [u32::MAX; MAX_LIST_REGS],
            used: 0,
            limit,
            has_spi: false,
            hcr: hcr::EN | hcr::TDIR,
        }
    }

    fn insert(&mut self, new: u32) {
        let mut carried = new;
        for slot in self.keys.iter_mut().take(self.limit) {
            if carried < *slot {
                core::mem::swap(slot, &mut carried);
            }
        }
        self.used = self.limit.min(self.used + 1);
    }

    fn keys(&self) -> &[u32] {
        self.keys.get(..self.used).unwrap_or(&[])
    }

    fn last_mut(&mut self) -> Option<&mut u32> {
        self.keys.get_mut(..self.used)?.last_mut()
    }
}

/// A list register that was filled.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// Which.
    pub index: usize,
    /// With what.
    pub lr: ListReg,
    /// It is a private interrupt's that may go in again as it is: see [`Sticky`](super::Sticky).
    pub may_come_again: bool,
}

impl<'a, P: Parts + 'a> Held<'a, P> {
    /// Brings what the list registers of the vCPU hold back into its part and the distributor. They count as empty from
    /// then on, and the vCPU must [`populate`](Self::populate) before it enters its guest. `lr` reads one that is in use.
    /// `eoi_count` is EOIcount of ICH_HCR_EL2 ([`hcr::eoi_count`]); it counts once, so the next fold or populate gets 0.
    pub fn fold(&mut self, lr: impl Fn(usize) -> ListReg, eoi_count: u32, effects: &mut Effects) {
        self.view().fold(lr, eoi_count, effects);
    }

    /// Chooses what goes into the first `room` list registers of the vCPU, which are empty: it [folds](Self::fold) before,
    /// and unlocks nothing in between. `fill` writes one.
    pub fn populate(
        &mut self,
        room: usize,
        fill: impl FnMut(Filled),
        effects: &mut Effects,
    ) -> Entry {
        self.view().populate(room, fill, effects)
    }

    /// Puts private interrupts (bit n of `come` is INTID n) that have just come to the vCPU into list registers that are in
    /// use by nothing (a bit each in `unused`), and leaves the others alone. [`needs_populate`](Self::needs_populate)
    /// was false before they came: so all else that could be in a list register is in one. `fill` writes one.
    /// False, and nothing done, where only [`populate`](Self::populate) will do.
    pub fn seat(&mut self, come: u32, unused: u32, fill: impl FnMut(Filled)) -> bool {
        self.view().seat(come, unused, fill).is_some()
    }

    /// Whether the vCPU has to populate before it enters its guest again.
    pub fn needs_populate(&mut self) -> bool {
        let view = self.view();
        let is_dirty = view.private.is_some_and(|private| private.is_dirty);
        is_dirty || view.published.has(view.vcpu, flag::DIRTY)
    }

    /// Whether the vCPU would be interrupted by something that is not in its list registers.
    pub fn has_pending(&mut self) -> bool {
        self.view().candidates().any(|(_, active)| !active)
    }
}

impl View<'_> {
    pub fn fold(&mut self, lr: impl Fn(usize) -> ListReg, eoi_count: u32, effects: &mut Effects) {
        let vcpu = self.vcpu;
        let Some(private) = &mut self.private else {
            return;
        };
        let seated = core::mem::take(&mut private.seated);
        private.is_dirty = true;
        if let Some(distributor) = &mut self.distributor {
            distributor.answer(vcpu);
        }
        if self.published.has(vcpu, flag::UNSYNCED) {
            self.published.lower(vcpu, flag::UNSYNCED);
        }
        if seated == 0 && eoi_count == 0 {
            return;
        }
        // First, since only what was in no list register can be meant.
        for _ in 0..eoi_count.min(31) {
            let Some(intid) = self.first_active() else {
                break;
            };
            self.update(intid, effects, Irq::clear_active);
        }
        for index in bits_of(seated).map(|index| index as usize) {
            let slot = self.private.as_ref().and_then(|it| it.slots.get(index));
            if let Some(&intid) = slot {
                debug_assert!(self.irq(intid).is_some(), "its part is not locked");
                let lr = lr(index);
                self.update(intid, effects, |irq| unseat(irq, vcpu, lr));
            }
        }
        effects.kick.remove(vcpu);
    }

    pub fn populate(
        &mut self,
        room: usize,
        mut fill: impl FnMut(Filled),
        effects: &mut Effects,
    ) -> Entry {
        let (vcpu, groups) = (self.vcpu, self.groups());
        self.wake(effects);
        let limit = self.published.rules().list_regs.min(room);
        let mut queue = Queue::new(limit);
        self.line_up(&mut queue);
        self.settle_shared(queue.has_spi);
        let is_crowded = queue.hcr & (hcr::NPIE | hcr::LRENPIE) != 0;
        let may_again = !is_crowded && !self.published.has(vcpu, flag::WAITS);
        for (index, &key) in queue.keys().iter().enumerate() {
            let intid = IntId(key::intid(key));
            let Some(irq) = self.irq_mut(intid) else {
                continue;
            };
            let on = enabled(groups, irq);
            let lr = seat(irq, vcpu, intid, on);
            let may_come_again = may_again && intid.is_private() && may_come_again(irq, lr);
            fill(Filled {
                index,
                lr,
                may_come_again,
            });
            if let Some(private) = &mut self.private {
                private.note_seat(index, intid);
            }
        }
        if let Some(private) = &mut self.private {
            private.is_dirty = false;
            private.is_pristine = false;
        }
        Entry {
            used: queue.used,
            hcr: queue.hcr,
        }
    }

    /// The vCPU populates, with the distributor locked: says whether that may hold something of it from now on. `has_spi` says
    /// that an SPI is in a list register or would be.
    fn settle_shared(&mut self, has_spi: bool) {
        let vcpu = self.vcpu;
        let Some(distributor) = &mut self.distributor else {
            return;
        };
        let mut lower = flag::DIRTY;
        let mut waits = false;
        if let Some(wait) = distributor.waits.get_mut(vcpu.index()) {
            if !core::mem::take(&mut wait.tried) {
                *wait = Wait::default();
            }
            waits = wait.of.is_some();
        }
        if !waits {
            lower |= flag::WAITS;
        }
        if !(waits || has_spi) {
            lower |= flag::SHARED;
        }
        self.published.lower(vcpu, lower);
    }

    fn seat(&mut self, come: u32, unused: u32, mut fill: impl FnMut(Filled)) -> Option<()> {
        let (vcpu, groups) = (self.vcpu, self.groups());
        let limit = self.published.rules().list_regs as u32;
        let mut free = unused & 1u32.checked_shl(limit).unwrap_or(0).wrapping_sub(1);
        let private = self.private.as_mut()?;
        if come.count_ones() > free.count_ones() || self.published.has(vcpu, flag::WAITS) {
            return None;
        }
        for n in bits_of(come) {
            if private.irqs.get(n as usize)?.seat.is_some() {
                return None;
            }
        }
        for n in bits_of(come) {
            let irq = private.irqs.get_mut(n as usize)?;
            if !(irq.is_ready() && enabled(groups, irq)) {
                continue;
            }
            let index = free.trailing_zeros() as usize;
            free &= free.wrapping_sub(1);
            let lr = seat(irq, vcpu, IntId(n), true);
            let may_come_again = may_come_again(irq, lr);
            private.note_seat(index, IntId(n));
            fill(Filled {
                index,
                lr,
                may_come_again,
            });
        }
        private.is_dirty = false;
        Some(())
    }

    /// Who gets a list register. If not all of them do, at least one that is pending and not active is among
    /// those who do, so that "no list register pending" means progress, and never fires for ever.
    fn line_up(&self, queue: &mut Queue) {
        let mut first_pending = u32::MAX;
        let (mut active, mut pending) = (0usize, 0usize);
        // A loop would look at each step which part of the chain it is in.
        self.candidates().for_each(|(key, is_active)| {
            if is_active {
                active += 1;
            } else {
                pending += 1;
                first_pending = first_pending.min(key);
            }
            queue.has_spi |= key::intid(key) >= 32;
            queue.insert(key);
        });
        if pending > 0
            && active >= queue.limit
            && let Some(last) = queue.last_mut()
        {
            *last = first_pending;
        }
        let placed_pending = queue
            .keys()
            .iter()
            .filter(|&&key| key & key::PENDING != 0)
            .count();
        let placed_active = queue.used - placed_pending;
        if pending > placed_pending {
            queue.hcr |= hcr::NPIE;
        }
        if active > placed_active {
            queue.hcr |= hcr::LRENPIE;
        }
    }

    /// What could be in a list register of `vcpu` and is in none: its key, and whether it is active.
    fn candidates(&self) -> impl Iterator<Item = (u32, bool)> {
        let (vcpu, groups) = (self.vcpu, self.groups());
        let own = bits_of(self.words(0).not_idle).filter_map(|n| {
            let irq = self.private.as_ref()?.irqs.get(n as usize)?;
            Some((IntId(n), irq))
        });
        let distributor = self.distributor.as_deref();
        let spis = distributor.into_iter().flat_map(Distributor::not_idle);
        own.chain(spis).filter_map(move |(intid, irq)| {
            let active = irq.active && irq.active_on == Some(vcpu) && irq.seat.is_none();
            let ready = irq.is_ready() && irq.target == Some(vcpu) && enabled(groups, irq);
            let priority = if active {
                irq.active_priority
            } else {
                irq.priority
            };
            (active || ready).then(|| (key::new(active, priority, intid.0), active))
        })
    }

    /// Whether an SPI is or should be in a list register of `vcpu`, which has folded.
    pub fn concerns_shared(&self) -> bool {
        self.candidates().any(|(key, _)| key::intid(key) >= 32)
    }

    /// The active interrupt of highest priority that `vcpu` has outside its list registers: the one that an
    /// EOI which found no list register was for (EOImode 0: priorities end in order).
    fn first_active(&self) -> Option<IntId> {
        self.candidates()
            .filter(|&(_, active)| active)
            .map(|(key, _)| key)
            .min()
            .map(|key| IntId(key::intid(key)))
    }
}

impl Distributor {
    /// `vcpu` folds: those whose reads wait for that may go on.
    fn answer(&mut self, vcpu: VcpuId) {
        let asked = self.asked.get_mut(vcpu.index()).map(core::mem::take);
        for reader in asked.unwrap_or_default().iter() {
            if let Some(wait) = self.waits.get_mut(reader.index()) {
                wait.answered.insert(vcpu);
            }
        }
    }

    /// All who would take an SPI now. Each SPI that is not idle is looked at once, however many vCPUs there are.
    pub(super) fn busy(&self) -> VcpuSet {
        let mut busy = VcpuSet::EMPTY;
        for (_, irq) in self.not_idle() {
            if irq.is_ready()
                && enabled(self.groups, irq)
                && let Some(target) = irq.target
            {
                busy.insert(target);
            }
        }
        busy
    }
}

/// Puts `irq` into a list register of `vcpu`; `group_on` says whether it may be pending there.
fn seat(irq: &mut Irq, vcpu: VcpuId, intid: IntId, group_on: bool) -> ListReg {
    let active = irq.active;
    let deliverable = irq.enabled && group_on && irq.target == Some(vcpu);
    let sender = if deliverable && irq.latch {
        irq.next_sender(active)
    } else {
        None
    };
    let latch = sender.is_some();
    let line = deliverable && irq.line && !irq.edge && !active;
    irq.active = false;
    irq.latch &= !latch || irq.senders != 0;
    // Something that cannot go into this list register is to be delivered after it.
    let waits = (active || irq.senders != 0) && irq.enabled && irq.is_pending();
    let state = LrState::new(latch || line, active);
    let is_holder = irq.holder == Holder::Anyone || irq.holder == Holder::Only(vcpu);
    let hardware = irq.held && is_holder && state != LrState::PendingActive && !waits;
    irq.seat = Some(Seat {
        vcpu,
        latch,
        senders: sender.unwrap_or(0),
        line,
        hardware,
        maintained: irq.held && !hardware,
        active,
        drop_active: false,
    });
    ListReg {
        vintid: intid.0,
        priority: irq.priority,
        group1: irq.group1,
        state,
        source: if hardware {
            LrSource::Hardware { pintid: intid.0 }
        } else {
            LrSource::Software {
                eoi: irq.held || waits || line,
            }
        },
        sender: irq.sender,
    }
}

/// Whether `lr`, which `irq` was just put into, says no more and no less than that it has come once: then it says
/// the same when it comes again.
fn may_come_again(irq: &Irq, lr: ListReg) -> bool {
    let Some(seat) = irq.seat else {
        return false;
    };
    let has_fired = seat.latch == irq.edge && seat.line != irq.edge;
    let is_plain = match lr.source {
        LrSource::Hardware { .. } => has_fired,
        LrSource::Software { eoi: false } => seat.latch && lr.vintid < 16,
        LrSource::Software { eoi: true } => irq.held && has_fired,
    };
    is_plain && lr.state == LrState::Pending && !irq.is_pending_beside(seat)
}

/// Takes `irq` out of a list register of `vcpu`, which is now `lr`.
fn unseat(irq: &mut Irq, vcpu: VcpuId, lr: ListReg) {
    let Some(seat) = irq.seat.take() else {
        return;
    };
    let state = lr.state;
    if seat.senders != 0 && state != LrState::Invalid {
        // The one that came the short way last may be another sender's than the one it was filled for.
        irq.sender = lr.sender;
    }
    if state.is_pending() {
        irq.latch |= seat.latch;
        if seat.latch && seat.senders != 0 {
            irq.senders |= 1u8.checked_shl(lr.sender.into()).unwrap_or(0);
        }
    } else if seat.line && irq.passed_through {
        // Acknowledged: what the physical line said has been delivered.
        irq.line = false;
    }
    let was_pending = seat.latch || seat.line;
    if state.is_active() && (!seat.active || was_pending && !state.is_pending()) {
        irq.active_priority = lr.priority;
    }
    irq.active |= state.is_active() && !seat.drop_active;
    irq.active_on = irq.active.then_some(vcpu);
    let is_deactivated = seat.hardware || seat.maintained && lr == ListReg::EMPTY;
    if is_deactivated && state == LrState::Invalid {
        irq.held = false;
    }
}
