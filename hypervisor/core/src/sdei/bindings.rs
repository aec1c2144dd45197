//! Interrupts bound to events (DEN0054 5.1.14): bound and released, arriving, and let fire again.

use hv_abi::sdei::Status;

use super::board::Board;
use super::handler::Handler;
use super::pe::Pe;
use super::shared_calls::CallContext;
use super::shared_events::{Binding, EventRef, Routing, SdeiEffects, SharedEvents, Source};
use crate::id::{IntId, VcpuId, VcpuSet};
use crate::vgic::{self, Effects, Parts};

/// The Secure EL1 physical timer's interrupt (Arm BSA, PPI assignments), never a Non-secure guest's.
const SECURE_TIMER: IntId = IntId(29);

impl Pe {
    /// The interrupt `intid`, which is bound to an event, has arrived at this vCPU. The virtual GIC keeps it
    /// active until the event is over. An emulated line that falls takes back what nobody has taken yet.
    pub fn take_bound(
        &mut self,
        intid: IntId,
        shared_events: &mut SharedEvents,
        vgic: &impl Parts,
        board: &Board,
    ) -> SdeiEffects {
        let mut gic = Effects::none();
        let is_edge = vgic::is_edge(vgic, self.me, intid);
        match shared_events.bound_to(intid) {
            None => vgic::end_bound(vgic, self.me, intid, &mut gic),
            Some(EventRef::Bound(slot)) => {
                let index = self.slot(slot);
                if let Some(event) = self.event(index) {
                    if accepts(&event.handler, is_edge) {
                        self.trigger(index);
                    } else if is_edge {
                        vgic::end_bound(vgic, self.me, intid, &mut gic);
                    }
                }
            }
            Some(EventRef::Shared(index)) => {
                if let Some(event) = shared_events.event_mut(index) {
                    if vgic::level(vgic, self.me, intid) == Some(false) {
                        event.is_pending = false;
                    } else if accepts(&event.handler, is_edge) {
                        event.is_pending = true;
                    } else if is_edge {
                        vgic::end_bound(vgic, self.me, intid, &mut gic);
                    }
                }
            }
        }
        let look = shared_events.publish(board);
        SdeiEffects { look, gic }
    }

    /// If nothing is left of the event in this slot here, its interrupt may be released.
    pub(super) fn let_go(&self, slot: usize, shared_events: &mut SharedEvents) {
        let event = self.event(self.slot(slot));
        if event.is_none_or(|event| event.handler.is_vacant())
            && let Some(Some(binding)) = shared_events.bindings.get_mut(slot)
        {
            binding.users.remove(self.me);
        }
    }

    /// See [`CallContext::resample_shared`].
    pub(super) fn resample_bound<S: ?Sized, G: Parts>(
        &mut self,
        slot: usize,
        context: &mut CallContext<'_, S, G>,
    ) {
        let me = self.me;
        let index = self.slot(slot);
        let binding = context.shared_events.bindings.get(slot).copied().flatten();
        if let (Some(event), Some(Binding { intid, .. })) = (self.event(index), binding)
            && !self.is_pending(index)
            && !event.handler.is_running()
        {
            let is_edge = vgic::is_edge(context.vgic, me, intid);
            let is_enabled = event.handler.is_enabled();
            if is_edge || is_enabled {
                vgic::end_bound(context.vgic, me, intid, &mut context.gic);
            }
            self.set_pending(
                index,
                is_enabled && vgic::level(context.vgic, me, intid) == Some(true),
            );
        }
    }
}

/// Whether an interrupt makes its event pending. An edge has happened, so it waits to be enabled; a level
/// is looked at again when the event is enabled, and when it completes.
fn accepts(handler: &Handler, is_edge: bool) -> bool {
    if is_edge {
        handler.is_registered()
    } else {
        handler.is_ready()
    }
}

impl<S: ?Sized, G: Parts> CallContext<'_, S, G> {
    /// INTERRUPT_BIND. What is bound already keeps its event.
    pub(super) fn bind(&mut self, intid: IntId) -> Result<u64, Status> {
        if let Some(event) = self.shared_events.bound_to(intid) {
            return Ok(self.shared_events.number(event).into());
        }
        let is_ppi = intid.is_private() && !intid.is_sgi() && intid != SECURE_TIMER;
        if !(is_ppi || intid.is_spi() && vgic::has(self.vgic, intid)) {
            return Err(Status::InvalidParameters);
        }
        let event = if is_ppi {
            let mut bindings = self.shared_events.bindings.iter();
            let slot = bindings.position(Option::is_none);
            EventRef::Bound(slot.ok_or(Status::OutOfResource)?)
        } else {
            let mut shared = (0..).zip(&self.shared_events.shared);
            let free = shared.find(|(_, event)| event.source == Source::Slot(None));
            EventRef::Shared(free.ok_or(Status::OutOfResource)?.0)
        };
        if !vgic::bind(self.vgic, intid, &mut self.gic) {
            return Err(Status::Denied);
        }
        match event {
            EventRef::Bound(slot) => {
                if let Some(binding) = self.shared_events.bindings.get_mut(slot) {
                    let users = VcpuSet::EMPTY;
                    *binding = Some(Binding { intid, users });
                }
            }
            EventRef::Shared(index) => {
                if let Some(event) = self.shared_events.event_mut(index) {
                    event.source = Source::Slot(Some(intid));
                }
            }
        }
        Ok(self.shared_events.number(event).into())
    }

    /// INTERRUPT_RELEASE: the interrupt goes back to the guest's GIC, disabled.
    pub(super) fn release(&mut self, number: u32) -> Result<u64, Status> {
        let event = self.shared_events.find(number);
        let freed = match event.ok_or(Status::InvalidParameters)? {
            EventRef::Bound(slot) => {
                let binding = self.shared_events.bindings.get_mut(slot);
                let binding = binding.ok_or(Status::InvalidParameters)?;
                if binding.is_some_and(|binding| !binding.users.is_empty()) {
                    return Err(Status::Denied);
                }
                binding.take().map(|binding| binding.intid)
            }
            EventRef::Shared(index) => {
                let event = self.shared_events.event_mut(index);
                let event = event.ok_or(Status::InvalidParameters)?;
                let Source::Slot(intid) = event.source else {
                    return Err(Status::InvalidParameters);
                };
                if !event.handler.is_vacant() {
                    return Err(Status::Denied);
                }
                event.source = Source::Slot(None);
                event.routing = Routing::Any;
                intid
            }
        };
        if let Some(intid) = freed {
            vgic::unbind(self.vgic, intid);
        }
        Ok(0)
    }

    /// Lets a bound interrupt fire again after its event has ended, has been enabled or lost its handler: the
    /// physical GIC then looks at the line as it is. A level that nobody waits for stays as it is, for it
    /// would fire without end.
    pub(super) fn resample_shared(&mut self, index: u8) {
        let Some(event) = self.shared_events.event_mut(index) else {
            return;
        };
        let Source::Slot(Some(intid)) = event.source else {
            return;
        };
        if event.is_pending || event.handler.is_running() {
            return;
        }
        let anyone = VcpuId(0);
        if event.handler.is_enabled() || vgic::is_edge(self.vgic, anyone, intid) {
            vgic::end_bound(self.vgic, anyone, intid, &mut self.gic);
        }
        event.is_pending =
            event.handler.is_enabled() && vgic::level(self.vgic, anyone, intid) == Some(true);
    }
}
