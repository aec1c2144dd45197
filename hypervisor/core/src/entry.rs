//! Taking an exception to EL1 by hand: which process state the handler starts in, which vector it
//! starts at and what it finds in the syndrome registers (DDI0487 `AArch64.TakeException`).
//!
//! SDEI enters its handler with the same process state, since DEN0054 v1.1 defines the entry as an
//! exception to the client's EL, but with an entry point and registers of its own.

use crate::exit::Abort;
use crate::regs::{El1, GuestRegs, pstate};

/// What this PE implements that changes the process state at exception entry, from its ID registers.
/// What the PE has counts here, also where the guest is told otherwise: the bits exist in hardware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// FEAT_PAN: ID_AA64MMFR1_EL1.PAN is not 0.
    pub pan: bool,
    /// FEAT_SSBS: ID_AA64PFR1_EL1.SSBS is not 0.
    pub ssbs: bool,
    /// FEAT_MTE: ID_AA64PFR1_EL1.MTE is not 0.
    pub mte: bool,
    /// FEAT_DIT: ID_AA64PFR0_EL1.DIT is not 0.
    pub dit: bool,
    /// FEAT_NMI: ID_AA64PFR1_EL1.NMI is not 0.
    pub nmi: bool,
}

/// SCTLR_EL1 bits that exception entry reads (DDI0487 D24.2).
mod sctlr {
    /// Set privileged access never: 0 means that an exception to EL1 sets PSTATE.PAN.
    pub const SPAN: u64 = 1 << 23;
    /// The value of PSTATE.SSBS at exception entry.
    pub const DSSBS: u64 = 1 << 44;
    /// SP interrupt mask enable: 0 means that an exception to EL1 sets PSTATE.ALLINT.
    pub const SPINTMASK: u64 = 1 << 62;
}

/// The process state in which EL1 starts to handle an exception taken from `interrupted`
/// (DDI0487 `AArch64.TakeException`).
///
/// Bits not named here are 0: UAO (FEAT_UAO), BTYPE (FEAT_BTI), SS, IL, and in a context that was
/// AArch32 also T, E, Q, GE and IT, whose places AArch64 gives to other bits. NZCV, DIT and PAN have the same
/// place in both formats.
pub fn exception_pstate(interrupted: u64, sctlr: u64, features: Features) -> u64 {
    // PSTATE.EL = EL1, PSTATE.SP = 1, PSTATE.nRW = 0; PSTATE.<D,A,I,F> = '1111'.
    let mut entered = pstate::EL1H | pstate::DAIF;
    // No assignment to the flags and, with FEAT_DIT, to DIT: they stay.
    entered |= interrupted & pstate::NZCV;
    if features.dit {
        entered |= interrupted & pstate::DIT;
    }
    // FEAT_PAN: "if SCTLR_EL1.SPAN == '0' then PSTATE.PAN = '1'", else it stays.
    if features.pan {
        let is_set = sctlr & sctlr::SPAN == 0;
        entered |= if is_set {
            pstate::PAN
        } else {
            interrupted & pstate::PAN
        };
    }
    // FEAT_SSBS: PSTATE.SSBS = SCTLR_EL1.DSSBS.
    if features.ssbs && sctlr & sctlr::DSSBS != 0 {
        entered |= pstate::SSBS;
    }
    // FEAT_MTE: PSTATE.TCO = '1'.
    if features.mte {
        entered |= pstate::TCO;
    }
    // FEAT_NMI: PSTATE.ALLINT = NOT SCTLR_EL1.SPINTMASK.
    if features.nmi && sctlr & sctlr::SPINTMASK == 0 {
        entered |= pstate::ALLINT;
    }
    entered
}

/// Makes the guest take a synchronous exception to EL1 at the instruction `regs.pc` points to.
pub fn take_sync(regs: &mut GuestRegs, el1: &mut impl El1, features: Features, esr: u64, far: u64) {
    el1.set_return(regs.pc, regs.pstate);
    el1.set_syndrome(esr, far);
    regs.pc = el1.vbar().wrapping_add(Origin::of(regs.pstate).vector());
    regs.pstate = exception_pstate(regs.pstate, el1.sctlr(), features);
}

/// Makes the trapped instruction UNDEFINED: `regs.pc` still points to it, and `esr_el2`, the syndrome
/// of its trap, says how long it is.
pub fn inject_undefined(
    regs: &mut GuestRegs,
    el1: &mut impl El1,
    features: Features,
    esr_el2: u64,
) {
    // EC 0 "unknown reason" (DDI0487 D24.2); FAR_EL1 is UNKNOWN then.
    take_sync(regs, el1, features, esr_el2 & esr::IL, 0);
}

/// How the guest came to the address that answers with an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It fetched an instruction.
    Fetch,
    /// It loaded, stored or maintained a cache.
    Data,
}

impl Access {
    /// The one that ended like this.
    pub const fn of(abort: Abort) -> Self {
        if abort.is_fetch {
            Self::Fetch
        } else {
            Self::Data
        }
    }
}

/// Makes the access at `regs.pc` end in a synchronous external abort, as one to nothing on a bus does; or its walk of stage 1
/// at this level, -1 to 3. `esr_el2` and `far` are the syndrome and the virtual address of the stage 2 abort. Of a walk that does
/// not say whether the access was to be a write.
pub fn inject_external_abort(
    regs: &mut GuestRegs,
    el1: &mut impl El1,
    features: Features,
    (access, walk): (Access, Option<i8>),
    esr_el2: u64,
    far: u64,
) {
    let is_from_el0 = Origin::of(regs.pstate).is_el0();
    let class = match (access, is_from_el0) {
        (Access::Fetch, true) => esr::INSTRUCTION_ABORT_LOWER,
        (Access::Fetch, false) => esr::INSTRUCTION_ABORT_SAME,
        (Access::Data, true) => esr::DATA_ABORT_LOWER,
        (Access::Data, false) => esr::DATA_ABORT_SAME,
    };
    // ISV is 0 in a syndrome for EL1, and IL is 1 whenever it is.
    let kept = match access {
        Access::Fetch => esr::FNV,
        Access::Data => esr::FNV | esr::CM | esr::WNR,
    };
    let status = match walk {
        None => esr::SYNC_EXTERNAL_ABORT,
        Some(level) => esr::EXTERNAL_ABORT_ON_WALK.wrapping_add_signed(level.into()),
    };
    let syndrome = class << esr::EC_SHIFT | esr::IL | esr_el2 & kept | status;
    take_sync(regs, el1, features, syndrome, far);
}

/// Fields of ESR_ELx (DDI0487 D24.2; ISS encodings for an exception from an Instruction Abort and from
/// a Data Abort).
mod esr {
    /// Lowest bit of the exception class.
    pub const EC_SHIFT: u32 = 26;
    /// The instruction has 32 bits, or the class does not say.
    pub const IL: u64 = 1 << 25;
    /// FAR is not valid.
    pub const FNV: u64 = 1 << 10;
    /// Cache maintenance.
    pub const CM: u64 = 1 << 8;
    /// Write, not read.
    pub const WNR: u64 = 1 << 6;
    /// IFSC, DFSC: synchronous external abort, not on a translation table walk.
    pub const SYNC_EXTERNAL_ABORT: u64 = 0x10;
    /// The same on a walk at level 0: 0b0101LL. Level -1 is 0b010011.
    pub const EXTERNAL_ABORT_ON_WALK: u64 = 0x14;
    pub const INSTRUCTION_ABORT_LOWER: u64 = 0x20;
    pub const INSTRUCTION_ABORT_SAME: u64 = 0x21;
    pub const DATA_ABORT_LOWER: u64 = 0x24;
    pub const DATA_ABORT_SAME: u64 = 0x25;
}

/// From where an exception to EL1 comes, as the vector table tells it (DDI0487, "Exception vectors").
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    El1WithSpEl0,
    El1WithSpEl1,
    El0Aarch64,
    El0Aarch32,
}

impl Origin {
    /// EL1 is AArch64 (HCR_EL2.RW), so that AArch32 can only be EL0.
    fn of(interrupted: u64) -> Self {
        if interrupted & pstate::AARCH32 != 0 {
            return Self::El0Aarch32;
        }
        match interrupted & pstate::MODE {
            pstate::EL0T => Self::El0Aarch64,
            pstate::EL1T => Self::El1WithSpEl0,
            _ => Self::El1WithSpEl1,
        }
    }

    fn is_el0(self) -> bool {
        matches!(self, Self::El0Aarch64 | Self::El0Aarch32)
    }

    /// Offset of the synchronous vector from VBAR_EL1, in bytes.
    fn vector(self) -> u64 {
        match self {
            Self::El1WithSpEl0 => 0x000,
            Self::El1WithSpEl1 => 0x200,
            Self::El0Aarch64 => 0x400,
            Self::El0Aarch32 => 0x600,
        }
    }
}

#[cfg(test)]
mod tests;
