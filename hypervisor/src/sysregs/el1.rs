//! The EL1 registers of the guest on this pCPU.

use aarch64_cpu::registers::*;
use core::arch::asm;
use hv_core::regs::{El1, Exception};

/// The EL1 registers that are live on this pCPU.
pub struct LiveEl1;

impl El1 for LiveEl1 {
    fn vbar(&self) -> u64 {
        VBAR_EL1.get()
    }

    #[inline]
    fn sctlr(&self) -> u64 {
        SCTLR_EL1.get()
    }

    #[inline]
    fn stack_pointers(&self) -> [u64; 2] {
        [SP_EL0.get(), SP_EL1.get()]
    }

    fn exception(&self) -> Exception {
        Exception {
            elr: ELR_EL1.get(),
            spsr: read!("spsr_el1"),
            esr: ESR_EL1.get(),
            far: FAR_EL1.get(),
        }
    }

    fn set_return(&mut self, elr: u64, spsr: u64) {
        ELR_EL1.set(elr);
        write!("spsr_el1", spsr);
    }

    fn set_syndrome(&mut self, esr: u64, far: u64) {
        ESR_EL1.set(esr);
        FAR_EL1.set(far);
    }
}
