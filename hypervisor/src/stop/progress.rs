//! Why the machine stops, and how far the stop has come.

use hv_core::id::{PcpuId, PcpuSet};
use hv_core::stop::ladder::Ladder;
use hv_core::stop::sequence::StopSequence;
use hv_core::time::Instant;

/// Why the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// EL2 panicked.
    Panic,
    /// EL2 took an exception of its own.
    Fault,
    /// EL2 ran out of stack.
    StackOverflow,
    /// The machine is switched off.
    Shutdown,
    /// The machine is reset.
    Reboot,
    /// A pCPU does not get out of EL2.
    Watchdog,
}

impl Cause {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fault => "fault",
            Self::StackOverflow => "stack-overflow",
            Self::Shutdown => "shutdown",
            Self::Reboot => "reboot",
            Self::Watchdog => "watchdog",
        }
    }

    /// Whether the hypervisor has failed, and is not just told to stop.
    pub const fn is_crash(self) -> bool {
        !matches!(self, Self::Shutdown | Self::Reboot)
    }
}

/// What the stopper knows.
pub struct Progress {
    /// Why it stops.
    pub cause: Cause,
    /// The stopper.
    pub me: PcpuId,
    /// Which of its steps it has come to.
    pub sequence: StopSequence,
    /// When it began.
    pub started: Instant,
    /// When the last look at the others was taken.
    pub ended: Instant,
    /// How far each of the others has come.
    pub ladder: Ladder,
    /// Who has stopped, was to be switched off, and is not.
    pub still_on: PcpuSet,
}
