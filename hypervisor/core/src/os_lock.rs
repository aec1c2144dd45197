//! The OS lock and the registers beside it, emulated for a guest. The physical OS lock stays unlocked, and a guest cannot reach it: while
//! it is locked, EL1 may write MDSCR_EL1.HDE, MDSCR_EL1.TDA and, by OSECCR_EL1, EDECCR (DDI0487 D24.3). These make a CPU whose external
//! debug is enabled halt in Debug state, in EL2 as well, and any lock that EL2 then holds is never released.

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

/// The OS lock of one vCPU. While it is locked, debug exceptions are still taken, which differs from a CPU's.
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
