//! Why a guest stopped: ESR_EL2, FAR_EL2 and HPFAR_EL2 decoded once, here and nowhere else.

/// A synchronous exit (DDI0487 D24.2, ESR_EL2; the exception classes are in its table of EC values).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// SMC with this immediate. A trapped SMC leaves ELR_EL2 *at* the instruction (HCR_EL2.TSC).
    Smc(u16),
    /// HVC with this immediate. ELR_EL2 is already behind the instruction.
    Hvc(u16),
    /// A trapped MSR or MRS.
    Sysreg(SysregAccess),
    /// A load or store at an IPA that stage 2 does not map, with the access described.
    Mmio(MmioAccess),
    /// A load or store at an IPA that stage 2 does not map, of which the syndrome says no more.
    Undescribed(Undescribed),
    /// A store to a page that stage 2 maps read-only, with the access described. HPFAR_EL2 is UNKNOWN then (DDI0487
    /// D24.2, HPFAR_EL2), so its address is the offset in the page; there is one such page, the emulated UART's.
    ReadOnly(MmioAccess),
    /// The same, of which the syndrome says no more.
    ReadOnlyUndescribed(Undescribed),
    /// Another data access, or an instruction fetch, that stage 2 does not let pass.
    Abort(Abort),
    /// A trapped WFI, WFE, WFIT or WFET.
    Wfx,
    /// Anything else: the guest used something it was not given.
    Unknown(u8),
}

/// A trapped system register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SysregAccess {
    /// Which register.
    pub register: Sysreg,
    /// General register it is read into or written from; 31 is the zero register.
    pub rt: u8,
    /// MRS rather than MSR.
    pub is_read: bool,
}

impl SysregAccess {
    /// The access that ESR_EL2 of this class tells of.
    #[inline(always)]
    pub const fn decode(esr: u64) -> Self {
        Self {
            register: Sysreg(esr as u32 & 0x3f_fc1e),
            rt: sysreg_register(esr),
            is_read: esr & 1 != 0,
        }
    }
}

/// A system register by its encoding (op0, op1, CRn, CRm, op2), as ISS has it with Rt and direction clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysreg(u32);

impl Sysreg {
    /// The register with this encoding.
    pub const fn new(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> Self {
        Self(op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1)
    }

    /// CRm.
    pub const fn crm(self) -> u32 {
        self.0 >> 1 & 0xf
    }

    /// op2.
    pub const fn op2(self) -> u32 {
        self.0 >> 17 & 7
    }

    /// Whether it is in the identification space that HCR_EL2.TID3 traps: op0 3, op1 0, CRn 0, CRm 1 to 7.
    pub const fn is_id(self) -> bool {
        self.0 & Self::new(3, 7, 15, 0, 0).0 == Self::new(3, 0, 0, 0, 0).0
            && matches!(self.crm(), 1..=7)
    }
}

/// A data access that the syndrome describes (ISV).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Where, in the guest's physical space.
    pub ipa: u64,
    /// 1, 2, 4 or 8 bytes.
    pub size: u8,
    /// The register; 31 is the zero register.
    pub rt: u8,
    /// Store rather than load.
    pub is_write: bool,
    /// A load extends its sign.
    pub sign_extend: bool,
    /// A load fills 64 bits rather than 32.
    pub is_64bit: bool,
}

impl MmioAccess {
    /// The access of a data abort, if the syndrome describes one to where stage 2 maps nothing.
    #[inline(always)]
    pub const fn decode(esr: u64, far: u64, hpfar: u64) -> Option<Self> {
        if esr & (ISV | S1PTW) == ISV && is_translation_fault(esr) {
            Some(described(esr, ipa(far, hpfar)))
        } else {
            None
        }
    }

    /// What a load leaves in its register.
    #[inline]
    pub const fn extend(self, value: u64) -> u64 {
        let bits = 8 * self.size as u32;
        let value = if bits >= 64 {
            value
        } else {
            value & ((1 << bits) - 1)
        };
        if !self.sign_extend || bits >= 64 {
            return value;
        }
        let shift = 64 - bits;
        let signed = ((value << shift) as i64 >> shift) as u64;
        if self.is_64bit {
            signed
        } else {
            signed & 0xffff_ffff
        }
    }
}

/// A data access that the syndrome does not describe: with write-back, of a pair, or of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undescribed {
    /// Where it begins, in the guest's physical space.
    pub ipa: u64,
    /// Store rather than load.
    pub is_write: bool,
}

/// An access that nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Where, in the guest's physical space; the page only when the guest was walking its tables.
    pub ipa: u64,
    /// An instruction fetch.
    pub is_fetch: bool,
    /// The guest was walking its tables for it (S1PTW).
    pub is_walk: bool,
}

impl Abort {
    /// What the syndrome of an abort says, whether or not it describes the access.
    pub const fn decode(esr: u64, far: u64, hpfar: u64) -> Self {
        Self {
            ipa: ipa(far, hpfar),
            is_fetch: class(esr) == class::FETCH_ABORT,
            is_walk: esr & S1PTW != 0,
        }
    }
}

/// Exception classes (DDI0487 D24.2, ESR_EL2.EC); the aborts are those from a lower level.
pub mod class {
    /// WFI, WFE, WFIT or WFET.
    pub const WFX: u8 = 0x01;
    /// HVC from AArch64.
    pub const HVC: u8 = 0x16;
    /// SMC from AArch64.
    pub const SMC: u8 = 0x17;
    /// MSR or MRS.
    pub const SYSREG: u8 = 0x18;
    /// An instruction fetch.
    pub const FETCH_ABORT: u8 = 0x20;
    /// A load, a store or the like.
    pub const DATA_ABORT: u8 = 0x24;
}

const ISV: u64 = 1 << 24;
const S1PTW: u64 = 1 << 7;
const WNR: u64 = 1 << 6;
/// Cache maintenance.
const CM: u64 = 1 << 8;

/// A load of four bytes into a general register, without a sign, from where stage 2 maps nothing, if the syndrome describes
/// one: its address and register, as [`MmioAccess::decode`] has them.
#[inline(always)]
pub const fn word_load(esr: u64, far: u64, hpfar: u64) -> Option<(u64, u8)> {
    // SAS says 4 bytes, and SSE is 0.
    const FORM: u64 = ISV | 3 << 22 | 1 << 21 | S1PTW | WNR;
    if esr & FORM == ISV | 2 << 22 && is_translation_fault(esr) {
        Some((ipa(far, hpfar), abort_register(esr)))
    } else {
        None
    }
}

/// Whether this is one of x20 to x28, which the short way of an exit does not save (`guest.S`).
pub const fn is_late(register: u8) -> bool {
    20 <= register && register <= 28
}

/// Whether the exit reads or writes one of these. Where the syndrome does not describe an access, it names x0.
pub const fn uses_late_register(esr: u64) -> bool {
    match class(esr) {
        class::SYSREG => is_late(sysreg_register(esr)),
        class::DATA_ABORT => is_late(abort_register(esr)),
        _ => false,
    }
}

/// The general register of a trapped MSR or MRS (ESR_EL2.ISS.Rt).
#[inline]
pub const fn sysreg_register(esr: u64) -> u8 {
    (esr >> 5 & 0x1f) as u8
}

/// The general register of a data abort that is described (ESR_EL2.ISS.SRT).
#[inline]
pub const fn abort_register(esr: u64) -> u8 {
    (esr >> 16 & 0x1f) as u8
}

/// The exception class of a syndrome in words (DDI0487 D24.2, ESR_ELx.EC).
pub const fn describe(esr: u64) -> &'static str {
    match class(esr) {
        0x00 => "undefined instruction",
        0x01 => "WFI or WFE",
        0x07 => "FP or SIMD instruction",
        0x0e => "illegal execution state",
        0x16 => "HVC",
        0x17 => "SMC",
        0x18 => "system register access",
        0x20 | 0x21 => "instruction abort",
        0x22 => "pc alignment fault",
        0x24 | 0x25 => "data abort",
        0x26 => "sp alignment fault",
        0x2f => "SError",
        0x3c => "BRK instruction",
        _ => "unexpected class",
    }
}

/// The exception class of a syndrome.
pub const fn class(esr: u64) -> u8 {
    (esr >> 26 & 0x3f) as u8
}

/// Decodes a synchronous exception from a lower level.
#[inline(always)]
pub const fn decode(esr: u64, far: u64, hpfar: u64) -> Exit {
    match class(esr) {
        class::SMC => Exit::Smc(esr as u16),
        class::HVC => Exit::Hvc(esr as u16),
        class::SYSREG => Exit::Sysreg(SysregAccess::decode(esr)),
        class::DATA_ABORT => {
            let is_described = esr & ISV != 0 && esr & S1PTW == 0;
            if let Some(access) = MmioAccess::decode(esr, far, hpfar) {
                Exit::Mmio(access)
            } else if is_described && is_refused_store(esr) {
                Exit::ReadOnly(described(esr, far & 0xfff))
            } else {
                undescribed(esr, far, hpfar)
            }
        }
        class::FETCH_ABORT => Exit::Abort(Abort::decode(esr, far, hpfar)),
        class::WFX => Exit::Wfx,
        other => Exit::Unknown(other),
    }
}

/// The access at `ipa` that the syndrome describes.
#[inline(always)]
const fn described(esr: u64, ipa: u64) -> MmioAccess {
    MmioAccess {
        ipa,
        size: 1 << (esr >> 22 & 3),
        rt: abort_register(esr),
        is_write: esr & WNR != 0,
        sign_extend: esr & 1 << 21 != 0,
        is_64bit: esr & 1 << 15 != 0,
    }
}

/// A data abort whose access the syndrome does not describe.
const fn undescribed(esr: u64, far: u64, hpfar: u64) -> Exit {
    let is_write = esr & WNR != 0;
    let is_access = esr & (ISV | S1PTW | CM) == 0;
    if is_access && is_translation_fault(esr) {
        let ipa = ipa(far, hpfar);
        Exit::Undescribed(Undescribed { ipa, is_write })
    } else if is_access && is_refused_store(esr) {
        let ipa = far & 0xfff;
        Exit::ReadOnlyUndescribed(Undescribed { ipa, is_write })
    } else {
        Exit::Abort(Abort {
            ipa: ipa(far, hpfar),
            is_fetch: false,
            is_walk: esr & S1PTW != 0,
        })
    }
}

/// The faulting page from HPFAR_EL2.FIPA and the offset from FAR_EL2 (DDI0487 D24.2, HPFAR_EL2).
const fn ipa(far: u64, hpfar: u64) -> u64 {
    (hpfar & 0xfff_ffff_fff0) << 8 | far & 0xfff
}

/// Whether a data abort was a store's (ESR_EL2.ISS.WnR).
#[inline]
pub const fn is_store(esr: u64) -> bool {
    esr & WNR != 0
}

/// DFSC 0b0001xx: translation fault, at any level.
const fn is_translation_fault(esr: u64) -> bool {
    esr & 0b11_1100 == 0b00_0100
}

/// DFSC 0b0011xx of an abort: stage 2 maps it, and does not allow that access.
pub const fn is_permission_fault(esr: u64) -> bool {
    esr & 0b11_1100 == 0b00_1100
}

/// DFSC 0b0011xx, a permission fault at any level, of a store.
const fn is_refused_store(esr: u64) -> bool {
    esr & (WNR | 0b11_1100) == WNR | 0b00_1100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_that_is_decoded_has_a_name() {
        for class in 0..64u64 {
            let syndrome = class << 26;
            let is_known = !matches!(decode(syndrome, 0, 0), Exit::Unknown(_));
            if is_known {
                assert_ne!(describe(syndrome), "unexpected class", "{class:#x}");
            }
        }
        assert_eq!(describe(0x24 << 26 | 7), "data abort");
        assert_eq!(describe(0x3f << 26), "unexpected class");
    }

    #[test]
    fn smc_and_hvc_carry_their_immediate() {
        assert_eq!(decode(0x17 << 26 | 1 << 25, 0, 0), Exit::Smc(0));
        assert_eq!(
            decode(0x16 << 26 | 1 << 25 | 0xabcd, 0, 0),
            Exit::Hvc(0xabcd)
        );
    }

    #[test]
    fn a_write_of_icc_sgi1r_is_recognised() {
        // MSR ICC_SGI1R_EL1 (S3_0_C12_C11_5), x7.
        let esr = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 17 | 12 << 10 | 7 << 5 | 11 << 1;
        let Exit::Sysreg(access) = decode(esr, 0, 0) else {
            panic!("not a register access");
        };
        assert_eq!(access.register, Sysreg::new(3, 0, 12, 11, 5));
        assert_eq!((access.rt, access.is_read), (7, false));
        assert!(!access.register.is_id());
    }

    #[test]
    fn the_identification_space_is_what_tid3_traps() {
        assert!(Sysreg::new(3, 0, 0, 4, 0).is_id());
        assert!(Sysreg::new(3, 0, 0, 7, 7).is_id());
        assert!(!Sysreg::new(3, 0, 0, 0, 5).is_id(), "MPIDR_EL1");
        assert!(!Sysreg::new(3, 0, 0, 8, 0).is_id());
        assert!(!Sysreg::new(3, 1, 0, 4, 0).is_id());
        assert!(!Sysreg::new(2, 0, 0, 4, 0).is_id());
        assert!(!Sysreg::new(3, 0, 1, 4, 0).is_id());
    }

    #[test]
    fn a_described_store_to_a_hole_is_mmio() {
        // STRH w3, DFSC translation fault level 3, page 0x08000000, offset 0x104.
        let esr = 0x24 << 26 | 1 << 25 | ISV | 1 << 22 | 3 << 16 | WNR | 7;
        let exit = decode(esr, 0xffff_8000_0000_0104, 0x08_0000);
        let Exit::Mmio(access) = exit else {
            panic!("{exit:?}");
        };
        assert_eq!(access.ipa, 0x0800_0104);
        assert_eq!((access.size, access.rt, access.is_write), (2, 3, true));
    }

    #[test]
    fn what_the_syndrome_does_not_describe_has_a_place_and_a_direction() {
        let esr = 0x24 << 26 | 1 << 25 | 7;
        for (wnr, is_write) in [(0, false), (WNR, true)] {
            let exit = Exit::Undescribed(Undescribed {
                ipa: 0x0800_0010,
                is_write,
            });
            assert_eq!(decode(esr | wnr, 0x10, 0x08_0000), exit);
        }
        // A walk of the guest's own tables that leaves its memory, cache maintenance, and another fault than one
        // of translation are no accesses to be done.
        let walks = [esr | ISV | S1PTW, esr | S1PTW];
        let others = [esr | CM | WNR, (esr & !0x3f) | 0x10];
        for esr in walks.into_iter().chain(others) {
            let abort = Abort {
                ipa: 0x0800_0010,
                is_fetch: false,
                is_walk: esr & S1PTW != 0,
            };
            assert_eq!(decode(esr, 0x10, 0x08_0000), Exit::Abort(abort), "{esr:#x}");
        }
    }

    #[test]
    fn a_store_to_a_read_only_page_has_no_page_number() {
        // STRB w3, DFSC permission fault level 3; HPFAR_EL2 is UNKNOWN.
        let esr = 0x24 << 26 | 1 << 25 | WNR | 0xf;
        let described = esr | ISV | 3 << 16;
        for hpfar in [0, 0x08_0000, u64::MAX] {
            let far = 0xffff_8000_0000_1018;
            let Exit::ReadOnly(access) = decode(described, far, hpfar) else {
                panic!("{hpfar:#x}");
            };
            assert_eq!((access.ipa, access.size, access.rt), (0x18, 1, 3));
            assert!(access.is_write);
            let exit = Exit::ReadOnlyUndescribed(Undescribed {
                ipa: 0x18,
                is_write: true,
            });
            assert_eq!(decode(esr, far, hpfar), exit);
        }
        // No such page refuses a load; and a walk of the guest's tables, or cache maintenance, is no access.
        for esr in [described & !WNR, described | S1PTW, esr | S1PTW, esr | CM] {
            assert!(matches!(decode(esr, 0, 0), Exit::Abort(_)), "{esr:#x}");
        }
    }

    #[test]
    fn loads_extend_as_the_instruction_says() {
        let load = MmioAccess {
            ipa: 0,
            size: 1,
            rt: 0,
            is_write: false,
            sign_extend: true,
            is_64bit: false,
        };
        assert_eq!(load.extend(0x1_80), 0xffff_ff80);
        assert_eq!(
            MmioAccess {
                is_64bit: true,
                ..load
            }
            .extend(0x80),
            0xffff_ffff_ffff_ff80
        );
        assert_eq!(
            MmioAccess {
                sign_extend: false,
                ..load
            }
            .extend(0x180),
            0x80
        );
        assert_eq!(MmioAccess { size: 8, ..load }.extend(u64::MAX), u64::MAX);
    }
}
