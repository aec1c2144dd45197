//! What a guest's configuration says of a watchdog over it, and of the NMI.

/// The watchdog over one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// How long an interrupt of a vCPU's may wait while the vCPU cannot be interrupted, in milliseconds.
    pub limit_ms: u32,
    /// What is done when that is over on one vCPU.
    pub one: Act,
    /// What is done when it is over on every vCPU that is on.
    pub all: Act,
}

/// The shortest limit, in milliseconds: below it the looks alone would keep a guest busy.
pub const SHORTEST_MS: u32 = 10;
/// The longest: a day.
pub const LONGEST_MS: u32 = 24 * 3600 * 1000;

/// What is done about a guest that makes no progress. A bundle has the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is told.
    Report = 0,
    /// A vCPU gets the operator's NMI.
    Nmi = 1,
    /// All vCPUs leave the guest, and stay out.
    Freeze = 2,
    /// The VM is reset.
    Reset = 3,
    /// The VM is switched off.
    Off = 4,
    /// The VM's memory is saved by a kernel that starts beside it.
    Dump = 5,
}

impl Act {
    /// All of them by their names.
    pub const ALL: [(&str, Self); 6] = [
        ("report", Self::Report),
        ("nmi", Self::Nmi),
        ("freeze", Self::Freeze),
        ("reset", Self::Reset),
        ("off", Self::Off),
        ("dump", Self::Dump),
    ];

    /// The one with this number.
    pub fn of_number(number: u64) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find_map(|&(_, act)| (act as u64 == number).then_some(act))
    }

    /// The one with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find_map(|&(known, act)| (known == name).then_some(act))
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|&&(_, act)| act == self)
            .map_or("report", |&(name, _)| name)
    }
}

/// What the NMI does, rung by rung: an SDEI event, an SError, and what is done when neither helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nmi {
    /// A private SDEI event of the guest's configuration, which is raised first if the guest has registered it; 0 for none.
    pub event: u32,
    /// How long the guest may take to show that a rung has worked, in milliseconds.
    pub limit_ms: u32,
    /// What is done in the end.
    pub last: Last,
}

/// The last rung of an NMI. A bundle has the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It is told that no rung has worked.
    Report = 0,
    /// All vCPUs leave the guest, and stay out.
    Freeze = 1,
    /// The VM's memory is saved by a kernel that starts beside it.
    Dump = 2,
}

impl Last {
    /// All of them by their names.
    pub const ALL: [(&str, Self); 3] = [
        ("report", Self::Report),
        ("freeze", Self::Freeze),
        ("dump", Self::Dump),
    ];

    /// The one with this number.
    pub fn of_number(number: u32) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find_map(|&(_, last)| (last as u32 == number).then_some(last))
    }

    /// The one with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.iter();
        all.find_map(|&(known, last)| (known == name).then_some(last))
    }
}

impl Default for Nmi {
    fn default() -> Self {
        Self {
            event: 0,
            limit_ms: 60_000,
            last: Last::Report,
        }
    }
}
