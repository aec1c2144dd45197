//! True Random Number Generator firmware interface (DEN0098): function identifiers and status codes.

/// `TRNG_VERSION`.
pub const VERSION: u32 = 0x8400_0050;
/// `TRNG_FEATURES`.
pub const FEATURES: u32 = 0x8400_0051;
/// `TRNG_GET_UUID`.
pub const GET_UUID: u32 = 0x8400_0052;
/// `TRNG_RND`, SMC32.
pub const RND32: u32 = 0x8400_0053;
/// `TRNG_RND`, SMC64.
pub const RND64: u32 = 0xC400_0053;

/// The version this hypervisor implements, as `TRNG_VERSION` returns it: 1.0.
pub const VERSION_1_0: u32 = 0x0001_0000;

/// Names this implementation of the interface: 90872751-5164-4b04-9452-26e7e56f2b81.
pub const UUID: [u8; 16] = [
    0x90, 0x87, 0x27, 0x51, 0x51, 0x64, 0x4b, 0x04, 0x94, 0x52, 0x26, 0xe7, 0xe5, 0x6f, 0x2b, 0x81,
];

/// Status codes (DEN0098 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// The call succeeded.
    Success = 0,
    /// The function is not implemented.
    NotSupported = -1,
    /// As many bits cannot be asked for.
    InvalidParameters = -2,
    /// There is no entropy now; ask again.
    NoEntropy = -3,
}
