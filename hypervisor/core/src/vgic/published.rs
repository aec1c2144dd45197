//! What of a virtual GIC is read without a lock.
//!
//! # Why that is exact
//!
//! A word is written by whoever changes its interrupts, under the lock that those have, before the guest that asked for the
//! change goes on. A guest on another vCPU that has learned of the change, through its memory or an interrupt, has
//! ordered its loads behind it: barriers of a guest order what its pCPU does at EL2 as well, as shareability domains and
//! not exception levels say whom they order for (DDI0487 B2.3). So the loads here need no ordering of their own.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use super::register::{Bank, Register};
use super::{Affinities, Config, Frame, MAX_LIST_REGS, Model, blocks, passed_through};
use crate::id::{Mpidr, VcpuId};

/// GICD_TYPER (IHI0069 12.9): 10 bits of INTID, Aff3, no "1 of N" routing, range selector.
const TYPER: u64 = 9 << 19 | 1 << 24 | 1 << 25 | 1 << 26;
/// GICR_CTLR.RWP (IHI0069 12.11).
const REDIST_RWP: u64 = 1 << 3;
/// Arm, and no product that has errata to work around.
const IIDR: u64 = 0x43b;

/// What of a virtual GIC is read without a lock: registers that never change, and those that no list register holds. A clone
/// is the same.
#[derive(Clone, Debug)]
pub struct Published(Arc<Content>);

#[derive(Debug)]
struct Content {
    rules: Rules,
    affinities: Affinities,
    /// GICD_TYPER.
    typer: u64,
    /// GICR_TYPER of each vCPU.
    redistributors: Vec<u64>,
    /// Of each block of SPIs, and behind them of the private interrupts of each vCPU.
    shown: Vec<Shown>,
    /// How many blocks of SPIs.
    blocks: usize,
    /// Of each block, private interrupts first: which interrupts come from the physical ones of the same INTID.
    passed_through: Vec<u32>,
    /// Of each vCPU: what is in [`flag`].
    flags: Vec<AtomicU32>,
}

/// What never changes of a virtual GIC and decides how it behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub is_v2: bool,
    /// See [`Model::V2`].
    pub resamples: bool,
    pub priority_mask: u8,
    pub list_regs: usize,
}

/// What is said of a vCPU to everybody.
pub(super) mod flag {
    /// The distributor may hold something of this vCPU's: an SPI that is or should be in one of its list registers, a
    /// read that waits. Raised and lowered under the distributor's lock.
    pub const SHARED: u32 = 1 << 0;
    /// It must populate for something that the distributor holds. Raised and lowered under the distributor's lock,
    /// together with `SHARED`.
    pub const DIRTY: u32 = 1 << 1;
    /// A write that has taken effect in the virtual GIC takes effect there when it folds.
    pub const UNSYNCED: u32 = 1 << 2;
    /// It has been told to run a load again.
    pub const WAITS: u32 = 1 << 3;
}

/// Of 32 interrupts, what the guest's registers show.
#[derive(Debug, Default)]
struct Shown {
    enabled: AtomicU32,
    group1: AtomicU32,
}

impl Published {
    pub(super) fn new(config: &Config<'_>) -> Self {
        let affinities = Affinities::new(config.mpidrs);
        let blocks = blocks(config);
        let typer = if config.model == Model::V3 {
            TYPER | u64::from(blocks)
        } else {
            // IHI0048 4.3.2: one security state, no lockable SPIs.
            (affinities.len().saturating_sub(1) as u64) << 5 | u64::from(blocks)
        };
        let redistributor = |vcpu: VcpuId| {
            let mpidr = affinities.mpidr(vcpu).map_or(0, packed);
            let last = u64::from(config.last.contains(vcpu));
            u64::from(mpidr) << 32 | u64::from(vcpu.0) << 8 | last << 4
        };
        let shift = 8u32.saturating_sub(config.priority_bits);
        let vcpus = affinities.len();
        Self(Arc::new(Content {
            rules: Rules {
                is_v2: config.model != Model::V3,
                resamples: config.model != Model::V2 { resamples: false },
                priority_mask: 0xffu8.checked_shl(shift).unwrap_or(0),
                list_regs: config.list_regs.clamp(1, MAX_LIST_REGS),
            },
            typer,
            redistributors: affinities.all().iter().map(redistributor).collect(),
            shown: (0..blocks as usize + vcpus)
                .map(|_| Shown::default())
                .collect(),
            blocks: blocks as usize,
            passed_through: (0..=blocks)
                .map(|block| passed_through(config, block))
                .collect(),
            flags: (0..vcpus).map(|_| AtomicU32::new(flag::SHARED)).collect(),
            affinities,
        }))
    }

    /// Which interrupts of a block come from the physical ones of the same INTID.
    pub(super) fn passed_through(&self, block: u32) -> u32 {
        let words = &self.0.passed_through;
        words.get(block as usize).copied().unwrap_or(0)
    }

    pub(super) fn rules(&self) -> Rules {
        self.0.rules
    }

    /// The affinities of the vCPUs.
    pub fn affinities(&self) -> &Affinities {
        &self.0.affinities
    }

    /// The blocks of SPIs, for [`reset_spis`](super::reset_spis).
    pub fn spi_blocks(&self) -> core::ops::RangeInclusive<u32> {
        1..=self.0.blocks as u32
    }

    /// The same now, and apart from then on.
    pub(super) fn copy(&self) -> Self {
        let word = |word: &AtomicU32| AtomicU32::new(word.load(Ordering::Relaxed));
        let Content {
            rules,
            ref affinities,
            typer,
            ref redistributors,
            ref shown,
            blocks,
            ref passed_through,
            ref flags,
        } = *self.0;
        let shown = shown.iter().map(|shown| Shown {
            enabled: word(&shown.enabled),
            group1: word(&shown.group1),
        });
        Self(Arc::new(Content {
            rules,
            affinities: affinities.clone(),
            typer,
            redistributors: redistributors.clone(),
            shown: shown.collect(),
            blocks,
            passed_through: passed_through.clone(),
            flags: flags.iter().map(word).collect(),
        }))
    }

    /// Whether one of `bits` is said of `vcpu`. A vCPU that asks for itself and misses what is said at that moment is kicked
    /// for it.
    #[inline]
    pub(super) fn has(&self, vcpu: VcpuId, bits: u32) -> bool {
        let flags = self.0.flags.get(vcpu.index());
        flags.is_some_and(|flags| flags.load(Ordering::Relaxed) & bits != 0)
    }

    pub(super) fn raise(&self, vcpu: VcpuId, bits: u32) {
        if let Some(flags) = self.0.flags.get(vcpu.index()) {
            flags.fetch_or(bits, Ordering::Relaxed);
        }
    }

    pub(super) fn lower(&self, vcpu: VcpuId, bits: u32) {
        if let Some(flags) = self.0.flags.get(vcpu.index()) {
            flags.fetch_and(!bits, Ordering::Relaxed);
        }
    }

    /// All that is said of `vcpu`, the bits of [`flag`]; for a simulation that [says](Self::say) it at the wrong time.
    #[doc(hidden)]
    pub fn said(&self, vcpu: VcpuId) -> u32 {
        let flags = self.0.flags.get(vcpu.index());
        flags.map_or(0, |flags| flags.load(Ordering::Relaxed))
    }

    /// Says it of `vcpu`. Not for a machine that is to work.
    #[doc(hidden)]
    pub fn say(&self, vcpu: VcpuId, bits: u32) {
        if let Some(flags) = self.0.flags.get(vcpu.index()) {
            flags.store(bits, Ordering::Relaxed);
        }
    }

    /// Whether something has still to take effect somewhere.
    pub(super) fn is_unsynced(&self) -> bool {
        let has = |flags: &AtomicU32| flags.load(Ordering::Relaxed) & flag::UNSYNCED != 0;
        self.0.flags.iter().any(has)
    }

    /// What a load of `size` bytes reads, if it needs no lock.
    #[inline]
    pub fn read(&self, frame: Frame, offset: u64, size: u8) -> Option<u64> {
        match Register::find_at_once(frame, offset, size) {
            Some(register) => self.value(frame, register),
            None => Some(0),
        }
    }

    /// What a load of four bytes reads at `offset` into the distributor, as [`read`](Self::read) would say, if it is
    /// one of those that are loaded most: GICD_TYPER, GICD_IIDR, and GICD_IGROUPR, GICD_ISENABLER and GICD_ICENABLER of SPIs.
    #[inline(always)]
    pub fn word(&self, offset: u64) -> Option<u32> {
        let content = &*self.0;
        let block = (offset as usize & 0x7f) >> 2;
        let shown = || {
            content
                .shown
                .get(..content.blocks)?
                .get(block.wrapping_sub(1))
        };
        let word = match offset & !0x7c {
            0x80 => &shown()?.group1,
            0x100 | 0x180 => &shown()?.enabled,
            0 if offset == 8 => return Some(IIDR as u32),
            0 if offset == 4 => return Some(content.typer as u32),
            _ => return None,
        };
        Some(word.load(Ordering::Relaxed))
    }

    /// The same of the redistributor of `owner`: GICR_IIDR and either half of GICR_TYPER.
    #[inline(always)]
    pub fn redistributor_word(&self, owner: VcpuId, offset: u64) -> Option<u32> {
        let typer = *self.0.redistributors.get(owner.index())?;
        match offset {
            4 => Some(IIDR as u32),
            8 => Some(typer as u32),
            12 => Some((typer >> 32) as u32),
            _ => None,
        }
    }

    #[inline(always)]
    pub(super) fn value(&self, frame: Frame, register: Register) -> Option<u64> {
        match register {
            Register::Implementer => Some(IIDR),
            Register::Identification(byte) => Some(byte.into()),
            Register::Type(part) => Some(
                part.of(match frame {
                    Frame::Redistributor(owner) => self
                        .0
                        .redistributors
                        .get(owner.index())
                        .copied()
                        .unwrap_or(0),
                    _ => self.0.typer,
                }),
            ),
            Register::Control => match frame {
                Frame::Redistributor(owner) if self.has(owner, flag::UNSYNCED) => Some(REDIST_RWP),
                Frame::Redistributor(_) => Some(0),
                _ => None,
            },
            Register::Bits { bank, block } => {
                let owner = frame.owner(VcpuId(0));
                let word = |shown: &Shown| match bank {
                    Bank::Group => Some(shown.group1.load(Ordering::Relaxed)),
                    Bank::SetEnable | Bank::ClearEnable => {
                        Some(shown.enabled.load(Ordering::Relaxed))
                    }
                    Bank::SetPending | Bank::ClearPending | Bank::SetActive | Bank::ClearActive => {
                        None
                    }
                };
                self.shown(owner, block)
                    .map_or(Some(0), word)
                    .map(u64::from)
            }
            _ => None,
        }
    }

    fn shown(&self, owner: VcpuId, block: u32) -> Option<&Shown> {
        match (block as usize).checked_sub(1) {
            None => self.0.shown.get(self.0.blocks + owner.index()),
            Some(block) => self.0.shown.get(..self.0.blocks)?.get(block),
        }
    }

    /// Shows what the words of a block have become.
    #[inline]
    pub(super) fn show(&self, owner: VcpuId, block: u32, [enabled, group1]: [u32; 2]) {
        if let Some(shown) = self.shown(owner, block) {
            shown.enabled.store(enabled, Ordering::Relaxed);
            shown.group1.store(group1, Ordering::Relaxed);
        }
    }
}

/// An affinity in 32 bits, as GICR_TYPER has it.
fn packed(mpidr: Mpidr) -> u32 {
    u32::from_be_bytes([mpidr.aff(3), mpidr.aff(2), mpidr.aff(1), mpidr.aff(0)])
}
