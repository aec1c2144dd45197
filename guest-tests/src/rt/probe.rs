//! Accesses that may fault, and what came of them.

use core::arch::asm;
use core::sync::atomic::Ordering;

use super::exception::{Fault, catch};
use super::machine::machine;
use super::mmio::Region;
use super::table::{TABLE, flush_translations};

/// Reads 32 bits at any physical address.
pub fn read32(address: u64) -> Result<u32, Fault> {
    catch(|| {
        let mut value = 0;
        // SAFETY: a load; where it faults, `catch` skips it. Reads of a device are the test's intent.
        unsafe { asm!("ldr {:w}, [{}]", inout(reg) value, in(reg) address, options(nostack)) };
        value
    })
}

/// Reads 64 bits.
pub fn read64(address: u64) -> Result<u64, Fault> {
    catch(|| {
        let mut value = 0;
        // SAFETY: as in `read32`.
        unsafe { asm!("ldr {}, [{}]", inout(reg) value, in(reg) address, options(nostack)) };
        value
    })
}

/// Loads a pair, which no syndrome describes.
pub fn read_pair(address: u64) -> Result<[u64; 2], Fault> {
    catch(|| {
        let mut pair = [0; 2];
        // SAFETY: as in `read32`.
        unsafe {
            asm!("ldp {}, {}, [{}]", inout(reg) pair[0], inout(reg) pair[1], in(reg) address,
                options(nostack));
        }
        pair
    })
}

/// Loads exclusively.
pub fn read_exclusive(address: u64) -> Result<u64, Fault> {
    catch(|| {
        let mut value = 0;
        // SAFETY: as in `read32`; the monitor is left open, which nobody counts on.
        unsafe { asm!("ldxr {}, [{}]", inout(reg) value, in(reg) address, options(nostack)) };
        value
    })
}

/// Writes 32 bits outside of all memory.
pub fn write32(address: u64, value: u32) -> Result<(), Fault> {
    assert!(!is_memory(address), "{address:#x} is memory");
    catch(|| {
        // SAFETY: no memory of Rust's is there, as asserted.
        unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) address, options(nostack)) };
    })
}

/// Writes 64 bits and moves the address on, which no syndrome describes.
pub fn write_and_step(address: u64, value: u64) -> Result<u64, Fault> {
    assert!(!is_memory(address), "{address:#x} is memory");
    catch(|| {
        let mut pointer = address;
        // SAFETY: as in `write32`.
        unsafe { asm!("str {}, [{}], #8", in(reg) value, inout(reg) pointer, options(nostack)) };
        pointer
    })
}

/// Whether stage 1 lets anybody execute at `address`.
pub fn is_executable(address: u64) -> bool {
    const XN: u64 = 1 << 54;
    let entry = TABLE.0.get((address >> 30) as usize);
    entry.is_some_and(|entry| entry.load(Ordering::Relaxed) & XN == 0)
}

/// Executes outside of all memory: there is nothing there, so it faults or the test is lost.
pub fn execute(address: u64) -> Result<(), Fault> {
    assert!(!is_memory(address), "{address:#x} is memory");
    catch(|| {
        // SAFETY: the fetch faults and `catch` returns to the link register.
        unsafe { asm!("blr {}", in(reg) address, clobber_abi("C")) };
    })
}

/// Cleans and invalidates the cache line of an address that is not memory.
pub fn clean_and_invalidate(address: u64) -> Result<(), Fault> {
    assert!(!is_memory(address), "{address:#x} is memory");
    catch(|| {
        // SAFETY: maintenance of a line that holds nothing of ours.
        unsafe { asm!("dc civac, {}", "dsb sy", in(reg) address, options(nostack)) };
    })
}

/// Reads through a translation table at `table`, which is not memory.
pub fn read_through_table(table: u64) -> Result<u32, Fault> {
    assert!(!is_memory(table), "{table:#x} is memory");
    const LAST: usize = 511;
    let entry = &TABLE.0[LAST];
    let before = entry.load(Ordering::SeqCst);
    // A table descriptor (DDI0487 D8.3.1).
    entry.store(table | 0b11, Ordering::SeqCst);
    flush_translations();
    let result = read32((LAST as u64) << 30);
    entry.store(before, Ordering::SeqCst);
    flush_translations();
    result
}

/// Whether Rust, or anybody, could have memory there.
pub fn is_memory(address: u64) -> bool {
    let around = |region: &Region| region.contains(address) || region.contains(address | 0xfff);
    machine().memory.iter().flatten().any(around)
}

/// A system register of a feature, and how to touch it.
pub struct Feature {
    /// The feature and its register.
    pub name: &'static str,
    /// Reads the identification field: 0 when the guest has not got the feature.
    pub field: fn() -> u64,
    /// Reads the register.
    pub read: fn() -> Result<u64, Fault>,
}

/// Reads a system register that may be undefined.
macro_rules! try_read {
    ($($name:literal),+) => {
        catch(|| {
            let mut value: u64 = 0;
            // SAFETY: these registers have no effect on reading; where one is undefined, `catch` skips
            // the instruction. It counts as touching memory, so that it stays inside `catch`.
            unsafe { asm!(concat!("mrs {}, ", $($name),+), inout(reg) value, options(nostack)) };
            value
        })
    };
}

macro_rules! feature {
    ($name:literal, $id:literal, $shift:literal, $register:literal) => {
        Feature {
            name: $name,
            field: || super::sysreg::read!($id) >> $shift & 0xf,
            read: || try_read!($register),
        }
    };
}

/// Features that a guest may not have, each with a register that is then undefined.
pub const FEATURES: [Feature; 23] = [
    feature!("EL2 HCR_EL2", "s3_0_c0_c4_0", 8, "s3_4_c1_c1_0"),
    feature!("EL2 CNTHP_CTL_EL2", "s3_0_c0_c4_0", 8, "s3_4_c14_c2_1"),
    feature!("EL2 ICH_HCR_EL2", "s3_0_c0_c4_0", 8, "s3_4_c12_c11_0"),
    feature!("EL2 VTTBR_EL2", "s3_0_c0_c4_0", 8, "s3_4_c2_c1_0"),
    feature!("EL3 SCR_EL3", "s3_0_c0_c4_0", 12, "s3_6_c1_c1_0"),
    feature!("SVE ZCR_EL1", "s3_0_c0_c4_0", 32, "s3_0_c1_c2_0"),
    feature!("MPAM MPAM1_EL1", "s3_0_c0_c4_0", 40, "s3_0_c10_c5_0"),
    feature!("AMU AMCR_EL0", "s3_0_c0_c4_0", 44, "s3_3_c13_c2_0"),
    feature!("RAS ERRIDR_EL1", "s3_0_c0_c4_0", 28, "s3_0_c5_c3_0"),
    feature!("SME SMCR_EL1", "s3_0_c0_c4_1", 24, "s3_0_c1_c2_6"),
    feature!("SME SVCR", "s3_0_c0_c4_1", 24, "s3_3_c4_c2_2"),
    feature!("SME TPIDR2_EL0", "s3_0_c0_c4_1", 24, "s3_3_c13_c0_5"),
    feature!("MTE GCR_EL1", "s3_0_c0_c4_1", 8, "s3_0_c1_c0_6"),
    feature!("MTE RGSR_EL1", "s3_0_c0_c4_1", 8, "s3_0_c1_c0_5"),
    feature!("MTE TFSR_EL1", "s3_0_c0_c4_1", 8, "s3_0_c5_c6_0"),
    feature!("GCS GCSCR_EL1", "s3_0_c0_c4_1", 44, "s3_0_c2_c5_0"),
    feature!("PMU PMCR_EL0", "s3_0_c0_c5_0", 8, "s3_3_c9_c12_0"),
    feature!("PMU PMCCNTR_EL0", "s3_0_c0_c5_0", 8, "s3_3_c9_c13_0"),
    feature!("PMU PMINTENSET_EL1", "s3_0_c0_c5_0", 8, "s3_0_c9_c14_1"),
    feature!("SPE PMSCR_EL1", "s3_0_c0_c5_0", 32, "s3_0_c9_c9_0"),
    feature!("TRBE TRBLIMITR_EL1", "s3_0_c0_c5_0", 44, "s3_0_c9_c11_0"),
    feature!("BRBE BRBCR_EL1", "s3_0_c0_c5_0", 52, "s2_1_c9_c0_0"),
    feature!("ETE TRCPRGCTLR", "s3_0_c0_c5_0", 4, "s2_1_c0_c1_0"),
];

macro_rules! identification {
    ($($crm:literal),*) => {
        [$(
            || try_read!("s3_0_c0_c", $crm, "_0"),
            || try_read!("s3_0_c0_c", $crm, "_1"),
            || try_read!("s3_0_c0_c", $crm, "_2"),
            || try_read!("s3_0_c0_c", $crm, "_3"),
            || try_read!("s3_0_c0_c", $crm, "_4"),
            || try_read!("s3_0_c0_c", $crm, "_5"),
            || try_read!("s3_0_c0_c", $crm, "_6"),
            || try_read!("s3_0_c0_c", $crm, "_7"),
        )*]
    };
}

/// The identification space: op0 3, op1 0, CRn 0, CRm 1 to 7, op2 0 to 7, in that order.
pub const IDENTIFICATION: [fn() -> Result<u64, Fault>; 56] =
    identification!("1", "2", "3", "4", "5", "6", "7");
