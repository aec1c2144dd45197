//! A priority level of a PE: which event runs there, and the context that it interrupted.

use crate::regs::GuestRegs;

/// An event as an index into a PE's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index(pub(super) u8);

impl Index {
    /// Its bit in a PE's pending events.
    pub(super) const fn bit(self) -> u64 {
        1u64.wrapping_shl(self.0 as u32)
    }
}

/// Where the event of a handler is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunningIn {
    /// Among the PE's own.
    Private(Index),
    /// Among the VM's shared ones.
    Shared(u8),
}

/// How many registers, from x0, the dispatcher saves; the handler preserves the others (DEN0054 5.2.1).
pub const SAVED: usize = 18;

/// An interrupted context, whole: x0 to x17, pc and PSTATE come back when the handler completes, the rest
/// is on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// A priority level of a PE: which event runs there, and over what.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    pub(super) running: Option<Running>,
    /// What the last event of this level interrupted; `None` before the first.
    pub(super) interrupted: Option<Interrupted>,
}

/// A handler that has been entered and has not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    /// Its event.
    pub(super) number: u32,
    /// Where that is.
    pub(super) place: RunningIn,
}

impl Level {
    /// The interrupted x`register`, of those that the dispatcher puts back.
    pub(super) fn context(&self, register: usize) -> Option<u64> {
        let saved = self.interrupted.as_ref()?.x.get(..SAVED)?;
        saved.get(register).copied()
    }

    /// Fills the record in place: it is large, and this is the path of an NMI.
    pub(super) fn save(&mut self, event: u32, regs: &GuestRegs, sp: [u64; 2]) {
        let to = self.interrupted.get_or_insert_default();
        to.event = event;
        to.x = regs.x;
        to.sp = sp;
        to.pc = regs.pc;
        to.pstate = regs.pstate;
    }

    pub(super) fn restore(&self, regs: &mut GuestRegs) {
        if let Some(from) = &self.interrupted {
            for (to, from) in regs.x.iter_mut().zip(&from.x).take(SAVED) {
                *to = *from;
            }
            regs.pc = from.pc;
            regs.pstate = from.pstate;
        }
    }
}
