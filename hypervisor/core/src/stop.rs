//! Stopping the machine's own pCPUs: one stopper asks, waits, signals those that did not answer, waits
//! again, and goes on without the rest.
//!
//! [`words`] is what pCPUs tell each other, one word each; [`ladder`] is what the stopper does with what
//! it reads there; [`sequence`] is what it does after that, however often it fails on the way. [`probe`] finds and
//! arms EL3's event, [`leaving`] is how a pCPU gets out of it to be switched off, [`frames`] is a guest's backtrace,
//! and by [`watchdog`] each pCPU looks whether its neighbour is stuck.

pub mod frames;
pub mod ladder;
pub mod leaving;
pub mod probe;
pub mod sequence;
pub mod watchdog;
pub mod words;

use crate::patience::Patience;
use crate::time::Frequency;

/// How long the stopper waits on a rung of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// On a rung that another one follows.
    pub first_us: u64,
    /// On the last rung that there is for the pCPUs that are left.
    pub last_us: u64,
}

/// What the hypervisor uses.
///
/// First, 20 ms: a pCPU that is not stuck answers an SGI within microseconds, or when it is through with
/// the longest thing EL2 does in one go, the copying of a guest's image. Nothing is lost by not waiting for
/// that: what follows reaches such a pCPU too, and does it no harm. With the other rung it keeps the stop
/// of a machine whose pCPUs are all stuck well below 50 ms.
///
/// Last, 500 ms: an event through EL3 takes microseconds on silicon, but an emulator's host may let a CPU
/// wait for tenths of a second. This one is only waited for when somebody is lost, and then once.
///
/// Both count by the stopper's own looks ([`Patience`]): that host may let all CPUs wait, the stopper included.
pub const LIMITS: Limits = Limits {
    first_us: 20_000,
    last_us: 500_000,
};

impl Limits {
    /// The same in ticks of a counter.
    pub const fn in_ticks(self, rate: Frequency) -> Ticks {
        Ticks {
            first: rate.ticks_in_us(self.first_us),
            last: rate.ticks_in_us(self.last_us),
            patience: Patience::at(rate),
        }
    }
}

/// [`Limits`] in counter ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticks {
    /// On a rung that another one follows.
    pub first: u64,
    /// On the last rung.
    pub last: u64,
    /// How both are waited for.
    pub patience: Patience,
}

/// How a pCPU came to park.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum StoppedBy {
    /// It took the SGI.
    Ipi = 1,
    /// EL3 delivered the event.
    Sdei = 2,
    /// By itself: it failed as well, came up while the others were stopped, or has nothing to run.
    Itself = 3,
}

impl StoppedBy {
    /// Its name in reports and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ipi => "ipi",
            Self::Sdei => "sdei",
            Self::Itself => "itself",
        }
    }

    /// The one with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Ipi),
            2 => Some(Self::Sdei),
            3 => Some(Self::Itself),
            _ => None,
        }
    }
}
