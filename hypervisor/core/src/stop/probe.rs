//! Whether firmware below us delivers SDEI events, asked without calling what may not be there.

use core::fmt;

use hv_abi::{psci, sdei, smccc};

/// What firmware said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// There is none, it is older than PSCI 1.0, or knows nothing of SMCCC: an unknown call may do anything.
    NoSmccc,
    /// It has no SDEI.
    Absent,
    /// It has one of another major version than 1.
    Foreign(u64),
    /// It has SDEI of this version, as SDEI_VERSION gives it.
    Offered(u64),
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSmccc => f.write_str("no SMCCC"),
            Self::Absent => f.write_str("no SDEI"),
            Self::Foreign(version) | Self::Offered(version) => {
                write!(f, "SDEI {}.{}", version >> 48, version >> 32 & 0xffff)
            }
        }
    }
}

/// Asks, and where there is SDEI removes what a boot loader may have left of it. `call` is a firmware call with
/// one argument, where the devicetree has a PSCI node.
pub fn probe(mut call: impl FnMut(u32, u64) -> i64) -> Offer {
    /// PSCI_VERSION 1.0, the first with PSCI_FEATURES (DEN0022 5.1.1).
    const PSCI_1_0: i64 = 1 << 16;
    if call(psci::VERSION, 0) < PSCI_1_0 {
        return Offer::NoSmccc;
    }
    // As a status, which is 32 bits wide.
    if (call(psci::FEATURES, smccc::VERSION.into()) as i32) < 0 {
        return Offer::NoSmccc;
    }
    match call(sdei::Call::Version as u32, 0) {
        ..0 => Offer::Absent,
        version if version >> 48 == 1 => {
            // DENIED is for a loader that runs inside a handler of its own: event 0 is ours nevertheless.
            let _ = call(sdei::Call::SharedReset as u32, 0);
            Offer::Offered(version as u64)
        }
        version => Offer::Foreign(version as u64),
    }
}

/// Registers, enables and unmasks event 0 on this pCPU, in that order (DEN0054 5.1.2, 5.1.3, 5.1.13), to enter
/// `entry` with `argument`; what a boot loader left goes first, if firmware lets it.
///
/// # Errors
///
/// The first call that firmware refuses, by its name in DEN0054, and its status: this pCPU must not be signalled.
pub fn arm(
    mut call: impl FnMut(sdei::Call, [u64; 5]) -> i64,
    entry: u64,
    argument: u64,
) -> Result<(), (&'static str, i64)> {
    use sdei::Call::{EventEnable, EventRegister, PeUnmask, PrivateReset};
    let event = u64::from(sdei::EVENT_SIGNALLED);
    // As for the shared ones.
    let _ = call(PrivateReset, [0; 5]);
    let steps = [
        (
            "SDEI_EVENT_REGISTER",
            EventRegister,
            [event, entry, argument, 0, 0],
        ),
        ("SDEI_EVENT_ENABLE", EventEnable, [event, 0, 0, 0, 0]),
        ("SDEI_PE_UNMASK", PeUnmask, [0; 5]),
    ];
    for (name, function, args) in steps {
        let status = call(function, args);
        if status < 0 {
            return Err((name, status));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firmware(psci: i64, smccc: i64, sdei: i64) -> Offer {
        probe(|function, argument| match (function, argument) {
            (psci::VERSION, _) => psci,
            (psci::FEATURES, argument) if argument == u64::from(smccc::VERSION) => smccc,
            (0xC400_0020, _) => sdei,
            // SDEI_SHARED_RESET.
            (0xC400_0032, 0) if sdei >= 0 => -3,
            _ => panic!("{function:#x} must not be called"),
        })
    }

    #[test]
    fn sdei_1_is_taken_with_whatever_minor_version_and_vendor() {
        for version in [1 << 48, 1 << 48 | 1 << 32 | 0x4847] {
            assert_eq!(
                firmware(0x10001, 0, version),
                Offer::Offered(version as u64)
            );
        }
        assert_eq!(firmware(0x10001, 0, 2 << 48), Offer::Foreign(2 << 48));
    }

    #[test]
    fn an_error_means_absent() {
        assert_eq!(firmware(0x10001, 0, -1), Offer::Absent);
    }

    #[test]
    fn old_firmware_is_not_asked() {
        let asked = |function, _| match function {
            psci::VERSION => 2,
            _ => panic!("{function:#x} must not be called"),
        };
        assert_eq!(probe(asked), Offer::NoSmccc);
        let no_smccc = |function, _| match function {
            psci::VERSION => 0x10000,
            psci::FEATURES => 0xffff_ffff,
            _ => panic!("{function:#x} must not be called"),
        };
        assert_eq!(probe(no_smccc), Offer::NoSmccc);
        assert_eq!(probe(|_, _| -1), Offer::NoSmccc);
    }

    #[test]
    fn c314_a_reset_at_start_that_is_denied_changes_nothing() {
        assert_eq!(firmware(0x10001, 0, 1 << 48), Offer::Offered(1 << 48));
        let mut made = alloc::vec::Vec::new();
        let armed = arm(
            |function, args| {
                made.push((function as u32, args));
                if function == sdei::Call::PrivateReset {
                    -3
                } else {
                    0
                }
            },
            0x8000,
            7,
        );
        assert_eq!(armed, Ok(()));
        let expected = [
            (0xC400_0031, [0; 5]),
            (0xC400_0021, [0, 0x8000, 7, 0, 0]),
            (0xC400_0022, [0; 5]),
            (0xC400_002C, [0; 5]),
        ];
        assert_eq!(made, expected);
    }

    #[test]
    fn firmware_that_refuses_a_step_is_not_asked_for_the_next() {
        for (refused, name, calls) in [
            (sdei::Call::EventRegister, "SDEI_EVENT_REGISTER", 2),
            (sdei::Call::EventEnable, "SDEI_EVENT_ENABLE", 3),
            (sdei::Call::PeUnmask, "SDEI_PE_UNMASK", 4),
        ] {
            let mut made = 0;
            let armed = arm(
                |function, _| {
                    made += 1;
                    if function == refused { -10 } else { 0 }
                },
                0,
                0,
            );
            assert_eq!((armed, made), (Err((name, -10)), calls));
        }
    }
}
