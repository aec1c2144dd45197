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
/// Vendor-specific hypervisor service: revision (DEN0028 6.2).
pub const VENDOR_HYP_REVISION: u32 = 0x8600_FF03;

/// SMCCC 1.1, as SMCCC_VERSION returns it: the first version that can be asked for.
pub const VERSION_1_1: u32 = 0x1_0001;
/// SMCCC 1.2: arguments and results in x0 to x17, of which those that are neither stay as they were.
pub const VERSION_1_2: u32 = 0x1_0002;

/// Names this hypervisor: abe9376c-c822-42ee-b245-dce8cdbe42f0.
pub const HYPERVISOR_UUID: [u8; 16] = [
    0xab, 0xe9, 0x37, 0x6c, 0xc8, 0x22, 0x42, 0xee, 0xb2, 0x45, 0xdc, 0xe8, 0xcd, 0xbe, 0x42, 0xf0,
];
/// Major and minor revision of its vendor-specific service.
pub const HYPERVISOR_REVISION: [u32; 2] = [1, 0];

/// A UUID as calls return it: byte 0 is the lowest of w0 (DEN0028 5.3).
pub const fn uuid_words(uuid: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = uuid;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u32::from_le_bytes([i, j, k, l]),
        u32::from_le_bytes([m, n, o, p]),
    ]
}

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
