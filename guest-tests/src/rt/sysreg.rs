//! System registers, barriers and hints, by intent.

use core::arch::asm;

/// Reads a system register by name.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading this register has no side effect on memory or control flow.
        unsafe { ::core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, nomem)) };
        value
    }};
}

/// Writes a system register by name and waits until it took effect (DDI0487 D24.1.2: ISB).
macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the callers in this room write registers that change neither the translation of
        // Rust's memory nor where Rust executes.
        unsafe { ::core::arch::asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack)) };
    }};
}

pub(crate) use {read, write};

macro_rules! plantable {
    ($($name:literal & $mask:literal),+ $(,)?) => {
        /// Registers of EL1 and EL0 that nothing here reads between [`plant`] and [`harvest`].
        pub const PLANTED: [&str; [$($name),+].len()] = [$($name),+];

        /// Writes a value made from `seed` into each of them, and returns what they then read.
        pub fn plant(seed: u64) -> [u64; PLANTED.len()] {
            let mut value = seed;
            $(
                value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ seed;
                write!($name, value & $mask);
            )+
            harvest()
        }

        /// Reads each of them.
        pub fn harvest() -> [u64; PLANTED.len()] {
            [$(read!($name)),+]
        }
    };
}

plantable!(
    "elr_el1" & 0xffff_ffff_ffff_fffc,
    "spsr_el1" & 0xf000_03c5,
    "esr_el1" & 0xffff_ffff,
    "far_el1" & 0xffff_ffff_ffff_ffff,
    "afsr0_el1" & 0xffff_ffff,
    "afsr1_el1" & 0xffff_ffff,
    "contextidr_el1" & 0xffff_ffff,
    "tpidr_el0" & 0xffff_ffff_ffff_ffff,
    "tpidrro_el0" & 0xffff_ffff_ffff_ffff,
    "sp_el0" & 0xffff_ffff_ffff_fff0,
    "ttbr1_el1" & 0x0000_ffff_ffff_f000,
    "cntkctl_el1" & 0x3,
    "cntv_cval_el0" & 0xffff_ffff_ffff_ffff,
    "cntp_cval_el0" & 0xffff_ffff_ffff_ffff,
    "csselr_el1" & 0x3,
    "mdscr_el1" & 0x1000,
);

/// This CPU's affinity fields, as PSCI and the redistributors name it.
pub fn affinity() -> u64 {
    read!("mpidr_el1") & 0xff_00ff_ffff
}

/// TTBR0_EL1.
pub fn translation_table() -> u64 {
    read!("ttbr0_el1")
}

/// MPIDR_EL1 as it reads.
pub fn mpidr() -> u64 {
    read!("mpidr_el1")
}

/// A field of PSTATE that has its own register, and when a CPU has it.
pub struct Pstate {
    /// Its name.
    pub name: &'static str,
    /// Whether this CPU has it.
    pub exists: fn() -> bool,
    /// Its value, 0 or 1.
    pub get: fn() -> u64,
    /// Sets or clears it.
    pub set: fn(u64),
}

macro_rules! pstate {
    ($name:literal, $id:literal >> $shift:literal, $register:literal, $bit:literal) => {
        Pstate {
            name: $name,
            exists: || read!($id) >> $shift & 0xf != 0,
            get: || read!($register) >> $bit & 1,
            set: |value| write!($register, value << $bit),
        }
    };
}

/// Privileged access never (DDI0487 C5.2, as the others).
pub const PAN: Pstate = pstate!("PAN", "s3_0_c0_c7_1" >> 20, "s3_0_c4_c2_3", 22);
/// User access override.
pub const UAO: Pstate = pstate!("UAO", "s3_0_c0_c7_2" >> 4, "s3_0_c4_c2_4", 23);
/// Data-independent timing.
pub const DIT: Pstate = pstate!("DIT", "s3_0_c0_c4_0" >> 48, "s3_3_c4_c2_5", 24);
/// Speculative store bypass safe.
pub const SSBS: Pstate = pstate!("SSBS", "s3_0_c0_c4_1" >> 4, "s3_3_c4_c2_6", 12);

/// SCTLR_EL1.SPAN: PAN is left alone on exceptions.
pub const SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: what SSBS becomes on exceptions.
pub const DSSBS: u64 = 1 << 44;

/// Runs `body` with the bits of `mask` in SCTLR_EL1 as in `bits`; only SPAN and DSSBS may be in `mask`.
pub fn with_sctlr<T>(mask: u64, bits: u64, body: impl FnOnce() -> T) -> T {
    assert!(
        mask & !(SPAN | DSSBS) == 0,
        "{mask:#x} could break the runtime"
    );
    let before = read!("sctlr_el1");
    write!("sctlr_el1", before & !mask | bits & mask);
    let value = body();
    write!("sctlr_el1", before);
    value
}

/// Where the vectors are.
pub fn vector_base() -> u64 {
    read!("vbar_el1")
}

/// ELR_EL1 and SPSR_EL1.
pub fn exception_return() -> [u64; 2] {
    [read!("elr_el1"), read!("spsr_el1")]
}

/// Runs `body` with CPACR_EL1 trapping neither FP nor SVE nor SME (DDI0487 D24.2: FPEN, ZEN, SMEN),
/// so that what is not there is undefined rather than trapped to EL1.
pub fn with_all_units_open<T>(body: impl FnOnce() -> T) -> T {
    let before = read!("cpacr_el1");
    write!("cpacr_el1", before | 0b11 << 16 | 0b11 << 20 | 0b11 << 24);
    let value = body();
    write!("cpacr_el1", before);
    value
}

/// DAIF as MRS shows it: bits 9 to 6.
pub fn daif() -> u64 {
    read!("daif")
}

/// Masks D, A, I and F.
pub fn mask_all() {
    // SAFETY: masking interrupts breaks no code here; the default `nomem` is left out as a barrier.
    unsafe { asm!("msr daifset, #0xf", options(nostack)) };
}

/// Lets interrupts in; D, A and F stay as they are.
pub fn unmask_interrupts() {
    // SAFETY: the vectors are installed before the first call, and save every register.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
}

/// Runs `body` with interrupts let in, and puts DAIF back.
pub fn with_interrupts<T>(body: impl FnOnce() -> T) -> T {
    let before = daif();
    unmask_interrupts();
    let value = body();
    // SAFETY: puts back what was there before.
    unsafe { asm!("msr daif, {}", in(reg) before, options(nostack)) };
    value
}

/// Whether an SError waits for this CPU (ISR_EL1.A, DDI0487 D24.2).
pub fn is_serror_pending() -> bool {
    read!("isr_el1") & 1 << 8 != 0
}

/// Waits until an interrupt is pending, masked or not.
pub fn wfi() {
    // SAFETY: a hint; DSB first, as DDI0487 B2.3.12 wants earlier stores seen before the wait.
    unsafe { asm!("dsb sy", "wfi", options(nostack)) };
}

/// Waits for an event, or an interrupt that is pending.
pub fn wfe() {
    // SAFETY: a hint.
    unsafe { asm!("wfe", options(nostack)) };
}

/// Whether the CPU has waits with a deadline (FEAT_WFxT: ID_AA64ISAR2_EL1.WFxT).
pub fn has_timed_waits() -> bool {
    read!("s3_0_c0_c6_2") & 0xf == 2
}

/// As [`wfi`], until the virtual count reaches `deadline`. The CPU must have timed waits.
pub fn wfit(deadline: u64) {
    // SAFETY: a hint, WFIT X0.
    unsafe { asm!("dsb sy", ".inst 0xd5031020", in("x0") deadline, options(nostack)) };
}

/// As [`wfe`], until the virtual count reaches `deadline`. The CPU must have timed waits.
pub fn wfet(deadline: u64) {
    // SAFETY: a hint, WFET X0.
    unsafe { asm!(".inst 0xd5031000", in("x0") deadline, options(nostack)) };
}

/// Wakes every CPU that waits for an event, earlier stores first.
pub fn sev() {
    // SAFETY: a barrier and a hint.
    unsafe { asm!("dsb ish", "sev", options(nostack)) };
}

/// One turn of a waiting loop: lets an emulator run the other CPUs.
pub fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nostack)) };
}

/// Completes all earlier stores.
pub fn store_barrier() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack)) };
}

/// Writes the cache line of `address` back to memory, for who reads it with caches off.
pub fn clean_to_memory(address: u64) {
    // SAFETY: maintenance changes no memory content.
    unsafe { asm!("dc cvac, {}", "dsb sy", in(reg) address, options(nostack)) };
}

/// Context synchronisation.
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) };
}

/// The CPU's index, which `cpu` keeps in TPIDR_EL1.
pub fn cpu_index() -> usize {
    read!("tpidr_el1") as usize
}

/// Notes the CPU's index.
pub fn set_cpu_index(index: usize) {
    write!("tpidr_el1", index as u64);
}

/// Whether the CPU has random numbers (FEAT_RNG: ID_AA64ISAR0_EL1.RNDR).
pub fn has_random_numbers() -> bool {
    read!("id_aa64isar0_el1") >> 60 != 0
}

/// Stays here for ever, masked.
pub fn park() -> ! {
    mask_all();
    loop {
        wfi();
    }
}
