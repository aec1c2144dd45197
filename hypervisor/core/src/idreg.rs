//! What a guest reads in the identification registers: an allow-list. A field that is not listed reads
//! as zero, which means "not implemented" nearly everywhere; where it does not, a rule says so.
//!
//! Fields and values are those of DDI0487 D24.2, under each register's name.

use crate::entry::Features;
use crate::exit::Sysreg;

/// What becomes of one 4-bit field.
#[derive(Clone, Copy)]
enum Rule {
    /// The hardware's value.
    Keep,
    /// The hardware's value, at most this.
    Max(u64),
    /// This value, whatever the hardware says.
    Set(u64),
}
use Rule::{Keep, Max, Set};

/// A field by its lowest bit.
type Field = (u32, Rule);

/// ID_AA64PFR0_EL1: no EL2, no EL3, no RAS, SVE, MPAM, AMU; EL1 is AArch64 only.
const PFR0: &[Field] = &[
    (0, Keep),    // EL0
    (4, Set(1)),  // EL1
    (16, Keep),   // FP
    (20, Keep),   // AdvSIMD
    (24, Max(1)), // GIC
    (48, Max(1)), // DIT
    (56, Max(1)), // CSV2: without SCXTNUM
    (60, Keep),   // CSV3
];
/// ID_AA64PFR1_EL1: no MTE, SME, NMI, GCS.
const PFR1: &[Field] = &[(0, Max(1)), (4, Max(2))]; // BT, SSBS
/// ID_AA64DFR0_EL1: self-hosted debug, no PMU, trace, SPE.
const DFR0: &[Field] = &[
    (0, Max(8)),   // DebugVer
    (12, Keep),    // BRPs
    (20, Keep),    // WRPs
    (28, Keep),    // CTX_CMPs
    (36, Set(15)), // DoubleLock: none
];
/// ID_AA64ISAR0_EL1: all but TME.
const ISAR0: &[Field] = &[
    (4, Keep),
    (8, Keep),
    (12, Keep),
    (16, Keep),
    (20, Keep),
    (28, Keep),
    (32, Keep),
    (36, Keep),
    (40, Keep),
    (44, Keep),
    (48, Keep),
    (52, Keep),
    (56, Keep),
    (60, Keep),
];
/// ID_AA64ISAR1_EL1: all but LS64, which needs HCRX_EL2.
const ISAR1: &[Field] = &[
    (0, Keep),
    (4, Keep),
    (8, Keep),
    (12, Keep),
    (16, Keep),
    (20, Keep),
    (24, Keep),
    (28, Keep),
    (32, Keep),
    (36, Keep),
    (40, Keep),
    (44, Keep),
    (48, Keep),
    (52, Keep),
];
/// ID_AA64ISAR2_EL1: WFxT, RPRES, GPA3, APA3, BC, PAC_frac, CLRBHB, CSSC; no MOPS, which needs HCRX_EL2.
const ISAR2: &[Field] = &[
    (0, Keep),
    (4, Keep),
    (8, Keep),
    (12, Keep),
    (20, Keep),
    (24, Keep),
    (28, Keep),
    (52, Keep),
];
/// ID_AA64MMFR0_EL1: PARange up to 40 bits; ECV without an offset; no FGT.
const MMFR0: &[Field] = &[
    (0, Max(2)),  // PARange
    (4, Keep),    // ASIDBits
    (8, Keep),    // BigEnd
    (16, Keep),   // BigEndEL0
    (20, Keep),   // TGran16
    (24, Keep),   // TGran64
    (28, Keep),   // TGran4
    (44, Keep),   // ExS
    (60, Max(1)), // ECV
];
/// ID_AA64MMFR1_EL1: no VHE, LOR, HCX.
const MMFR1: &[Field] = &[
    (0, Max(2)),  // HAFDBS
    (12, Max(2)), // HPDS
    (20, Max(3)), // PAN
    (36, Keep),   // ETS
    (44, Keep),   // AFP
    (48, Keep),   // nTLBPA
    (60, Keep),   // ECBHB
];
/// ID_AA64MMFR2_EL1: no NV, FWB, EVT, IESB.
const MMFR2: &[Field] = &[
    (0, Keep),  // CnP
    (4, Keep),  // UAO
    (8, Keep),  // LSM
    (16, Keep), // VARange
    (20, Keep), // CCIDX
    (28, Keep), // ST
    (32, Keep), // AT
    (36, Keep), // IDS
    (48, Keep), // TTL
    (52, Keep), // BBM
    (60, Keep), // E0PD
];

/// What a guest reads in each identification register, by CRm and op2.
#[derive(Clone, Debug)]
pub struct Table([u64; 64]);

impl Default for Table {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Table {
    /// Filters what `hardware` says of the register with a CRm and op2.
    pub fn new(hardware: impl Fn(u32, u32) -> u64) -> Self {
        Self(core::array::from_fn(|at| match at as u32 {
            0..8 => 0,
            at => filter(at / 8, at % 8, hardware(at / 8, at % 8)),
        }))
    }

    /// The value of `register`, which [is one](Sysreg::is_id).
    #[inline]
    pub fn get(&self, register: Sysreg) -> u64 {
        let at = register.crm() * 8 + register.op2();
        self.0.get(at as usize % 64).copied().unwrap_or(0)
    }
}

/// What a guest reads in the register with this CRm and op2 (op0 3, op1 0, CRn 0), given the
/// hardware's value.
pub fn filter(crm: u32, op2: u32, hardware: u64) -> u64 {
    let fields = match (crm, op2) {
        (4, 0) => PFR0,
        (4, 1) => PFR1,
        (5, 0) => DFR0,
        (6, 0) => ISAR0,
        (6, 1) => ISAR1,
        (6, 2) => ISAR2,
        (7, 0) => MMFR0,
        (7, 1) => MMFR1,
        (7, 2) => MMFR2,
        // The AArch32 registers describe what EL0 may run. ID_DFR0_EL1: no PMU, no trace.
        (1, 2) => return hardware & 0x0000_0fff,
        (1..=3, _) => return hardware,
        _ => return 0,
    };
    let mut seen = 0;
    for &(shift, rule) in fields {
        let field = hardware >> shift & 0xf;
        let value = match rule {
            Keep => field,
            // 0xf is "none" in the signed fields, and stays it.
            Max(limit) if field != 0xf => field.min(limit),
            Max(_) => field,
            Set(value) => value,
        };
        seen |= value << shift;
    }
    seen
}

/// The PSTATE bits a PE has, from its own ID_AA64PFR0_EL1, ID_AA64PFR1_EL1 and ID_AA64MMFR1_EL1.
pub const fn features(pfr0: u64, pfr1: u64, mmfr1: u64) -> Features {
    Features {
        pan: mmfr1 >> 20 & 0xf != 0,
        ssbs: pfr1 >> 4 & 0xf != 0,
        mte: pfr1 >> 8 & 0xf != 0,
        nmi: pfr1 >> 36 & 0xf != 0,
        dit: pfr0 >> 48 & 0xf != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_sees_no_el2_sve_sme_mte_or_pmu_whatever_the_hardware_has() {
        let pfr0 = filter(4, 0, 0x1111_1111_1111_1111);
        assert_eq!(pfr0 >> 8 & 0xff, 0, "EL2, EL3");
        assert_eq!(pfr0 >> 32 & 0xf, 0, "SVE");
        assert_eq!(pfr0 >> 4 & 0xf, 1, "EL1 is AArch64");
        let pfr1 = filter(4, 1, 0x3333_3333_3333_3333);
        assert_eq!(pfr1 >> 8 & 0xf, 0, "MTE");
        assert_eq!(pfr1 >> 24 & 0xf, 0, "SME");
        assert_eq!(pfr1 >> 36 & 0xf, 0, "NMI");
        assert_eq!(filter(5, 0, u64::MAX >> 4) >> 8 & 0xf, 0, "PMU");
    }

    #[test]
    fn a_missing_fp_unit_stays_missing() {
        assert_eq!(filter(4, 0, 0xff_0000) >> 16 & 0xff, 0xff);
    }

    #[test]
    fn registers_without_a_rule_read_as_zero() {
        for (crm, op2) in [
            (4, 2),
            (4, 4),
            (4, 5),
            (5, 1),
            (6, 3),
            (7, 3),
            (7, 4),
            (7, 7),
        ] {
            assert_eq!(filter(crm, op2, u64::MAX), 0);
        }
    }

    #[test]
    fn the_physical_range_is_at_most_what_stage_2_covers() {
        assert_eq!(filter(7, 0, 6) & 0xf, 2);
        assert_eq!(filter(7, 0, 1) & 0xf, 1);
    }

    #[test]
    fn features_follow_the_hardware() {
        let features = features(1 << 48, 1 << 4, 1 << 20);
        assert!(features.pan && features.ssbs && features.dit);
        assert!(!features.mte && !features.nmi);
    }
}
