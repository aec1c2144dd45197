//! A list register as a value, and its two spellings. GICv3 writes `ICH_LR<n>_EL2` (IHI0069 12.4); a
//! GICv2 machine writes `GICH_LR<n>` from the same value.

/// What one list register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListReg {
    /// The INTID the guest sees.
    pub vintid: u32,
    /// Its priority, in the top bits.
    pub priority: u8,
    /// Group 1 (virtual IRQ) rather than group 0 (virtual FIQ).
    pub group1: bool,
    /// Where the interrupt is in its life.
    pub state: LrState,
    /// What the end of the interrupt does.
    pub source: LrSource,
    /// GICv2: the CPU interface that sent it, if it is an SGI; else 0.
    pub sender: u8,
}

/// The state field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrState {
    /// Nothing here.
    Invalid,
    /// Waiting to be acknowledged.
    Pending,
    /// Acknowledged, not yet deactivated.
    Active,
    /// Acknowledged, and waiting again. Not allowed with [`LrSource::Hardware`] (IHI0069 12.4).
    PendingActive,
}

/// What deactivating the interrupt does beside emptying the list register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrSource {
    /// Deactivates this physical interrupt (HW = 1).
    Hardware {
        /// The physical INTID.
        pintid: u32,
    },
    /// Raises a maintenance interrupt, if asked to (HW = 0).
    Software {
        /// The EOI bit.
        eoi: bool,
    },
}

impl LrState {
    /// The state that is pending and active as said.
    pub const fn new(pending: bool, active: bool) -> Self {
        match (pending, active) {
            (false, false) => Self::Invalid,
            (true, false) => Self::Pending,
            (false, true) => Self::Active,
            (true, true) => Self::PendingActive,
        }
    }

    const fn bits(self) -> u32 {
        match self {
            Self::Invalid => 0,
            Self::Pending => 1,
            Self::Active => 2,
            Self::PendingActive => 3,
        }
    }

    /// Of the two lowest bits.
    const fn from_bits(bits: u32) -> Self {
        Self::new(bits & 1 != 0, bits & 2 != 0)
    }

    /// Whether it waits to be acknowledged.
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::Pending | Self::PendingActive)
    }

    /// Whether it has been acknowledged and not deactivated.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Active | Self::PendingActive)
    }
}

// ICH_LR<n>_EL2 (IHI0069 12.4).
const V3_PINTID: u32 = 32;
const V3_EOI: u32 = 41;
const V3_PRIORITY: u32 = 48;
const V3_GROUP: u32 = 60;
const V3_HW: u32 = 61;
const V3_STATE: u32 = 62;
const V3_PINTID_MASK: u64 = 0x1fff;

// GICH_LR<n> (IHI0048 5.3.10). Without HW, PhysicalID has the sender and the EOI bit.
const V2_INTID_MASK: u32 = 0x3ff;
const V2_PINTID: u32 = 10;
const V2_SENDER: u32 = 10;
const V2_SENDER_MASK: u32 = 0x7;
const V2_EOI: u32 = 19;
const V2_PRIORITY: u32 = 23;
const V2_STATE: u32 = 28;
const V2_GROUP: u32 = 30;
const V2_HW: u32 = 31;
/// Of a priority's 8 bits a GICv2 list register has the upper 5.
const V2_PRIORITY_DROP: u32 = 3;

impl ListReg {
    /// An empty list register.
    pub const EMPTY: Self = Self {
        vintid: 0,
        priority: 0,
        group1: false,
        state: LrState::Invalid,
        source: LrSource::Software { eoi: false },
        sender: 0,
    };

    /// As `GICH_LR<n>`. An empty one is all zeroes.
    pub const fn encode_v2(self) -> u32 {
        let source = match self.source {
            LrSource::Hardware { pintid } => (1 << V2_HW) | ((pintid & V2_INTID_MASK) << V2_PINTID),
            LrSource::Software { eoi } => {
                ((eoi as u32) << V2_EOI) | ((self.sender as u32 & V2_SENDER_MASK) << V2_SENDER)
            }
        };
        self.vintid & V2_INTID_MASK
            | ((self.priority >> V2_PRIORITY_DROP) as u32) << V2_PRIORITY
            | self.state.bits() << V2_STATE
            | (self.group1 as u32) << V2_GROUP
            | source
    }

    /// A word of `GICH_LR<n>` that is an SGI (HW = 0), from another CPU interface.
    #[inline]
    pub const fn with_sender_v2(word: u64, sender: u32) -> u64 {
        let mask = (V2_SENDER_MASK << V2_SENDER) as u64;
        word & !mask | (sender << V2_SENDER) as u64 & mask
    }

    /// Out of `GICH_LR<n>`.
    pub const fn decode_v2(raw: u32) -> Self {
        let hardware = raw >> V2_HW != 0;
        Self {
            vintid: raw & V2_INTID_MASK,
            priority: ((raw >> V2_PRIORITY) as u8) << V2_PRIORITY_DROP,
            group1: raw >> V2_GROUP & 1 != 0,
            state: LrState::from_bits(raw >> V2_STATE),
            source: if hardware {
                LrSource::Hardware {
                    pintid: raw >> V2_PINTID & V2_INTID_MASK,
                }
            } else {
                LrSource::Software {
                    eoi: raw >> V2_EOI & 1 != 0,
                }
            },
            sender: if hardware {
                0
            } else {
                (raw >> V2_SENDER & V2_SENDER_MASK) as u8
            },
        }
    }

    /// As `ICH_LR<n>_EL2`. An empty one is all zeroes.
    pub const fn encode_v3(self) -> u64 {
        let state = self.state.bits() as u64;
        let source = match self.source {
            LrSource::Hardware { pintid } => {
                (1 << V3_HW) | ((pintid as u64 & V3_PINTID_MASK) << V3_PINTID)
            }
            LrSource::Software { eoi } => (eoi as u64) << V3_EOI,
        };
        self.vintid as u64
            | ((self.priority as u64) << V3_PRIORITY)
            | ((self.group1 as u64) << V3_GROUP)
            | (state << V3_STATE)
            | source
    }

    /// Out of `ICH_LR<n>_EL2`.
    pub const fn decode_v3(raw: u64) -> Self {
        Self {
            vintid: raw as u32,
            priority: (raw >> V3_PRIORITY) as u8,
            group1: raw >> V3_GROUP & 1 != 0,
            state: LrState::from_bits((raw >> V3_STATE) as u32),
            source: if raw >> V3_HW & 1 != 0 {
                LrSource::Hardware {
                    pintid: (raw >> V3_PINTID & V3_PINTID_MASK) as u32,
                }
            } else {
                LrSource::Software {
                    eoi: raw >> V3_EOI & 1 != 0,
                }
            },
            sender: 0,
        }
    }
}

/// ICH_HCR_EL2 (IHI0069 12.4). GICH_HCR has the same bits, less TDIR (IHI0048 5.3).
pub mod hcr {
    /// The virtual CPU interface works.
    pub const EN: u64 = 1 << 0;
    /// Maintenance interrupt while EOIcount is not zero.
    pub const LRENPIE: u64 = 1 << 2;
    /// Maintenance interrupt while no list register is in the pending state.
    pub const NPIE: u64 = 1 << 3;
    /// The guest's writes of ICC_DIR_EL1 trap; only where ICH_VTR_EL2.TDS is set.
    pub const TDIR: u64 = 1 << 14;

    /// All registers that both groups have in common trap: ICC_DIR_EL1, ICC_CTLR_EL1, ICC_PMR_EL1, ICC_RPR_EL1 and those
    /// that send SGIs.
    pub const TC: u64 = 1 << 10;

    /// What of a value that asks for [`TDIR`] a CPU interface gets that has it, or has not (ICH_VTR_EL2.TDS). That one gets
    /// [`TC`], but only while an active interrupt is in no list register ([`LRENPIE`]): else the hardware does
    /// what ICC_DIR_EL1 says.
    pub const fn as_available(value: u64, has_tdir: bool) -> u64 {
        if has_tdir {
            value
        } else if value & LRENPIE != 0 {
            value & !TDIR | TC
        } else {
            value & !TDIR
        }
    }

    /// EOIcount: how many interrupts the guest ended that were in no list register.
    pub const fn eoi_count(hcr: u64) -> u32 {
        (hcr >> 27 & 0x1f) as u32
    }

    /// The same with EOIcount 0.
    pub const fn without_eoi_count(hcr: u64) -> u64 {
        hcr & !(0x1f << 27)
    }

    /// ICH_VMCR_EL2.VEOIM and GICH_VMCR.VEM (IHI0069 12.4, IHI0048 5.3): the guest has set EOImode.
    pub const EOIMODE: u64 = 1 << 9;

    /// How many interrupts the guest *deactivated* that were in no list register, out of ICH_HCR_EL2 and
    /// ICH_VMCR_EL2. With EOImode set an EOI only drops the priority, whether EOIcount counts it (QEMU's
    /// does) or not; what deactivates is a write of ICC_DIR_EL1 or GICC_DIR, which traps.
    pub const fn deactivations(hcr: u64, vmcr: u64) -> u32 {
        if vmcr & EOIMODE != 0 {
            0
        } else {
            eoi_count(hcr)
        }
    }
}

/// What ICH_VMCR_EL2 must be when a vCPU starts: everything masked, both groups off, EOImode 0
/// (IHI0069 12.4, ICH_VMCR_EL2). The binary points read back as the least the hardware has.
pub const ICH_VMCR_RESET: u64 = 0;
