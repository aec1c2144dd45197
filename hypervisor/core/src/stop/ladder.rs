//! The ladder: an SGI to all, event 0 through EL3 to those that did not answer, then on without the rest.
//!
//! ```text
//!            ask all            first limit, some armed            last limit, or all answered
//! Fresh ----------------> Asked -------------------------> Signalled ----------------------> Over
//!                           |  all answered, or last limit and none armed                     ^
//!                           +-----------------------------------------------------------------+
//! ```

use super::words::SlotState;
use super::{StoppedBy, Ticks};
use crate::id::{PcpuId, PcpuSet};
use crate::patience::Patience;
use crate::time::Instant;

/// The stopper's progress. Time and answers go in, decisions come out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ladder {
    limits: Ticks,
    rung: Rung,
    /// The wait on this rung, which begins when all have been asked.
    patience: Patience,
    /// Whom it is to stop.
    targets: PcpuSet,
    /// Of these, whom EL3 can reach.
    armed: PcpuSet,
    /// Whom EL3 refused to signal.
    refused: PcpuSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rung {
    Fresh,
    Asked,
    Signalled,
    Over,
}

/// What the stopper must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Send the stop SGI to these.
    Ring(PcpuSet),
    /// Have EL3 signal event 0 to these, and [`Ladder::note_refusal`] of each it does not.
    Signal(PcpuSet),
    /// Look again.
    Wait,
    /// Go on.
    Done,
}

/// What became of a pCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It parked.
    Stopped(StoppedBy),
    /// It was never up, and parks when it comes.
    Offline,
    /// It was asked and does not answer; EL3 cannot reach it.
    Deaf,
    /// EL3 refused to signal it.
    Refused,
    /// EL3 signalled it, and it does not answer.
    Lost,
}

impl Fate {
    /// Its name in reports and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped(by) => by.name(),
            Self::Offline => "offline",
            Self::Deaf => "deaf",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

impl Ladder {
    /// A ladder for the pCPUs other than the stopper, each in the state it was in when it was asked
    /// ([`super::words::Slot::ask`]). A stopper that failed on its ladder makes another: it rings again those
    /// that have not parked, as it may have failed before it rang, but signals nobody again.
    pub fn new(asked: impl Iterator<Item = (PcpuId, SlotState)>, limits: Ticks) -> Self {
        let mut ladder = Self {
            limits,
            rung: Rung::Fresh,
            patience: limits.patience,
            targets: PcpuSet::EMPTY,
            armed: PcpuSet::EMPTY,
            refused: PcpuSet::EMPTY,
        };
        for (pcpu, state) in asked {
            if !state.is_online() || state.parked().is_some() {
                continue;
            }
            ladder.targets.insert(pcpu);
            if state.is_armed() && !state.is_signalled() {
                ladder.armed.insert(pcpu);
            }
        }
        ladder
    }

    /// Whom it is to stop.
    pub const fn targets(&self) -> PcpuSet {
        self.targets
    }

    /// What to do, at `now` and with these pCPUs `parked`. Each ringing and each signal is asked for once.
    pub fn poll(&mut self, now: Instant, parked: PcpuSet) -> Decision {
        let left = self.targets.without(parked);
        let awaited = left.without(self.refused);
        match self.rung {
            _ if awaited.is_empty() => self.rung = Rung::Over,
            Rung::Fresh => {
                self.rung = Rung::Asked;
                return Decision::Ring(left);
            }
            Rung::Asked => {
                let signal = left.and(self.armed);
                let has_next = !signal.is_empty();
                let limit = if has_next {
                    self.limits.first
                } else {
                    self.limits.last
                };
                if self.patience.look(now) < limit {
                    return Decision::Wait;
                }
                if has_next {
                    self.rung = Rung::Signalled;
                    self.patience = self.limits.patience;
                    return Decision::Signal(signal);
                }
                self.rung = Rung::Over;
            }
            Rung::Signalled => {
                if self.patience.look(now) < self.limits.last {
                    return Decision::Wait;
                }
                self.rung = Rung::Over;
            }
            Rung::Over => {}
        }
        Decision::Done
    }

    /// EL3 did not take the signal for this one: it is not waited for.
    pub fn note_refusal(&mut self, pcpu: PcpuId) {
        self.refused.insert(pcpu);
    }

    /// What became of a pCPU that now stands like this.
    pub fn fate(&self, pcpu: PcpuId, state: SlotState) -> Fate {
        match state.parked() {
            Some(by) => Fate::Stopped(by),
            None if !state.is_online() => Fate::Offline,
            None if self.refused.contains(pcpu) => Fate::Refused,
            None if state.is_signalled() => Fate::Lost,
            None => Fate::Deaf,
        }
    }
}
