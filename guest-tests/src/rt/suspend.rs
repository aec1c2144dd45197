//! SYSTEM_SUSPEND (DEN0022) as a function that returns: the boot CPU sleeps, loses all it has, and comes back.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use super::call::Conduit;
use super::machine::machine;
use super::{exception, gic, sysreg};

/// What survives: registers the compiler keeps across calls, and how the CPU came up.
#[repr(C)]
struct Record {
    /// x19 to x30 and SP.
    callee: [AtomicU64; 13],
    sctlr: AtomicU64,
    daif: AtomicU64,
    current_el: AtomicU64,
    spsel: AtomicU64,
}

static RECORD: Record = Record {
    callee: [const { AtomicU64::new(0) }; 13],
    sctlr: AtomicU64::new(0),
    daif: AtomicU64::new(0),
    current_el: AtomicU64::new(0),
    spsel: AtomicU64::new(0),
};

global_asm!(
    include_str!("suspend.S"),
    callee = const offset_of!(Record, callee),
    sctlr = const offset_of!(Record, sctlr),
    daif = const offset_of!(Record, daif),
    current_el = const offset_of!(Record, current_el),
    spsel = const offset_of!(Record, spsel),
);

unsafe extern "C" {
    fn suspend_system(record: *const Record, function: u64, by_smc: u64) -> u64;
}

/// How the CPU was at the first instruction after its sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awake {
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// DAIF as MRS shows it.
    pub daif: u64,
    /// CurrentEL.
    pub current_el: u64,
    /// SPSel.
    pub spsel: u64,
}

/// Suspends the system by `function`, a form of SYSTEM_SUSPEND, and returns once it is awake; the status if
/// it was refused. Only one CPU may call it at a time. Interrupts are masked afterwards.
pub fn suspend(function: u32) -> Result<Awake, i32> {
    const AWAKE: i32 = 1;
    let me = sysreg::cpu_index();
    let by_smc = u64::from(machine().conduit == Conduit::Smc);
    // SAFETY: the routine keeps what the ABI demands, across the sleep too: it comes back on the same stack,
    // with the same translations. What else was lost is put back below, before anything depends on it.
    let status = unsafe { suspend_system(&raw const RECORD, u64::from(function), by_smc) } as i32;
    if status != AWAKE {
        return Err(status);
    }
    exception::install_vectors();
    sysreg::set_cpu_index(me);
    gic::start_interface();
    Ok(Awake {
        sctlr: RECORD.sctlr.load(Ordering::Acquire),
        daif: RECORD.daif.load(Ordering::Acquire),
        current_el: RECORD.current_el.load(Ordering::Acquire),
        spsel: RECORD.spsel.load(Ordering::Acquire),
    })
}
