//! How a VM is, and why what an operator asks of it is not done.

use hv_abi::operator::Verb;

use crate::vm::{Life, Shared};

/// Why a request is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The operator may not.
    Access,
    /// There is no such VM, vCPU or event.
    Unknown,
    /// The VM is off.
    Off,
    /// Its RAM is to be hashed, and it is not paused.
    Running,
    /// It is to be started, and is not off.
    On,
    /// The same, and it was given up.
    Lost,
    /// No memory is held back for a dump.
    NoDump,
    /// It is dumped already.
    Dumping,
    /// The VM ends: what is asked of what runs there would be lost.
    Ending,
}

impl Refusal {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "refused",
            Self::Unknown => "unknown",
            Self::Off => "off",
            Self::Running => "running",
            Self::On => "on",
            Self::Lost => "lost",
            Self::NoDump => "nodump",
            Self::Dumping => "dumping",
            Self::Ending => "ending",
        }
    }
}

/// How a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or is about to, or ends.
    Running,
    /// The operator has paused it.
    Paused,
    /// It is off.
    Off,
    /// It was given up.
    Lost,
    /// Its capture kernel runs.
    Dumping,
}

impl State {
    pub(super) fn of(shared: &Shared) -> Self {
        match shared.life {
            Life::Abandoned | Life::Gone => Self::Lost,
            Life::Off if !shared.is_start_asked => Self::Off,
            _ if shared.is_paused => Self::Paused,
            Life::Capturing => Self::Dumping,
            _ => Self::Running,
        }
    }

    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Off => "off",
            Self::Lost => "lost",
            Self::Dumping => "dumping",
        }
    }

    /// Why `verb` cannot be done to it.
    pub(super) const fn refuses(self, verb: Verb) -> Option<Refusal> {
        match (verb, self) {
            (Verb::Type, _) | (Verb::Hashes, Self::Paused) => None,
            (Verb::Hashes, Self::Off | Self::Lost) => Some(Refusal::Off),
            (Verb::Hashes, _) => Some(Refusal::Running),
            (Verb::Start, Self::Off) => None,
            (Verb::Start, Self::Lost) => Some(Refusal::Lost),
            (Verb::Start, _) => Some(Refusal::On),
            (Verb::Dump, Self::Dumping) => Some(Refusal::Dumping),
            (_, Self::Off | Self::Lost) if verb.acts() => Some(Refusal::Off),
            _ => None,
        }
    }
}
