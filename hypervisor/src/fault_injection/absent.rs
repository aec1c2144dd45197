//! The hook points of fault injection in the image that people deploy: nothing. `fault_injection.rs` has what the test
//! image does there; `cargo xtask build` checks that none of it is in this one.

use hv_core::id::PcpuId;
use hv_core::regs::GuestRegs;

/// Whether this image can break itself.
pub const IS_HERE: bool = false;

/// Reads a word of the hypervisor's command line that injects a fault. Whether that can be done.
#[inline(always)]
pub const fn configure(_word: &[u8], _pcpus: usize) -> bool {
    false
}

/// All pCPUs are up, and no guest runs.
#[inline(always)]
pub const fn at_ready() {}

/// A pCPU is about to wait for its vCPU's start.
#[inline(always)]
pub const fn at_start(_me: PcpuId) {}

/// The guest on a pCPU has made a TRNG call. Whether that is answered.
#[inline(always)]
pub const fn at_trng_call(_me: PcpuId, _regs: &mut GuestRegs) -> bool {
    false
}

/// The operator has sent an NMI to the vCPU on a pCPU. Whether it does not get it.
#[inline(always)]
pub const fn at_nmi(_me: PcpuId) -> bool {
    false
}

/// The guest on a pCPU is about to go on, and has not by the short way.
#[inline(always)]
pub const fn at_entry(_me: PcpuId, _regs: &mut GuestRegs) {}
