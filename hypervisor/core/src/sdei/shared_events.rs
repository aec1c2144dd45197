//! What the PEs of a VM have in common, behind the VM's lock: shared events, and which interrupts are bound
//! to which event (DEN0054 4.4, 5.1.14).
//!
//! A shared event that is pending waits here until a vCPU that may take it [`claims`](SharedEvents::claim) it.
//! Whoever makes one due publishes that on the [`Board`] and rings everybody concerned; each looks at the
//! board on its way into the guest, so it does not matter who was masked or busy when the bell rang.

use alloc::boxed::Box;

use hv_abi::sdei::{FIRST_BOUND_PRIVATE, FIRST_BOUND_SHARED, Priority, Scope};

use super::board::{self, Board};
use super::config::{Config, SLOTS, slots};
use super::handler::{Handler, Registration};
use crate::id::{IntId, VcpuId, VcpuSet};
use crate::vgic::Effects;
use crate::word::Word;

/// Who may take a shared event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Routing {
    /// RM_ANY: any PE.
    #[default]
    Any,
    /// RM_PE: this one.
    Pe(VcpuId),
}

/// Where a shared event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The platform raises it.
    Platform,
    /// The interrupt bound to it; without one the event does not exist.
    Slot(Option<IntId>),
}

/// One shared event.
#[derive(Clone, Debug)]
pub(super) struct SharedEvent {
    pub(super) number: u32,
    pub(super) priority: Priority,
    pub(super) source: Source,
    pub(super) handler: Handler,
    pub(super) is_pending: bool,
    pub(super) routing: Routing,
    /// Who runs its handler.
    pub(super) runner: Option<VcpuId>,
}

/// A private bind slot that is in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    /// The PPI.
    pub(super) intid: IntId,
    /// The PEs on which the event is registered, or still runs.
    pub(super) users: VcpuSet,
}

/// An event that is not one PE's alone, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventRef {
    /// In a private bind slot.
    Bound(usize),
    /// Among the shared events.
    Shared(u8),
}

/// What the PEs of one VM have in common.
#[derive(Clone, Debug)]
pub struct SharedEvents {
    /// The platform's, then one for each shared bind slot.
    pub(super) shared: Box<[SharedEvent]>,
    /// The private bind slots.
    pub(super) bindings: Box<[Option<Binding>]>,
    /// Numbers of the platform's private events, in the order in which each [`super::Pe`] has them.
    private: Box<[u32]>,
    /// Which of them the platform has raised on each vCPU: bit n is the n-th.
    raised: Box<[u32]>,
}

/// What follows for others from a change of what all have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct SdeiEffects {
    /// For whom shared events are due: ring them, the caller looks anyway.
    pub look: VcpuSet,
    /// What the interrupt controller wants done.
    pub gic: Effects,
}

/// A shared event that a PE has claimed.
pub(super) struct Claim {
    pub(super) index: u8,
    pub(super) number: u32,
    pub(super) priority: Priority,
    pub(super) registration: Registration,
}

impl SharedEvent {
    fn new(number: u32, priority: Priority, source: Source) -> Self {
        Self {
            number,
            priority,
            source,
            handler: Handler::default(),
            is_pending: false,
            routing: Routing::Any,
            runner: None,
        }
    }

    fn is_due(&self) -> bool {
        self.is_pending && self.handler.is_ready()
    }

    fn is_for(&self, vcpu: VcpuId) -> bool {
        match self.routing {
            Routing::Any => true,
            Routing::Pe(target) => target == vcpu,
        }
    }

    /// Makes it pending, if there is a handler.
    pub(super) fn trigger(&mut self) {
        self.is_pending |= self.handler.is_registered();
    }

    /// Its handler has ended, or its PE is gone.
    pub(super) fn finish(&mut self) {
        self.handler.finish();
        self.runner = None;
    }
}

impl SharedEvents {
    /// For a VM of this many vCPUs, as it starts.
    pub fn new(vcpus: usize, config: &Config<'_>) -> Self {
        let slots = slots(config.firmware);
        let defined = config.of_scope(Scope::Shared);
        let defined =
            defined.map(|event| SharedEvent::new(event.number, event.priority, Source::Platform));
        let bound = (0..slots as u32).map(|slot| {
            let number = FIRST_BOUND_SHARED + slot;
            SharedEvent::new(number, Priority::Normal, Source::Slot(None))
        });
        let private = config.of_scope(Scope::Private);
        Self {
            shared: defined.chain(bound).collect(),
            bindings: (0..slots).map(|_| None).collect(),
            private: private.map(|event| event.number).collect(),
            raised: (0..vcpus).map(|_| 0).collect(),
        }
    }

    /// The platform raises an event that the VM's configuration defines: a private one on `target`, a shared
    /// one wherever it is routed. Says who must look: those with [`Self::take_raised`], and at the board.
    /// `None` if there is no such event.
    pub fn raise(
        &mut self,
        event: u32,
        target: VcpuId,
        board: &Board<impl Word>,
    ) -> Option<VcpuSet> {
        if let Some(place) = self.private.iter().position(|&number| number == event) {
            *self.raised.get_mut(target.index())? |= 1 << (place % 32);
            return Some(VcpuSet::only(target));
        }
        let mut platform = self.shared.iter_mut();
        platform
            .find(|shared| shared.number == event && shared.source == Source::Platform)?
            .trigger();
        Some(self.publish(board))
    }

    /// Whether there is such an event.
    pub fn has(&self, event: u32) -> bool {
        let is_it =
            |shared: &SharedEvent| shared.number == event && shared.source == Source::Platform;
        self.private.contains(&event) || self.shared.iter().any(is_it)
    }

    /// The private events that the platform has raised on `vcpu` since: their places, for [`super::Pe::post`].
    pub fn take_raised(&mut self, vcpu: VcpuId) -> impl Iterator<Item = u8> + use<> {
        let raised = self.raised.get_mut(vcpu.index());
        let bits = raised.map_or(0, core::mem::take);
        (0..32).filter(move |bit| bits >> bit & 1 != 0)
    }

    /// The VM was reset: nothing is registered, pending or bound. Gives the interrupts that were.
    pub fn reset(&mut self, board: &Board) -> impl Iterator<Item = IntId> + use<> {
        let mut freed = [None; 2 * SLOTS];
        let mut free = freed.iter_mut();
        for event in &mut self.shared {
            let source = match event.source {
                Source::Platform => Source::Platform,
                Source::Slot(intid) => {
                    if let Some(slot) = free.next() {
                        *slot = intid;
                    }
                    Source::Slot(None)
                }
            };
            *event = SharedEvent::new(event.number, event.priority, source);
        }
        for binding in &mut self.bindings {
            if let (Some(slot), Some(binding)) = (free.next(), binding.take()) {
                *slot = Some(binding.intid);
            }
        }
        self.raised.fill(0);
        let _ = self.publish(board);
        freed.into_iter().flatten()
    }

    /// The event with this number, if it exists.
    pub(super) fn find(&self, number: u32) -> Option<EventRef> {
        let slot = number.wrapping_sub(FIRST_BOUND_PRIVATE) as usize;
        if let Some(Some(_)) = self.bindings.get(slot) {
            return Some(EventRef::Bound(slot));
        }
        let mut shared = (0..).zip(&self.shared);
        let (index, _) = shared
            .find(|(_, event)| event.number == number && event.source != Source::Slot(None))?;
        Some(EventRef::Shared(index))
    }

    /// The event that an interrupt is bound to.
    pub(super) fn bound_to(&self, intid: IntId) -> Option<EventRef> {
        let mut bindings = self.bindings.iter();
        if let Some(slot) =
            bindings.position(|binding| binding.is_some_and(|own| own.intid == intid))
        {
            return Some(EventRef::Bound(slot));
        }
        let mut shared = (0..).zip(&self.shared);
        let (index, _) = shared.find(|(_, event)| event.source == Source::Slot(Some(intid)))?;
        Some(EventRef::Shared(index))
    }

    /// The number of an event that exists.
    pub(super) fn number(&self, event: EventRef) -> u32 {
        match event {
            EventRef::Bound(slot) => FIRST_BOUND_PRIVATE + slot as u32,
            EventRef::Shared(index) => self.event(index).map_or(0, |event| event.number),
        }
    }

    pub(super) fn event(&self, index: u8) -> Option<&SharedEvent> {
        self.shared.get(usize::from(index))
    }

    pub(super) fn event_mut(&mut self, index: u8) -> Option<&mut SharedEvent> {
        self.shared.get_mut(usize::from(index))
    }

    /// Takes a shared event for `vcpu`, whose PE is `open` to these priorities; a critical one first.
    pub(super) fn claim(
        &mut self,
        vcpu: VcpuId,
        open: u8,
        board: &Board<impl Word>,
    ) -> Option<Claim> {
        let fits = |event: &SharedEvent| {
            event.is_due() && event.is_for(vcpu) && open & board::bit(event.priority) != 0
        };
        let critical = |event: &SharedEvent| event.priority == Priority::Critical;
        let place = (self.shared.iter())
            .position(|event| fits(event) && critical(event))
            .or_else(|| self.shared.iter().position(fits))?;
        let event = self.shared.get_mut(place)?;
        let claim = Claim {
            index: place as u8,
            number: event.number,
            priority: event.priority,
            registration: event.handler.start()?,
        };
        event.is_pending = false;
        event.runner = Some(vcpu);
        let _ = self.publish(board);
        Some(claim)
    }

    /// Puts on the board what is due, and says for whom.
    pub(super) fn publish(&self, board: &Board<impl Word>) -> VcpuSet {
        if !self.shared.iter().any(|event| event.is_due()) {
            board.set_due(|_| 0);
            return VcpuSet::EMPTY;
        }
        let mut any = 0;
        for event in self.shared.iter().filter(|event| event.is_due()) {
            if event.routing == Routing::Any {
                any |= board::bit(event.priority);
            }
        }
        let due = |vcpu| {
            let own = self
                .shared
                .iter()
                .filter(|event| event.is_due() && event.is_for(vcpu));
            own.fold(any, |due, event| due | board::bit(event.priority))
        };
        board.set_due(due);
        let mut concerned = VcpuSet::EMPTY;
        for vcpu in (0..self.raised.len() as u8).map(VcpuId) {
            if due(vcpu) != 0 {
                concerned.insert(vcpu);
            }
        }
        concerned
    }
}
