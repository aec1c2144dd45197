//! Calls to the firmware at EL3. PSCI is called only where the devicetree says that it answers SMCs. The TRNG calls are
//! made only where PSCI_FEATURES says that there is SMCCC, and SMCCC that there are random numbers. The calls of SDEI's
//! client go through here as well, but for the two that end an event (`sdei_entry.S`).

use core::hint::black_box;

use hv_abi::{psci, trng};
use hv_core::id::Mpidr;
use hv_core::trng::is_offered;
use platform::Conduit;
use spin::Once;

use crate::sysregs;

/// How PSCI is called, if there is one.
static PSCI: Once<Option<Conduit>> = Once::new();
/// Whether there are random numbers.
static HAS_ENTROPY: Once<bool> = Once::new();

/// Remembers how PSCI is called, and finds out what else there is.
pub fn discover(psci: Option<Conduit>) {
    PSCI.call_once(|| psci);
    HAS_ENTROPY
        .call_once(|| is_offered(|function, argument| call(function, [argument.into(), 0, 0])));
}

/// A call with its first four results; NOT_SUPPORTED where nobody is below us.
fn call_all(function: u32, [x1, x2, x3]: [u64; 3]) -> [u64; 4] {
    call_any(function, [x1, x2, x3, 0, 0])
}

/// Firmware takes longer than the call of a function; inlined, this would be in the image two dozen times.
#[inline(never)]
fn call_any(function: u32, args: [u64; 5]) -> [u64; 4] {
    match PSCI.get() {
        // SAFETY: the devicetree of this machine says that PSCI answers SMCs; the callers, here and in
        // `sdei_client.rs`, make only calls that start, stop or interrupt what is ours, or ask.
        Some(Some(Conduit::Smc)) => unsafe { sysregs::smc(function, args) },
        // An HVC at EL2 comes back to EL2: a machine that says so was not made for a hypervisor.
        _ => [psci::Status::NotSupported as i64 as u64, 0, 0, 0],
    }
}

/// A call whose result is a status.
fn call(function: u32, args: [u64; 3]) -> i32 {
    call_all(function, args)[0] as i32
}

/// Starts a pCPU at `entry` (pa) with `context` in x0. The firmware's status as an error.
pub fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), i32> {
    match call(psci::CPU_ON[1], [mpidr, entry, context]) {
        0 => Ok(()),
        status => Err(status),
    }
}

/// A call with up to five arguments and a 64-bit result; NOT_SUPPORTED where nobody is below us.
pub fn call_long(function: u32, args: [u64; 5]) -> i64 {
    call_any(function, args)[0] as i64
}

/// Switches this pCPU off; returns if firmware will not.
pub fn cpu_off() {
    call(psci::CPU_OFF, [0; 3]);
}

/// Whether firmware says of a pCPU that it is off (DEN0022 5.7, AFFINITY_INFO).
pub fn is_off(pcpu: Mpidr) -> bool {
    call(psci::AFFINITY_INFO[1], [pcpu.bits(), 0, 0]) == 1
}

/// Resets the machine; returns if firmware will not.
pub fn system_reset() {
    call(psci::SYSTEM_RESET, [0; 3]);
}

/// Switches the machine off; returns if firmware will not.
pub fn system_off() {
    call(psci::SYSTEM_OFF, [0; 3]);
}

/// Whether [`fill_random`] can be asked.
pub fn has_entropy() -> bool {
    HAS_ENTROPY.get().is_some_and(|&has| has)
}

/// Fills at most three words with random bits by one call (DEN0098, TRNG_RND); false when there are none now.
pub fn fill_random(words: &mut [u64]) -> bool {
    let bits = 64 * words.len() as u64;
    let mut answer = call_all(trng::RND64, [bits, 0, 0]);
    let [status, high, middle, low] = answer;
    let is_filled = status == 0 && words.len() <= 3;
    if is_filled {
        for (word, drawn) in words.iter_mut().zip([low, middle, high]) {
            *word = drawn;
        }
    }
    answer = [0; 4];
    // Keeps the compiler from leaving what nobody else may see.
    black_box(&mut answer);
    is_filled
}
