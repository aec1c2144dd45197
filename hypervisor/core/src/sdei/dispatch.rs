//! Entering a handler and leaving it (DEN0054 5.2): what is saved of the interrupted context, what the
//! handler finds, and how the two ways of completing put the context back.

use hv_abi::sdei::{Priority, Status};

use super::board::{self, Board};
use super::handler::{Entry, Registration};
use super::level::{Interrupted, Level, Running, RunningIn};
use super::pe::Pe;
use super::shared_events::SharedEvents;
use crate::entry::exception_pstate;
use crate::regs::{El1, GuestRegs};
use crate::word::Word;

/// Which kind of event is to be taken next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// One of the PE's own: [`Pe::dispatch`].
    Private,
    /// A shared one, with the VM's lock held: [`Pe::dispatch_shared`].
    Shared,
}

impl Pe {
    /// What is to be taken now, if anything; if nothing, the PE is no more [alert](Self::is_alert). Critical comes before normal, and of equal priorities the PE's
    /// own before what is shared.
    #[inline]
    pub fn due(&mut self, board: &Board<impl Word>) -> Option<Due> {
        let shared = board.due(self.me) & self.open;
        let own = self.next.and_then(|index| self.event(index));
        match own.map(|event| event.priority) {
            Some(Priority::Critical) => Some(Due::Private),
            Some(Priority::Normal) if shared & board::bit(Priority::Critical) == 0 => {
                Some(Due::Private)
            }
            _ if shared != 0 => Some(Due::Shared),
            _ => {
                self.is_alert = false;
                None
            }
        }
    }

    /// Makes the guest take the next event, if one is due, and says at which level: `regs` become those of the handler's first
    /// instruction. x4 to x30 and both stack pointers keep the interrupted values (DEN0054 5.2.1).
    pub fn dispatch(&mut self, regs: &mut GuestRegs, el1: &impl El1) -> Option<Priority> {
        let index = self.next.take()?;
        let event = self.events.get_mut(usize::from(index.0))?;
        let registration = event.handler.start()?;
        let running = Running {
            number: event.number,
            place: RunningIn::Private(index),
        };
        let priority = event.priority;
        self.set_pending(index, false);
        self.begin(running, priority, registration, regs, el1);
        Some(priority)
    }

    /// Makes the guest take a shared event, unless somebody else has taken it meanwhile.
    pub fn dispatch_shared(
        &mut self,
        shared_events: &mut SharedEvents,
        board: &Board<impl Word>,
        regs: &mut GuestRegs,
        el1: &impl El1,
    ) -> Option<Priority> {
        let claim = shared_events.claim(self.me, self.open, board)?;
        let running = Running {
            number: claim.number,
            place: RunningIn::Shared(claim.index),
        };
        self.begin(running, claim.priority, claim.registration, regs, el1);
        Some(claim.priority)
    }

    fn begin(
        &mut self,
        running: Running,
        priority: Priority,
        registration: Registration,
        regs: &mut GuestRegs,
        el1: &impl El1,
    ) {
        let [normal, critical] = &mut self.levels;
        let level = match priority {
            Priority::Normal => normal,
            Priority::Critical => critical,
        };
        level.running = Some(running);
        level.save(running.number, regs, el1.stack_pointers());
        let [x0, x1, x2, x3, ..] = &mut regs.x;
        *x0 = u64::from(running.number);
        *x1 = registration.argument;
        *x2 = regs.pc;
        *x3 = regs.pstate;
        regs.pc = match registration.entry {
            Entry::Absolute(address) => address,
            Entry::FromVbar(offset) => el1.vbar().wrapping_add(offset),
        };
        regs.pstate = exception_pstate(regs.pstate, el1.sctlr(), self.features);
        self.settle();
    }

    /// What the last event of this priority interrupted, and whether its handler still runs.
    pub fn last_interrupted(&self, priority: Priority) -> Option<(&Interrupted, bool)> {
        let [normal, critical] = &self.levels;
        let level = match priority {
            Priority::Normal => normal,
            Priority::Critical => critical,
        };
        Some((level.interrupted.as_ref()?, level.running.is_some()))
    }

    /// Takes what the last event of this priority interrupted off the record, unless its handler still runs.
    pub fn take_interrupted(&mut self, priority: Priority) -> Option<Interrupted> {
        let [normal, critical] = &mut self.levels;
        let level = match priority {
            Priority::Normal => normal,
            Priority::Critical => critical,
        };
        if level.running.is_some() {
            return None;
        }
        level.interrupted.take()
    }

    /// The level whose handler runs; CONTEXT and COMPLETE speak of this one.
    pub(super) fn innermost(&self) -> Option<&Level> {
        let [normal, critical] = &self.levels;
        [critical, normal]
            .into_iter()
            .find(|level| level.running.is_some())
    }

    /// SDEI_EVENT_COMPLETE: the interrupted context goes on, bit for bit. Says whose handler ended; that of
    /// a shared or bound event is the caller's to finish.
    pub(super) fn complete(&mut self, regs: &mut GuestRegs) -> Result<Running, Status> {
        let [normal, critical] = &mut self.levels;
        let level = if critical.running.is_some() {
            critical
        } else {
            normal
        };
        let running = level.running.take().ok_or(Status::Denied)?;
        level.restore(regs);
        if let RunningIn::Private(index) = running.place
            && let Some(event) = self.event_mut(index)
        {
            event.handler.finish();
        }
        self.settle();
        Ok(running)
    }

    /// SDEI_EVENT_COMPLETE_AND_RESUME: the client goes on at `address` as if the interrupted context had
    /// taken an exception to EL1 there (DEN0054 5.2.2).
    pub(super) fn complete_and_resume(
        &mut self,
        regs: &mut GuestRegs,
        el1: &mut impl El1,
        address: u64,
    ) -> Result<Running, Status> {
        let running = self.complete(regs)?;
        el1.set_return(regs.pc, regs.pstate);
        regs.pc = address;
        regs.pstate = exception_pstate(regs.pstate, el1.sctlr(), self.features);
        Ok(running)
    }
}
