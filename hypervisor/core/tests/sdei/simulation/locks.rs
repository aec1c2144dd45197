//! The locks of the simulation: each is waited for by giving way, and they are taken in their order or not at all.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::{Deref, DerefMut};

use hv_core::id::VcpuId;
use hv_core::vgic::{Distributor, Parts, Private, Published};

use super::guest::bound_event;
use super::machine::{Point, Port, World};

/// The locks in the order in which they are taken; of each kind one at a time.
pub const VM: u8 = 1 << 0;
const DISTRIBUTOR: u8 = 1 << 1;
const PRIVATE: u8 = 1 << 2;

/// That a vCPU holds a lock.
pub struct Held<'a> {
    locks: &'a Cell<u8>,
    lock: u8,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.locks.set(self.locks.get() & !self.lock);
    }
}

/// A part of the virtual GIC, while it is locked.
pub struct PartGuard<'a, T> {
    part: RefMut<'a, T>,
    /// It is the distributor, and this vCPU has it.
    distributor: Option<(&'a World, usize)>,
    _held: Held<'a>,
}

impl<T> Drop for PartGuard<'_, T> {
    fn drop(&mut self) {
        if let Some((world, n)) = self.distributor {
            let published = &world.map.published;
            world.said.borrow_mut().end(published, n, world.broken);
        }
    }
}

impl<T> Deref for PartGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.part
    }
}

impl<T> DerefMut for PartGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.part
    }
}

impl Port<'_> {
    /// Waits for a lock. What is taken while the VM's is held is one step with it, and a physical
    /// interrupt that was acknowledged is taken further at once: whether it is bound must not change.
    pub fn take_lock<'a, T>(
        &'a self,
        lock: u8,
        value: &'a RefCell<T>,
    ) -> (RefMut<'a, T>, Held<'a>) {
        let (n, world) = (self.n, &self.world);
        let locks = &world.held[n];
        let held = locks.get();
        assert!(held < lock, "vCPU {n} takes lock {lock} and holds {held}");
        if held & VM == 0 && world.pcpus[n].borrow().in_hand.is_none() {
            self.give_way(Point::Lock);
        }
        // Who has the VM's lock waits for nobody: what a call does is to be one step. It waits before instead.
        let is_in_the_way = || lock == VM && world.held.iter().any(|held| held.get() != 0);
        let value = loop {
            if !is_in_the_way()
                && let Ok(value) = value.try_borrow_mut()
            {
                break value;
            }
            self.give_way(Point::Lock);
        };
        locks.set(held | lock);
        (value, Held { locks, lock })
    }

    fn lock_part<'a, T>(&'a self, lock: u8, part: &'a RefCell<T>) -> PartGuard<'a, T> {
        let taken = self.take_lock(lock, part);
        self.begin_part(lock, taken)
    }

    fn begin_part<'a, T>(
        &'a self,
        lock: u8,
        (part, held): (RefMut<'a, T>, Held<'a>),
    ) -> PartGuard<'a, T> {
        self.settle_call();
        let mut pcpu = self.world.pcpus[self.n].borrow_mut();
        if let Some(intid) = pcpu.in_hand
            && bound_event(intid).is_none()
        {
            // It goes no further than this.
            pcpu.in_hand = None;
            self.world.spis.borrow_mut().comes(intid);
        }
        let mut distributor = None;
        if lock == DISTRIBUTOR {
            let world: &World = &self.world;
            world.spis.borrow_mut().take_effect(self.n);
            let mut said = world.said.borrow_mut();
            said.begin(&world.map.published, world.pcpus.len());
            distributor = Some((world, self.n));
        }
        PartGuard {
            part,
            distributor,
            _held: held,
        }
    }
}

impl Parts for Port<'_> {
    type Distributor<'a>
        = PartGuard<'a, Distributor>
    where
        Self: 'a;
    type Private<'a>
        = PartGuard<'a, Private>
    where
        Self: 'a;

    fn published(&self) -> &Published {
        &self.world.map.published
    }

    fn distributor(&self) -> PartGuard<'_, Distributor> {
        self.lock_part(DISTRIBUTOR, &self.world.distributor)
    }

    /// Without giving way: who tries is on the short way of an exit.
    fn try_distributor(&self) -> Option<PartGuard<'_, Distributor>> {
        let locks = &self.world.held[self.n];
        assert_eq!(locks.get(), 0, "vCPU {} tries one lock at a time", self.n);
        let part = self.world.distributor.try_borrow_mut().ok()?;
        locks.set(DISTRIBUTOR);
        let held = Held {
            locks,
            lock: DISTRIBUTOR,
        };
        Some(self.begin_part(DISTRIBUTOR, (part, held)))
    }

    fn private(&self, vcpu: VcpuId) -> Option<PartGuard<'_, Private>> {
        let part = self.world.interrupts.get(vcpu.index())?;
        Some(self.lock_part(PRIVATE, part))
    }
}
