//! Whether firmware below us delivers SDEI events, asked without calling what may not be there.

use hv_abi::{psci, sdei, smccc};

/// What firmware said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is older than PSCI 1.0 or knows nothing of SMCCC: an unknown call may do anything.
    TooOld,
    /// It has no SDEI.
    Absent,
    /// It has one of another major version than 1.
    Foreign(u64),
    /// It has SDEI of this version, as SDEI_VERSION gives it.
    Offered(u64),
}

/// Asks. `call` is a firmware call with one argument, where the devicetree has a PSCI node.
pub fn probe(mut call: impl FnMut(u32, u64) -> i64) -> Offer {
    /// PSCI_VERSION 1.0, the first with PSCI_FEATURES (DEN0022 5.1.1).
    const PSCI_1_0: i64 = 1 << 16;
    if call(psci::VERSION, 0) < PSCI_1_0 {
        return Offer::TooOld;
    }
    // As a status, which is 32 bits wide.
    if (call(psci::FEATURES, smccc::VERSION.into()) as i32) < 0 {
        return Offer::TooOld;
    }
    match call(sdei::Call::Version as u32, 0) {
        ..0 => Offer::Absent,
        version if version >> 48 == 1 => Offer::Offered(version as u64),
        version => Offer::Foreign(version as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firmware(psci: i64, smccc: i64, sdei: i64) -> Offer {
        probe(|function, argument| match (function, argument) {
            (psci::VERSION, _) => psci,
            (psci::FEATURES, argument) if argument == u64::from(smccc::VERSION) => smccc,
            (0xC400_0020, _) => sdei,
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
        assert_eq!(probe(asked), Offer::TooOld);
        let no_smccc = |function, _| match function {
            psci::VERSION => 0x10000,
            psci::FEATURES => 0xffff_ffff,
            _ => panic!("{function:#x} must not be called"),
        };
        assert_eq!(probe(no_smccc), Offer::TooOld);
        assert_eq!(probe(|_, _| -1), Offer::TooOld);
    }
}
