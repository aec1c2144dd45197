//! A vCPU that does nothing any more but take the same exception, and its first external abort.

use crate::regs::{El1, Exception, GuestRegs, pstate};

/// What is to be said of a vCPU's exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Its first external abort.
    First,
    /// It takes the same external abort again and again.
    Abort,
    /// Its vector takes an exception to itself again and again, of which EL2 sees nothing.
    Vector,
}

/// The exceptions of a vCPU at EL1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The pc and the virtual address of the last external abort.
    last: (u64, u64),
    /// How many of them came one after the other, as far as it matters.
    count: u32,
    /// An external abort has come since the last look.
    is_fresh: bool,
    /// The exception that its vector took when it was last looked at.
    seen: Exception,
    /// How many looks have found that, one after the other.
    looks: u8,
    /// The last look has found that the vCPU does nothing else.
    is_endless: bool,
    /// It was told of the first once, and of an endless one once, and is not told again: a guest must not make us talk.
    is_first_reported: bool,
    is_reported: bool,
}

impl Faults {
    /// So many make it an endless fault: more than a driver does that polls for a device which does not answer, and
    /// less than a second of them.
    pub const ENDLESS: u32 = 100_000;

    /// So many looks, which come some times a second.
    pub const LOOKS: u8 = 4;

    /// Bytes of one vector (DDI0487, "Exception vectors").
    const VECTOR: u64 = 0x80;
    /// Offset of the vector of a synchronous exception from EL1 with SP_EL1.
    const SAME_LEVEL: u64 = 0x200;

    /// Takes notice of an external abort at `far`, taken where `regs` stand. What is to be said now.
    pub fn note(&mut self, regs: &GuestRegs, far: u64) -> Option<FaultKind> {
        // A process is its kernel's to end.
        let is_kernel = matches!(regs.pstate & pstate::MODE, pstate::EL1T | pstate::EL1H);
        if !is_kernel {
            return None;
        }
        let this = (regs.pc, far);
        if self.last != this {
            (self.last, self.count) = (this, 0);
        }
        self.is_fresh = true;
        self.count = Self::ENDLESS.min(self.count + 1);
        if self.count == Self::ENDLESS {
            let is_news = !core::mem::replace(&mut self.is_reported, true);
            return is_news.then_some(FaultKind::Abort);
        }
        let is_first = !core::mem::replace(&mut self.is_first_reported, true);
        is_first.then_some(FaultKind::First)
    }

    /// Looks at a vCPU that was interrupted at EL1 where `regs` stand. A vector that faults is entered again by its own
    /// fault: the vCPU is found in the vector, and so is what the last exception interrupted, each time the same. What is to be said
    /// now.
    pub fn look(&mut self, regs: &GuestRegs, el1: &impl El1) -> Option<FaultKind> {
        let exception = el1.exception();
        let vector = el1.vbar().wrapping_add(Self::SAME_LEVEL);
        let is_in = |pc: u64| pc.wrapping_sub(vector) < Self::VECTOR;
        let is_el1h = |pstate: u64| pstate & pstate::MODE == pstate::EL1H;
        let is_now = is_el1h(regs.pstate) && is_in(regs.pc);
        if !is_now || !is_el1h(exception.spsr) || !is_in(exception.elr) {
            self.looks = 0;
        } else if self.looks == 0 || self.seen != exception {
            (self.seen, self.looks) = (exception, 1);
        } else {
            self.looks = self.looks.saturating_add(1);
        }
        let is_vector = self.looks >= Self::LOOKS;
        let is_abort = self.count == Self::ENDLESS && self.is_fresh;
        self.is_fresh = false;
        self.is_endless = is_vector || is_abort;
        let is_news = is_vector && !self.is_reported;
        self.is_reported |= is_news;
        is_news.then_some(FaultKind::Vector)
    }

    /// Whether the last look has found that it does nothing else.
    pub const fn is_endless(&self) -> bool {
        self.is_endless
    }

    /// The vCPU was found outside its guest.
    pub const fn forget_looks(&mut self) {
        self.looks = 0;
    }

    /// The vCPU begins anew. What was told stays told.
    pub const fn begin(&mut self) {
        (self.count, self.looks) = (0, 0);
        (self.is_fresh, self.is_endless) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::regs::El1Values;

    fn at(pc: u64, pstate: u64) -> GuestRegs {
        GuestRegs {
            pc,
            pstate,
            ..GuestRegs::default()
        }
    }

    #[test]
    fn the_first_abort_is_told_and_the_same_again_and_again_once() {
        let mut faults = Faults::default();
        let regs = at(0x200, pstate::EL1H);
        let told = (1..=3 * Faults::ENDLESS).filter_map(|_| faults.note(&regs, 0x200));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [FaultKind::First, FaultKind::Abort]
        );
    }

    #[test]
    fn aborts_that_differ_and_those_of_processes_are_not_counted_together() {
        let mut faults = Faults::default();
        let process = at(0x200, pstate::EL0T);
        assert!((0..=Faults::ENDLESS).all(|_| faults.note(&process, 0x1000).is_none()));
        let here = at(0x200, pstate::EL1H);
        assert_eq!(faults.note(&here, 0x1000), Some(FaultKind::First));
        for _ in 2..Faults::ENDLESS {
            assert_eq!(faults.note(&here, 0x1000), None);
        }
        // Another address, and then another pc.
        assert_eq!(faults.note(&here, 0x2000), None);
        for _ in 1..Faults::ENDLESS {
            assert_eq!(faults.note(&here, 0x1000), None);
        }
        assert_eq!(faults.note(&at(0x204, pstate::EL1H), 0x1000), None);
    }

    const VBAR: u64 = 0xffff_0000_0000_0800;
    const VECTOR: u64 = VBAR + 0x200;

    /// A vCPU whose vector cannot be fetched.
    fn unmapped() -> El1Values {
        El1Values {
            vbar: VBAR,
            elr: VECTOR,
            spsr: pstate::EL1H | pstate::DAIF,
            esr: 0x21 << 26 | 1 << 25 | 7,
            far: VECTOR,
            ..El1Values::default()
        }
    }

    fn found(looks: &[(u64, u64, El1Values)]) -> usize {
        let mut faults = Faults::default();
        let mut look =
            |(pc, pstate, el1): &(u64, u64, El1Values)| faults.look(&at(*pc, *pstate), el1);
        looks.iter().filter_map(&mut look).count()
    }

    #[test]
    fn a_vector_that_faults_for_ever_is_found_once() {
        let moment = (VECTOR, pstate::EL1H, unmapped());
        assert_eq!(found(&vec![moment.clone(); Faults::LOOKS.into()]), 1);
        assert_eq!(found(&vec![moment.clone(); 100]), 1);
        assert_eq!(found(&vec![moment; usize::from(Faults::LOOKS) - 1]), 0);
        // Its first instructions run, and its stack is nowhere.
        let stack = El1Values {
            elr: VECTOR + 8,
            esr: 0x25 << 26 | 1 << 25 | 0x47,
            far: 0x10,
            ..unmapped()
        };
        let moments: Vec<_> = (0..Faults::LOOKS)
            .map(|n| (VECTOR + 4 * u64::from(n % 3), pstate::EL1H, stack.clone()))
            .collect();
        assert_eq!(found(&moments), 1);
    }

    #[test]
    fn a_vcpu_that_does_something_else_is_let_be() {
        let many = |pc, pstate, el1: El1Values| found(&vec![(pc, pstate, el1); 100]);
        // It waits in its vector, which does not fault.
        let waits = El1Values {
            elr: 0x4008_0000,
            ..unmapped()
        };
        assert_eq!(many(VECTOR, pstate::EL1H, waits), 0);
        // Its last exception was that, and it runs elsewhere, or a process runs.
        assert_eq!(many(0x4008_0000, pstate::EL1H, unmapped()), 0);
        assert_eq!(many(VECTOR, pstate::EL0T, unmapped()), 0);
        // An interrupt's vector.
        assert_eq!(many(VECTOR + 0x80, pstate::EL1H, unmapped()), 0);
        // Each time another fault.
        let moments: Vec<_> = (0..100)
            .map(|far| (VECTOR, pstate::EL1H, El1Values { far, ..unmapped() }))
            .collect();
        assert_eq!(found(&moments), 0);
    }

    /// Whether a look finds it endless.
    fn is_endless(faults: &mut Faults, pc: u64) -> bool {
        let el1 = El1Values {
            vbar: VBAR,
            ..El1Values::default()
        };
        let _ = faults.look(&at(pc, pstate::EL1H), &el1);
        faults.is_endless()
    }

    #[test]
    fn a_vcpu_that_has_left_its_aborts_behind_is_let_be() {
        let here = at(0x200, pstate::EL1H);
        let mut faults = Faults::default();
        for _ in 0..2 * Faults::ENDLESS {
            let _ = faults.note(&here, 0x200);
        }
        assert!(is_endless(&mut faults, 0x200));
        // None has come since.
        assert!(!is_endless(&mut faults, 0x4008_0000));
        let _ = faults.note(&here, 0x200);
        assert!(is_endless(&mut faults, 0x200));
        // Another has come.
        let _ = faults.note(&at(0x204, pstate::EL1H), 0x200);
        assert!(!is_endless(&mut faults, 0x204));
    }

    #[test]
    fn a_vector_that_does_not_fault_any_more_is_let_be() {
        let mut faults = Faults::default();
        let regs = at(VECTOR, pstate::EL1H);
        for _ in 0..Faults::LOOKS {
            let _ = faults.look(&regs, &unmapped());
        }
        assert!(faults.is_endless());
        assert!(!is_endless(&mut faults, 0x4008_0000));
    }

    #[test]
    fn who_begins_anew_has_no_faults_and_is_not_told_twice() {
        let here = at(0x200, pstate::EL1H);
        let mut faults = Faults::default();
        for _ in 0..Faults::ENDLESS {
            let _ = faults.note(&here, 0x200);
        }
        assert!(is_endless(&mut faults, 0x200));
        faults.begin();
        assert!(!faults.is_endless());
        assert_eq!(faults.note(&here, 0x200), None);
        assert!(!is_endless(&mut faults, 0x200));
        for _ in 1..Faults::ENDLESS {
            assert_eq!(faults.note(&here, 0x200), None);
        }
        assert!(is_endless(&mut faults, 0x200));
    }

    #[test]
    fn looks_that_something_came_between_do_not_count_together() {
        let mut faults = Faults::default();
        let regs = at(VECTOR, pstate::EL1H);
        for _ in 0..10 {
            for _ in 1..Faults::LOOKS {
                assert_eq!(faults.look(&regs, &unmapped()), None);
            }
            faults.forget_looks();
        }
    }
}
