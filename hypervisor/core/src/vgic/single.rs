//! A virtual GIC in one value: as it is made, and for whoever is alone with it.

use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};

use super::affinity::{Affinities, Sgi};
use super::lr::ListReg;
use super::mmio::{self, Read};
use super::operations;
use super::parts::{Distributor, Held, Parts, Private};
use super::published::Published;
use super::{Config, Effects, Entry, Filled, Frame, Leftovers};
use crate::id::{IntId, VcpuId};

/// A virtual GIC whose parts have no locks: for one thread.
#[derive(Debug)]
pub struct Vgic {
    published: Published,
    distributor: RefCell<Distributor>,
    vcpus: Vec<RefCell<Private>>,
}

impl Clone for Vgic {
    fn clone(&self) -> Self {
        Self {
            published: self.published.copy(),
            distributor: self.distributor.clone(),
            vcpus: self.vcpus.clone(),
        }
    }
}

impl Parts for Vgic {
    type Distributor<'a> = RefMut<'a, Distributor>;
    type Private<'a> = RefMut<'a, Private>;

    fn published(&self) -> &Published {
        &self.published
    }

    fn distributor(&self) -> RefMut<'_, Distributor> {
        self.distributor.borrow_mut()
    }

    fn try_distributor(&self) -> Option<RefMut<'_, Distributor>> {
        self.distributor.try_borrow_mut().ok()
    }

    fn private(&self, vcpu: VcpuId) -> Option<RefMut<'_, Private>> {
        self.vcpus.get(vcpu.index()).map(RefCell::borrow_mut)
    }
}

impl Vgic {
    /// A GIC after reset: nothing enabled, every SPI routed to affinity 0.0.0.0. The only allocations. For the
    /// physical distributor to agree, the shell performs [`reset_spis`](super::reset_spis) once.
    pub fn new(config: &Config<'_>) -> Self {
        let published = Published::new(config);
        let passed = |n: u32| config.passed_through.contains(&IntId(n));
        let ppis = (16..32).fold(0, |mask, n| mask | u32::from(passed(n)) << n);
        let vcpus = published.affinities().all().iter();
        Self {
            distributor: RefCell::new(Distributor::new(config, &published)),
            vcpus: vcpus
                .map(|vcpu| RefCell::new(Private::new(vcpu, ppis)))
                .collect(),
            published,
        }
    }

    /// Its parts, to be locked each for itself.
    pub fn into_parts(self) -> (Published, Distributor, Vec<Private>) {
        let vcpus = self.vcpus.into_iter().map(RefCell::into_inner);
        (
            self.published,
            self.distributor.into_inner(),
            vcpus.collect(),
        )
    }

    /// What of it is read without a lock.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// The affinities it was made with.
    pub fn affinities(&self) -> &Affinities {
        self.published.affinities()
    }

    /// See [`Held::forward`].
    pub fn forward(&mut self, vcpu: VcpuId, intid: IntId) -> Effects {
        let mut effects = Effects::none();
        Held::of_interrupt(self, vcpu, intid).forward(vcpu, intid, &mut effects);
        effects
    }

    /// See [`Held::set_line`]; `vcpu` says whose, for a PPI.
    pub fn set_line(&mut self, intid: IntId, vcpu: Option<VcpuId>, level: bool) -> Effects {
        let vcpu = vcpu.unwrap_or(VcpuId(0));
        Held::of_interrupt(self, vcpu, intid).set_line(intid, level)
    }

    /// See [`Held::take_sgis`].
    pub fn take_sgis(&mut self, vcpu: VcpuId, bits: u16) {
        Held::private(self, vcpu).take_sgis(bits);
    }

    /// See [`Held::take_sent`].
    pub fn take_sent(&mut self, vcpu: VcpuId, intid: IntId, senders: u8) {
        Held::private(self, vcpu).take_sent(intid, senders);
    }

    /// See [`super::send_sgi_group0`].
    pub fn send_sgi_group0(&mut self, sgi: Sgi) -> Effects {
        Effects {
            kick: operations::send_sgi_group0(self, sgi),
            ..Effects::none()
        }
    }

    /// See [`Held::deactivate`].
    pub fn deactivate(&mut self, vcpu: VcpuId, intid: IntId) -> Effects {
        let mut effects = Effects::none();
        Held::of_interrupt(self, vcpu, intid).deactivate(intid, &mut effects);
        effects
    }

    /// See [`Held::needs_populate`].
    pub fn needs_populate(&self, vcpu: VcpuId) -> bool {
        Held::private(self, vcpu).needs_populate()
    }

    /// See [`Held::has_pending`].
    pub fn has_pending(&self, vcpu: VcpuId) -> bool {
        Held::of_vcpu(self, vcpu).has_pending()
    }

    /// See [`Held::fold`].
    pub fn fold(&mut self, vcpu: VcpuId, lrs: &[ListReg], eoi_count: u32) -> Effects {
        let mut effects = Effects::none();
        Held::of_vcpu(self, vcpu).fold(read(lrs), eoi_count, &mut effects);
        effects
    }

    /// Folds the list registers and chooses what they hold: see [`Held::populate`]. All of `lrs` is written.
    pub fn populate(
        &mut self,
        vcpu: VcpuId,
        lrs: &mut [ListReg],
        eoi_count: u32,
    ) -> (Entry, Effects) {
        let mut effects = Effects::none();
        let mut held = Held::of_vcpu(self, vcpu);
        held.fold(read(lrs), eoi_count, &mut effects);
        lrs.fill(ListReg::EMPTY);
        let entry = held.populate(lrs.len(), fill(lrs), &mut effects);
        (entry, effects)
    }

    /// See [`Held::reset_vcpu`]. All of `lrs` is written.
    pub fn reset_vcpu(
        &mut self,
        vcpu: VcpuId,
        lrs: &mut [ListReg],
        leftovers: Leftovers,
    ) -> Effects {
        let mut effects = Effects::none();
        Held::both(self, vcpu).reset_vcpu(read(lrs), leftovers, &mut effects);
        lrs.fill(ListReg::EMPTY);
        effects
    }

    /// The blocks of SPIs, for [`reset_spis`](Self::reset_spis).
    pub fn spi_blocks(&self) -> core::ops::RangeInclusive<u32> {
        self.published.spi_blocks()
    }

    /// See [`super::reset_spis`].
    pub fn reset_spis(&mut self, block: u32) -> Effects {
        operations::reset_spis(self, block, |_| {})
    }

    /// See [`super::read`].
    pub fn read(&mut self, me: VcpuId, frame: Frame, offset: u64, size: u8) -> Read {
        mmio::read(self, me, frame, offset, size)
    }

    /// See [`super::write`].
    pub fn write(&mut self, frame: Frame, offset: u64, size: u8, value: u64) -> Effects {
        let mut effects = Effects::none();
        mmio::write(self, (frame, offset, size), value, &mut effects, |_| {});
        effects
    }
}

/// Reads one of `lrs`.
fn read(lrs: &[ListReg]) -> impl Fn(usize) -> ListReg {
    |index| lrs.get(index).copied().unwrap_or(ListReg::EMPTY)
}

/// Fills one of `lrs`.
fn fill(lrs: &mut [ListReg]) -> impl FnMut(Filled) {
    |filled| {
        if let Some(lr) = lrs.get_mut(filled.index) {
            *lr = filled.lr;
        }
    }
}
