//! A vCPU that does nothing any more but take the same external abort.

use crate::regs::{GuestRegs, pstate};

/// The external aborts of a vCPU at EL1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The pc and the virtual address of the last.
    last: (u64, u64),
    /// How many of them came one after the other.
    count: u32,
    /// It was told once, and is not told again: a guest must not make us talk.
    is_told: bool,
}

impl Faults {
    /// So many make it an endless fault: more than a driver does that polls for a device which does not answer, and
    /// less than a second of them.
    pub const ENDLESS: u32 = 100_000;

    /// Takes notice of one at `far`, taken where `regs` stand. Answers whether it is now known to be endless.
    pub fn note(&mut self, regs: &GuestRegs, far: u64) -> bool {
        // A process is its kernel's to end.
        let is_kernel = matches!(regs.pstate & pstate::MODE, pstate::EL1T | pstate::EL1H);
        if self.is_told || !is_kernel {
            return false;
        }
        let this = (regs.pc, far);
        if self.last != this {
            *self = Self {
                last: this,
                ..Self::default()
            };
        }
        self.count += 1;
        self.is_told = self.count == Self::ENDLESS;
        self.is_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pc: u64, pstate: u64) -> GuestRegs {
        GuestRegs {
            pc,
            pstate,
            ..GuestRegs::default()
        }
    }

    #[test]
    fn the_same_abort_again_and_again_is_told_once() {
        let mut faults = Faults::default();
        let regs = at(0x200, pstate::EL1H);
        let told = (1..=3 * Faults::ENDLESS).filter(|_| faults.note(&regs, 0x200));
        assert_eq!(told.count(), 1);
    }

    #[test]
    fn aborts_that_differ_and_those_of_processes_are_not_counted_together() {
        let mut faults = Faults::default();
        let here = at(0x200, pstate::EL1H);
        for _ in 1..Faults::ENDLESS {
            assert!(!faults.note(&here, 0x1000));
        }
        // Another address, and then another pc.
        assert!(!faults.note(&here, 0x2000));
        for _ in 1..Faults::ENDLESS {
            assert!(!faults.note(&here, 0x1000));
        }
        assert!(!faults.note(&at(0x204, pstate::EL1H), 0x1000));
        let process = at(0x200, pstate::EL0T);
        assert!((0..=Faults::ENDLESS).all(|_| !faults.note(&process, 0x1000)));
    }
}
