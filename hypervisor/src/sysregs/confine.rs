//! Registers that bear on what EL1 may do, of features that this pCPU may lack.

use core::arch::asm;

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64PFR0_EL1, Readable};
use hv_core::confine::{Register, registers};

/// Writes those that this pCPU has.
#[inline(never)]
pub fn confine_features() {
    let pfr1 = super::id_register(4, 1);
    let [pfr0, mmfr0, mmfr1] = [
        ID_AA64PFR0_EL1.get(),
        ID_AA64MMFR0_EL1.get(),
        ID_AA64MMFR1_EL1.get(),
    ];
    for (register, value) in registers([pfr0, pfr1, mmfr0, mmfr1]) {
        match register {
            Register::Hfgrtr => write!("S3_4_C1_C1_4", value),
            Register::Hfgwtr => write!("S3_4_C1_C1_5", value),
            Register::Hfgitr => write!("S3_4_C1_C1_6", value),
            Register::Hdfgrtr => write!("S3_4_C3_C1_4", value),
            Register::Hdfgwtr => write!("S3_4_C3_C1_5", value),
            Register::Hafgrtr => write!("S3_4_C3_C1_6", value),
            Register::Hfgrtr2 => write!("S3_4_C3_C1_2", value),
            Register::Hfgwtr2 => write!("S3_4_C3_C1_3", value),
            Register::Hfgitr2 => write!("S3_4_C3_C1_7", value),
            Register::Hdfgrtr2 => write!("S3_4_C3_C1_0", value),
            Register::Hdfgwtr2 => write!("S3_4_C3_C1_1", value),
            Register::Hcrx => write!("S3_4_C1_C2_2", value),
            Register::Vsesr => write!("S3_4_C5_C2_3", value),
            Register::Mpam2 => write!("S3_4_C10_C5_0", value),
        }
    }
}
