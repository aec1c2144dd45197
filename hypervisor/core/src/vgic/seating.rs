//! Moving interrupts between the shared state and the list registers of one vCPU.

use super::irq::{Holder, Irq, Seat};
use super::lr::{ListReg, LrSource, LrState, hcr};
use super::mmio::Wait;
use super::{Effects, MAX_LIST_REGS, Vgic, bits_of, enabled, spi};
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
    /// The private interrupts (bit n is INTID n) that may go into their list register again as they are in it
    /// now, when they come again: see [`Sticky`](super::Sticky).
    pub again: u32,
}

/// Interrupts in the order in which they get a list register, at most as many as there are.
struct Queue {
    keys: [u32; MAX_LIST_REGS],
    used: usize,
    limit: usize,
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

impl Vgic {
    /// Brings what the list registers of `vcpu` hold back into the shared state. They count as empty from
    /// then on, and `vcpu` must [`populate`](Self::populate) before it enters its guest. `eoi_count` is
    /// EOIcount of ICH_HCR_EL2 ([`hcr::eoi_count`]); it counts once, so the populate that follows gets 0.
    pub fn fold(&mut self, vcpu: VcpuId, lrs: &[ListReg], eoi_count: u32) -> Effects {
        let mut effects = Effects::NONE;
        let Some(local) = self.vcpus.get_mut(vcpu.index()) else {
            return effects;
        };
        let slots = core::mem::replace(&mut local.slots, [None; MAX_LIST_REGS]);
        let asked = core::mem::take(&mut local.asked);
        for reader in asked.iter() {
            if let Some(reader) = self.vcpus.get_mut(reader.index()) {
                reader.wait.answered.insert(vcpu);
            }
        }
        self.unsynced.remove(vcpu);
        self.dirty.insert(vcpu);
        // First, since only what was in no list register can be meant.
        for _ in 0..eoi_count.min(31) {
            let Some(intid) = self.first_active(vcpu) else {
                break;
            };
            self.update(vcpu, intid, &mut effects, Irq::clear_active);
        }
        for (slot, lr) in slots.iter().zip(lrs) {
            if let Some(intid) = *slot {
                self.update(vcpu, intid, &mut effects, |irq| unseat(irq, vcpu, *lr));
            }
        }
        effects.kick.remove(vcpu);
        effects
    }

    /// Chooses what goes into the list registers of `vcpu`, after folding what is still in them (nothing, if
    /// it has just folded). All of `lrs` is written.
    pub fn populate(
        &mut self,
        vcpu: VcpuId,
        lrs: &mut [ListReg],
        eoi_count: u32,
    ) -> (Entry, Effects) {
        let mut effects = self.fold(vcpu, lrs, eoi_count);
        self.wake(vcpu, &mut effects);
        self.dirty.remove(vcpu);
        lrs.fill(ListReg::EMPTY);
        let mut hcr = hcr::EN | hcr::TDIR;
        let queue = self.line_up(vcpu, self.list_regs.min(lrs.len()), &mut hcr);
        let mut again = 0;
        for (index, (lr, &key)) in lrs.iter_mut().zip(queue.keys()).enumerate() {
            let intid = IntId(key::intid(key));
            let groups = self.groups;
            if let Some(irq) = self.irq_mut(vcpu, intid) {
                let on = enabled(groups, irq);
                *lr = seat(irq, vcpu, intid, on);
                if intid.is_private() && may_come_again(irq, *lr) {
                    again |= 1 << intid.0;
                }
            }
            if let Some(slot) = self
                .vcpus
                .get_mut(vcpu.index())
                .and_then(|local| local.slots.get_mut(index))
            {
                *slot = Some(intid);
            }
        }
        if let Some(local) = self.vcpus.get_mut(vcpu.index())
            && !core::mem::take(&mut local.wait.tried)
        {
            local.wait = Wait::default();
        }
        effects.kick.remove(vcpu);
        if hcr & (hcr::NPIE | hcr::LRENPIE) != 0 || self.has_waiting_read(vcpu) {
            again = 0;
        }
        let used = queue.used;
        (Entry { used, hcr, again }, effects)
    }

    /// Puts private interrupts (bit n of `come` is INTID n) that have just come to `vcpu` into list registers from
    /// `first` on, which are in use by nothing, and leaves the others alone. [`needs_populate`](Self::needs_populate)
    /// was false before they came: so all else that could be in a list register is in one. What they need goes
    /// into `lrs`, from `first` on; answers how many are in use then, and [`Entry::again`] of the new ones.
    /// `None`, and nothing done, where only [`populate`](Self::populate) will do.
    pub fn seat(
        &mut self,
        vcpu: VcpuId,
        come: u32,
        lrs: &mut [ListReg],
        first: usize,
    ) -> Option<(usize, u32)> {
        let room = self.list_regs.min(lrs.len()).saturating_sub(first);
        if come.count_ones() as usize > room || self.has_waiting_read(vcpu) {
            return None;
        }
        for n in bits_of(come) {
            if self.irq(vcpu, IntId(n))?.seat.is_some() {
                return None;
            }
        }
        let groups = self.groups;
        let (mut used, mut again) = (first, 0);
        for n in bits_of(come) {
            let local = self.vcpus.get_mut(vcpu.index())?;
            let irq = local.irqs.get_mut(n as usize)?;
            if !(irq.is_ready() && enabled(groups, irq)) {
                continue;
            }
            let lr = seat(irq, vcpu, IntId(n), true);
            again |= u32::from(may_come_again(irq, lr)) << n;
            *lrs.get_mut(used)? = lr;
            *local.slots.get_mut(used)? = Some(IntId(n));
            used += 1;
        }
        self.dirty.remove(vcpu);
        Some((used, again))
    }

    /// Whether `vcpu` has been told to run a load again. What it does before that ages the answer, so all
    /// its interrupts take the way through [`populate`](Self::populate), which takes care of that.
    fn has_waiting_read(&self, vcpu: VcpuId) -> bool {
        let local = self.vcpus.get(vcpu.index());
        local.is_some_and(|local| local.wait.of.is_some())
    }

    /// Whether `vcpu` would be interrupted by something that is not in its list registers.
    pub fn has_pending(&self, vcpu: VcpuId) -> bool {
        self.candidates(vcpu).any(|(_, active)| !active)
    }

    /// Who gets a list register. If not all of them do, at least one that is pending and not active is among
    /// those who do, so that "no list register pending" means progress, and never fires for ever.
    fn line_up(&self, vcpu: VcpuId, limit: usize, hcr: &mut u64) -> Queue {
        let mut queue = Queue::new(limit);
        let mut first_pending = u32::MAX;
        let (mut active, mut pending) = (0usize, 0usize);
        for (key, is_active) in self.candidates(vcpu) {
            if is_active {
                active += 1;
            } else {
                pending += 1;
                first_pending = first_pending.min(key);
            }
            queue.insert(key);
        }
        if pending > 0
            && active >= limit
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
            *hcr |= hcr::NPIE;
        }
        if active > placed_active {
            *hcr |= hcr::LRENPIE;
        }
        queue
    }

    /// What could be in a list register of `vcpu` and is in none: its key, and whether it is active.
    fn candidates(&self, vcpu: VcpuId) -> impl Iterator<Item = (u32, bool)> {
        let private = bits_of(self.words(vcpu, 0).not_idle).map(IntId);
        let shared = self
            .words
            .iter()
            .enumerate()
            .flat_map(|(block, words)| bits_of(words.not_idle).map(move |bit| spi(block, bit)));
        private.chain(shared).filter_map(move |intid| {
            let irq = self.irq(vcpu, intid)?;
            let active = irq.active && irq.active_on == Some(vcpu) && irq.seat.is_none();
            let ready = irq.is_ready() && irq.target == Some(vcpu) && enabled(self.groups, irq);
            (active || ready).then(|| (key::new(active, irq.priority, intid.0), active))
        })
    }

    /// The active interrupt of highest priority that `vcpu` has outside its list registers: the one that an
    /// EOI which found no list register was for (EOImode 0: priorities end in order).
    fn first_active(&self, vcpu: VcpuId) -> Option<IntId> {
        self.candidates(vcpu)
            .filter(|&(_, active)| active)
            .map(|(key, _)| key)
            .min()
            .map(|key| IntId(key::intid(key)))
    }

    /// Marks everybody in `vcpus` as having to populate, and returns them.
    pub(super) fn disturb(&mut self, vcpus: VcpuSet) -> VcpuSet {
        self.dirty = self.dirty.union(vcpus);
        vcpus
    }

    /// Those who have something in their list registers.
    pub(super) fn seated(&self) -> VcpuSet {
        let mut seated = VcpuSet::EMPTY;
        for (vcpu, local) in (0u8..).map(VcpuId).zip(&self.vcpus) {
            // They are filled from the first on.
            if local.slots.first().is_some_and(Option::is_some) {
                seated.insert(vcpu);
            }
        }
        seated
    }

    /// All of whom something private is not idle, and those who would take an SPI: whoever could be interrupted
    /// is among them. Each SPI that is not idle is looked at once, however many vCPUs there are.
    pub(super) fn busy(&self) -> VcpuSet {
        let mut busy = VcpuSet::EMPTY;
        for (vcpu, local) in (0u8..).map(VcpuId).zip(&self.vcpus) {
            if local.words.not_idle != 0 {
                busy.insert(vcpu);
            }
        }
        for (block, words) in self.words.iter().enumerate() {
            for bit in bits_of(words.not_idle) {
                let irq = self.irq(VcpuId(0), spi(block, bit));
                let ready = irq.filter(|irq| irq.is_ready() && enabled(self.groups, irq));
                if let Some(target) = ready.and_then(|irq| irq.target) {
                    busy.insert(target);
                }
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
    irq.active |= state.is_active() && !seat.drop_active;
    irq.active_on = irq.active.then_some(vcpu);
    let is_deactivated = seat.hardware || seat.maintained && lr == ListReg::EMPTY;
    if is_deactivated && state == LrState::Invalid {
        irq.held = false;
    }
}
