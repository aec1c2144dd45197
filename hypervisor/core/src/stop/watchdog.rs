//! Each pCPU looks at one neighbour now and then: does it still get out of EL2?
//!
//! A pCPU shows life by a count that goes up: by one with each exit of its guest, and by one when it takes the
//! stop SGI while nobody is stopped. So one whose count stands still is rung. A guest that runs or sleeps is
//! left for an SGI at once, and a pCPU that waits in EL2 for its vCPU's start takes it there; one that is stuck
//! with its interrupts masked does not.
//!
//! ```text
//!   count went up                     still the same, 4 looks later      one look later
//! Content <------- Rung <--- the same     Rung ------------> Examined ------------> reported; the next is watched
//! ```

use core::sync::atomic::Ordering;

use crate::id::PcpuId;
use crate::time::Instant;
use crate::word::Word;

/// How long a pCPU may leave a ring unanswered, in milliseconds, unless configured. The longest that EL2 does in
/// one go is the copying of a guest's image, the search of a dead guest's memory, and the printing of what a vCPU did last,
/// line by line; each 64 KiB, each look and each line counts as a sign of life.
pub const LIMIT_MS: u32 = 2000;

/// Looks in the time of the limit. More than one, so that a pause of the whole machine, of an emulator say, is
/// no reason to suspect anybody: between two looks a pCPU that is not stuck has run.
const LOOKS: u64 = 4;

/// What a pCPU shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// The count that goes up while it lives.
    pub count: u32,
    /// What that was when it was last reported as stuck; anything else if it never was.
    pub reported: u32,
}

impl Signs {
    /// It has been reported and has shown no life since.
    pub const fn is_known_stuck(self) -> bool {
        self.count == self.reported
    }
}

/// What a look asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Finding {
    /// Nothing.
    Fine,
    /// Send the stop SGI to this one.
    Ring(PcpuId),
    /// This one is stuck: have EL3 interrupt it, so that it writes down where, or stop the machine.
    Stuck(PcpuId),
    /// Say what it wrote, or what is known without that, and count it as reported.
    Report(PcpuId),
}

/// One pCPU's watch over its neighbour. Times are in counter ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    period: u64,
    due: Instant,
    /// Whom it looks at, and the count that was found.
    ward: Option<(PcpuId, u32)>,
    /// How many looks have found the same count.
    same: u64,
}

impl Watch {
    /// One that looks from `now` on and calls a pCPU stuck that leaves its rings unanswered for `limit`.
    pub const fn new(now: Instant, limit: u64) -> Self {
        let period = if limit < LOOKS { 1 } else { limit / LOOKS };
        Self {
            period,
            due: now.after(period),
            ward: None,
            same: 0,
        }
    }

    /// When to look again.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// Looks, if that is due. `others` are those that are up and not parked, in the order of the pCPUs from this
    /// one on: the first that is not known to be stuck is this one's ward.
    pub fn look(
        &mut self,
        now: Instant,
        mut others: impl Iterator<Item = (PcpuId, Signs)>,
    ) -> Finding {
        if now < self.due {
            return Finding::Fine;
        }
        self.due = now.after(self.period);
        let ward = others.find(|(_, signs)| !signs.is_known_stuck());
        let ward = ward.map(|(id, signs)| (id, signs.count));
        if ward != self.ward {
            self.ward = ward;
            self.same = 0;
            return Finding::Fine;
        }
        let Some((id, _)) = ward else {
            return Finding::Fine;
        };
        self.same = self.same.saturating_add(1);
        if self.same <= LOOKS {
            Finding::Ring(id)
        } else if self.same == LOOKS + 1 {
            Finding::Stuck(id)
        } else {
            Finding::Report(id)
        }
    }
}

const IDLE: u32 = 0;
const ASKED: u32 = 1;
/// One pCPU alone touches what is handed over.
const HELD: u32 = 2;
const WRITTEN: u32 = 3;

/// How a pCPU hands over where it is without stopping: who asks, its event handler, and who reads.
#[derive(Debug, Default)]
pub struct Sample<W>(W);

impl<W> Sample<W> {
    /// Nothing is asked, on a word that is 0.
    pub const fn new(word: W) -> Self {
        Self(word)
    }
}

impl<W: Word> Sample<W> {
    /// Asks for it.
    pub fn ask(&self) {
        // If it is asked for already, one answer serves both.
        let _ = self.0.compare_exchange(IDLE, ASKED);
    }

    /// Whether it was asked for: then the caller alone may write it, and must [`finish`](Self::finish).
    #[must_use]
    pub fn begin(&self) -> bool {
        self.0.compare_exchange(ASKED, HELD).is_ok()
    }

    /// It is written.
    pub fn finish(&self) {
        self.0.store(WRITTEN, Ordering::Release);
    }

    /// Whether it is written: then the caller alone may read it, and must [`release`](Self::release). If not, it
    /// is asked for no longer.
    #[must_use]
    pub fn collect(&self) -> bool {
        let is_written = self.0.compare_exchange(WRITTEN, HELD).is_ok();
        if !is_written {
            let _ = self.0.compare_exchange(ASKED, IDLE);
        }
        is_written
    }

    /// It has been read.
    pub fn release(&self) {
        self.0.store(IDLE, Ordering::Release);
    }
}
