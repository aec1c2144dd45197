//! The calls that concern what the PEs of a VM have in common: shared events, bound interrupts, and
//! whatever ends one of their handlers. They run under the VM's lock.

use hv_abi::firmware::Fault;
use hv_abi::sdei::{Call, FIRST_BOUND_SHARED, Priority, Status, info, register_flags, routing};

use super::board::WithBoard;
use super::calls::{selector, target_affinity, word};
use super::config::{SLOTS, Version};
use super::handler::{Handler, Registration};
use super::level::{Running, RunningIn};
use super::pe::{Departure, Fate, Pe};
use super::shared_events::{EventRef, Routing, SdeiEffects, SharedEvents};
use crate::id::{IntId, VcpuSet};
use crate::regs::{El1, GuestRegs};
use crate::vgic::{Effects, Parts};

/// What a call works on, beside its own PE.
pub(super) struct CallContext<'a, S: ?Sized, G> {
    pub(super) shared_events: &'a mut SharedEvents,
    pub(super) vgic: &'a G,
    siblings: &'a S,
    pub(super) gic: Effects,
}

impl Pe {
    /// Whether a call needs [`Self::call_shared`] instead of [`Self::call`].
    #[inline]
    pub fn needs_shared(&self, call: Call, regs: &GuestRegs) -> bool {
        let [_, x1, ..] = regs.x;
        match call {
            _ if !self.is_present() => false,
            Call::EventComplete | Call::EventCompleteAndResume => {
                let running = self.innermost().and_then(|level| level.running);
                running.is_some_and(|running| self.is_shared_or_bound(running))
            }
            Call::EventRegister
            | Call::EventEnable
            | Call::EventDisable
            | Call::EventUnregister
            | Call::EventStatus
            | Call::EventGetInfo
            | Call::EventRoutingSet => self.find(selector(x1)).is_none(),
            Call::PrivateReset => {
                let bound = self.events.iter().skip(usize::from(self.fixed));
                bound.into_iter().any(|event| !event.handler.is_vacant())
            }
            Call::InterruptBind | Call::InterruptRelease | Call::SharedReset => true,
            Call::Version
            | Call::EventContext
            | Call::PeMask
            | Call::PeUnmask
            | Call::EventSignal
            | Call::Features => false,
        }
    }

    /// Performs such a call, with the VM's lock held and the caller's list registers folded. As
    /// [`Self::call`] in all else.
    pub fn call_shared(
        &mut self,
        call: Call,
        regs: &mut GuestRegs,
        el1: &mut impl El1,
        siblings: &(impl WithBoard + ?Sized),
        (shared_events, vgic): (&mut SharedEvents, &impl Parts),
    ) -> SdeiEffects {
        let mut context = CallContext {
            shared_events,
            vgic,
            siblings,
            gic: Effects::none(),
        };
        let [_, x1, x2, x3, x4, x5, ..] = regs.x;
        let answer = match call {
            Call::EventComplete | Call::EventCompleteAndResume => {
                self.complete_shared(call, x1, regs, el1, &mut context)
            }
            Call::InterruptBind => context.bind(IntId(selector(x1))).map(Some),
            Call::InterruptRelease => context.release(selector(x1)).map(Some),
            Call::SharedReset => context.shared_reset().map(Some),
            Call::PrivateReset => self.private_reset_shared(&mut context).map(Some),
            Call::EventRegister => self
                .register_shared(x1, (x2, x3), (x4, x5), &mut context)
                .map(Some),
            _ => match context.shared_events.find(selector(x1)) {
                None => Err(Status::InvalidParameters),
                Some(event) => match call {
                    Call::EventEnable => self.change_shared(event, Handler::enable, &mut context),
                    Call::EventDisable => self.change_shared(event, Handler::disable, &mut context),
                    Call::EventUnregister => self.unregister_shared(event, &mut context),
                    Call::EventStatus => self
                        .handler(event, context.shared_events)
                        .map(|handler| handler.status()),
                    Call::EventGetInfo => self.info_shared(event, selector(x2), &context),
                    Call::EventRoutingSet => context.set_routing(event, x2, x3),
                    _ => Err(Status::NotSupported),
                }
                .map(Some),
            },
        };
        let [x0, ..] = &mut regs.x;
        match answer {
            Ok(None) => {}
            Ok(Some(value)) => *x0 = value,
            Err(status) => *x0 = word(status),
        }
        self.settle();
        context.sdei_effects()
    }

    /// CPU_OFF, also from within a handler, which is then over (A8).
    pub fn turn_off(
        &mut self,
        shared_events: &mut SharedEvents,
        vgic: &impl Parts,
        siblings: &(impl WithBoard + ?Sized),
    ) -> (Departure, SdeiEffects) {
        let is_inside = self.innermost().is_some();
        if is_inside && self.firmware.has(Fault::OffInEventWedges) {
            self.suffer(Fate::Stuck);
            self.show(siblings.board());
            let nothing = SdeiEffects {
                look: VcpuSet::EMPTY,
                gic: Effects::none(),
            };
            return (Departure::Lost, nothing);
        }
        if is_inside && self.firmware.has(Fault::OffInEventKeepsPriority) {
            self.fate = Fate::Deaf;
        }
        (Departure::Off, self.retire(shared_events, vgic, siblings))
    }

    /// The vCPU stops: nothing of its own is left, and what it holds of what is shared is let go. A shared
    /// event whose handler runs here is over, and may be taken elsewhere.
    pub fn retire(
        &mut self,
        shared_events: &mut SharedEvents,
        vgic: &impl Parts,
        siblings: &(impl WithBoard + ?Sized),
    ) -> SdeiEffects {
        let mut context = CallContext {
            shared_events,
            vgic,
            siblings,
            gic: Effects::none(),
        };
        for binding in context.shared_events.bindings.iter_mut().flatten() {
            binding.users.remove(self.me);
        }
        let mut has_ended = false;
        for index in 0..context.shared_events.shared.len() as u8 {
            if let Some(event) = context.shared_events.event_mut(index)
                && event.runner == Some(self.me)
            {
                event.finish();
                context.resample_shared(index);
                has_ended = true;
            }
        }
        self.reset();
        self.show(siblings.board());
        if has_ended {
            return context.sdei_effects();
        }
        // What is common is as it was, and due for whom it was.
        SdeiEffects {
            look: VcpuSet::EMPTY,
            gic: context.gic,
        }
    }

    /// Whether SDEI is offered at all.
    fn is_present(&self) -> bool {
        Version::of(self.firmware).is_some()
    }

    fn is_shared_or_bound(&self, running: Running) -> bool {
        match running.place {
            RunningIn::Shared(_) => true,
            RunningIn::Private(index) => index.0 >= self.fixed,
        }
    }

    /// Ends the innermost handler, which is a shared or bound event's.
    fn complete_shared<S: WithBoard + ?Sized, G: Parts>(
        &mut self,
        call: Call,
        address: u64,
        regs: &mut GuestRegs,
        el1: &mut impl El1,
        context: &mut CallContext<'_, S, G>,
    ) -> Result<Option<u64>, Status> {
        let ended = match call {
            Call::EventComplete => self.complete(regs)?,
            _ => self.event_complete_and_resume(regs, el1, address)?,
        };
        match ended.place {
            RunningIn::Shared(index) => {
                if let Some(event) = context.shared_events.event_mut(index) {
                    event.finish();
                }
                context.resample_shared(index);
            }
            RunningIn::Private(index) => {
                let slot = usize::from(index.0.saturating_sub(self.fixed));
                self.let_go(slot, context.shared_events);
                self.resample_bound(slot, context);
            }
        }
        Ok(None)
    }

    fn register_shared<S: WithBoard + ?Sized, G: Parts>(
        &mut self,
        event: u64,
        (address, argument): (u64, u64),
        (flags, affinity): (u64, u64),
        context: &mut CallContext<'_, S, G>,
    ) -> Result<u64, Status> {
        let entry = self.entry(address, flags)?;
        let registration = Registration { entry, argument };
        let event = context.shared_events.find(selector(event));
        match event.ok_or(Status::InvalidParameters)? {
            EventRef::Bound(slot) => {
                let index = self.slot(slot);
                let event = self.event_mut(index).ok_or(Status::InvalidParameters)?;
                event.handler.register(registration)?;
                if let Some(Some(binding)) = context.shared_events.bindings.get_mut(slot) {
                    binding.users.insert(self.me);
                }
            }
            EventRef::Shared(index) => {
                let route = context.route(flags & register_flags::RM_PE, affinity)?;
                let event = context.shared_events.event_mut(index);
                let event = event.ok_or(Status::InvalidParameters)?;
                event.handler.register(registration)?;
                event.routing = route;
            }
        }
        Ok(0)
    }

    fn change_shared<S: WithBoard + ?Sized, G: Parts>(
        &mut self,
        event: EventRef,
        change: fn(&mut Handler) -> Result<(), Status>,
        context: &mut CallContext<'_, S, G>,
    ) -> Result<u64, Status> {
        match event {
            EventRef::Bound(slot) => {
                let index = self.slot(slot);
                let event = self.event_mut(index).ok_or(Status::InvalidParameters)?;
                change(&mut event.handler)?;
                self.resample_bound(slot, context);
            }
            EventRef::Shared(index) => {
                let event = context.shared_events.event_mut(index);
                change(&mut event.ok_or(Status::InvalidParameters)?.handler)?;
                context.resample_shared(index);
            }
        }
        Ok(0)
    }

    fn unregister_shared<S: WithBoard + ?Sized, G: Parts>(
        &mut self,
        event: EventRef,
        context: &mut CallContext<'_, S, G>,
    ) -> Result<u64, Status> {
        match event {
            EventRef::Bound(slot) => {
                let index = self.slot(slot);
                let event = self.event_mut(index).ok_or(Status::InvalidParameters)?;
                let result = event.handler.unregister();
                if !event.handler.is_registered() {
                    self.set_pending(index, false);
                }
                self.let_go(slot, context.shared_events);
                self.resample_bound(slot, context);
                result.map(|()| 0)
            }
            EventRef::Shared(index) => {
                let event = context.shared_events.event_mut(index);
                let event = event.ok_or(Status::InvalidParameters)?;
                let result = event.handler.unregister();
                event.is_pending &= event.handler.is_registered();
                context.resample_shared(index);
                result.map(|()| 0)
            }
        }
    }

    fn info_shared<S: ?Sized + WithBoard, G: Parts>(
        &self,
        event: EventRef,
        info: u32,
        context: &CallContext<'_, S, G>,
    ) -> Result<u64, Status> {
        let shared = match event {
            EventRef::Bound(_) => None,
            EventRef::Shared(index) => context.shared_events.event(index),
        };
        let is_critical = shared.is_some_and(|event| event.priority == Priority::Critical);
        match info {
            info::EV_TYPE => Ok(u64::from(shared.is_some())),
            info::EV_SIGNALED => Ok(1),
            info::EV_PRIORITY => Ok(u64::from(is_critical)),
            info::EV_ROUTING_MODE | info::EV_ROUTING_AFF => {
                let event = shared.ok_or(Status::InvalidParameters)?;
                if !event.handler.is_registered() {
                    return Err(Status::Denied);
                }
                match (info, event.routing) {
                    (info::EV_ROUTING_MODE, Routing::Any) => Ok(routing::RM_ANY),
                    (info::EV_ROUTING_MODE, Routing::Pe(_)) => Ok(routing::RM_PE),
                    (_, Routing::Any) => Err(Status::InvalidParameters),
                    (_, Routing::Pe(target)) => {
                        let affinity = context.siblings.affinity(target);
                        affinity
                            .map(|mpidr| mpidr.bits())
                            .ok_or(Status::InvalidParameters)
                    }
                }
            }
            _ => Err(Status::InvalidParameters),
        }
    }

    /// PRIVATE_RESET where bound events are registered.
    fn private_reset_shared<S: WithBoard + ?Sized, G: Parts>(
        &mut self,
        context: &mut CallContext<'_, S, G>,
    ) -> Result<u64, Status> {
        let result = self.private_reset();
        for slot in 0..context.shared_events.bindings.len() {
            self.let_go(slot, context.shared_events);
            self.resample_bound(slot, context);
        }
        result
    }

    fn handler<'a>(
        &'a self,
        event: EventRef,
        shared_events: &'a SharedEvents,
    ) -> Result<&'a Handler, Status> {
        let handler = match event {
            EventRef::Bound(slot) => self.event(self.slot(slot)).map(|event| &event.handler),
            EventRef::Shared(index) => shared_events.event(index).map(|event| &event.handler),
        };
        handler.ok_or(Status::InvalidParameters)
    }
}

impl<S: WithBoard + ?Sized, G: Parts> CallContext<'_, S, G> {
    fn sdei_effects(self) -> SdeiEffects {
        SdeiEffects {
            look: self.shared_events.publish(self.siblings.board()),
            gic: self.gic,
        }
    }

    fn route(&self, mode: u64, affinity: u64) -> Result<Routing, Status> {
        match mode {
            routing::RM_ANY => Ok(Routing::Any),
            routing::RM_PE => {
                let mpidr = target_affinity(affinity).ok_or(Status::InvalidParameters)?;
                let target = self.siblings.resolve(mpidr);
                Ok(Routing::Pe(target.ok_or(Status::InvalidParameters)?))
            }
            _ => Err(Status::InvalidParameters),
        }
    }

    fn set_routing(&mut self, event: EventRef, mode: u64, affinity: u64) -> Result<u64, Status> {
        let EventRef::Shared(index) = event else {
            return Err(Status::InvalidParameters);
        };
        let route = self.route(mode, affinity)?;
        let event = self.shared_events.event_mut(index);
        let event = event.ok_or(Status::InvalidParameters)?;
        let is_quiet = !event.handler.is_enabled() && !event.handler.is_running();
        if !event.handler.is_registered() || !is_quiet {
            return Err(Status::Denied);
        }
        event.routing = route;
        Ok(0)
    }

    /// SHARED_RESET: unregisters all shared events and gives all bound interrupts back. What runs, or is
    /// registered on a PE, stays as far as it must, and the call says DENIED.
    fn shared_reset(&mut self) -> Result<u64, Status> {
        let mut result = Ok(0);
        for event in &mut self.shared_events.shared {
            // Denied is one that was not registered, and that is what is wanted.
            let _ = event.handler.unregister();
            event.is_pending = false;
            if event.handler.is_running() {
                result = Err(Status::Denied);
            }
        }
        let private = (0..self.shared_events.bindings.len()).map(EventRef::Bound);
        let shared =
            (0..SLOTS as u32).filter_map(|slot| self.shared_events.find(FIRST_BOUND_SHARED + slot));
        let bound: [Option<EventRef>; 2 * SLOTS] = {
            let mut all = private.chain(shared);
            core::array::from_fn(|_| all.next())
        };
        for event in bound.into_iter().flatten() {
            let number = self.shared_events.number(event);
            if self.shared_events.find(number).is_some() && self.release(number).is_err() {
                result = Err(Status::Denied);
            }
        }
        result
    }
}
