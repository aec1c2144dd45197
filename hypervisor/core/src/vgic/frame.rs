//! The register files of a virtual GIC, and who waits for a load of one.

use super::register::FRAME;
use crate::id::{VcpuId, VcpuSet};

/// Which register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// GICD, 64 KiB.
    Distributor,
    /// GICR of this vCPU: RD_base and SGI_base, 128 KiB together.
    Redistributor(VcpuId),
    /// GICD of a GICv2 as this vCPU sees it, 4 KiB.
    Banked(VcpuId),
    /// Where a GICv2's CPU interface has GICC_DIR, as this vCPU sees it: the first word is that register.
    Deactivate(VcpuId),
}

/// A load that was answered [`Read::Again`](super::Read::Again).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wait {
    /// Which load.
    pub of: Option<(Frame, u64)>,
    /// Who has folded since it was first tried.
    pub answered: VcpuSet,
    /// It was tried since its vCPU last populated. If not, the guest did something else in between, may
    /// never come back to this load, and a later one must not get an answer that old.
    pub tried: bool,
}

impl Frame {
    /// Whose it is; the distributor's registers are `anyone`'s.
    pub(super) const fn owner(self, anyone: VcpuId) -> VcpuId {
        match self {
            Self::Distributor => anyone,
            Self::Redistributor(owner) | Self::Banked(owner) | Self::Deactivate(owner) => owner,
        }
    }

    /// Whether an access needs the caller's list registers folded, if there is something in them: all stores,
    /// and the loads of what may have changed there.
    pub fn is_in_list_regs(self, offset: u64, is_write: bool) -> bool {
        let offset = match self {
            Self::Distributor => offset,
            Self::Redistributor(_) => offset.wrapping_sub(FRAME),
            // What GICD_SGIR sends joins at the next fold.
            Self::Banked(_) if offset == 0xf00 => return false,
            Self::Banked(_) if offset >= 0xf10 => return true,
            Self::Banked(_) => offset,
            Self::Deactivate(_) => return is_write,
        };
        // ISPENDR to ICACTIVER (IHI0069 12.8, IHI0048 4.1).
        is_write || (0x200..0x400).contains(&offset)
    }
}
