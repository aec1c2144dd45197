//! The parts of a virtual GIC, each behind a lock of its own: the distributor's state, and what is each vCPU's.
//!
//! Lock order: the distributor, then one vCPU's. What an operation has locked is a [`Held`]; most need one part only. A
//! vCPU whose list registers hold private interrupts alone, and whom no SPI concerns, needs its own alone to fold and
//! to populate: [`flag::SHARED`] says so, which is raised under the distributor's lock before the vCPU is kicked, and
//! lowered under it when the vCPU has found nothing.
//!
//! What is done under one lock is bounded: under a vCPU's by its 32 private interrupts and 16 list registers; under the
//! distributor's by one look at each SPI that is not idle and one at each vCPU (GICD_CTLR, the reset of a block), never by
//! their product.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::DerefMut;

use super::frame::Wait;
use super::irq::Irq;
use super::published::{Published, flag};
use super::{Config, Effects, MAX_LIST_REGS, MAX_SPIS, Words, bits_of, blocks, enabled, spi};
use crate::id::{IntId, Mpidr, VcpuId, VcpuSet};

/// A virtual GIC as one pCPU reaches it.
pub trait Parts {
    /// The lock on the distributor, while it is held.
    type Distributor<'a>: DerefMut<Target = Distributor>
    where
        Self: 'a;
    /// The lock on what is one vCPU's, while it is held.
    type Private<'a>: DerefMut<Target = Private>
    where
        Self: 'a;

    /// What needs no lock.
    fn published(&self) -> &Published;
    /// Waits for the distributor. No vCPU's part may be held.
    fn distributor(&self) -> Self::Distributor<'_>;
    /// The same, if that is to be had without waiting.
    fn try_distributor(&self) -> Option<Self::Distributor<'_>>;
    /// Waits for what is `vcpu`'s; nothing if there is no such vCPU. No other vCPU's part may be held.
    fn private(&self, vcpu: VcpuId) -> Option<Self::Private<'_>>;
}

/// What all vCPUs share: SPIs, and which groups are on.
#[derive(Clone, Debug)]
pub struct Distributor {
    /// GICv2: some SPI has had more than one target.
    pub(super) has_one_of_n: bool,
    /// GICv2: who has not populated since it was reset.
    pub(super) asleep: VcpuSet,
    /// GICD_CTLR.EnableGrp0 and EnableGrp1.
    pub(super) groups: [bool; 2],
    /// From INTID 32 on; as many as the registers have room for.
    pub(super) spis: Vec<Irq>,
    /// GICD_IROUTER of each; none of a GICv2.
    pub(super) routes: Vec<Mpidr>,
    /// Of each block of SPIs: bit n of block b is INTID 32 * (b + 1) + n.
    pub(super) words: Box<[Words]>,
    /// The blocks in which not all are idle, a bit each.
    pub(super) busy_blocks: u32,
    /// Of each vCPU: whose reads wait for it to fold.
    pub(super) asked: Vec<VcpuSet>,
    /// Of each vCPU: its read that waits.
    pub(super) waits: Vec<Wait>,
}

/// What is one vCPU's own.
#[derive(Clone, Debug)]
pub struct Private {
    /// GICD_CTLR's, as this vCPU knows them.
    pub(super) groups: [bool; 2],
    pub(super) irqs: [Irq; 32],
    pub(super) words: Words,
    /// The INTID in each list register that is in use.
    pub(super) slots: [IntId; MAX_LIST_REGS],
    /// Which list registers are in use, a bit each.
    pub(super) seated: u32,
    /// GICR_WAKER.ProcessorSleep.
    pub(super) asleep: bool,
    /// Something of its own has changed since it populated.
    pub(super) is_dirty: bool,
    /// It was reset, and nothing has touched it since: neither anybody's access nor the vCPU's first populate.
    pub(super) is_pristine: bool,
}

impl Distributor {
    /// The SPIs that are not idle.
    pub(super) fn not_idle(&self) -> impl Iterator<Item = (IntId, &Irq)> {
        bits_of(self.busy_blocks).flat_map(move |block| {
            let words = self.words.get(block as usize);
            bits_of(words.map_or(0, |words| words.not_idle)).filter_map(move |bit| {
                let irq = self.spis.get((32 * block + bit) as usize)?;
                Some((spi(block, bit), irq))
            })
        })
    }

    pub(super) fn new(config: &Config<'_>, published: &Published) -> Self {
        let blocks = blocks(config);
        let passed = |intid: u32| config.passed_through.contains(&IntId(intid));
        let is_v2 = published.rules().is_v2;
        let target = published.affinities().initial_target(is_v2);
        let spis = 32..(32 + 32 * blocks).min(32 + MAX_SPIS);
        let vcpus = published.affinities().len();
        let routes = spis.clone().filter(|_| !is_v2);
        Self {
            has_one_of_n: false,
            asleep: published.affinities().all(),
            groups: [false; 2],
            routes: routes.map(|_| Mpidr::new(0)).collect(),
            spis: spis
                .map(|intid| Irq::new(false, passed(intid), target))
                .collect(),
            words: (1..=blocks)
                .map(|block| Words {
                    passed_through: (0..32)
                        .fold(0, |mask, n| mask | u32::from(passed(32 * block + n)) << n),
                    ..Words::default()
                })
                .collect(),
            busy_blocks: 0,
            asked: (0..vcpus).map(|_| VcpuSet::EMPTY).collect(),
            waits: (0..vcpus).map(|_| Wait::default()).collect(),
        }
    }
}

impl Private {
    pub(super) fn new(vcpu: VcpuId, passed_through: u32) -> Self {
        Self {
            groups: [false; 2],
            irqs: core::array::from_fn(|n| {
                // SGIs are edge triggered, PPIs start level sensitive.
                Irq::new(n < 16, passed_through >> n & 1 != 0, Some(vcpu))
            }),
            words: Words {
                passed_through,
                ..Words::default()
            },
            slots: [IntId(0); MAX_LIST_REGS],
            seated: 0,
            asleep: true,
            is_dirty: false,
            is_pristine: true,
        }
    }

    /// Whether a list register holds something.
    pub(super) fn is_seated(&self) -> bool {
        self.seated != 0
    }

    /// An interrupt of this vCPU is in a list register from now on.
    pub(super) fn note_seat(&mut self, index: usize, intid: IntId) {
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = intid;
            self.seated |= 1 << index;
        }
    }
}

/// The parts that an operation has locked, until it is dropped. Physical effects are performed before that.
pub struct Held<'a, P: Parts + 'a> {
    published: &'a Published,
    vcpu: VcpuId,
    distributor: Option<P::Distributor<'a>>,
    private: Option<P::Private<'a>>,
}

impl<'a, P: Parts + 'a> Held<'a, P> {
    /// What is `vcpu`'s alone.
    #[inline]
    pub fn private(parts: &'a P, vcpu: VcpuId) -> Self {
        Self {
            published: parts.published(),
            vcpu,
            distributor: None,
            private: parts.private(vcpu),
        }
    }

    /// The distributor alone.
    #[inline]
    pub fn distributor(parts: &'a P) -> Self {
        Self {
            published: parts.published(),
            vcpu: VcpuId(0),
            distributor: Some(parts.distributor()),
            private: None,
        }
    }

    /// Both.
    pub fn both(parts: &'a P, vcpu: VcpuId) -> Self {
        let distributor = Some(parts.distributor());
        Self {
            published: parts.published(),
            vcpu,
            distributor,
            private: parts.private(vcpu),
        }
    }

    /// What `vcpu` needs to fold and to populate.
    #[inline]
    pub fn of_vcpu(parts: &'a P, vcpu: VcpuId) -> Self {
        if parts.published().has(vcpu, flag::SHARED) {
            Self::both(parts, vcpu)
        } else {
            Self::private(parts, vcpu)
        }
    }

    /// Where an interrupt of `vcpu` is.
    #[inline]
    pub fn of_interrupt(parts: &'a P, vcpu: VcpuId, intid: IntId) -> Self {
        if intid.is_private() {
            Self::private(parts, vcpu)
        } else {
            Self::distributor(parts)
        }
    }

    /// To work on them.
    #[inline]
    pub(super) fn view(&mut self) -> View<'_> {
        View {
            published: self.published,
            vcpu: self.vcpu,
            distributor: self.distributor.as_deref_mut(),
            private: self.private.as_deref_mut(),
        }
    }
}

/// The parts that an operation works on. What it needs and does not have does not exist.
pub(super) struct View<'a> {
    pub published: &'a Published,
    /// Whose private part it is.
    pub vcpu: VcpuId,
    pub distributor: Option<&'a mut Distributor>,
    pub private: Option<&'a mut Private>,
}

impl View<'_> {
    pub fn groups(&self) -> [bool; 2] {
        match (&self.private, &self.distributor) {
            (Some(private), _) => private.groups,
            (None, Some(distributor)) => distributor.groups,
            (None, None) => [false; 2],
        }
    }

    /// The words of INTID `32 * block` and the 31 after it.
    pub fn words(&self, block: u32) -> Words {
        let words = match (block as usize).checked_sub(1) {
            None => self.private.as_ref().map(|private| &private.words),
            Some(block) => {
                let distributor = self.distributor.as_ref();
                distributor.and_then(|distributor| distributor.words.get(block))
            }
        };
        words.copied().unwrap_or_default()
    }

    /// Changes the words of a block, and shows them.
    pub fn change_words(&mut self, block: u32, change: impl FnOnce(&mut Words)) {
        let (published, vcpu) = (self.published, self.vcpu);
        let change = |words: &mut Words| {
            let before = words.shown();
            change(words);
            if words.shown() != before {
                published.show(vcpu, block, words.shown());
            }
        };
        match (block as usize).checked_sub(1) {
            None => {
                if let Some(private) = &mut self.private {
                    change(&mut private.words);
                }
            }
            Some(index) => {
                if let Some(distributor) = &mut self.distributor
                    && let Some(words) = distributor.words.get_mut(index)
                {
                    change(words);
                    let bit = 1 << index;
                    let not_idle = if words.not_idle != 0 { bit } else { 0 };
                    distributor.busy_blocks = distributor.busy_blocks & !bit | not_idle;
                }
            }
        }
    }

    pub fn irq(&self, intid: IntId) -> Option<&Irq> {
        let index = intid.0 as usize;
        match index.checked_sub(32) {
            None => self.private.as_ref()?.irqs.get(index),
            Some(index) => self.distributor.as_ref()?.spis.get(index),
        }
    }

    pub fn irq_mut(&mut self, intid: IntId) -> Option<&mut Irq> {
        let index = intid.0 as usize;
        match index.checked_sub(32) {
            None => {
                let private = self.private.as_mut()?;
                private.is_pristine = false;
                private.irqs.get_mut(index)
            }
            Some(index) => self.distributor.as_mut()?.spis.get_mut(index),
        }
    }

    /// INTID `32 * block` and the 31 after it, as many as there are.
    pub fn block_mut(&mut self, block: u32) -> &mut [Irq] {
        let irqs = match (block as usize).checked_sub(1) {
            None => self.private.as_mut().map(|private| {
                private.is_pristine = false;
                &mut private.irqs[..]
            }),
            Some(block) => {
                let distributor = self.distributor.as_mut();
                distributor.and_then(|distributor| distributor.spis.chunks_mut(32).nth(block))
            }
        };
        irqs.unwrap_or(&mut [])
    }

    /// An interrupt that the guest's registers show.
    pub fn visible(&self, intid: IntId) -> Option<&Irq> {
        self.irq(intid).filter(|irq| !irq.bound)
    }

    /// Changes one interrupt, and sees to all that follows from it: every change comes through here.
    pub fn update(&mut self, intid: IntId, effects: &mut Effects, change: impl FnOnce(&mut Irq)) {
        if let Some(irq) = self.irq_mut(intid) {
            change(irq);
            self.propagate(intid, effects);
        }
    }

    /// What follows from a change; once, and not in every one of its callers.
    #[inline(never)]
    fn propagate(&mut self, intid: IntId, effects: &mut Effects) {
        let (groups, vcpu, published) = (self.groups(), self.vcpu, self.published);
        let Some(irq) = self.irq_mut(intid) else {
            return;
        };
        if irq.settle() {
            effects.deactivate.push(vcpu, intid);
        }
        let concerned = match irq.seat {
            Some(seat) => Some(seat.vcpu),
            None if irq.is_ready() && enabled(groups, irq) => irq.target,
            None => None,
        };
        let active_on = irq.active_on.filter(|_| irq.active);
        let bit = 1 << (intid.0 % 32);
        let now = Words::of(irq, bit);
        if let Some(concerned) = concerned {
            effects.kick.insert(concerned);
        }
        if let Some(private) = &mut self.private
            && intid.is_private()
        {
            private.is_dirty |= concerned.is_some();
        } else {
            if let Some(concerned) = concerned {
                published.raise(concerned, flag::SHARED | flag::DIRTY);
            }
            if let Some(active_on) = active_on {
                published.raise(active_on, flag::SHARED);
            }
        }
        self.change_words(intid.0 / 32, |words| words.replace(bit, now));
    }
}
