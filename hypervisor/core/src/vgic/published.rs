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
use super::{Affinities, Config, Frame, Model, Words, blocks};
use crate::id::{Mpidr, VcpuId};

/// GICD_TYPER (IHI0069 12.9): 10 bits of INTID, Aff3, no "1 of N" routing, range selector.
const TYPER: u64 = 9 << 19 | 1 << 24 | 1 << 25 | 1 << 26;
/// Arm, and no product that has errata to work around.
const IIDR: u64 = 0x43b;

/// What of a virtual GIC is read without a lock: registers that never change, and those that no list register holds. A clone
/// is the same.
#[derive(Clone, Debug)]
pub struct Published {
    /// GICD_TYPER.
    typer: u64,
    /// GICR_TYPER of each vCPU.
    redistributors: Vec<u64>,
    /// Of each block of SPIs, and behind them of the private interrupts of each vCPU.
    shown: Arc<[Shown]>,
    /// How many blocks of SPIs.
    blocks: usize,
}

/// Of 32 interrupts, what the guest's registers show.
#[derive(Debug, Default)]
struct Shown {
    enabled: AtomicU32,
    group1: AtomicU32,
}

impl Published {
    /// Of the virtual GIC that [`Vgic::new`](super::Vgic::new) makes of the same.
    pub fn new(config: &Config<'_>) -> Self {
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
        Self {
            typer,
            redistributors: affinities.all().iter().map(redistributor).collect(),
            shown: (0..blocks as usize + affinities.len())
                .map(|_| Shown::default())
                .collect(),
            blocks: blocks as usize,
        }
    }

    /// What a load of `size` bytes reads, if it needs no lock.
    #[inline]
    pub fn read(&self, frame: Frame, offset: u64, size: u8) -> Option<u64> {
        match Register::find(frame, offset, size) {
            Some(register) => self.value(frame, register),
            None => Some(0),
        }
    }

    #[inline(always)]
    pub(super) fn value(&self, frame: Frame, register: Register) -> Option<u64> {
        match register {
            Register::Implementer => Some(IIDR),
            Register::Identification(byte) => Some(byte.into()),
            Register::Type(part) => Some(part.of(match frame {
                Frame::Redistributor(owner) => {
                    self.redistributors.get(owner.index()).copied().unwrap_or(0)
                }
                _ => self.typer,
            })),
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
            None => self.shown.get(self.blocks + owner.index()),
            Some(block) => self.shown.get(..self.blocks)?.get(block),
        }
    }

    /// Shows what the words of a block have become.
    #[inline]
    pub(super) fn show(&self, owner: VcpuId, block: u32, words: &Words) {
        if let Some(shown) = self.shown(owner, block) {
            shown
                .enabled
                .store(words.enabled & !words.bound, Ordering::Relaxed);
            shown
                .group1
                .store(words.group1 & !words.bound, Ordering::Relaxed);
        }
    }
}

/// An affinity in 32 bits, as GICR_TYPER has it.
fn packed(mpidr: Mpidr) -> u32 {
    u32::from_be_bytes([mpidr.aff(3), mpidr.aff(2), mpidr.aff(1), mpidr.aff(0)])
}
