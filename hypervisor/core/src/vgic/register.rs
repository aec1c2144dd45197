//! The register maps of GICD and GICR (IHI0069 12.9, 12.11), and of a GICv2's GICD (IHI0048 4.1): an offset
//! and a size become a typed register or nothing. What is not here reads as zero and ignores writes.

use super::Frame;

/// One access to the distributor or a redistributor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    /// GICD_CTLR, GICR_CTLR.
    Control,
    /// GICD_TYPER; GICR_TYPER whole or by halves.
    Type(Part),
    /// GICD_IIDR, GICR_IIDR.
    Implementer,
    /// GICR_WAKER.
    Waker,
    /// One of the identification registers at the end of a 64 KiB frame: its byte.
    Identification(u8),
    /// 32 interrupts, a bit each.
    Bits {
        /// Which property.
        bank: Bank,
        /// INTID / 32.
        block: u32,
    },
    /// GICD_IPRIORITYR: a byte per interrupt.
    Priority {
        /// The first of them.
        intid: u32,
        /// 1 or 4.
        count: u32,
    },
    /// GICD_ICFGR: two bits per interrupt, 16 of them.
    Trigger {
        /// The first of them.
        intid: u32,
    },
    /// GICD_IROUTER.
    Route {
        /// Whose.
        intid: u32,
        /// Of which part.
        part: Part,
    },
    /// GICD_ITARGETSR of a GICv2: a byte per interrupt.
    Targets {
        /// The first of them.
        intid: u32,
        /// 1 or 4.
        count: u32,
    },
    /// GICD_SGIR of a GICv2.
    Generate,
    /// GICC_DIR of a GICv2.
    Deactivate,
    /// GICD_SPENDSGIR and GICD_CPENDSGIR of a GICv2: a byte per SGI, a bit per sender. Both read alike.
    Senders {
        /// The first of them.
        intid: u32,
        /// 1 or 4.
        count: u32,
        /// Which of the two.
        sets: bool,
    },
}

/// A property of which a register holds 32. `Set` and `Clear` name the register written; both read alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bank {
    /// IGROUPR.
    Group,
    /// ISENABLER.
    SetEnable,
    /// ICENABLER.
    ClearEnable,
    /// ISPENDR.
    SetPending,
    /// ICPENDR.
    ClearPending,
    /// ISACTIVER.
    SetActive,
    /// ICACTIVER.
    ClearActive,
}

/// Which part of a 64-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// Bits 31 to 0.
    Low,
    /// Bits 63 to 32.
    High,
}

/// The size of one frame.
pub(super) const FRAME: u64 = 0x1_0000;

/// The identification registers from 0xfd0 on, ArchRev 2, as the GIC-400 has them.
const IDENTIFICATION_V2: [u8; 12] = [
    0x04, 0, 0, 0, // PIDR4 to 7
    0x90, 0xb4, 0x2b, 0, // PIDR0 to 3
    0x0d, 0xf0, 0x05, 0xb1, // CIDR0 to 3
];

/// The identification registers from 0xffd0 on, ArchRev 3 (PIDR2); the rest as Arm's own parts have
/// (IHI0069, identification registers).
const IDENTIFICATION: [u8; 12] = [
    0x44, 0, 0, 0, // PIDR4 to 7
    0x92, 0xb4, 0x3b, 0, // PIDR0 to 3
    0x0d, 0xf0, 0x05, 0xb1, // CIDR0 to 3
];

impl Register {
    /// The register an access meets.
    #[inline(never)]
    pub fn find(frame: Frame, offset: u64, size: u8) -> Option<Self> {
        Self::find_at_once(frame, offset, size)
    }

    /// The same, without a call, for what is settled at once.
    #[inline(always)]
    pub fn find_at_once(frame: Frame, offset: u64, size: u8) -> Option<Self> {
        match frame {
            Frame::Distributor => {
                Self::of_distributor(offset, size).filter(|register| register.belongs(true))
            }
            Frame::Redistributor(_) => {
                Self::of_redistributor(offset, size).filter(|register| register.belongs(false))
            }
            Frame::Banked(_) => Self::of_banked(offset, size),
            Frame::Deactivate(_) => ((offset, size) == (0, 4)).then_some(Self::Deactivate),
        }
    }

    /// Whether it is of what is one vCPU's own.
    pub fn is_private(self) -> bool {
        match self {
            Self::Bits { block, .. } => block == 0,
            Self::Priority { intid, .. } | Self::Trigger { intid } => intid < 32,
            Self::Targets { intid, .. } => intid < 32,
            Self::Waker | Self::Senders { .. } => true,
            _ => false,
        }
    }

    /// Whether it is in the distributor (`shared`) or in a redistributor. With affinity routing the
    /// distributor's registers of INTID 0 to 31 are RAZ/WI (IHI0069 12.9).
    #[inline(always)]
    fn belongs(self, shared: bool) -> bool {
        match self {
            Self::Bits { block, .. } => (block != 0) == shared,
            Self::Priority { intid, .. } | Self::Trigger { intid } => (intid >= 32) == shared,
            Self::Route { .. }
            | Self::Control
            | Self::Type(_)
            | Self::Implementer
            | Self::Waker
            | Self::Identification(_)
            | Self::Targets { .. }
            | Self::Generate
            | Self::Deactivate
            | Self::Senders { .. } => true,
        }
    }
}

impl Register {
    /// The distributor's register at `offset`.
    #[inline(always)]
    pub fn of_distributor(offset: u64, size: u8) -> Option<Self> {
        let offset = u32::try_from(offset).ok()?;
        if offset % u32::from(size.max(1)) != 0 {
            return None;
        }
        match (offset, size) {
            (0x0, 4) => Some(Self::Control),
            (0x4, 4) => Some(Self::Type(Part::Whole)),
            (0x8, 4) => Some(Self::Implementer),
            (0x6100..0x7fe0, _) => {
                let intid = (offset - 0x6000) / 8;
                let part = part(offset, size)?;
                Some(Self::Route { intid, part })
            }
            (0xffd0..0x1_0000, 4) => identification(&IDENTIFICATION, offset - 0xffd0),
            _ => Self::of_interrupts(offset, size),
        }
    }

    /// The register at `offset` of a GICv2's distributor.
    // A call would have the result copied.
    #[inline(always)]
    pub fn of_banked(offset: u64, size: u8) -> Option<Self> {
        let offset = u32::try_from(offset).ok()?;
        let count = u32::from(size);
        if offset % count.max(1) != 0 {
            return None;
        }
        match (offset, size) {
            (0x0, 4) => Some(Self::Control),
            (0x4, 4) => Some(Self::Type(Part::Whole)),
            (0x8, 4) => Some(Self::Implementer),
            (0x800..0xc00, 1 | 4) => {
                let intid = offset - 0x800;
                Some(Self::Targets { intid, count })
            }
            (0xf00, 4) => Some(Self::Generate),
            (0xf10..0xf30, 1 | 4) => Some(Self::Senders {
                intid: offset % 16,
                count,
                sets: offset >= 0xf20,
            }),
            (0xfd0..0x1000, 4) => identification(&IDENTIFICATION_V2, offset - 0xfd0),
            _ => Self::of_interrupts(offset, size),
        }
    }

    /// The redistributor's register at `offset` into its two frames, RD_base and SGI_base.
    #[inline(always)]
    pub fn of_redistributor(offset: u64, size: u8) -> Option<Self> {
        if let Some(offset) = offset.checked_sub(FRAME) {
            let offset = u32::try_from(offset).ok()?;
            if offset % u32::from(size.max(1)) != 0 {
                return None;
            }
            return match (offset, size) {
                (0xffd0..0x1_0000, 4) => identification(&IDENTIFICATION, offset - 0xffd0),
                _ => Self::of_interrupts(offset, size),
            };
        }
        let offset = u32::try_from(offset).ok()?;
        match (offset, size) {
            (0x0, 4) => Some(Self::Control),
            (0x4, 4) => Some(Self::Implementer),
            (0x8 | 0xc, _) => Some(Self::Type(part(offset, size)?)),
            (0x14, 4) => Some(Self::Waker),
            (0xffd0..0x1_0000, 4) if offset % 4 == 0 => {
                identification(&IDENTIFICATION, offset - 0xffd0)
            }
            _ => None,
        }
    }

    /// The part of the map that the distributor and SGI_base share.
    #[inline(always)]
    fn of_interrupts(offset: u32, size: u8) -> Option<Self> {
        let block = offset % 0x80 / 4;
        let bank = match offset / 0x80 {
            1 => Bank::Group,
            2 => Bank::SetEnable,
            3 => Bank::ClearEnable,
            4 => Bank::SetPending,
            5 => Bank::ClearPending,
            6 => Bank::SetActive,
            7 => Bank::ClearActive,
            8..16 if size == 1 || size == 4 => {
                let intid = offset - 0x400;
                let count = u32::from(size);
                return Some(Self::Priority { intid, count });
            }
            0x18 | 0x19 if size == 4 => {
                let intid = (offset - 0xc00) * 4;
                return Some(Self::Trigger { intid });
            }
            _ => return None,
        };
        (size == 4).then_some(Self::Bits { bank, block })
    }
}

fn part(offset: u32, size: u8) -> Option<Part> {
    match (offset % 8, size) {
        (0, 8) => Some(Part::Whole),
        (0, 4) => Some(Part::Low),
        (4, 4) => Some(Part::High),
        _ => None,
    }
}

fn identification(bytes: &[u8; 12], offset: u32) -> Option<Register> {
    let byte = bytes.get(offset as usize / 4)?;
    Some(Register::Identification(*byte))
}

impl Part {
    /// This part of `whole`.
    pub const fn of(self, whole: u64) -> u64 {
        match self {
            Self::Whole => whole,
            Self::Low => whole & 0xffff_ffff,
            Self::High => whole >> 32,
        }
    }

    /// `whole` with this part replaced by `value`.
    pub const fn replace(self, whole: u64, value: u64) -> u64 {
        match self {
            Self::Whole => value,
            Self::Low => whole & !0xffff_ffff | value & 0xffff_ffff,
            Self::High => whole & 0xffff_ffff | value << 32,
        }
    }
}
