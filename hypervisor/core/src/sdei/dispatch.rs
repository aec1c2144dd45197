//! Entering a handler and leaving it (DEN0054 5.2): what is saved of the interrupted context, what the
//! handler finds, and how the two ways of completing put the context back.

use hv_abi::sdei::Status;

use super::handler::Entry;
use super::{Index, Pe, Priority};
use crate::entry::exception_pstate;
use crate::regs::{El1, GuestRegs};

/// How many registers, from x0, the dispatcher saves; the handler preserves the others (DEN0054 5.2.1).
pub const SAVED: usize = 18;

/// An interrupted context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// x0 to x17.
    pub x: [u64; SAVED],
    /// Where it goes on.
    pub pc: u64,
    /// Its process state, in SPSR format.
    pub pstate: u64,
}

/// A priority level of a PE: which event runs there, and over what.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    pub(super) running: Option<Index>,
    /// Meaningful while `running` is.
    frame: Frame,
}

/// An event that has just been dispatched.
#[derive(Debug)]
#[must_use]
pub struct Dispatch<'a> {
    /// Its number.
    pub event: u32,
    /// What it interrupted, as far as the dispatcher had to save it.
    pub frame: &'a Frame,
}

/// All general registers of an interrupted context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// The event that interrupted it.
    pub event: u32,
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP_EL0 and SP_EL1.
    pub sp: [u64; 2],
    /// Where it goes on.
    pub pc: u64,
    /// Its process state, in SPSR format.
    pub pstate: u64,
}

impl Dispatch<'_> {
    /// The whole interrupted context. `regs` and `el1` are those of the dispatch: the handler has not run
    /// yet, so what the dispatcher did not save is still in place.
    pub fn interrupted(&self, regs: &GuestRegs, el1: &impl El1) -> Interrupted {
        let mut x = regs.x;
        for (to, from) in x.iter_mut().zip(self.frame.x) {
            *to = from;
        }
        Interrupted {
            event: self.event,
            x,
            sp: el1.stack_pointers(),
            pc: self.frame.pc,
            pstate: self.frame.pstate,
        }
    }
}

impl Pe {
    /// Makes the guest take the next event, if one is due: `regs` become those of the handler's first
    /// instruction. x4 to x30 and both stack pointers keep the interrupted values (DEN0054 5.2.1).
    pub fn dispatch(&mut self, regs: &mut GuestRegs, el1: &impl El1) -> Option<Dispatch<'_>> {
        let index = self.next.take()?;
        let event = self.events.get_mut(usize::from(index.0))?;
        let registration = event.handler.start()?;
        event.is_pending = false;
        let number = event.definition.number;
        let [normal, critical] = &mut self.levels;
        let level = match event.definition.priority {
            Priority::Normal => normal,
            Priority::Critical => critical,
        };

        level.running = Some(index);
        level.frame.save(regs);
        let [x0, x1, x2, x3, ..] = &mut regs.x;
        *x0 = u64::from(number);
        *x1 = registration.argument;
        *x2 = regs.pc;
        *x3 = regs.pstate;
        regs.pc = match registration.entry {
            Entry::Absolute(address) => address,
            Entry::FromVbar(offset) => el1.vbar().wrapping_add(offset),
        };
        regs.pstate = exception_pstate(regs.pstate, el1.sctlr(), self.features);

        self.settle();
        Some(Dispatch {
            event: number,
            frame: self.innermost()?.frame(),
        })
    }

    /// The level whose handler runs; CONTEXT and COMPLETE speak of this one.
    pub(super) fn innermost(&self) -> Option<&Level> {
        let [normal, critical] = &self.levels;
        [critical, normal]
            .into_iter()
            .find(|level| level.running.is_some())
    }

    /// SDEI_EVENT_COMPLETE: the interrupted context goes on, bit for bit.
    pub(super) fn complete(&mut self, regs: &mut GuestRegs) -> Result<(), Status> {
        self.finish(regs)
    }

    /// SDEI_EVENT_COMPLETE_AND_RESUME: the client goes on at `address` as if the interrupted context had
    /// taken an exception to EL1 there (DEN0054 5.2.2).
    pub(super) fn complete_and_resume(
        &mut self,
        regs: &mut GuestRegs,
        el1: &mut impl El1,
        address: u64,
    ) -> Result<(), Status> {
        self.finish(regs)?;
        el1.set_return(regs.pc, regs.pstate);
        regs.pc = address;
        regs.pstate = exception_pstate(regs.pstate, el1.sctlr(), self.features);
        Ok(())
    }

    /// Ends the innermost handler and puts back what it interrupted.
    fn finish(&mut self, regs: &mut GuestRegs) -> Result<(), Status> {
        let [normal, critical] = &mut self.levels;
        let level = if critical.running.is_some() {
            critical
        } else {
            normal
        };
        let index = level.running.take().ok_or(Status::Denied)?;
        level.frame.restore(regs);
        if let Some(event) = self.event_mut(index) {
            event.handler.finish();
        }
        self.settle();
        Ok(())
    }
}

impl Level {
    pub(super) fn frame(&self) -> &Frame {
        &self.frame
    }
}

impl Frame {
    fn save(&mut self, regs: &GuestRegs) {
        for (to, from) in self.x.iter_mut().zip(&regs.x) {
            *to = *from;
        }
        self.pc = regs.pc;
        self.pstate = regs.pstate;
    }

    fn restore(&self, regs: &mut GuestRegs) {
        for (to, from) in regs.x.iter_mut().zip(&self.x) {
            *to = *from;
        }
        regs.pc = self.pc;
        regs.pstate = self.pstate;
    }
}
