//! The rungs of an NMI: an SDEI event, a virtual SError, and what is left when neither helps. Time and what is seen of the guest go in,
//! what is told and done comes out.

use hv_abi::watchdog::Last;

use crate::time::Instant;

/// How often it is looked whether a rung has worked, in the time of the limit.
const LOOKS: u64 = 8;

/// What the guest's configuration says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The SDEI event that is raised first; 0 for none.
    pub event: u32,
    /// How long a rung may take, in counter ticks.
    pub limit: u64,
    /// What is done in the end.
    pub last: Last,
}

impl Config {
    /// Of a guest whose configuration says nothing, on a counter of 1 GHz.
    pub const USUAL: Self = Self {
        event: 0,
        limit: 60_000_000_000,
        last: Last::Report,
    };
}

/// A rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The SDEI event.
    Event,
    /// The virtual SError.
    SError,
    /// What the configuration says.
    Last,
}

/// What a rung has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The guest has not registered and enabled the event.
    Unregistered,
    /// The guest panics, or starts another kernel, or stops vCPUs.
    Works,
    /// It has been delivered, and the guest does none of that.
    Taken,
    /// It waits, as the vCPU masks it.
    Pending,
    /// Nothing else is done.
    Reported,
    /// All vCPUs are out of the guest.
    Frozen,
    /// The guest's memory is saved.
    Dumped,
}

impl Rung {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::SError => "serror",
            Self::Last => "last",
        }
    }
}

impl Answer {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unregistered => "unregistered",
            Self::Works => "works",
            Self::Taken => "taken",
            Self::Pending => "pending",
            Self::Reported => "reported",
            Self::Frozen => "frozen",
            Self::Dumped => "dumped",
        }
    }
}

/// What is seen of a guest from below. A guest that panics changes some of it: it says so by pvpanic, its CPUs are switched off or
/// park in handlers of SDEI, or another kernel sets its own vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// VBAR_EL1 of the vCPU that has the NMI.
    pub vbar: u64,
    /// How many vCPUs are on.
    pub on: usize,
    /// How many are parked in a handler of SDEI.
    pub parked: usize,
    /// It has said by pvpanic that it has panicked.
    pub has_panicked: bool,
}

/// One NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    rung: Rung,
    limit: u64,
    end: Instant,
    due: Instant,
    before: Signs,
}

/// What a look finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// The rung has its time still.
    Wait,
    /// The rung has worked: that is all.
    Works(Rung),
    /// The rung has not, for this reason, and this one is next.
    Next(Rung, Answer, Rung),
}

impl Ladder {
    /// One that begins with `rung`, which is tried now.
    pub const fn begin(rung: Rung, now: Instant, limit: u64, before: Signs) -> Self {
        let mut this = Self {
            rung,
            limit,
            end: now,
            due: now,
            before,
        };
        this.try_rung(rung, now);
        this
    }

    /// The rung is tried now.
    pub const fn try_rung(&mut self, rung: Rung, now: Instant) {
        self.rung = rung;
        self.end = now.after(self.limit);
        self.due = now.after(self.period());
    }

    const fn period(&self) -> u64 {
        if self.limit < LOOKS {
            1
        } else {
            self.limit / LOOKS
        }
    }

    /// When the next look is due.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// A look. `is_pending` says that the SError has not been taken. While the VM is paused no rung's time passes.
    pub fn look(&mut self, now: Instant, signs: Signs, is_pending: bool, is_paused: bool) -> Step {
        if signs != self.before {
            return Step::Works(self.rung);
        }
        if is_paused {
            self.try_rung(self.rung, now);
            return Step::Wait;
        }
        if now < self.end {
            self.due = now.after(self.period());
            return Step::Wait;
        }
        match self.rung {
            Rung::Event => Step::Next(Rung::Event, Answer::Taken, Rung::SError),
            _ if is_pending => Step::Next(Rung::SError, Answer::Pending, Rung::Last),
            _ => Step::Next(Rung::SError, Answer::Taken, Rung::Last),
        }
    }
}
