//! A guest's SMC or HVC: whose function is it? Default deny: what is not listed here is NOT_SUPPORTED.

use hv_abi::{sdei, smccc};

use crate::psci;

/// Who answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The SDEI dispatcher of this vCPU.
    Sdei(sdei::Call),
    /// The VM's power state.
    Psci(psci::Call),
    /// Answered on the spot with this value in x0.
    Answer(i64),
}

/// SMCCC 1.1 (DEN0028 7.2): results in x0 to x3, arguments in x1 to x7.
const SMCCC_1_1: i64 = 0x1_0001;

/// Finds the service for a call with this immediate, function identifier (w0) and x1 to x3.
pub fn route(immediate: u16, function: u32, args: [u64; 3]) -> Service {
    if immediate != 0 {
        return Service::Answer(smccc::NOT_SUPPORTED);
    }
    if (sdei::FIRST..=sdei::LAST).contains(&function) {
        return match sdei::Call::from_id(function) {
            Some(call) => Service::Sdei(call),
            None => Service::Answer(smccc::NOT_SUPPORTED),
        };
    }
    if let Some(call) = psci::decode(function, args) {
        return Service::Psci(call);
    }
    Service::Answer(match function {
        smccc::VERSION => SMCCC_1_1,
        smccc::ARCH_FEATURES => arch_features(args[0] as u32),
        _ => smccc::NOT_SUPPORTED,
    })
}

/// SMCCC_ARCH_FEATURES (DEN0028 7.3). Workarounds are not claimed: nothing below EL2 is ever called for
/// a guest, and "not supported" makes it take its own measures.
const fn arch_features(function: u32) -> i64 {
    match function {
        smccc::VERSION | smccc::ARCH_FEATURES => smccc::SUCCESS,
        _ => smccc::NOT_SUPPORTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonzero_immediate_is_nobodys() {
        assert_eq!(
            route(1, sdei::Call::Version as u32, [0; 3]),
            Service::Answer(-1)
        );
    }

    #[test]
    fn c003_unallocated_sdei_functions_are_not_supported() {
        for function in 0xC400_0033..=0xC400_003F {
            assert_eq!(route(0, function, [0; 3]), Service::Answer(-1));
        }
    }

    #[test]
    fn c004_sdei_has_no_32_bit_calls() {
        for function in 0x8400_0020..=0x8400_0032 {
            assert_eq!(route(0, function, [0; 3]), Service::Answer(-1));
        }
    }

    #[test]
    fn each_interface_finds_its_service() {
        assert_eq!(
            route(0, 0xC400_002F, [0; 3]),
            Service::Sdei(sdei::Call::EventSignal)
        );
        assert_eq!(
            route(0, 0x8400_0000, [0; 3]),
            Service::Psci(psci::Call::Version)
        );
        assert_eq!(route(0, 0x8000_0000, [0; 3]), Service::Answer(0x10001));
        assert_eq!(
            route(0, 0x8000_0001, [0x8000_0000, 0, 0]),
            Service::Answer(0)
        );
    }

    #[test]
    fn unknown_calls_are_refused_whoever_owns_them() {
        for function in [
            0,
            0x8000_8000,
            0x8600_FF01,
            0xC500_0020,
            0xB200_0000,
            0xC600_0020,
            u32::MAX,
        ] {
            assert_eq!(route(0, function, [0; 3]), Service::Answer(-1));
        }
    }
}
