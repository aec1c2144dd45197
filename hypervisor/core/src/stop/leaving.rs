//! How a pCPU that event 0 has stopped leaves the event, if it is to be switched off.

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Leaving {
    /// Sleeps inside the event, which never completes.
    Park,
    /// SDEI_EVENT_COMPLETE_AND_RESUME to a landing pad on a stack of its own, from which CPU_OFF is called.
    Off,
}

/// What to do where `pstate`, in SPSR format, was interrupted.
///
/// COMPLETE_AND_RESUME puts what was interrupted into ELR_EL2 and SPSR_EL2, as if it had taken an exception to
/// EL2 (DEN0054 5.1.7). A guest has nothing there. EL2 may have: in the first or last instructions of a vector
/// they are live. But nobody returns there any more, and the report has them from before. The pad runs on SP_EL2,
/// so EL2t, which none of our code uses, means that this pCPU is out of order: it stays where it is, as do
/// levels that cannot have been interrupted.
pub const fn leaving(is_off_wanted: bool, pstate: u64) -> Leaving {
    /// M\[4\]: AArch32, at EL1 or EL0 here (DDI0487 C5.2.19).
    const AARCH32: u64 = 1 << 4;
    const EL0T: u64 = 0;
    const EL1T: u64 = 0b0100;
    const EL1H: u64 = 0b0101;
    const EL2H: u64 = 0b1001;
    let is_sound = pstate & AARCH32 != 0 || matches!(pstate & 0xf, EL0T | EL1T | EL1H | EL2H);
    if is_off_wanted && is_sound {
        Leaving::Off
    } else {
        Leaving::Park
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_and_el2_itself_can_be_left() {
        // EL0t, EL1t, EL1h, EL2h; AArch32 user and supervisor.
        for pstate in [0, 0x6000_03c4, 0x3c5, 0x8000_03c9, 0x10, 0x1d3] {
            assert_eq!(leaving(true, pstate), Leaving::Off, "{pstate:#x}");
        }
    }

    #[test]
    fn a_state_that_cannot_be_ours_is_not_touched() {
        // EL2t, EL3t, EL3h, and what is reserved.
        for pstate in [0x3c8, 0x3cc, 0x3cd, 0x3c1, 0x3c2, 0x3c6, 0x3ca, 0x3cf] {
            assert_eq!(leaving(true, pstate), Leaving::Park, "{pstate:#x}");
        }
    }

    #[test]
    fn park_is_park_wherever_it_was() {
        for pstate in 0..0x20 {
            assert_eq!(leaving(false, pstate), Leaving::Park);
        }
    }
}
