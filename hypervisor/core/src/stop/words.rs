//! What pCPUs tell each other about a stop: one word each, and one that says who the stopper is.
//!
//! Every step is one atomic read-modify-write of one word, so any two of them on a word have an order and
//! nothing depends on the order of different words. A pCPU that comes up while others are being stopped
//! is no special case: either the stopper finds it online, or it finds itself asked.

use core::sync::atomic::{AtomicU32, Ordering};

use super::StoppedBy;
use crate::id::PcpuId;
use crate::word::Word;

const ONLINE: u32 = 1 << 0;
const ARMED: u32 = 1 << 1;
const ASKED: u32 = 1 << 2;
const SIGNALLED: u32 = 1 << 3;
/// How it parked, as [`StoppedBy`]; 0 while it runs.
const STOPPED_BY_SHIFT: u32 = 8;

/// One pCPU as the others see it.
#[derive(Debug, Default)]
pub struct Slot<W = AtomicU32>(W);

/// What a slot said at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotState(u32);

impl SlotState {
    /// It runs our code and takes SGIs, as soon as it lets them in.
    pub const fn is_online(self) -> bool {
        self.0 & ONLINE != 0
    }

    /// EL3 delivers event 0 to it whatever it masks: registered, enabled, unmasked.
    pub const fn is_armed(self) -> bool {
        self.0 & ARMED != 0
    }

    /// It has been asked to park.
    pub const fn is_asked(self) -> bool {
        self.0 & ASKED != 0
    }

    /// Event 0 has been signalled to it, to stop it.
    pub const fn is_signalled(self) -> bool {
        self.0 & SIGNALLED != 0
    }

    /// How it parked, if it has.
    pub const fn parked(self) -> Option<StoppedBy> {
        StoppedBy::from_number(self.0 >> STOPPED_BY_SHIFT)
    }
}

impl<W> Slot<W> {
    /// A pCPU that has never been up, on a word that is 0.
    pub const fn new(word: W) -> Self {
        Self(word)
    }
}

impl<W: Word> Slot<W> {
    /// What is known of it now. What it wrote before it parked is visible to whoever sees it parked.
    pub fn state(&self) -> SlotState {
        SlotState(self.0.load(Ordering::Acquire))
    }

    /// This pCPU is up and can be stopped, by event 0 too if it is `armed`. Answers the state it was in: if it
    /// was asked to park, it must.
    #[must_use = "one that was asked has to park"]
    pub fn come_online(&self, armed: bool) -> SlotState {
        let bits = ONLINE | if armed { ARMED } else { 0 };
        SlotState(self.0.fetch_or(bits, Ordering::AcqRel))
    }

    /// The stopper asks it to park, and learns the state it was in.
    #[must_use = "it says whether to ring and wait"]
    pub fn ask(&self) -> SlotState {
        SlotState(self.0.fetch_or(ASKED, Ordering::AcqRel))
    }

    /// The stopper is about to signal event 0 to it; answers the state it was in.
    #[must_use = "one that was signalled before must not be again"]
    pub fn mark_signalled(&self) -> SlotState {
        SlotState(self.0.fetch_or(SIGNALLED, Ordering::AcqRel))
    }

    /// This pCPU has written down where it was and will touch memory no more. Only the first way counts;
    /// answers whether this was it.
    pub fn park(&self, by: StoppedBy) -> bool {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            if seen >> STOPPED_BY_SHIFT != 0 {
                return false;
            }
            match self
                .0
                .compare_exchange(seen, seen | (by as u32) << STOPPED_BY_SHIFT)
            {
                Ok(_) => return true,
                Err(found) => seen = found,
            }
        }
    }
}

/// Who stops the others.
#[derive(Debug, Default)]
pub struct Stopper<W = AtomicU32>(W);

/// What came of wanting to be the stopper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Claim {
    /// This pCPU is the stopper.
    Mine,
    /// It was already: it failed while it stopped the others.
    Again,
    /// Somebody else was first: park.
    Theirs(PcpuId),
}

impl<W> Stopper<W> {
    /// Nobody yet, on a word that is 0.
    pub const fn new(word: W) -> Self {
        Self(word)
    }
}

impl<W: Word> Stopper<W> {
    /// `me` wants to stop the others. The first one does.
    pub fn claim(&self, me: PcpuId) -> Claim {
        let mine = u32::from(me.0) + 1;
        match self.0.compare_exchange(0, mine) {
            Ok(_) => Claim::Mine,
            Err(found) if found == mine => Claim::Again,
            Err(found) => Claim::Theirs(PcpuId((found.wrapping_sub(1) & 0xff) as u8)),
        }
    }

    /// Who it is, if anybody.
    pub fn who(&self) -> Option<PcpuId> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            word => Some(PcpuId((word.wrapping_sub(1) & 0xff) as u8)),
        }
    }
}
