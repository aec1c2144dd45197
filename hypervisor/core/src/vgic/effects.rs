//! What the shell must do after the virtual GIC changed: values, not calls.

use crate::id::{IntId, VcpuId, VcpuSet};

/// What is to be done to the machine. `phys` and `deactivate` are performed while the part that they concern is
/// still locked, or two vCPUs' changes could cross; `kick` after it is released.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// Whose list registers must be folded and populated anew. May contain the caller.
    pub kick: VcpuSet,
    /// A change of the physical distributor.
    pub phys: Option<Physical>,
    /// Physical interrupts to deactivate.
    pub deactivate: Deactivations,
    /// This interrupt has arrived, or its emulated line has fallen, and an SDEI event has it.
    pub bound: Option<IntId>,
}

impl Effects {
    /// Nothing to do.
    // No constant: that would be copied from memory.
    #[inline]
    pub fn none() -> Self {
        Self {
            kick: VcpuSet::EMPTY,
            phys: None,
            deactivate: Deactivations(None),
            bound: None,
        }
    }

    /// Whether something is to be done to physical interrupts.
    #[inline]
    pub fn is_physical(&self) -> bool {
        self.phys.is_some() || self.deactivate.0.is_some()
    }

    /// Whether there is nothing to do.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.kick.is_empty() && !self.is_physical() && self.bound.is_none()
    }
}

/// One change of the physical distributor, for passed-through SPIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Physical {
    /// Set these bits of `GICD_ISENABLER<block>`.
    Enable(SpiMask),
    /// Set these bits of `GICD_ICENABLER<block>`, and wait for GICD_CTLR.RWP.
    Disable(SpiMask),
    /// Set these bits of `GICD_ICPENDR<block>`.
    ClearPending(SpiMask),
    /// Make these edge triggered or level sensitive in GICD_ICFGR (bits as in the other registers).
    Trigger {
        /// INTID / 32.
        block: u32,
        /// These become edge triggered.
        edge: u32,
        /// These become level sensitive.
        level: u32,
    },
    /// Set `GICD_IROUTER<spi>` to the pCPU of this vCPU.
    Route {
        /// Which SPI.
        spi: IntId,
        /// Whose pCPU.
        to: VcpuId,
    },
    /// Set `GICD_ITARGETSR` of up to four SPIs to the pCPUs of these vCPUs, where there is one.
    Targets {
        /// The first of the SPIs.
        first: IntId,
        /// Whose pCPU.
        to: [Option<VcpuId>; 4],
    },
    /// Disable, clear pending and active, make level sensitive, route to vCPU 0's pCPU.
    Reset(SpiMask),
}

/// Some of the 32 interrupts that share a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpiMask {
    /// INTID / 32.
    pub block: u32,
    /// Bit n is INTID 32 * block + n.
    pub bits: u32,
}

/// The most physical interrupts one step can deactivate: what 16 list registers held and 31 EOIs of
/// interrupts outside them (EOIcount has 5 bits), or the 32 of one register.
const MOST: usize = 48;

/// Physical interrupts to deactivate, each once. PPIs on the pCPU of [`owner`](Self::owner), SPIs anywhere.
// Mostly there are none, so nothing is cleared for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deactivations(Option<List>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    owner: VcpuId,
    count: u8,
    intids: [u16; MOST],
}

impl Deactivations {
    /// Whose PPIs are meant.
    pub fn owner(&self) -> VcpuId {
        self.0.as_ref().map_or(VcpuId(0), |list| list.owner)
    }

    /// Which interrupts.
    pub fn iter(&self) -> impl Iterator<Item = IntId> {
        let list = self.0.as_ref();
        let used = list.and_then(|list| list.intids.get(..usize::from(list.count)));
        used.unwrap_or(&[])
            .iter()
            .map(|&intid| IntId(u32::from(intid)))
    }

    /// Adds one; `owner` matters for a PPI.
    pub(super) fn push(&mut self, owner: VcpuId, intid: IntId) {
        let list = self.0.get_or_insert(List {
            owner,
            count: 0,
            intids: [0; MOST],
        });
        debug_assert!(usize::from(list.count) < MOST);
        let at = usize::from(list.count);
        if let (Some(slot), Ok(intid)) = (list.intids.get_mut(at), u16::try_from(intid.0)) {
            *slot = intid;
            list.owner = owner;
            list.count = list.count.saturating_add(1);
        }
    }
}
