//! The floating-point registers of the guest on this pCPU: EL2 is built without them, so they stay what the guest has left.

use core::arch::asm;

/// v0 to v31, FPSR and FPCR.
#[inline(never)]
pub fn vectors() -> ([u128; 32], [u32; 2]) {
    let mut v = [0_u128; 32];
    // SAFETY: CPTR_EL2 does not trap them (`CPTR_GUEST`), they are only read, and the array has 16 bytes for each.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "stp q0, q1, [{to}]",
            "stp q2, q3, [{to}, 0x20]",
            "stp q4, q5, [{to}, 0x40]",
            "stp q6, q7, [{to}, 0x60]",
            "stp q8, q9, [{to}, 0x80]",
            "stp q10, q11, [{to}, 0xa0]",
            "stp q12, q13, [{to}, 0xc0]",
            "stp q14, q15, [{to}, 0xe0]",
            "stp q16, q17, [{to}, 0x100]",
            "stp q18, q19, [{to}, 0x120]",
            "stp q20, q21, [{to}, 0x140]",
            "stp q22, q23, [{to}, 0x160]",
            "stp q24, q25, [{to}, 0x180]",
            "stp q26, q27, [{to}, 0x1a0]",
            "stp q28, q29, [{to}, 0x1c0]",
            "stp q30, q31, [{to}, 0x1e0]",
            ".arch_extension nosimd",
            ".arch_extension nofp",
            to = in(reg) v.as_mut_ptr(),
            options(nostack, preserves_flags)
        );
    }
    // FPSR and FPCR (DDI0487 C5.2.7, C5.2.8), by number for an assembler without them.
    let status = [read!("S3_3_C4_C4_1"), read!("S3_3_C4_C4_0")];
    (v, status.map(|value| value as u32))
}
