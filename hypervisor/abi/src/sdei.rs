//! Software Delegated Exception Interface (DEN0054): function identifiers, status codes, selectors.

/// First function identifier of the interface's reserved range.
pub const FIRST: u32 = 0xC400_0020;
/// Last function identifier of the interface's reserved range.
pub const LAST: u32 = 0xC400_003F;

/// The event that every implementation has: private, normal priority, software-signalled.
pub const EVENT_SIGNALLED: u32 = 0;

/// Bit 30 of an event number: vendor-defined. Bound interrupts become such events, and no other does.
pub const VENDOR_EVENT: u32 = 1 << 30;
/// The event of private bind slot 0; slot n is n further.
pub const FIRST_BOUND_PRIVATE: u32 = VENDOR_EVENT;
/// The event of shared bind slot 0; slot n is n further.
pub const FIRST_BOUND_SHARED: u32 = VENDOR_EVENT | 0x100;

/// Whose handlers an event may interrupt (DEN0054 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Nobody's.
    Normal,
    /// Those of normal events.
    Critical,
}

/// Whose state an event has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Each PE its own.
    Private,
    /// All PEs one.
    Shared,
}

/// An event that a VM's platform offers besides event 0. Software cannot signal it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its number: not 0, bits 31 and 30 clear.
    pub number: u32,
    /// Its scope.
    pub scope: Scope,
    /// Its priority.
    pub priority: Priority,
}

/// The most events a VM can define.
pub const MAX_EVENTS: usize = 32;

/// The calls of DEN0054 v1.1, in the order of their identifiers (5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// `SDEI_VERSION`
    Version = 0xC400_0020,
    /// `SDEI_EVENT_REGISTER`
    EventRegister = 0xC400_0021,
    /// `SDEI_EVENT_ENABLE`
    EventEnable = 0xC400_0022,
    /// `SDEI_EVENT_DISABLE`
    EventDisable = 0xC400_0023,
    /// `SDEI_EVENT_CONTEXT`
    EventContext = 0xC400_0024,
    /// `SDEI_EVENT_COMPLETE`
    EventComplete = 0xC400_0025,
    /// `SDEI_EVENT_COMPLETE_AND_RESUME`
    EventCompleteAndResume = 0xC400_0026,
    /// `SDEI_EVENT_UNREGISTER`
    EventUnregister = 0xC400_0027,
    /// `SDEI_EVENT_STATUS`
    EventStatus = 0xC400_0028,
    /// `SDEI_EVENT_GET_INFO`
    EventGetInfo = 0xC400_0029,
    /// `SDEI_EVENT_ROUTING_SET`
    EventRoutingSet = 0xC400_002A,
    /// `SDEI_PE_MASK`
    PeMask = 0xC400_002B,
    /// `SDEI_PE_UNMASK`
    PeUnmask = 0xC400_002C,
    /// `SDEI_INTERRUPT_BIND`
    InterruptBind = 0xC400_002D,
    /// `SDEI_INTERRUPT_RELEASE`
    InterruptRelease = 0xC400_002E,
    /// `SDEI_EVENT_SIGNAL`
    EventSignal = 0xC400_002F,
    /// `SDEI_FEATURES`
    Features = 0xC400_0030,
    /// `SDEI_PRIVATE_RESET`
    PrivateReset = 0xC400_0031,
    /// `SDEI_SHARED_RESET`
    SharedReset = 0xC400_0032,
}

impl Call {
    /// Every call, in identifier order.
    pub const ALL: [Self; 19] = [
        Self::Version,
        Self::EventRegister,
        Self::EventEnable,
        Self::EventDisable,
        Self::EventContext,
        Self::EventComplete,
        Self::EventCompleteAndResume,
        Self::EventUnregister,
        Self::EventStatus,
        Self::EventGetInfo,
        Self::EventRoutingSet,
        Self::PeMask,
        Self::PeUnmask,
        Self::InterruptBind,
        Self::InterruptRelease,
        Self::EventSignal,
        Self::Features,
        Self::PrivateReset,
        Self::SharedReset,
    ];

    /// The call with this function identifier, if it is one.
    pub fn from_id(id: u32) -> Option<Self> {
        let index = usize::try_from(id.checked_sub(FIRST)?).ok()?;
        Self::ALL.get(index).copied()
    }
}

/// Status codes (DEN0054 5.1). There is no -4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Status {
    /// The call succeeded.
    Success = 0,
    /// The interface or the function is not implemented.
    NotSupported = -1,
    /// A parameter is invalid, or names no event.
    InvalidParameters = -2,
    /// The event is in the wrong state for the call.
    Denied = -3,
    /// The handler is running; the call takes effect when it completes.
    Pending = -5,
    /// No slot is left.
    OutOfResource = -10,
}

/// `SDEI_EVENT_STATUS` result bits (DEN0054 5.1.9).
pub mod status_bits {
    /// A handler is registered.
    pub const REGISTERED: u64 = 1 << 0;
    /// The handler is enabled.
    pub const ENABLED: u64 = 1 << 1;
    /// The handler is running.
    pub const RUNNING: u64 = 1 << 2;
}

/// `SDEI_EVENT_GET_INFO` selectors (DEN0054 5.1.10).
pub mod info {
    /// 0 private, 1 shared.
    pub const EV_TYPE: u32 = 0;
    /// 0 the event can be signalled by software, 1 it cannot.
    pub const EV_SIGNALED: u32 = 1;
    /// 0 normal, 1 critical.
    pub const EV_PRIORITY: u32 = 2;
    /// 0 RM_ANY, 1 RM_PE; shared events only.
    pub const EV_ROUTING_MODE: u32 = 3;
    /// Affinity of the target PE; shared events routed RM_PE only.
    pub const EV_ROUTING_AFF: u32 = 4;
}

/// `SDEI_FEATURES` selectors (DEN0054 5.1.17).
pub mod feature {
    /// Number of bind slots: `[15:0]` private, `[31:16]` shared.
    pub const BIND_SLOTS: u32 = 0;
    /// Whether EVENT_REGISTER takes entry points relative to VBAR.
    pub const RELATIVE_MODE: u32 = 1;
}

/// `SDEI_EVENT_REGISTER` flags (DEN0054 5.1.2).
pub mod register_flags {
    /// Route a shared event to one PE.
    pub const RM_PE: u64 = 1 << 0;
    /// The entry point is an offset from VBAR.
    pub const RELATIVE: u64 = 1 << 1;
}

/// Routing modes of shared events (DEN0054 5.1.11).
pub mod routing {
    /// Any PE.
    pub const RM_ANY: u64 = 0;
    /// One PE.
    pub const RM_PE: u64 = 1;
}
