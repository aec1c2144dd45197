//! A guest's SMC or HVC: whose function is it? Default deny: what is not listed here is NOT_SUPPORTED.

use hv_abi::{sdei, smccc, vendor};

use crate::{psci, trng};

/// Who answers a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The SDEI dispatcher of this vCPU.
    Sdei(sdei::Call),
    /// The VM's power state.
    Psci(psci::Call),
    /// Random numbers.
    Trng(trng::Call),
    /// The platform is to raise an SDEI event, where the VM may ask for that.
    Raise,
    /// Answered on the spot with this value in x0.
    Answer(i64),
    /// Answered on the spot with these in w0 to w3.
    Words([u32; 4]),
}

/// The answer to a call that everybody gets the same answer to, in every state: that of a function which tells a version or
/// features, or which nobody offers. None for others, which [`route`] knows.
#[inline]
pub fn at_once(immediate: u16, function: u32, x1: u64) -> Option<i64> {
    /// Of Arm's standard services: PSCI, SDEI and TRNG, SMC32 and SMC64 (DEN0022 5, DEN0054 5, DEN0098 2).
    const STANDARD: core::ops::Range<u32> = 0x8400_0000..0x8400_0060;
    const SMC64: u32 = 1 << 30;
    if immediate != 0 {
        return Some(smccc::NOT_SUPPORTED);
    }
    match function {
        hv_abi::psci::VERSION => Some(hv_abi::psci::VERSION_1_3.into()),
        function if STANDARD.contains(&(function & !SMC64)) => None,
        smccc::VERSION => Some(smccc::VERSION_1_2.into()),
        smccc::ARCH_FEATURES => Some(arch_features(x1 as u32)),
        vendor::EVENT_RAISE | smccc::VENDOR_HYP_UID | smccc::VENDOR_HYP_REVISION => None,
        _ => Some(smccc::NOT_SUPPORTED),
    }
}

/// Finds the service for a call with this immediate, function identifier (w0) and x1 to x3.
pub fn route(immediate: u16, function: u32, args: [u64; 3]) -> Service {
    if let Some(answer) = at_once(immediate, function, args[0]) {
        return Service::Answer(answer);
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
    if let Some(call) = trng::decode(function, args[0]) {
        return Service::Trng(call);
    }
    if function == vendor::EVENT_RAISE {
        return Service::Raise;
    }
    match function {
        smccc::VENDOR_HYP_UID => Service::Words(smccc::uuid_words(smccc::HYPERVISOR_UUID)),
        smccc::VENDOR_HYP_REVISION => {
            let [major, minor] = smccc::HYPERVISOR_REVISION;
            Service::Words([major, minor, 0, 0])
        }
        _ => Service::Answer(smccc::NOT_SUPPORTED),
    }
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
        assert_eq!(route(0, 0x8400_0000, [0; 3]), Service::Answer(0x1_0003));
        assert_eq!(
            route(0, 0xC400_0053, [64, 0, 0]),
            Service::Trng(trng::Call::Rnd64(64))
        );
        assert_eq!(route(0, 0x8000_0000, [0; 3]), Service::Answer(0x10002));
        assert_eq!(
            route(0, 0x8000_0001, [0x8000_0000, 0, 0]),
            Service::Answer(0)
        );
    }

    #[test]
    fn the_hypervisor_says_who_it_is_and_is_nobody_else() {
        let Service::Words(uid) = route(0, 0x8600_FF01, [0; 3]) else {
            panic!("no UID");
        };
        assert_eq!(uid, [0x6c37_e9ab, 0xee42_22c8, 0xe8dc_45b2, 0xf042_becd]);
        assert_eq!(
            route(0, 0x8600_FF03, [0; 3]),
            Service::Words([1, 0, 0, 0]),
            "revision 1.0"
        );
    }

    #[test]
    fn c011_bit_16_is_part_of_the_identifier_before_smccc_1_3() {
        assert_eq!(route(0, 0xC401_0020, [0; 3]), Service::Answer(-1));
        assert_eq!(route(0, 0x8401_0000, [0; 3]), Service::Answer(-1));
    }

    #[test]
    fn unknown_calls_are_refused_whoever_owns_them() {
        for function in [
            0,
            // SOC_ID, which SMCCC_ARCH_FEATURES denies too, and a workaround.
            0x8000_0002,
            0xC000_0002,
            0x8000_8000,
            // Another hypervisor's services.
            0x8600_0000,
            0x8600_FF00,
            0x8600_FF02,
            0xC600_FF01,
            0xC500_0020,
            0xB200_0000,
            0xC600_0020,
            u32::MAX,
        ] {
            assert_eq!(route(0, function, [0; 3]), Service::Answer(-1));
        }
    }
}
