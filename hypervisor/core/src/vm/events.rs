//! A vCPU's SDEI: events taken on the way into the guest, and calls.

use hv_abi::sdei;

use super::{Action, Deferred, GuestMap, Pcpu, Vcpu};
use crate::id::VcpuId;
use crate::regs::GuestRegs;
use crate::sdei::{Board, Due, Effect, Priority, SdeiEffects, SharedEvents};
use crate::trace::Event;
use crate::vgic::Parts;

impl Vcpu {
    /// Takes the private events that are due; the last thing before an entry. True if a shared one comes next:
    /// then [`Self::dispatch_shared`], and this again.
    #[inline]
    #[must_use]
    pub fn dispatch_events(
        &mut self,
        regs: &mut GuestRegs,
        pcpu: &impl Pcpu,
        board: &Board,
    ) -> bool {
        while self.sdei.is_alert() {
            match self.sdei.due(board) {
                None => return false,
                Some(Due::Shared) => return true,
                Some(Due::Private) => {
                    let pc = regs.pc;
                    let Some(priority) = self.sdei.dispatch(regs, pcpu) else {
                        return false;
                    };
                    self.dispatched(priority, pc, regs, pcpu);
                }
            }
        }
        false
    }

    /// Takes a shared event, unless a sibling was faster; under the VM's lock.
    pub fn dispatch_shared(
        &mut self,
        shared_events: &mut SharedEvents,
        regs: &mut GuestRegs,
        pcpu: &impl Pcpu,
        board: &Board,
    ) {
        let pc = regs.pc;
        if let Some(priority) = self.sdei.dispatch_shared(shared_events, board, regs, pcpu) {
            self.dispatched(priority, pc, regs, pcpu);
        }
    }

    #[inline]
    fn dispatched(&mut self, priority: Priority, pc: u64, regs: &GuestRegs, pcpu: &impl Pcpu) {
        let at = pcpu.now();
        let [normal, critical] = &mut self.dispatched;
        match priority {
            Priority::Normal => *normal = at,
            Priority::Critical => *critical = at,
        }
        let event = regs.x[0] as u32;
        pcpu.observe(Event::SdeiDispatch { event, pc });
        self.trace.push(at, Event::SdeiDispatch { event, pc });
    }

    /// Performs a [`Deferred::Sdei`].
    pub fn call_shared(
        &mut self,
        call: sdei::Call,
        regs: &mut GuestRegs,
        pcpu: &mut impl Pcpu,
        map: &GuestMap,
        shared_events: (&mut SharedEvents, &impl Parts),
    ) -> SdeiEffects {
        let was_running = self.sdei.running();
        let sdei_effects = self.sdei.call_shared(call, regs, pcpu, map, shared_events);
        self.called(call, was_running, regs, pcpu, map);
        sdei_effects
    }

    /// SDEI_EVENT_SIGNAL: which vCPU event 0 is signalled to, unless that is done.
    #[must_use]
    pub fn signal(
        &mut self,
        regs: &mut GuestRegs,
        pcpu: &impl Pcpu,
        map: &GuestMap,
    ) -> Option<VcpuId> {
        match self.sdei.signal(regs, map) {
            Effect::None => None,
            Effect::Signal(target) => {
                self.note(pcpu, Event::SdeiSignal { target: target.0 });
                Some(target)
            }
        }
    }

    pub(super) fn handle_sdei(
        &mut self,
        call: sdei::Call,
        regs: &mut GuestRegs,
        pcpu: &mut impl Pcpu,
        map: &GuestMap,
    ) -> Action {
        if self.sdei.needs_shared(call, regs) {
            return Action::Locked(Deferred::Sdei(call));
        }
        if call == sdei::Call::EventSignal {
            return match self.signal(regs, pcpu, map) {
                Some(target) => Action::Signal(target),
                None => Action::Resume,
            };
        }
        let was_running = self.sdei.running();
        // Nothing else signals.
        let _ = self.sdei.call(call, regs, pcpu, map);
        self.called(call, was_running, regs, pcpu, map);
        Action::Resume
    }

    /// After a call: remembers it, and lets the siblings know.
    fn called(
        &mut self,
        call: sdei::Call,
        was_running: Option<u32>,
        regs: &GuestRegs,
        pcpu: &impl Pcpu,
        map: &GuestMap,
    ) {
        match call {
            sdei::Call::PeMask => self.note(pcpu, Event::PeMask),
            sdei::Call::PeUnmask => self.note(pcpu, Event::PeUnmask),
            sdei::Call::EventComplete if was_running.is_some() => {
                self.note(pcpu, Event::SdeiComplete);
            }
            sdei::Call::EventCompleteAndResume if was_running != self.sdei.running() => {
                self.note(pcpu, Event::SdeiResume { pc: regs.pc });
            }
            // These change nothing that siblings see.
            sdei::Call::EventSignal | sdei::Call::EventStatus | sdei::Call::EventContext => return,
            _ => {}
        }
        self.sdei.show(&map.board);
    }
}
