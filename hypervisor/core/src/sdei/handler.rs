//! The life of one event's handler (DEN0054 6.1.2): whether the client has registered and enabled it, and
//! whether it runs.
//!
//! The two are separate. A client may disable or unregister an event while its handler runs; it runs on
//! and finds the new state when it completes.

use hv_abi::sdei::{Status, status_bits};

/// What the client wants done when the event fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Where the handler starts.
    pub entry: Entry,
    /// Its second argument, x1.
    pub argument: u64,
}

/// Where a handler starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// At this virtual address.
    Absolute(u64),
    /// At this offset from VBAR_EL1, as it is when the event is dispatched.
    FromVbar(u64),
}

/// The client's side of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consent {
    /// There is no handler.
    #[default]
    Unregistered,
    /// There is one, not to be called yet.
    Registered(Registration),
    /// There is one to be called.
    Enabled(Registration),
}

/// The dispatcher's side of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// The handler does not run.
    #[default]
    Idle,
    /// The handler has been entered and has not completed.
    Running,
}

/// Both sides: exactly the six states that DEN0054 table 13 has. `Unregistered` and `Running` together are
/// its "unregister pending".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handler {
    /// The client's side.
    pub consent: Consent,
    /// The dispatcher's side.
    pub activity: Activity,
}

impl Handler {
    /// SDEI_EVENT_REGISTER: allowed from nothing only, so not before an unregistered handler completes.
    pub fn register(&mut self, registration: Registration) -> Result<(), Status> {
        match (self.consent, self.activity) {
            (Consent::Unregistered, Activity::Idle) => {
                self.consent = Consent::Registered(registration);
                Ok(())
            }
            _ => Err(Status::Denied),
        }
    }

    /// SDEI_EVENT_ENABLE: also while it runs, also again.
    pub fn enable(&mut self) -> Result<(), Status> {
        match self.consent {
            Consent::Unregistered => Err(Status::Denied),
            Consent::Registered(registration) | Consent::Enabled(registration) => {
                self.consent = Consent::Enabled(registration);
                Ok(())
            }
        }
    }

    /// SDEI_EVENT_DISABLE: also while it runs, also again.
    pub fn disable(&mut self) -> Result<(), Status> {
        match self.consent {
            Consent::Unregistered => Err(Status::Denied),
            Consent::Registered(registration) | Consent::Enabled(registration) => {
                self.consent = Consent::Registered(registration);
                Ok(())
            }
        }
    }

    /// SDEI_EVENT_UNREGISTER: at once, but a handler that runs may do so to its end, and the call then says
    /// PENDING.
    pub fn unregister(&mut self) -> Result<(), Status> {
        match (self.consent, self.activity) {
            (Consent::Unregistered, Activity::Idle) => Err(Status::Denied),
            (_, Activity::Running) => {
                self.consent = Consent::Unregistered;
                Err(Status::Pending)
            }
            (Consent::Registered(_) | Consent::Enabled(_), Activity::Idle) => {
                self.consent = Consent::Unregistered;
                Ok(())
            }
        }
    }

    /// Starts the handler, if it is enabled and idle.
    pub fn start(&mut self) -> Option<Registration> {
        match (self.consent, self.activity) {
            (Consent::Enabled(registration), Activity::Idle) => {
                self.activity = Activity::Running;
                Some(registration)
            }
            _ => None,
        }
    }

    /// The handler has completed.
    pub fn finish(&mut self) {
        self.activity = Activity::Idle;
    }

    /// Whether there is a handler; not so once it is unregistered, though it may still run.
    pub fn is_registered(&self) -> bool {
        self.consent != Consent::Unregistered
    }

    /// Whether there is neither a handler nor one that still runs.
    pub fn is_vacant(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the client wants it called.
    pub fn is_enabled(&self) -> bool {
        matches!(self.consent, Consent::Enabled(_))
    }

    /// Whether a trigger would start it.
    pub fn is_ready(&self) -> bool {
        matches!(
            (self.consent, self.activity),
            (Consent::Enabled(_), Activity::Idle)
        )
    }

    /// Whether it has been entered and has not completed.
    pub fn is_running(&self) -> bool {
        self.activity == Activity::Running
    }

    /// SDEI_EVENT_STATUS: the three bits of DEN0054 table 13.
    pub fn status(&self) -> u64 {
        let consent = match self.consent {
            Consent::Unregistered => 0,
            Consent::Registered(_) => status_bits::REGISTERED,
            Consent::Enabled(_) => status_bits::REGISTERED | status_bits::ENABLED,
        };
        match self.activity {
            Activity::Idle => consent,
            Activity::Running => consent | status_bits::RUNNING,
        }
    }
}
