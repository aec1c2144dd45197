//! What this pCPU may lack.

use aarch64_cpu::registers::{ID_AA64ISAR0_EL1, ID_AA64PFR0_EL1, Readable};

/// Whether this pCPU has instructions for CRC-32 (FEAT_CRC32: ID_AA64ISAR0_EL1.CRC32).
pub fn has_crc32() -> bool {
    ID_AA64ISAR0_EL1.get() >> 16 & 0xf != 0
}

/// Whether this pCPU has random numbers (FEAT_RNG: ID_AA64ISAR0_EL1.RNDR).
pub fn has_random_numbers() -> bool {
    ID_AA64ISAR0_EL1.get() >> 60 != 0
}

/// Whether a virtual SError has a syndrome of our choice (FEAT_RAS: ID_AA64PFR0_EL1.RAS).
pub fn has_ras() -> bool {
    ID_AA64PFR0_EL1.get() >> 28 & 0xf != 0
}
