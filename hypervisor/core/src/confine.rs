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
    fn all_hold_nothing_but_the_traps_of_what_guests_have_not_got() {
        for (register, value) in registers([!0; 4]) {
            let expected = if register == Mpam2 { 3 << 48 } else { 0 };
            assert_eq!(value, expected, "{register:?}");
        }
        assert_eq!(registers([!0; 4]).count(), 14);
    }
}
