//! SMC Calling Convention (DEN0028): the shape of a function identifier and the general service calls.

/// What every unknown or refused function answers, sign-extended to the width of x0 (DEN0028 5.2).
pub const NOT_SUPPORTED: i64 = -1;
/// A parameter of a discovery call is outside its defined range (DEN0028 7).
pub const INVALID_PARAMETER: i64 = -3;
/// The call succeeded.
pub const SUCCESS: i64 = 0;

/// `SMCCC_VERSION` (DEN0028 7.2).
pub const VERSION: u32 = 0x8000_0000;
/// `SMCCC_ARCH_FEATURES` (DEN0028 7.3).
pub const ARCH_FEATURES: u32 = 0x8000_0001;
/// `SMCCC_ARCH_SOC_ID` (DEN0028 7.4).
pub const ARCH_SOC_ID: u32 = 0x8000_0002;
/// `SMCCC_ARCH_WORKAROUND_1`: branch predictor hardening (DEN0028 7.5).
pub const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
/// `SMCCC_ARCH_WORKAROUND_2`: speculative store bypass control (DEN0028 7.6).
pub const ARCH_WORKAROUND_2: u32 = 0x8000_7FFF;
/// `SMCCC_ARCH_WORKAROUND_3`: branch history hardening (DEN0028 7.7).
pub const ARCH_WORKAROUND_3: u32 = 0x8000_3FFF;
/// Vendor-specific hypervisor service: call UID (DEN0028 6.2).
pub const VENDOR_HYP_UID: u32 = 0x8600_FF01;

/// A function identifier as found in W0 (DEN0028 2.5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FunctionId(pub u32);

impl FunctionId {
    /// Whether this is a fast (atomic) call; the others yield, and only a trusted OS has those.
    pub const fn is_fast(self) -> bool {
        self.0 & 1 << 31 != 0
    }

    /// Whether arguments are 64 bits wide.
    pub const fn is_64bit(self) -> bool {
        self.0 & 1 << 30 != 0
    }

    /// The owning entity: 0 architecture, 4 standard secure service, 6 vendor hypervisor, ...
    pub const fn owner(self) -> u32 {
        self.0 >> 24 & 0x3f
    }

    /// The function within its owner.
    pub const fn number(self) -> u32 {
        self.0 & 0xffff
    }
}

impl core::fmt::Debug for FunctionId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let kind = if self.is_fast() { "fast" } else { "yielding" };
        let width = if self.is_64bit() { 64 } else { 32 };
        write!(
            f,
            "{:#010x} ({kind} SMC{width}, owner {}, function {:#x})",
            self.0,
            self.owner(),
            self.number()
        )
    }
}
