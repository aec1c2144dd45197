//! Where the boot CPU begins: start.S, the runtime's parts in their order, then the image's main function.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{console, cpu, exception, gic, machine, psci, registry, table};

/// T0SZ 25 (39 bits), 4 KiB granule, inner shareable write-back walks, no TTBR1 walks, IPS 40 bits
/// (DDI0487 D24.2 TCR_EL1).
pub(super) const TCR_EL1: u64 = 25 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12 | 1 << 23 | 0b010 << 32;

/// RES1 bits of ARMv8.0, plus M, C, SA and I (DDI0487 D24.2 SCTLR_EL1).
pub(super) const SCTLR_EL1: u64 = 0x30d0_0800 | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 12;

global_asm!(
    include_str!("start.S"),
    stacks = sym cpu::STACKS,
    stack_bytes = const cpu::STACK_BYTES,
    main = sym enter,
    secondary = sym cpu::enter_secondary,
    table = sym table::TABLE,
    tcr = const TCR_EL1,
    sctlr = const SCTLR_EL1,
    rec_first = const offset_of!(cpu::BootRecord, first_tick),
    rec_sctlr = const offset_of!(cpu::BootRecord, sctlr),
    rec_daif = const offset_of!(cpu::BootRecord, daif),
    rec_el = const offset_of!(cpu::BootRecord, current_el),
    rec_spsel = const offset_of!(cpu::BootRecord, spsel),
    rec_stack = const offset_of!(cpu::BootRecord, stack_top),
    probe = sym cpu::CONTEXT_PROBE,
    probe_context = const offset_of!(cpu::ContextProbe, context),
    probe_pc = const offset_of!(cpu::ContextProbe, pc),
    probe_done = const offset_of!(cpu::ContextProbe, done),
    probe_smc = const offset_of!(cpu::ContextProbe, by_smc),
    cpu_off = const hv_abi::psci::CPU_OFF,
);

/// CNTPCT_EL0 at the first instruction of the boot CPU.
static FIRST_TICK: AtomicU64 = AtomicU64::new(0);

/// The physical counter, which the machine's reset sets to 0, at the guest's first instruction.
pub fn first_tick() -> u64 {
    FIRST_TICK.load(Ordering::Relaxed)
}

/// First Rust of the boot CPU: MMU on, stack good, vectors not yet.
extern "C" fn enter(dtb: u64, current_el: u64, first_tick: u64) -> ! {
    FIRST_TICK.store(first_tick, Ordering::Relaxed);
    exception::install_vectors();
    machine::discover(dtb);
    console::open(machine::machine().uart);
    if current_el != 0b01 << 2 {
        console::say(format_args!(
            "# started at EL{}, not at EL1",
            current_el >> 2
        ));
    }
    cpu::adopt_boot_cpu();
    gic::start_distributor();
    gic::start_cpu();
    registry::run_main();
    psci::system_off()
}
