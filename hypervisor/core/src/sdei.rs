//! The Software Delegated Exception Interface (DEN0054) as one vCPU sees it.
//!
//! A [`Pe`] belongs to its vCPU and is touched by nobody else: a sibling that signals it posts a bit to
//! the vCPU's mailbox, and the vCPU itself hands that bit to [`Pe::post_signal`]. So no rule here needs
//! a lock, and what a call answers never depends on how fast somebody else is.
//!
//! Where DEN0054 leaves a choice, `docs/decisions/0002-sdei-ambiguities.md` says what is done and why.

pub mod calls;
pub mod dispatch;
pub mod handler;

use alloc::boxed::Box;

use hv_abi::sdei::EVENT_SIGNALLED;

use crate::entry::Features;
use crate::id::VcpuId;
use dispatch::Level;
use handler::Handler;

pub use calls::Effect;
pub use dispatch::Interrupted;

/// What SDEI_VERSION reports. The major version is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Minor version. Relative mode exists from 1 on.
    pub minor: u16,
    /// Vendor-defined word.
    pub vendor: u32,
}

impl Version {
    /// DEN0054 v1.1, by a vendor that calls itself "HLGN" in ASCII.
    pub const SPEC: Self = Self {
        minor: 1,
        vendor: 0x484c_474e,
    };

    /// Exactly 1.0 with vendor 0, as TF-A reports it and its test suite demands it.
    pub const TFA: Self = Self {
        minor: 0,
        vendor: 0,
    };

    /// As the call returns it (DEN0054 5.1.1): `[63]` 0, `[62:48]` major, `[47:32]` minor, `[31:0]` vendor.
    pub const fn bits(self) -> u64 {
        1 << 48 | (self.minor as u64) << 32 | self.vendor as u64
    }
}

/// Whose handlers an event may interrupt (DEN0054 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Nobody's.
    Normal,
    /// Those of normal events.
    Critical,
}

/// A private event that the platform offers besides event 0. Software cannot signal it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its number, not 0.
    pub number: u32,
    /// Its priority.
    pub priority: Priority,
}

/// What a VM is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config<'a> {
    /// The version it is told, or `None` where it has no SDEI: every call then answers NOT_SUPPORTED.
    pub version: Option<Version>,
    /// Private events besides event 0, at most 127; of equal numbers the first counts.
    pub events: &'a [Definition],
}

impl Config<'_> {
    /// No SDEI at all.
    pub const OFF: Self = Self {
        version: None,
        events: &[],
    };
}

impl Default for Config<'_> {
    fn default() -> Self {
        Self {
            version: Some(Version::SPEC),
            events: &[],
        }
    }
}

/// SDEI of one vCPU.
#[derive(Clone, Debug)]
pub struct Pe {
    me: VcpuId,
    version: Option<Version>,
    features: Features,
    is_masked: bool,
    /// What [`Pe::dispatch`] takes next, kept up to date by [`Pe::settle`] so that the question asked on
    /// every guest entry is one load.
    next: Option<Index>,
    /// Event 0 and the platform's private events.
    events: Box<[Event]>,
    /// The interrupted contexts; a critical one lies above a normal one.
    levels: [Level; 2],
}

/// An event as an index into [`Pe::events`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Index(u8);

/// Event 0 is always the first.
const SIGNALLED: Index = Index(0);

/// One private event of this PE.
#[derive(Clone, Debug)]
struct Event {
    definition: Definition,
    handler: Handler,
    is_pending: bool,
}

impl Event {
    fn new(definition: Definition) -> Self {
        Self {
            definition,
            handler: Handler::default(),
            is_pending: false,
        }
    }
}

impl Pe {
    /// The SDEI of vCPU `me` as it is when the vCPU starts: nothing registered, everything masked.
    /// `features` are those of the PE it runs on.
    pub fn new(me: VcpuId, features: Features, config: &Config<'_>) -> Self {
        let signalled = Definition {
            number: EVENT_SIGNALLED,
            priority: Priority::Normal,
        };
        let further = config.events.iter().copied().take(127);
        Self {
            me,
            version: config.version,
            features,
            is_masked: true,
            next: None,
            events: core::iter::once(signalled)
                .chain(further)
                .map(Event::new)
                .collect(),
            levels: Default::default(),
        }
    }

    /// Forgets all registrations, triggers and interrupted contexts, and masks (DEN0054 6.3; PSCI CPU_ON,
    /// CPU_OFF also from within a handler, and reset of the VM).
    pub fn reset(&mut self) {
        for event in &mut self.events {
            event.handler = Handler::default();
            event.is_pending = false;
        }
        for level in &mut self.levels {
            level.running = None;
        }
        self.is_masked = true;
        self.next = None;
    }

    /// Forgets what was last interrupted; no handler runs.
    pub fn forget(&mut self) {
        self.levels = Default::default();
    }

    /// Makes event 0 pending: a sibling has signalled this vCPU. Signals merge until the handler starts
    /// (DEN0054 5.1.16.1). Without a handler the signal is dropped.
    pub fn post_signal(&mut self) {
        self.trigger(SIGNALLED);
    }

    /// Makes a private event of the platform pending, as [`Self::post_signal`] does event 0.
    pub fn post(&mut self, event: u32) {
        if let Some(index) = self.find(event) {
            self.trigger(index);
        }
    }

    /// Whether [`Self::dispatch`] has something to do.
    #[inline]
    pub fn is_dispatchable(&self) -> bool {
        self.next.is_some()
    }

    /// Whether this PE takes no event at present.
    pub fn is_masked(&self) -> bool {
        self.is_masked
    }

    /// The event whose handler runs, the innermost if there are two.
    pub fn running(&self) -> Option<u32> {
        let index = self.innermost()?.running?;
        self.event(index).map(|event| event.definition.number)
    }

    fn trigger(&mut self, index: Index) {
        if let Some(event) = self.event_mut(index)
            && event.handler.is_registered()
        {
            event.is_pending = true;
            self.settle();
        }
    }

    /// Decides anew which event is next. Due after every change of a handler, a trigger, the mask or the
    /// levels.
    fn settle(&mut self) {
        self.next = self.find_next();
    }

    /// Dispatch conditions of DEN0054 6.1: pending, registered, enabled, not running, PE unmasked, and
    /// nothing of its own or a higher priority running. Critical comes before normal.
    fn find_next(&self) -> Option<Index> {
        let [normal, critical] = &self.levels;
        if self.is_masked || critical.running.is_some() {
            return None;
        }
        let mut next = None;
        for (index, event) in (0..).zip(&self.events) {
            if !event.is_pending || !event.handler.is_ready() {
                continue;
            }
            match event.definition.priority {
                Priority::Critical => return Some(Index(index)),
                Priority::Normal if normal.running.is_none() && next.is_none() => {
                    next = Some(Index(index));
                }
                Priority::Normal => {}
            }
        }
        next
    }

    fn find(&self, number: u32) -> Option<Index> {
        let mut numbers = (0..).zip(&self.events);
        let (index, _) = numbers.find(|(_, event)| event.definition.number == number)?;
        Some(Index(index))
    }

    fn event(&self, index: Index) -> Option<&Event> {
        self.events.get(usize::from(index.0))
    }

    fn event_mut(&mut self, index: Index) -> Option<&mut Event> {
        self.events.get_mut(usize::from(index.0))
    }
}
