//! The virtual GIC of one VM: its distributor, and what is each vCPU's own, each behind a lock of its own ([`Parts`])
//! (IHI0069). The CPU interface is the hardware's own; this is what stands behind it.
//!
//! A machine with a GICv2 has its guest see a GICv2 (IHI0048): the same interrupts behind another register file
//! ([`Frame::Banked`]), SGIs that are pending once per sender, and no redistributors.
//!
//! # Who owns what
//!
//! The list registers of a vCPU live in its pCPU, which alone can read and write them. An interrupt is
//! therefore either in the shared state here or in *one* list register, its *seat*, and moves by
//! two verbs that only the owner may use: [`fold`](Held::fold) brings everything from the list registers
//! back, [`populate`](Held::populate) chooses anew. Everybody else changes the shared state and kicks the
//! owner, which folds and populates; [`Effects::kick`] says whom.
//!
//! * A write that concerns an interrupt in another vCPU's list register is noted in the seat and applied
//!   when that vCPU folds. GICD_CTLR.RWP and GICR_CTLR.RWP read 1 until it has, for GICD_ICENABLER as for
//!   the group enables.
//! * A read of the pending or active state of such an interrupt waits for that vCPU's next fold: the read is
//!   answered [`Read::Again`], the guest runs the same load again, and a polling guest
//!   (Linux's `synchronize_hardirq`) never sees a state older than its load.
//!
//! # Pending again
//!
//! An edge that arrives while its interrupt is in a list register stays in the latch and joins at the next
//! fold: as "pending and active" if HW = 0, which needs no further exit. With HW = 1 that state is not allowed
//! (IHI0069 12.4), so the list register becomes HW = 0 with its EOI bit set, and the physical interrupt is
//! deactivated when the maintenance interrupt comes.
//!
//! A level sensitive line of an emulated device can still be high at the guest's EOI, which does not exit. A
//! list register that carries a line therefore has its EOI bit set: the maintenance interrupt at the end is the
//! moment to sample the line again. "Pending and active" would save that exit, but delivers an interrupt
//! whose line may have dropped since.

use crate::id::{IntId, Mpidr, VcpuSet};

pub mod affinity;
pub mod effects;
mod frame;
pub mod interface;
mod irq;
mod lines;
pub mod lr;
mod mmio;
mod operations;
mod parts;
mod published;
mod register;
mod reset;
mod seating;
mod single;
mod sticky;
mod v2;

pub use affinity::{Affinities, Sgi};
pub use effects::{Deactivations, Effects, Physical, SpiMask};
pub use frame::Frame;
use irq::Irq;
pub use lr::{ICH_VMCR_RESET, ListReg, LrSource, LrState, hcr};
pub use mmio::{Read, enable_idle, read, write};
pub use operations::{bind, end_bound, has, is_edge, level, reset_spis, send_sgi_group0, unbind};
pub use parts::{Distributor, Held, Parts, Private};
pub use published::Published;
pub use reset::Leftovers;
pub use seating::{Entry, Filled};
pub use single::Vgic;
pub use sticky::Sticky;
pub use v2::{MAX_INTERFACES, Model};

/// The most list registers a GICv3 has (ICH_VTR_EL2.ListRegs).
pub const MAX_LIST_REGS: usize = 16;

/// The highest SPI is 1019, so at most 31 blocks of 32 (the last one short).
const MAX_SPIS: u32 = 988;

/// What a VM's GIC looks like.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    /// Which one it is.
    pub model: Model,
    /// vCPU `i` has affinity `mpidrs[i]`.
    pub mpidrs: &'a [Mpidr],
    /// Whose redistributor is the last of a contiguous region (GICR_TYPER.Last).
    pub last: VcpuSet,
    /// How many SPIs; rounded up to a multiple of 32, at most 988.
    pub spis: u32,
    /// PPIs and SPIs that come from the physical interrupt of the same INTID.
    pub passed_through: &'a [IntId],
    /// How many bits of priority the hardware's virtual interface has (ICH_VTR_EL2.PRIbits + 1).
    pub priority_bits: u32,
    /// How many list registers it has (ICH_VTR_EL2.ListRegs + 1).
    pub list_regs: usize,
}

/// Of 32 interrupts, a bit each: what a whole register shows, and which have to be looked at one by one. What one
/// access costs under a lock is bounded by that: a write walks the 32 interrupts of a register at
/// most, and looks at what follows only for those that are not idle; GICD_CTLR looks at a word of each
/// vCPU, and once at each SPI that is not idle.
#[derive(Clone, Copy, Debug, Default)]
struct Words {
    /// Not idle: pending, active, held or in a list register.
    not_idle: u32,
    /// GICD_ISENABLER.
    enabled: u32,
    /// GICD_IGROUPR.
    group1: u32,
    /// Bound to an SDEI event, and thereby out of the guest's view.
    bound: u32,
    /// From the physical interrupt of the same INTID; never changes.
    passed_through: u32,
    /// Pending at the physical GIC when it was last asked.
    lines: u32,
}

impl Words {
    /// What `irq` is, in the bit `bit` of each word that changes.
    fn of(irq: &Irq, bit: u32) -> Self {
        let set = |is_set: bool| if is_set { bit } else { 0 };
        Self {
            not_idle: set(!irq.is_idle()),
            enabled: set(irq.enabled),
            group1: set(irq.group1),
            bound: set(irq.bound),
            ..Self::default()
        }
    }

    /// Takes over the bits in `mask` of each word that changes.
    fn replace(&mut self, mask: u32, new: Self) {
        self.not_idle = self.not_idle & !mask | new.not_idle & mask;
        self.enabled = self.enabled & !mask | new.enabled & mask;
        self.group1 = self.group1 & !mask | new.group1 & mask;
        self.bound = self.bound & !mask | new.bound & mask;
    }

    /// What GICD_ISENABLER and GICD_IGROUPR show.
    fn shown(&self) -> [u32; 2] {
        [self.enabled & !self.bound, self.group1 & !self.bound]
    }
}

/// Which interrupts of a block of 32 come from the physical ones of the same INTID.
fn passed_through(config: &Config<'_>, block: u32) -> u32 {
    let first = if block == 0 { 16 } else { 0 };
    (first..32).fold(0, |mask, n| {
        mask | u32::from(config.passed_through.contains(&IntId(32 * block + n))) << n
    })
}

/// How many blocks of 32 SPIs there are.
fn blocks(config: &Config<'_>) -> u32 {
    config.spis.min(MAX_SPIS).div_ceil(32).max(1)
}

/// Whether the interrupt's group is enabled in GICD_CTLR.
fn enabled(groups: [bool; 2], irq: &Irq) -> bool {
    let [group0, group1] = groups;
    if irq.group1 { group1 } else { group0 }
}

/// The INTID of bit `bit` of block `block` of the distributor's words.
fn spi(block: u32, bit: u32) -> IntId {
    IntId((block + 1) * 32 + bit)
}

/// The numbers of the bits that are set, lowest first.
pub(crate) fn bits_of(mut word: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let lowest = word.trailing_zeros();
        word &= word - 1;
        Some(lowest)
    })
}
