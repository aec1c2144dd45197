//! Whether a vCPU makes progress: the watchdog over a guest.
//!
//! A vCPU is wedged when one interrupt that it should take has stood pending in a list register for the whole limit, because
//! PSTATE, the priority mask or what it handles already kept it from being taken. A vCPU that is busy has such an interrupt at
//! many moments, and another one each time. So a look that finds one *suspects* it, and the vCPU is looked at again before each
//! change of its list registers: while a suspicion stands, what would go into them on a short way goes the general way.
//! Between two such looks the guest alone changes a list register, and it cannot make one pending that was taken. So an
//! interrupt that is found pending at all of them was never taken.
//!
//! The maintenance interrupt for "no list register is pending" (ICH_HCR_EL2.NPIE, IHI0069 12.4; GICH_HCR.NPIE, IHI0048 5.3)
//! would tell less: it does not come while any other interrupt waits, and each choice of list registers sets that register anew.

use hv_abi::watchdog::Act;

use crate::id::{IntId, VcpuId, VcpuSet};
use crate::time::Instant;

/// Looks in the time of the limit: a wedge is seen after the limit and at most one look more.
const LOOKS: u64 = 4;

/// The watchdog over a guest, as its configuration has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The limit, in counter ticks.
    pub limit: u64,
    /// What is done when one vCPU is wedged.
    pub one: Act,
    /// What is done when every vCPU that is on is.
    pub all: Act,
}

/// How a vCPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It takes its interrupts, or has none.
    #[default]
    Alive,
    /// One has been waiting since an earlier look.
    Slow,
    /// One has been waiting for the limit.
    Wedged,
    /// The same, and the guest means it: it has panicked, or this vCPU is in a handler of SDEI or parked.
    Stopped,
}

impl Health {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Slow => "slow",
            Self::Wedged => "wedged",
            Self::Stopped => "stopped",
        }
    }
}

/// What keeps an interrupt from being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// PSTATE.I, or F for what comes as an FIQ.
    Pstate,
    /// ICV_PMR_EL1, GICV_PMR.
    Priority,
    /// What the vCPU handles has the same or a higher priority.
    Running,
}

impl Mask {
    /// As records have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pstate => "pstate",
            Self::Priority => "priority",
            Self::Running => "running",
        }
    }
}

/// An interrupt that waits and cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub intid: IntId,
    /// Why.
    pub mask: Mask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspect {
    waiting: Waiting,
    since: Instant,
}

/// What is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Finding {
    /// Nothing new.
    Nothing,
    /// The limit is over: whether the vCPU is wedged or stopped is to be [judged](Watch::judge).
    Overdue,
    /// It was wedged or stopped, and takes interrupts again.
    Recovered,
}

/// The watch over one vCPU. Times are in counter ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    limit: u64,
    due: Instant,
    /// A regular look is due and has not been made.
    is_rung: bool,
    suspect: Option<Suspect>,
    health: Health,
}

impl Watch {
    /// One that looks from `now` on.
    pub const fn new(now: Instant, limit: u64) -> Self {
        let mut this = Self {
            limit,
            due: now,
            is_rung: false,
            suspect: None,
            health: Health::Alive,
        };
        this.due = now.after(this.period());
        this
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

    /// The alarm has gone off: whether a look is due, which is made as soon as the vCPU is about to enter its guest.
    pub fn ring(&mut self, now: Instant) -> bool {
        if now >= self.due {
            self.due = now.after(self.period());
            self.is_rung = true;
        }
        self.is_rung
    }

    /// How the vCPU is.
    pub const fn health(&self) -> Health {
        self.health
    }

    /// What it does not take, and since when; none if it is alive.
    pub fn waits(&self) -> Option<(Waiting, Instant)> {
        let suspect = self.suspect.filter(|_| self.health != Health::Alive)?;
        Some((suspect.waiting, suspect.since))
    }

    /// Whether the next look is a regular one: that finds whom to suspect.
    pub const fn looks_for_one(&self) -> bool {
        self.is_rung
    }

    /// The interrupt that is suspected: whether that still waits is asked at the next look.
    pub fn suspect(&self) -> Option<IntId> {
        self.suspect.map(|suspect| suspect.waiting.intid)
    }

    /// A look. `is_still` says that what is [suspected](Self::suspect) still waits, and `first` is what waits masked, the most urgent,
    /// if this [looks for one](Self::looks_for_one).
    pub fn look(&mut self, now: Instant, is_still: bool, first: Option<Waiting>) -> Finding {
        let mut finding = Finding::Nothing;
        if !is_still {
            self.suspect = None;
            if matches!(self.health, Health::Wedged | Health::Stopped) {
                finding = Finding::Recovered;
            }
            self.health = Health::Alive;
        }
        let is_due = core::mem::take(&mut self.is_rung);
        if is_due && self.suspect.is_none() {
            self.suspect = first.map(|waiting| Suspect {
                waiting,
                since: now,
            });
        }
        if let Some(suspect) = self.suspect {
            let end = suspect.since.after(self.limit);
            if now >= end {
                // What has been judged is judged again at the regular looks only.
                let is_known = matches!(self.health, Health::Wedged | Health::Stopped);
                return if is_due || !is_known {
                    Finding::Overdue
                } else {
                    Finding::Nothing
                };
            }
            // A look between the regular ones, so that the limit is met exactly.
            self.due = self.due.min(end);
            if suspect.since != now && is_due {
                self.health = Health::Slow;
            }
        }
        finding
    }

    /// What is [suspected](Self::suspect) was taken: the next look finds that.
    pub fn clear(&mut self) {
        self.suspect = None;
    }

    /// After [`Finding::Overdue`]: the guest means it, or not. Whether that is news.
    pub fn judge(&mut self, now: Instant, is_meant: bool) -> bool {
        let before = self.health;
        self.health = match (is_meant, before) {
            (true, _) => Health::Stopped,
            // What stopped it is over, so the time begins anew.
            (false, Health::Stopped) => {
                self.excuse(now);
                Health::Alive
            }
            (false, _) => Health::Wedged,
        };
        self.health != before && self.health != Health::Alive
    }

    /// Nobody could run until now: the time begins anew, unless it was over before.
    pub fn excuse(&mut self, now: Instant) {
        if self.health != Health::Wedged
            && let Some(suspect) = &mut self.suspect
        {
            suspect.since = now;
        }
    }

    /// The vCPU is off, or starts anew.
    pub fn forget(&mut self) {
        self.suspect = None;
        self.health = Health::Alive;
    }
}

/// What the watchdog knows of all vCPUs of a VM, behind the VM's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Company {
    wedged: VcpuSet,
    /// Of these, those that would take an SError: PSTATE.A is clear.
    reachable: VcpuSet,
    stopped: VcpuSet,
    /// What is to be done when all are wedged has been done.
    has_acted: bool,
}

/// What a wedge asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Plight {
    /// Nothing but to be told: somebody has stopped vCPUs, so the guest is seeing to it.
    Disarmed,
    /// What is done about one vCPU.
    One,
    /// What is done when every vCPU that is on is wedged.
    All,
}

impl Company {
    /// `vcpu` is wedged; `on` are those that are on. What is done now, if anything is.
    pub fn wedge(
        &mut self,
        vcpu: VcpuId,
        is_news: bool,
        is_reachable: bool,
        on: VcpuSet,
    ) -> Option<Plight> {
        self.stopped.remove(vcpu);
        self.wedged.insert(vcpu);
        if is_reachable {
            self.reachable.insert(vcpu);
        } else {
            self.reachable.remove(vcpu);
        }
        if on.without(self.wedged).is_empty() && !self.has_acted {
            self.has_acted = true;
            return Some(Plight::All);
        }
        let is_armed = self.stopped.is_empty();
        is_news.then_some(if is_armed {
            Plight::One
        } else {
            Plight::Disarmed
        })
    }

    /// `vcpu` is stopped: the guest means it.
    pub fn stop(&mut self, vcpu: VcpuId) {
        self.recover(vcpu);
        self.stopped.insert(vcpu);
    }

    /// `vcpu` takes interrupts, or is off.
    pub fn recover(&mut self, vcpu: VcpuId) {
        self.wedged.remove(vcpu);
        self.reachable.remove(vcpu);
        self.stopped.remove(vcpu);
        self.has_acted = false;
    }

    /// Who gets an NMI: `me`, which is wedged, unless it would not take it and another would.
    pub fn target(&self, me: VcpuId) -> VcpuId {
        if self.reachable.contains(me) {
            return me;
        }
        self.reachable.iter().next().unwrap_or(me)
    }
}
