//! Every system register and barrier the hypervisor touches, by what it is for. Nobody else names one.
//!
//! `aarch64-cpu` lets the compiler move memory accesses across a register write, so each write that
//! memory accesses depend on is followed here by its barrier.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::*;
use hv_core::id::Mpidr;
use hv_core::psci::Endian;
use hv_core::time::{Frequency, Instant};
use hv_core::vm::Syndrome;

/// Reads a register that `aarch64-cpu` does not have.
macro_rules! read {
    ($($register:tt)+) => {{
        let value: u64;
        // SAFETY: an MRS of a register that has no side effect when read.
        unsafe { asm!(concat!("mrs {}, ", $($register)+), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

/// Writes a register that `aarch64-cpu` does not have.
macro_rules! write {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: an MSR of a register that holds guest state or traps, never EL2's own addresses.
        unsafe { asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
    }};
}

mod cache;
pub mod clock;
mod confine;
mod el1;
mod features;
pub mod gic;
mod leftovers;
pub mod translation;
mod vectors;

pub use cache::{clean_and_invalidate, clean_for_device_reads, clean_to_poc};
pub use el1::LiveEl1;
pub use features::{has_crc32, has_random_numbers};
pub use translation::{forget_guest, forget_guest_page, guest_physical};
pub use vectors::vectors;

/// HCR_EL2 while a guest runs (DDI0487 D24.2): stage 2 on; IRQ, FIQ and SError to EL2; SMC, ID registers,
/// implementation defined, LOR and RAS registers trapped; no walk of the guest's tables reads a device, where one of
/// ours on its behalf (`translation`) could end in an external abort; set/way operations clean too; pointer
/// authentication left to the guest; EL1 is AArch64.
const HCR_GUEST: u64 = 1
    | 1 << 1 // SWIO
    | 1 << 2 // PTW
    | 1 << 3 // FMO
    | 1 << 4 // IMO
    | 1 << 5 // AMO
    | 1 << 18 // TID3
    | 1 << 19 // TSC
    | 1 << 20 // TIDCP
    | 1 << 31 // RW
    | 1 << 35 // TLOR
    | 1 << 36 // TERR
    | 1 << 40 // APK
    | 1 << 41; // API
/// HCR_EL2.VSE: a virtual SError is pending.
const HCR_VSE: u64 = 1 << 8;
/// CPTR_EL2 without VHE: RES1 bits, and SVE, SME, trace and activity monitors trapped; FP is not.
const CPTR_GUEST: u64 = 0x33ff | 1 << 20 | 1 << 30;
/// MDCR_EL2: PMU (TPM, TPMCR), the OS lock (TDOSA), SPE (TPMS) and trace filter (TTRF) trapped; breakpoints and watchpoints are not.
const MDCR_GUEST: u64 = 1 << 5 | 1 << 6 | 1 << 10 | 1 << 14 | 1 << 19;
/// CNTHCTL_EL2: EL1 owns the physical counter and timer.
const CNTHCTL_GUEST: u64 = 0b11;
/// SCTLR_EL1 out of reset, as Neoverse N1 and QEMU have it: MMU and caches off, stack pointers checked, EL0 may use WFI, WFE
/// and AArch32's barriers.
const SCTLR_EL1_RESET: u64 = 0x30c5_0838;
/// SCTLR_EL1.EE: data at EL1 is big endian.
const SCTLR_EL1_EE: u64 = 1 << 25;

/// This pCPU's affinity.
pub fn mpidr() -> Mpidr {
    Mpidr::new(MPIDR_EL1.get())
}

/// The rate of the system counter.
pub fn counter_frequency() -> Frequency {
    Frequency(CNTFRQ_EL0.get())
}

/// The time. Not ordered with anything: a stamp, not a synchronisation.
#[inline]
pub fn now() -> Instant {
    Instant(CNTPCT_EL0.get())
}

/// Has the EL2 physical timer interrupt at `at`, or not at all.
pub fn set_alarm(at: Option<Instant>) {
    match at {
        Some(at) => {
            write!("CNTHP_CVAL_EL2", at.0);
            CNTHP_CTL_EL2.set(1); // ENABLE, not IMASK
        }
        None => CNTHP_CTL_EL2.set(0),
    }
    // A timer that is off must have taken its line down before its interrupt is deactivated.
    barrier::isb(barrier::SY);
}

/// ESR_EL2.
#[inline]
pub fn esr() -> u64 {
    ESR_EL2.get()
}

/// What the last exception to EL2 says of itself.
#[inline]
pub fn syndrome() -> Syndrome {
    Syndrome {
        esr: ESR_EL2.get(),
        far: FAR_EL2.get(),
        hpfar: HPFAR_EL2.get(),
    }
}

/// PSTATE of our own code in SPSR format: EL2h, all masked.
pub const EL2H_MASKED: u64 = 0x3c9;

/// ELR_EL2, SPSR_EL2, ESR_EL2 and FAR_EL2.
pub fn el2_syndromes() -> [u64; 4] {
    [ELR_EL2.get(), SPSR_EL2.get(), ESR_EL2.get(), FAR_EL2.get()]
}

/// What a report shows of the guest's system registers on this pCPU; `percpu::Context` names them.
pub fn el1_state() -> [u64; 10] {
    [
        SP_EL0.get(),
        SP_EL1.get(),
        ELR_EL1.get(),
        read!("spsr_el1"),
        ESR_EL1.get(),
        FAR_EL1.get(),
        VBAR_EL1.get(),
        SCTLR_EL1.get(),
        TTBR0_EL1.get(),
        TTBR1_EL1.get(),
    ]
}

/// The affinity fields of the MPIDR_EL1 that the guest reads on this pCPU.
pub fn guest_affinity() -> u64 {
    Mpidr::new(VMPIDR_EL2.get()).bits()
}

/// What else of them a walk of the guest's tables and its threads are found by: TCR_EL1, TPIDR_EL0, TPIDRRO_EL0, TPIDR_EL1.
pub fn el1_pointers() -> [u64; 4] {
    [
        translation::control(),
        TPIDR_EL0.get(),
        TPIDRRO_EL0.get(),
        TPIDR_EL1.get(),
    ]
}

/// The address of this pCPU's block; 0 before it has one.
#[inline]
pub fn percpu_address() -> u64 {
    TPIDR_EL2.get()
}

/// Sets the address of this pCPU's block.
pub fn set_percpu_address(address: u64) {
    TPIDR_EL2.set(address);
    barrier::isb(barrier::SY);
}

/// Frame pointer and link register of the caller, for a backtrace.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let value;
    // SAFETY: reads a general register.
    unsafe { asm!("mov {}, x29", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sleeps until an interrupt is pending, masked or not.
#[inline]
pub fn wait_for_interrupt() {
    // What was written before must be seen by whoever wakes us (DDI0487 D1.6.1).
    barrier::dsb(barrier::SY);
    aarch64_cpu::asm::wfi();
}

/// Lets others go first, in a loop that polls: emulators that run one CPU at a time act on it.
#[inline]
pub fn yield_pcpu() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Wakes whoever waits for an event. What was written before has been made visible.
pub fn send_event() {
    aarch64_cpu::asm::sev();
}

/// Makes earlier stores visible before a doorbell is rung: a store to memory and an SGI are ordered by
/// DSB only (IHI0069 12.1.6).
#[inline]
pub fn order_before_doorbell() {
    barrier::dsb(barrier::ISHST);
}

/// Makes earlier stores visible before a later store to a device that reads memory (DDI0487 B2.3.11, DMB).
#[inline]
pub fn order_before_device_write() {
    barrier::dmb(barrier::OSHST);
}

/// Has later loads happen after an earlier load from a device (DDI0487 B2.3.11, DMB), which tells of what stands in memory.
#[inline]
pub fn order_after_device_read() {
    barrier::dmb(barrier::OSHLD);
}

/// Waits until what was written to a device has got there.
#[inline]
pub fn complete_device_writes() {
    barrier::dsb(barrier::SY);
}

/// Makes stores to translation tables visible to the walker of this pCPU (DDI0487 D8.17).
pub fn publish_tables() {
    barrier::dsb(barrier::ISHST);
    barrier::isb(barrier::SY);
}

/// How many bits of physical address this pCPU has, at most 48 (ID_AA64MMFR0_EL1.PARange).
pub fn physical_address_bits() -> u32 {
    match ID_AA64MMFR0_EL1.get() & 0xf {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

/// Where a Cortex-A72 has its private peripherals (CBAR_EL1, Arm 100095 4.3.69); 0 on any other pCPU.
pub fn peripherals() -> u64 {
    if MIDR_EL1.get() >> 4 & 0xfff == 0xd08 {
        read!("S3_1_C15_C3_0")
    } else {
        0
    }
}

/// Sets the stage 2 tables of the guest that is to run: `root` (pa of level 1), VMID, bits of IPA.
pub fn set_stage2(root: u64, vmid: u8, ipa_bits: u32) {
    // PS as the hardware has it, 4 KiB granule, inner shareable write-back walks, start at level 1.
    let range = (ID_AA64MMFR0_EL1.get() & 0xf).min(5);
    VTCR_EL2.set(
        1 << 31 | range << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | u64::from(64 - ipa_bits),
    );
    VTTBR_EL2.set(root | u64::from(vmid) << 48);
    barrier::isb(barrier::SY);
    // SAFETY: forgetting translations of this VMID is always allowed.
    unsafe { asm!("tlbi vmalls12e1", options(nostack, preserves_flags)) };
    barrier::dsb(barrier::NSH);
    barrier::isb(barrier::SY);
}

/// Sets what EL1 may and may not do on this pCPU. Once, before the first guest entry.
pub fn confine_el1(mpidr: Mpidr) {
    HCR_EL2.set(HCR_GUEST);
    CPTR_EL2.set(CPTR_GUEST);
    let debug = read!("id_aa64dfr0_el1");
    // Without a PMU, HPMN must stay 0; with one, all counters belong to EL1 (and are trapped).
    let pmu = debug >> 8 & 0xf;
    let counters = if pmu != 0 && pmu != 0xf {
        read!("pmcr_el0") >> 11 & 0x1f
    } else {
        0
    };
    MDCR_EL2.set(MDCR_GUEST | counters);
    // Nobody can have this pCPU stop in Debug state while the lock is open (`hv_core::os_lock`).
    write!("oslar_el1", 0);
    write!("hstr_el2", 0);
    CNTHCTL_EL2.set(CNTHCTL_GUEST);
    CNTVOFF_EL2.set(0);
    CNTHP_CTL_EL2.set(0);
    write!("vpidr_el2", MIDR_EL1.get());
    // Bit 31 is RES1; U and MT as the hardware has them (DDI0487 D24.2, MPIDR_EL1).
    VMPIDR_EL2.set(MPIDR_EL1.get() & !Mpidr::AFFINITY | mpidr.bits() | 1 << 31);
    confine::confine_features();
    barrier::isb(barrier::SY);
}

/// A virtual SError is pending for the guest, whose ESR_EL1 will say `syndrome` (VSESR_EL2) where the CPU lets us choose, with
/// FEAT_RAS; or none is.
pub fn set_virtual_serror(syndrome: Option<u64>) {
    let pending = match syndrome {
        Some(syndrome) => {
            if features::has_ras() {
                write!("S3_4_C5_C2_3", syndrome);
            }
            HCR_VSE
        }
        None => 0,
    };
    HCR_EL2.set(HCR_GUEST | pending);
    barrier::isb(barrier::SY);
}

/// Whether the guest has not taken its virtual SError yet: the CPU clears HCR_EL2.VSE when it does.
pub fn is_serror_pending() -> bool {
    HCR_EL2.get() & HCR_VSE != 0
}

/// Puts EL1 and EL0 into the state a core has out of reset, and forgets the guest's translations on
/// this pCPU.
pub fn reset_el1() {
    CNTV_CTL_EL0.set(0);
    CNTP_CTL_EL0.set(0);
    CNTV_CVAL_EL0.set(0);
    CNTP_CVAL_EL0.set(0);
    reset_core();
}

/// The same but for the timers, which run on while a core has no power.
pub fn reset_core() {
    // SAFETY: they hold nothing but what a guest has written, and what is lost is cleared below.
    unsafe { leftovers::clear_debug_registers() };
    SCTLR_EL1.set(SCTLR_EL1_RESET);
    CPACR_EL1.set(0);
    TCR_EL1.set(0);
    TTBR0_EL1.set(0);
    TTBR1_EL1.set(0);
    MAIR_EL1.set(0);
    write!("amair_el1", 0);
    VBAR_EL1.set(0);
    ESR_EL1.set(0);
    FAR_EL1.set(0);
    write!("afsr0_el1", 0);
    write!("afsr1_el1", 0);
    write!("contextidr_el1", 0);
    PAR_EL1.set(0);
    ELR_EL1.set(0);
    write!("spsr_el1", 0);
    SP_EL0.set(0);
    SP_EL1.set(0);
    TPIDR_EL0.set(0);
    write!("tpidrro_el0", 0);
    TPIDR_EL1.set(0);
    write!("csselr_el1", 0);
    write!("cntkctl_el1", 0);
    write!("mdscr_el1", 0);
    write!("mdccint_el1", 0);
    write!("actlr_el1", 0); // RES0 on CPUs of Arm's
    leftovers::clear_leftovers();
    set_virtual_serror(None);
    // SAFETY: forgetting translations of this VMID is always allowed.
    unsafe { asm!("tlbi vmalle1", options(nostack, preserves_flags)) };
    // SAFETY: invalidating instruction caches changes no value.
    unsafe { asm!("ic iallu", options(nostack, preserves_flags)) };
    barrier::dsb(barrier::NSH);
    barrier::isb(barrier::SY);
}

/// A number from this pCPU's generator, seeded anew for it (DDI0487 D24.2, RNDRRS); none if that took too long.
/// There is one only where [`has_random_numbers`].
pub fn random_number() -> Option<u64> {
    let (value, has_failed): (u64, u64);
    // SAFETY: reads a register that is there, and the flags it sets: Z if there is no number.
    unsafe {
        asm!("mrs {value}, S3_3_C2_C4_1", "cset {has_failed}, eq",
            value = out(reg) value, has_failed = out(reg) has_failed, options(nomem, nostack));
    }
    (has_failed == 0).then_some(value)
}

/// The byte order of EL1's data.
pub fn endian() -> Endian {
    if SCTLR_EL1.get() & SCTLR_EL1_EE == 0 {
        Endian::Little
    } else {
        Endian::Big
    }
}

/// Sets the byte order of EL1's data, of a core just reset.
pub fn set_endian(endian: Endian) {
    let bit = match endian {
        Endian::Little => 0,
        Endian::Big => SCTLR_EL1_EE,
    };
    SCTLR_EL1.set(SCTLR_EL1_RESET | bit);
    barrier::isb(barrier::SY);
}

/// The identification register (op0 3, op1 0, CRn 0) with this CRm and op2.
pub fn id_register(crm: u32, op2: u32) -> u64 {
    macro_rules! table {
        ($($crm:literal: $($op2:literal)*;)*) => {
            match (crm, op2) {
                $($(($crm, $op2) => read!(concat!("S3_0_C0_C", $crm, "_", $op2)),)*)*
                _ => 0,
            }
        };
    }
    table! {
        1: 0 1 2 3 4 5 6 7;
        2: 0 1 2 3 4 5 6 7;
        3: 0 1 2 3 4 5 6 7;
        4: 0 1 2 3 4 5 6 7;
        5: 0 1 2 3 4 5 6 7;
        6: 0 1 2 3 4 5 6 7;
        7: 0 1 2 3 4 5 6 7;
    }
}

/// Sets SP_EL0 or SP_EL1 of the guest on this pCPU.
pub fn set_guest_sp(is_el1: bool, value: u64) {
    if is_el1 {
        SP_EL1.set(value);
    } else {
        SP_EL0.set(value);
    }
}

/// SMC to EL3 (DEN0028 2.7). Returns x0 to x3.
///
/// # Safety
///
/// There is firmware at EL3 that answers `function`, and the call does to this machine what the
/// caller intends.
pub unsafe fn smc(function: u32, args: [u64; 5]) -> [u64; 4] {
    let mut result = [0; 4];
    // SAFETY: the caller answers for the call; SMCCC 1.0 preserves x18 to x30, the rest is clobbered.
    unsafe {
        asm!("smc #0", inout("x0") u64::from(function) => result[0],
            inout("x1") args[0] => result[1], inout("x2") args[1] => result[2],
            inout("x3") args[2] => result[3],
            inout("x4") args[3] => _, inout("x5") args[4] => _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
            out("x16") _, out("x17") _, options(nostack));
    }
    result
}
