//! The only file that calls EL3: PSCI, and only where the devicetree says that there is one.

use hv_abi::psci;
use platform::Conduit;
use spin::Once;

use crate::sysregs;

/// How PSCI is called, if there is one.
static PSCI: Once<Option<Conduit>> = Once::new();

/// Remembers how PSCI is called.
pub fn set_psci(conduit: Option<Conduit>) {
    PSCI.call_once(|| conduit);
}

/// A PSCI call; NOT_SUPPORTED where there is no PSCI below us.
fn call(function: u32, args: [u64; 3]) -> i32 {
    match PSCI.get() {
        // SAFETY: the devicetree of this machine says that PSCI answers SMCs; the callers below make only
        // calls that start or stop what is ours.
        Some(Some(Conduit::Smc)) => unsafe { sysregs::smc(function, args) as i32 },
        // An HVC at EL2 comes back to EL2: a machine that says so was not made for a hypervisor.
        _ => psci::Status::NotSupported as i32,
    }
}

/// Starts a pCPU at `entry` (pa) with `context` in x0. The firmware's status as an error.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), i32> {
    match call(psci::CPU_ON[1], [mpidr, entry, context]) {
        0 => Ok(()),
        status => Err(status),
    }
}

/// Switches the machine off; returns if firmware will not.
pub fn system_off() {
    call(psci::SYSTEM_OFF, [0; 3]);
}
