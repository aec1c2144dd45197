//! What a guest may have left in registers of features that this pCPU may lack: zeros from here on.

use core::arch::asm;

use aarch64_cpu::registers::{ID_AA64DFR0_EL1, ID_AA64ISAR1_EL1, ID_AA64PFR0_EL1, Readable};
use hv_core::confine::Leftovers;

macro_rules! zero {
    ($($register:expr),+) => {
        // SAFETY: a register that holds nothing but what a guest has written.
        unsafe { asm!(concat!("msr ", $($register),+, ", xzr"), options(nostack, preserves_flags)) }
    };
}

unsafe extern "C" {
    /// Leaves the registers of debug that are no breakpoint or watchpoint as a cold reset does (`vectors.S`). TPIDR_EL0,
    /// TPIDRRO_EL0 and PAR_EL1 are lost.
    pub fn clear_debug_registers();
}

/// Writes zeros to those that this pCPU has.
#[inline(never)]
pub fn clear_leftovers() {
    let left = Leftovers::of([
        ID_AA64PFR0_EL1.get(),
        ID_AA64DFR0_EL1.get(),
        ID_AA64ISAR1_EL1.get(),
        super::id_register(6, 2),
    ]);
    clear_breakpoints(left.breakpoints);
    clear_watchpoints(left.watchpoints);
    if left.has_keys {
        clear_keys();
    }
    if left.has_deferred_errors {
        zero!("S3_4_C12_C1_1"); // VDISR_EL2
    }
    if left.has_vectors {
        clear_vectors();
    }
}

macro_rules! from_the_last {
    ($count:expr, $control:literal, $value:literal: $($n:literal)*) => {
        $(
            if $count > $n {
                zero!("S2_0_C0_C", $n, "_", $control);
                zero!("S2_0_C0_C", $n, "_", $value);
            }
        )*
    };
}

/// DBGBCR<n>_EL1 and DBGBVR<n>_EL1.
fn clear_breakpoints(count: u32) {
    from_the_last!(count, 5, 4: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// DBGWCR<n>_EL1 and DBGWVR<n>_EL1.
fn clear_watchpoints(count: u32) {
    from_the_last!(count, 7, 6: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// APIAKey, APIBKey, APDAKey, APDBKey and APGAKey, low and high.
fn clear_keys() {
    macro_rules! keys {
        ($($crm:literal $op2:literal),*) => {
            $(zero!("S3_0_C2_C", $crm, "_", $op2);)*
        };
    }
    keys!(1 0, 1 1, 1 2, 1 3, 2 0, 2 1, 2 2, 2 3, 3 0, 3 1);
}

/// V0 to V31, FPCR and FPSR.
fn clear_vectors() {
    // SAFETY: registers that are the guest's alone: the hypervisor is compiled without them.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "movi v\\n\\().2d, #0",
            ".endr",
            "msr S3_3_C4_C4_0, xzr", // FPCR
            "msr S3_3_C4_C4_1, xzr", // FPSR
            ".arch_extension nosimd",
            ".arch_extension nofp",
            options(nostack, nomem, preserves_flags)
        );
    }
}
