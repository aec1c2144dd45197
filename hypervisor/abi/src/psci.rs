//! Power State Coordination Interface (DEN0022): function identifiers, status codes, states.

/// `PSCI_VERSION`.
pub const VERSION: u32 = 0x8400_0000;
/// `CPU_SUSPEND`, SMC32 and SMC64.
pub const CPU_SUSPEND: [u32; 2] = [0x8400_0001, 0xC400_0001];
/// `CPU_OFF`.
pub const CPU_OFF: u32 = 0x8400_0002;
/// `CPU_ON`, SMC32 and SMC64.
pub const CPU_ON: [u32; 2] = [0x8400_0003, 0xC400_0003];
/// `AFFINITY_INFO`, SMC32 and SMC64.
pub const AFFINITY_INFO: [u32; 2] = [0x8400_0004, 0xC400_0004];
/// `MIGRATE_INFO_TYPE`.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// `SYSTEM_OFF`.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// `SYSTEM_RESET`.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// `PSCI_FEATURES`.
pub const FEATURES: u32 = 0x8400_000A;
/// `SYSTEM_SUSPEND`, SMC32 and SMC64.
pub const SYSTEM_SUSPEND: [u32; 2] = [0x8400_000E, 0xC400_000E];
/// `SYSTEM_RESET2`, SMC32 and SMC64.
pub const SYSTEM_RESET2: [u32; 2] = [0x8400_0012, 0xC400_0012];
/// `SYSTEM_OFF2`, SMC32 and SMC64.
pub const SYSTEM_OFF2: [u32; 2] = [0x8400_0015, 0xC400_0015];
/// `CLEAN_INV_MEMREGION`, SMC32 and SMC64.
pub const CLEAN_INV_MEMREGION: [u32; 2] = [0x8400_0016, 0xC400_0016];

/// The version this hypervisor implements, as `PSCI_VERSION` returns it: 1.3.
pub const VERSION_1_3: u32 = 0x0001_0003;

/// `HIBERNATE_OFF`: the type of SYSTEM_OFF2, and its bit in what PSCI_FEATURES answers for it.
pub const HIBERNATE_OFF: u32 = 1 << 0;

/// Status codes (DEN0022 5.2.2). Every call returns one, or a non-negative value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// The call succeeded.
    Success = 0,
    /// The function is not implemented.
    NotSupported = -1,
    /// A parameter is invalid.
    InvalidParameters = -2,
    /// The call is not allowed in this state.
    Denied = -3,
    /// The target of CPU_ON is already on.
    AlreadyOn = -4,
    /// A CPU_ON for this target is already in progress.
    OnPending = -5,
    /// The implementation failed.
    InternalFailure = -6,
    /// The target does not exist on this machine.
    NotPresent = -7,
    /// The target is disabled.
    Disabled = -8,
    /// The entry point is not in the caller's memory, or not aligned.
    InvalidAddress = -9,
    /// The operation took too long.
    Timeout = -10,
    /// The caller asks too often.
    RateLimited = -11,
    /// Another operation is in the way.
    Busy = -12,
}

/// What AFFINITY_INFO returns (DEN0022 5.1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum AffinityState {
    /// At least one core in the affinity instance is on.
    On = 0,
    /// All cores are off.
    Off = 1,
    /// A CPU_ON is in progress.
    OnPending = 2,
}

/// What CPU_ON does with a vCPU that is on, but parked inside an SDEI event that it will never complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reclaim {
    /// ALREADY_ON, as DEN0022 has it.
    #[default]
    Off,
    /// It takes the vCPU back and starts it anew.
    Parked,
}
