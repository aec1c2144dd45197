//! PSCI as a client (DEN0022), by the conduit the devicetree names.

use hv_abi::psci;

use super::call::call;
use super::machine::machine;
use super::sysreg;

/// Calls PSCI function `id`. Results are 32 bits, signed.
pub fn call_psci(id: u32, arguments: &[u64]) -> i32 {
    call(machine().conduit, id, arguments) as i32
}

/// CPU_ON, 64-bit form.
///
/// # Safety
///
/// `entry` must be code that takes `context` for what it is, and needs no stack it does not get.
pub unsafe fn cpu_on(affinity: u64, entry: u64, context: u64) -> i32 {
    call_psci(psci::CPU_ON[1], &[affinity, entry, context])
}

/// AFFINITY_INFO of one CPU.
pub fn affinity_info(affinity: u64) -> i32 {
    call_psci(psci::AFFINITY_INFO[1], &[affinity, 0])
}

/// CPU_OFF. Returns only when it was refused.
pub fn cpu_off() -> i32 {
    call_psci(psci::CPU_OFF, &[])
}

/// SYSTEM_OFF.
pub fn system_off() -> ! {
    call_psci(psci::SYSTEM_OFF, &[]);
    sysreg::park()
}

/// SYSTEM_RESET.
pub fn system_reset() -> ! {
    call_psci(psci::SYSTEM_RESET, &[]);
    sysreg::park()
}
