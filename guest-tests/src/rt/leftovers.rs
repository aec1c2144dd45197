//! Registers that a CPU may leave something in when it goes off.

use core::arch::asm;

use super::exception::catch;
use super::sysreg::{read, write};

macro_rules! leftovers {
    ($($name:literal if $exists:expr, $mask:expr;)+) => {
        /// Their names.
        pub const NAMES: [&str; [$($name),+].len()] = [$($name),+];

        /// Writes something into each that this CPU has.
        pub fn plant() {
            $(if $exists { write!($name, 0x5a5a_f0f0_a5a5_3c3c & $mask); })+
        }

        /// What each holds; 0 for those that this CPU has not.
        pub fn harvest() -> [u64; NAMES.len()] {
            [$(if $exists { read!($name) } else { 0 }),+]
        }
    };
}

/// Pointer authentication (ID_AA64ISAR1_EL1: APA, API, GPA, GPI; ID_AA64ISAR2_EL1: APA3).
fn has_keys() -> bool {
    read!("id_aa64isar1_el1") & (0xff << 24 | 0xff << 4) != 0
        || read!("s3_0_c0_c6_2") >> 12 & 0xf != 0
}

/// How many breakpoints or watchpoints, by the field of ID_AA64DFR0_EL1.
fn pairs(shift: u32) -> u64 {
    (read!("id_aa64dfr0_el1") >> shift & 0xf) + 1
}

// Breakpoints and watchpoints stay disabled: bit 0 of their control registers is not written.
leftovers! {
    "dbgbvr0_el1" if true, 0xffff_ffff_fffc;
    "dbgbcr0_el1" if true, 0x1e6;
    "dbgbvr1_el1" if pairs(12) > 1, 0xffff_ffff_fffc;
    "dbgbcr1_el1" if pairs(12) > 1, 0x1e6;
    "dbgbvr5_el1" if pairs(12) > 5, 0xffff_ffff_fffc;
    "dbgwvr0_el1" if true, 0xffff_ffff_fffc;
    "dbgwcr0_el1" if true, 0x1ffe;
    "dbgwvr3_el1" if pairs(20) > 3, 0xffff_ffff_fffc;
    "dbgwcr3_el1" if pairs(20) > 3, 0x1ffe;
    "mdscr_el1" if true, 0x1000;
    "cntv_cval_el0" if true, !0;
    "cntp_cval_el0" if true, !0;
    "s3_3_c4_c4_0" if true, 0x00c0_0000;
    "s3_3_c4_c4_1" if true, 0x9f; // FPSR, above it FPCR
    "s3_0_c2_c1_0" if has_keys(), !0; // APIAKey
    "s3_0_c2_c1_3" if has_keys(), !0; // APIBKey
    "s3_0_c2_c2_0" if has_keys(), !0; // APDAKey
    "s3_0_c2_c2_3" if has_keys(), !0; // APDBKey
    "s3_0_c2_c3_1" if has_keys(), !0; // APGAKey
}

/// Unlocks the OS lock, sets claim tags and, where it is there, the double lock.
pub fn plant_debug() {
    write!("oslar_el1", 0);
    write!("osdlr_el1", 1);
    let _ = catch(|| write!("s2_0_c7_c8_6", 0x5a)); // DBGCLAIMSET_EL1
}

/// Whether the OS lock is not held, OSDLR_EL1, and the claim tags: 0 if nothing is left.
pub fn harvest_debug() -> [u64; 3] {
    const OSLK: u64 = 1 << 1;
    let is_unlocked = u64::from(read!("oslsr_el1") & OSLK == 0);
    // DBGCLAIMCLR_EL1, which QEMU has from version 8 on.
    let tags = catch(|| read!("s2_0_c7_c9_6")).unwrap_or(0);
    [is_unlocked, read!("osdlr_el1"), tags]
}

/// Writes something into every bit of V0 to V31.
pub fn plant_vectors() {
    // SAFETY: Rust is compiled without these registers.
    unsafe {
        asm!(
            ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "movi v\\n\\().16b, #0xa5",
            ".endr",
            options(nostack, nomem, preserves_flags)
        );
    }
}

/// All bits that are set in any of them, in either half.
pub fn harvest_vectors() -> u64 {
    let bits: u64;
    // SAFETY: as above.
    unsafe {
        asm!(
            ".arch_extension simd",
            "mov {bits}, xzr",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "mov {half}, v\\n\\().d[0]",
            "orr {bits}, {bits}, {half}",
            "mov {half}, v\\n\\().d[1]",
            "orr {bits}, {bits}, {half}",
            ".endr",
            bits = out(reg) bits, half = out(reg) _,
            options(nostack, nomem, preserves_flags)
        );
    }
    bits
}
