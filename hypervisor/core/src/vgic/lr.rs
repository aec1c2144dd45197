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

impl ListReg {
    /// An empty list register.
    pub const EMPTY: Self = Self {
        vintid: 0,
        priority: 0,
        group1: false,
        state: LrState::Invalid,
        source: LrSource::Software { eoi: false },
    };

    /// As `ICH_LR<n>_EL2`. An empty one is all zeroes.
    pub const fn encode_v3(self) -> u64 {
        let state = match self.state {
            LrState::Invalid => 0u64,
            LrState::Pending => 1,
            LrState::Active => 2,
            LrState::PendingActive => 3,
        };
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
            state: match raw >> V3_STATE {
                0 => LrState::Invalid,
                1 => LrState::Pending,
                2 => LrState::Active,
                _ => LrState::PendingActive,
            },
            source: if raw >> V3_HW & 1 != 0 {
                LrSource::Hardware {
                    pintid: (raw >> V3_PINTID & V3_PINTID_MASK) as u32,
                }
            } else {
                LrSource::Software {
                    eoi: raw >> V3_EOI & 1 != 0,
                }
            },
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

    /// EOIcount: how many interrupts the guest deactivated that were in no list register.
    pub const fn eoi_count(hcr: u64) -> u32 {
        (hcr >> 27 & 0x1f) as u32
    }
}

/// What ICH_VMCR_EL2 must be when a vCPU starts: everything masked, both groups off, EOImode 0
/// (IHI0069 12.4, ICH_VMCR_EL2). The binary points read back as the least the hardware has.
pub const ICH_VMCR_RESET: u64 = 0;
