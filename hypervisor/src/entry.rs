//! The ways in: where the loader, this image's own copy and a woken pCPU enter, and the assembly that turns the MMU
//! on, off and over. The steps are in `boot.S`; this file holds its constants. It stands above all other modules,
//! since it names the functions of `start.rs` that the assembly goes on to; what `start.rs` calls of it is in
//! `boot.rs`.

use core::arch::global_asm;
use core::mem::offset_of;

use crate::boot::{BLOCK, BOOT_ARGS, BOOT_STACK, BOOT_STACK_SIZE, BootArgs, PAGE, SPARE_TAKEN, XN};
use crate::{memory, start};

const READ_ONLY: u64 = 1 << 7;

/// Attribute 0 normal write-back, attribute 1 Device-nGnRE (DDI0487 D24.2, MAIR_EL2).
const MAIR: u64 = 0x04ff;
/// 48-bit addresses, 4 KiB granule, write-back inner-shareable walks, RES1 bits 31 and 23
/// (DDI0487 D24.2, TCR_EL2 without VHE); PS is added at run time.
const TCR: u64 = 1 << 31 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 16;
/// RES1 bits of SCTLR_EL2 without VHE (DDI0487 D24.2).
const SCTLR_OFF: u64 = 0x30c5_0830;
/// MMU, data cache, SP alignment check, instruction cache, writable implies never executable.
const SCTLR_ON: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12 | 1 << 19;
/// RW: EL1 is AArch64. E2H and TGE clear: EL2 has one address range of its own.
const HCR_BOOT: u64 = 1 << 31;

/// RW, HCE, the RES1 bits 5 and 4, NS: below EL3 all is non-secure AArch64 (DDI0487 D24.2, SCR_EL3).
const SCR_BOOT: u64 = 1 << 10 | 1 << 8 | 0b11 << 4 | 1;
/// Everything masked, on the level's own stack (DDI0487 C5.2.20, SPSR_EL3).
const SPSR_EL2H: u64 = 0x3c9;
const SPSR_EL1H: u64 = 0x3c5;

global_asm!(
    include_str!("boot.S"),
    PAGE_TEXT = const PAGE | READ_ONLY,
    PAGE_RODATA = const PAGE | READ_ONLY | XN,
    PAGE_DATA = const PAGE | XN,
    BLOCK_TEXT = const BLOCK | READ_ONLY,
    BLOCK_RODATA = const BLOCK | READ_ONLY | XN,
    BLOCK_DATA = const BLOCK | XN,
    SPARE_TAKEN = const SPARE_TAKEN,
    MAIR = const MAIR,
    TCR = const TCR,
    SCTLR_OFF = const SCTLR_OFF,
    SCTLR_ON = const SCTLR_ON,
    HCR_BOOT = const HCR_BOOT,
    SCR_BOOT = const SCR_BOOT,
    SPSR_EL2H = const SPSR_EL2H,
    SPSR_EL1H = const SPSR_EL1H,
    BOOT_STACK = sym BOOT_STACK,
    BOOT_STACK_SIZE = const BOOT_STACK_SIZE,
    BOOT_ARGS = sym BOOT_ARGS,
    ARGS_TTBR = const offset_of!(BootArgs, ttbr),
    ARGS_STACKS = const offset_of!(BootArgs, stacks),
    ARGS_INDEX = const offset_of!(BootArgs, index),
    STACK_SHIFT = const memory::STACK_SHIFT,
    wrong_el = sym start::wrong_el,
    relocate = sym start::relocate,
    init = sym start::init,
    secondary = sym start::secondary,
);
