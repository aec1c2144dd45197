//! Registers of EL2 that a feature adds, that bear on what EL1 may do or finds, and whose values out of reset the
//! architecture leaves UNKNOWN: which of them a CPU has, and what they have to hold.

/// A register (DDI0487 D24.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// HFGRTR_EL2
    Hfgrtr,
    /// HFGWTR_EL2
    Hfgwtr,
    /// HFGITR_EL2
    Hfgitr,
    /// HDFGRTR_EL2
    Hdfgrtr,
    /// HDFGWTR_EL2
    Hdfgwtr,
    /// HAFGRTR_EL2
    Hafgrtr,
    /// HFGRTR2_EL2
    Hfgrtr2,
    /// HFGWTR2_EL2
    Hfgwtr2,
    /// HFGITR2_EL2
    Hfgitr2,
    /// HDFGRTR2_EL2
    Hdfgrtr2,
    /// HDFGWTR2_EL2
    Hdfgwtr2,
    /// HCRX_EL2
    Hcrx,
    /// VSESR_EL2: what a guest's ESR_EL1 says after a virtual SError.
    Vsesr,
    /// MPAM2_EL2
    Mpam2,
}

/// MPAM2_EL2.TRAPMPAM0EL1 and TRAPMPAM1EL1: a guest has no MPAM (`idreg`), and leaves none behind.
const MPAM_TRAPPED: u64 = 0b11 << 48;

/// The registers of a CPU with these in ID_AA64PFR0_EL1, ID_AA64PFR1_EL1, ID_AA64MMFR0_EL1 and ID_AA64MMFR1_EL1, and what
/// is written to each. 0 traps nothing that was there before the register was, and enables nothing new.
pub fn registers([pfr0, pfr1, mmfr0, mmfr1]: [u64; 4]) -> impl Iterator<Item = (Register, u64)> {
    use Register::{
        Hafgrtr, Hcrx, Hdfgrtr, Hdfgrtr2, Hdfgwtr, Hdfgwtr2, Hfgitr, Hfgitr2, Hfgrtr, Hfgrtr2,
        Hfgwtr, Hfgwtr2, Mpam2, Vsesr,
    };
    let field = |register: u64, shift: u32| register >> shift & 0xf;
    let (fine, activity) = (field(mmfr0, 56), field(pfr0, 44));
    let parts: [(bool, &[Register], u64); 6] = [
        // FEAT_FGT, with FEAT_AMUv1 one more; FEAT_FGT2.
        (fine >= 1, &[Hfgrtr, Hfgwtr, Hfgitr, Hdfgrtr, Hdfgwtr], 0),
        (fine >= 1 && activity >= 1, &[Hafgrtr], 0),
        (
            fine >= 2,
            &[Hfgrtr2, Hfgwtr2, Hfgitr2, Hdfgrtr2, Hdfgwtr2],
            0,
        ),
        // FEAT_HCX, FEAT_RAS.
        (field(mmfr1, 40) >= 1, &[Hcrx], 0),
        (field(pfr0, 28) >= 1, &[Vsesr], 0),
        // FEAT_MPAM, whose version is in two fields.
        (
            field(pfr0, 40) >= 1 || field(pfr1, 16) >= 1,
            &[Mpam2],
            MPAM_TRAPPED,
        ),
    ];
    let present = parts.into_iter().filter(|(has, ..)| *has);
    present.flat_map(|(_, registers, value)| registers.iter().map(move |&own| (own, value)))
}

/// Registers of EL1 and EL0 that a guest may write, that a feature adds, and that power-off leaves UNKNOWN: what of them a
/// CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftovers {
    /// V0 to V31, FPCR, FPSR.
    pub has_vectors: bool,
    /// The five keys of pointer authentication.
    pub has_keys: bool,
    /// VDISR_EL2, which is a guest's DISR_EL1.
    pub has_deferred_errors: bool,
    /// Pairs of DBGBVR_EL1 and DBGBCR_EL1, 2 to 16.
    pub breakpoints: u32,
    /// Pairs of DBGWVR_EL1 and DBGWCR_EL1, 2 to 16.
    pub watchpoints: u32,
}

impl Leftovers {
    /// Of a CPU with these in ID_AA64PFR0_EL1, ID_AA64DFR0_EL1, ID_AA64ISAR1_EL1 and ID_AA64ISAR2_EL1. SVE and SME are
    /// trapped, so that a guest reaches the low 128 bits of their vectors only.
    pub const fn of([pfr0, dfr0, isar1, isar2]: [u64; 4]) -> Self {
        /// APA, API, GPA, GPI.
        const KEYS_1: u64 = 0xff << 24 | 0xff << 4;
        /// GPA3, APA3.
        const KEYS_2: u64 = 0xff << 8;
        Self {
            has_vectors: pfr0 >> 20 & 0xf != 0xf && pfr0 >> 16 & 0xf != 0xf,
            has_keys: isar1 & KEYS_1 != 0 || isar2 & KEYS_2 != 0,
            has_deferred_errors: pfr0 >> 28 & 0xf != 0,
            breakpoints: (dfr0 >> 12 & 0xf) as u32 + 1,
            watchpoints: (dfr0 >> 20 & 0xf) as u32 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Register::*;
    use super::*;
    use alloc::vec::Vec;

    fn of(ids: [u64; 4]) -> Vec<Register> {
        registers(ids).map(|(register, _)| register).collect()
    }

    #[test]
    fn each_feature_brings_its_registers_and_no_others() {
        let fine = [Hfgrtr, Hfgwtr, Hfgitr, Hdfgrtr, Hdfgwtr];
        let finer = [Hfgrtr2, Hfgwtr2, Hfgitr2, Hdfgrtr2, Hdfgwtr2];
        assert_eq!(of([0; 4]), []);
        assert_eq!(of([0, 0, 1 << 56, 0]), fine);
        assert_eq!(of([0, 0, 2 << 56, 0]), [fine, finer].concat());
        assert_eq!(of([1 << 44, 0, 0, 0]), []);
        assert_eq!(
            of([1 << 44, 0, 1 << 56, 0]),
            [&fine[..], &[Hafgrtr]].concat()
        );
        assert_eq!(of([0, 0, 0, 1 << 40]), [Hcrx]);
        assert_eq!(of([1 << 28, 0, 0, 0]), [Vsesr]);
        assert_eq!(of([1 << 40, 0, 0, 0]), [Mpam2]);
        assert_eq!(of([0, 1 << 16, 0, 0]), [Mpam2]);
        // Fields beside them.
        assert_eq!(
            of([0xf << 48 | 0xf << 32, 0xf << 20, 0xf << 52, 0xf << 44]),
            []
        );
    }

    #[test]
    fn each_feature_brings_what_a_guest_could_leave_in_it() {
        let none = Leftovers {
            has_vectors: false,
            has_keys: false,
            has_deferred_errors: false,
            breakpoints: 1,
            watchpoints: 1,
        };
        let of = Leftovers::of;
        assert_eq!(of([0xff << 16, 0, 0, 0]), none);
        // FP alone is no vectors, and neither is AdvSIMD alone: the architecture has both or none.
        assert!(!of([0xf0 << 16, 0, 0, 0]).has_vectors && !of([0xf << 16, 0, 0, 0]).has_vectors);
        assert!(of([0, 0, 0, 0]).has_vectors && of([0x11 << 16, 0, 0, 0]).has_vectors);
        for [isar1, isar2] in [
            [1 << 4, 0],
            [1 << 8, 0],
            [1 << 24, 0],
            [1 << 28, 0],
            [0, 1 << 8],
            [0, 1 << 12],
        ] {
            assert!(of([0, 0, isar1, isar2]).has_keys, "{isar1:#x} {isar2:#x}");
        }
        assert!(!of([0, 0, !(0xff << 24 | 0xff << 4), !(0xff << 8)]).has_keys);
        assert!(of([1 << 28, 0, 0, 0]).has_deferred_errors);
        let debug = of([0, 5 << 12 | 3 << 20, 0, 0]);
        assert_eq!((debug.breakpoints, debug.watchpoints), (6, 4));
        let most = of([0, !0, 0, 0]);
        assert_eq!((most.breakpoints, most.watchpoints), (16, 16));
    }

    #[test]
    fn all_hold_nothing_but_the_traps_of_what_guests_have_not_got() {
        for (register, value) in registers([!0; 4]) {
            let expected = if register == Mpam2 { 3 << 48 } else { 0 };
            assert_eq!(value, expected, "{register:?}");
        }
        assert_eq!(registers([!0; 4]).count(), 14);
    }
}
