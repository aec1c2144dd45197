//! What the vCPUs of a VM see of each other's SDEI without a lock: a few bits for each.
//!
//! Two kinds of bits, each written by one side only. `shows` is what a vCPU says of itself; `due` is what
//! the holder of the VM's lock says to it. A reader that is late by one change is harmless: whoever makes
//! a shared event due rings the vCPUs concerned afterwards, and each looks again on its way into the guest.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use hv_abi::sdei::Priority;

use crate::id::VcpuId;
use crate::siblings::Siblings;
use crate::word::Word;

/// Bits that priorities have in [`Board::due`] and in what a PE is open to.
pub(super) const fn bit(priority: Priority) -> u8 {
    match priority {
        Priority::Normal => 1,
        Priority::Critical => 2,
    }
}

/// Event 0 is registered and enabled, and the PE is on and unmasked.
const SIGNALLABLE: u8 = 1;
/// The PE is masked within a handler, the only one that runs.
const PARKED: u8 = 2;

/// The bits of all vCPUs of one VM.
#[derive(Debug, Default)]
pub struct Board<W = AtomicU32> {
    shows: Vec<W>,
    due: Vec<W>,
}

/// What a PE says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) is_signallable: bool,
    pub(super) is_parked: bool,
}

/// The vCPUs of one VM and what they show of their SDEI.
pub trait WithBoard: Siblings {
    /// What they show.
    fn board(&self) -> &Board;
}

impl<W> Board<W> {
    /// One on which nobody shows anything.
    pub const EMPTY: Self = Self {
        shows: Vec::new(),
        due: Vec::new(),
    };
}

impl<W: Word + Default> Board<W> {
    /// For this many vCPUs, all off.
    pub fn new(vcpus: usize) -> Self {
        let blank = || (0..vcpus).map(|_| W::default()).collect();
        Self {
            shows: blank(),
            due: blank(),
        }
    }
}

impl<W: Word> Board<W> {
    /// Whether event 0 would be delivered to `vcpu` if nothing changed.
    pub fn is_signallable(&self, vcpu: VcpuId) -> bool {
        self.shows(vcpu) & SIGNALLABLE != 0
    }

    /// Whether `vcpu` is masked within the only handler that runs on it: it can neither be interrupted nor
    /// signalled, and says so itself.
    pub fn is_parked(&self, vcpu: VcpuId) -> bool {
        self.shows(vcpu) & PARKED != 0
    }

    /// How many are so.
    pub fn parked(&self) -> usize {
        let is_parked = |shows: &&W| shows.load(Ordering::Acquire) as u8 & PARKED != 0;
        self.shows.iter().filter(is_parked).count()
    }

    /// Which priorities of shared events wait for `vcpu`.
    #[inline]
    pub(super) fn due(&self, vcpu: VcpuId) -> u8 {
        let due = self.due.get(vcpu.index());
        due.map_or(0, |due| due.load(Ordering::Acquire) as u8)
    }

    pub(super) fn show(&self, vcpu: VcpuId, shown: Shown) {
        let bits = [
            (shown.is_signallable, SIGNALLABLE),
            (shown.is_parked, PARKED),
        ]
        .into_iter()
        .fold(
            0,
            |bits, (is_set, bit)| if is_set { bits | bit } else { bits },
        );
        if let Some(shows) = self.shows.get(vcpu.index()) {
            shows.store(bits.into(), Ordering::Release);
        }
    }

    /// Under the VM's lock: what waits for each vCPU.
    pub(super) fn set_due(&self, due: impl Fn(VcpuId) -> u8) {
        for (vcpu, slot) in (0..).map(VcpuId).zip(&self.due) {
            slot.store(due(vcpu).into(), Ordering::Release);
        }
    }

    fn shows(&self, vcpu: VcpuId) -> u8 {
        let shows = self.shows.get(vcpu.index());
        shows.map_or(0, |shows| shows.load(Ordering::Acquire) as u8)
    }
}
