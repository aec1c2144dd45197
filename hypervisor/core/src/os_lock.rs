//! The OS lock and what belongs to it, as a guest meets them. The CPU's own lock stays open and out of reach: who holds that may set
//! MDSCR_EL1.HDE, TDA and EDECCR (DDI0487 D24.3: MDSCR_EL1, OSECCR_EL1), by which the CPU stops in Debug state where external debug is
//! enabled, in EL2 as well, with whatever it holds there.

use crate::exit::Sysreg;

const OSLAR: Sysreg = Sysreg::new(2, 0, 1, 0, 4);
const OSLSR: Sysreg = Sysreg::new(2, 0, 1, 1, 4);
const OSDLR: Sysreg = Sysreg::new(2, 0, 1, 3, 4);
const DBGPRCR: Sysreg = Sysreg::new(2, 0, 1, 4, 4);

/// OSLAR_EL1.OSLK.
const LOCK: u64 = 1 << 0;
/// OSLSR_EL1.OSLK.
const IS_LOCKED: u64 = 1 << 1;
/// OSLSR_EL1.OSLM: there is an OS lock.
const IS_THERE: u64 = 1 << 3;

/// The lock of one vCPU. It keeps nothing from happening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsLock {
    is_held: bool,
}

impl OsLock {
    /// Out of a cold reset.
    pub const HELD: Self = Self { is_held: true };

    /// What a read of this register gives, if it is one of these and can be read.
    pub const fn read(self, register: Sysreg) -> Option<u64> {
        match register {
            OSLSR if self.is_held => Some(IS_THERE | IS_LOCKED),
            OSLSR => Some(IS_THERE),
            // There is no double lock, and no power that a request could keep on.
            OSDLR | DBGPRCR => Some(0),
            _ => None,
        }
    }

    /// Takes a write. False if it is none of these, or can only be read.
    #[must_use]
    pub const fn write(&mut self, register: Sysreg, value: u64) -> bool {
        match register {
            OSLAR => self.is_held = value & LOCK != 0,
            OSDLR | DBGPRCR => {}
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_the_lock_is_read_of_it() {
        let mut lock = OsLock::HELD;
        assert_eq!(lock.read(OSLSR), Some(0b1010));
        assert!(lock.write(OSLAR, !1));
        assert_eq!(lock.read(OSLSR), Some(0b1000));
        assert!(lock.write(OSLAR, 1));
        assert_eq!(lock, OsLock::HELD);
    }

    #[test]
    fn nothing_else_can_be_kept_there() {
        let mut lock = OsLock::HELD;
        for register in [OSDLR, DBGPRCR] {
            assert!(lock.write(register, !0));
            assert_eq!(lock.read(register), Some(0));
        }
        assert_eq!(lock, OsLock::HELD);
        // These go one way, and MDSCR_EL1 is none of them.
        assert_eq!(lock.read(OSLAR), None);
        assert!(!lock.write(OSLSR, 0));
        assert!(!lock.write(Sysreg::new(2, 0, 0, 2, 2), 0));
    }
}
