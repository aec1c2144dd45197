//! The calls that concern what the PEs of a VM have in common: shared events, bound interrupts, and
//! whatever ends one of their handlers. They run under the VM's lock.

use hv_abi::firmware::Fault;
use hv_abi::sdei::{Call, FIRST_BOUND_SHARED, Priority, Status, info, register_flags, routing};

use super::board::WithBoard;
use super::calls::{selector, target_affinity, word};
use super::commons::{Common, Commons, Ripple, Routing};
use super::config::{SLOTS, Version};
use super::handler::{Handler, Registration};
use super::level::{Place, Running};
use super::pe::{Departure, Fate, Pe};
use crate::id::{IntId, VcpuSet};
use crate::regs::{El1, GuestRegs};
use crate::vgic::{Effects, Vgic};

/// What a call works on, beside its own PE.
pub(super) struct Around<'a, S: ?Sized> {
    pub(super) commons: &'a mut Commons,
    pub(super) vgic: &'a mut Vgic,
    siblings: &'a S,
    pub(super) gic: Effects,
}

impl Pe {
    /// Whether a call needs [`Self::call_common`] instead of [`Self::call`].
    #[inline]
    pub fn needs_commons(&self, call: Call, regs: &GuestRegs) -> bool {
        let [_, x1, ..] = regs.x;
        match call {
            _ if !self.is_present() => false,
            Call::EventComplete | Call::EventCompleteAndResume => {
                let running = self.innermost().and_then(|level| level.running);
                running.is_some_and(|running| self.is_common(running))
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
    pub fn call_common(
        &mut self,
        call: Call,
        regs: &mut GuestRegs,
        el1: &mut impl El1,
        siblings: &(impl WithBoard + ?Sized),
        (commons, vgic): (&mut Commons, &mut Vgic),
    ) -> Ripple {
        let mut around = Around {
            commons,
            vgic,
            siblings,
            gic: Effects::NONE,
        };
        let [_, x1, x2, x3, x4, x5, ..] = regs.x;
        let answer = match call {
            Call::EventComplete | Call::EventCompleteAndResume => {
                self.complete_common(call, x1, regs, el1, &mut around)
            }
            Call::InterruptBind => around.bind(IntId(selector(x1))).map(Some),
            Call::InterruptRelease => around.release(selector(x1)).map(Some),
            Call::SharedReset => around.shared_reset().map(Some),
            Call::PrivateReset => self.private_reset_common(&mut around).map(Some),
            Call::EventRegister => self
                .register_common(x1, (x2, x3), (x4, x5), &mut around)
                .map(Some),
            _ => match around.commons.find(selector(x1)) {
                None => Err(Status::InvalidParameters),
                Some(event) => match call {
                    Call::EventEnable => self.change_common(event, Handler::enable, &mut around),
                    Call::EventDisable => self.change_common(event, Handler::disable, &mut around),
                    Call::EventUnregister => self.unregister_common(event, &mut around),
                    Call::EventStatus => self
                        .handler(event, around.commons)
                        .map(|handler| handler.status()),
                    Call::EventGetInfo => self.info_common(event, selector(x2), &around),
                    Call::EventRoutingSet => around.set_routing(event, x2, x3),
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
        around.ripple()
    }

    /// CPU_OFF, also from within a handler, which is then over (A8).
    pub fn turn_off(
        &mut self,
        commons: &mut Commons,
        vgic: &mut Vgic,
        siblings: &(impl WithBoard + ?Sized),
    ) -> (Departure, Ripple) {
        let is_inside = self.innermost().is_some();
        if is_inside && self.firmware.has(Fault::OffInEventWedges) {
            self.suffer(Fate::Stuck);
            self.show(siblings.board());
            let nothing = Ripple {
                look: VcpuSet::EMPTY,
                gic: Effects::NONE,
            };
            return (Departure::Lost, nothing);
        }
        if is_inside && self.firmware.has(Fault::OffInEventKeepsPriority) {
            self.fate = Fate::Deaf;
        }
        (Departure::Off, self.retire(commons, vgic, siblings))
    }

    /// The vCPU stops: nothing of its own is left, and what it holds of the common things is let go. A shared
    /// event whose handler runs here is over, and may be taken elsewhere.
    pub fn retire(
        &mut self,
        commons: &mut Commons,
        vgic: &mut Vgic,
        siblings: &(impl WithBoard + ?Sized),
    ) -> Ripple {
        let mut around = Around {
            commons,
            vgic,
            siblings,
            gic: Effects::NONE,
        };
        for binding in around.commons.bindings.iter_mut().flatten() {
            binding.users.remove(self.me);
        }
        for index in 0..around.commons.shared.len() as u8 {
            if let Some(event) = around.commons.event_mut(index)
                && event.runner == Some(self.me)
            {
                event.finish();
                around.resample_shared(index);
            }
        }
        self.reset();
        self.show(siblings.board());
        around.ripple()
    }

    /// Whether SDEI is offered at all.
    fn is_present(&self) -> bool {
        Version::of(self.firmware).is_some()
    }

    fn is_common(&self, running: Running) -> bool {
        match running.place {
            Place::Shared(_) => true,
            Place::Private(index) => index.0 >= self.fixed,
        }
    }

    /// Ends the innermost handler, which is a common event's.
    fn complete_common<S: WithBoard + ?Sized>(
        &mut self,
        call: Call,
        address: u64,
        regs: &mut GuestRegs,
        el1: &mut impl El1,
        around: &mut Around<'_, S>,
    ) -> Result<Option<u64>, Status> {
        let ended = match call {
            Call::EventComplete => self.complete(regs)?,
            _ => self.event_complete_and_resume(regs, el1, address)?,
        };
        match ended.place {
            Place::Shared(index) => {
                if let Some(event) = around.commons.event_mut(index) {
                    event.finish();
                }
                around.resample_shared(index);
            }
            Place::Private(index) => {
                let slot = usize::from(index.0.saturating_sub(self.fixed));
                self.let_go(slot, around.commons);
                self.resample_bound(slot, around);
            }
        }
        Ok(None)
    }

    fn register_common<S: WithBoard + ?Sized>(
        &mut self,
        event: u64,
        (address, argument): (u64, u64),
        (flags, affinity): (u64, u64),
        around: &mut Around<'_, S>,
    ) -> Result<u64, Status> {
        let entry = self.entry(address, flags)?;
        let registration = Registration { entry, argument };
        let event = around.commons.find(selector(event));
        match event.ok_or(Status::InvalidParameters)? {
            Common::Bound(slot) => {
                let index = self.slot(slot);
                let event = self.event_mut(index).ok_or(Status::InvalidParameters)?;
                event.handler.register(registration)?;
                if let Some(Some(binding)) = around.commons.bindings.get_mut(slot) {
                    binding.users.insert(self.me);
                }
            }
            Common::Shared(index) => {
                let route = around.route(flags & register_flags::RM_PE, affinity)?;
                let event = around.commons.event_mut(index);
                let event = event.ok_or(Status::InvalidParameters)?;
                event.handler.register(registration)?;
                event.routing = route;
            }
        }
        Ok(0)
    }

    fn change_common<S: WithBoard + ?Sized>(
        &mut self,
        event: Common,
        change: fn(&mut Handler) -> Result<(), Status>,
        around: &mut Around<'_, S>,
    ) -> Result<u64, Status> {
        match event {
            Common::Bound(slot) => {
                let index = self.slot(slot);
                let event = self.event_mut(index).ok_or(Status::InvalidParameters)?;
                change(&mut event.handler)?;
                self.resample_bound(slot, around);
            }
            Common::Shared(index) => {
                let event = around.commons.event_mut(index);
                change(&mut event.ok_or(Status::InvalidParameters)?.handler)?;
                around.resample_shared(index);
            }
        }
        Ok(0)
    }

    fn unregister_common<S: WithBoard + ?Sized>(
        &mut self,
        event: Common,
        around: &mut Around<'_, S>,
    ) -> Result<u64, Status> {
        match event {
            Common::Bound(slot) => {
                let index = self.slot(slot);
                let event = self.event_mut(index).ok_or(Status::InvalidParameters)?;
                let result = event.handler.unregister();
                if !event.handler.is_registered() {
                    self.set_pending(index, false);
                }
                self.let_go(slot, around.commons);
                self.resample_bound(slot, around);
                result.map(|()| 0)
            }
            Common::Shared(index) => {
                let event = around.commons.event_mut(index);
                let event = event.ok_or(Status::InvalidParameters)?;
                let result = event.handler.unregister();
                event.is_pending &= event.handler.is_registered();
                around.resample_shared(index);
                result.map(|()| 0)
            }
        }
    }

    fn info_common<S: ?Sized + WithBoard>(
        &self,
        event: Common,
        info: u32,
        around: &Around<'_, S>,
    ) -> Result<u64, Status> {
        let shared = match event {
            Common::Bound(_) => None,
            Common::Shared(index) => around.commons.event(index),
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
                        let affinity = around.siblings.affinity(target);
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
    fn private_reset_common<S: WithBoard + ?Sized>(
        &mut self,
        around: &mut Around<'_, S>,
    ) -> Result<u64, Status> {
        let result = self.private_reset();
        for slot in 0..around.commons.bindings.len() {
            self.let_go(slot, around.commons);
            self.resample_bound(slot, around);
        }
        result
    }

    fn handler<'a>(&'a self, event: Common, commons: &'a Commons) -> Result<&'a Handler, Status> {
        let handler = match event {
            Common::Bound(slot) => self.event(self.slot(slot)).map(|event| &event.handler),
            Common::Shared(index) => commons.event(index).map(|event| &event.handler),
        };
        handler.ok_or(Status::InvalidParameters)
    }
}

impl<S: WithBoard + ?Sized> Around<'_, S> {
    fn ripple(self) -> Ripple {
        Ripple {
            look: self.commons.publish(self.siblings.board()),
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

    fn set_routing(&mut self, event: Common, mode: u64, affinity: u64) -> Result<u64, Status> {
        let Common::Shared(index) = event else {
            return Err(Status::InvalidParameters);
        };
        let route = self.route(mode, affinity)?;
        let event = self.commons.event_mut(index);
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
        for event in &mut self.commons.shared {
            // Denied is one that was not registered, and that is what is wanted.
            let _ = event.handler.unregister();
            event.is_pending = false;
            if event.handler.is_running() {
                result = Err(Status::Denied);
            }
        }
        let private = (0..self.commons.bindings.len()).map(Common::Bound);
        let shared =
            (0..SLOTS as u32).filter_map(|slot| self.commons.find(FIRST_BOUND_SHARED + slot));
        let bound: [Option<Common>; 2 * SLOTS] = {
            let mut all = private.chain(shared);
            core::array::from_fn(|_| all.next())
        };
        for event in bound.into_iter().flatten() {
            let number = self.commons.number(event);
            if self.commons.find(number).is_some() && self.release(number).is_err() {
                result = Err(Status::Denied);
            }
        }
        result
    }
}
