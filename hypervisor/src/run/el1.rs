//! What of EL1 an exception that is injected reads and writes.

use hv_core::regs::{El1, Exception};

use super::Pcpu;
use crate::sysregs::LiveEl1;

impl El1 for Pcpu {
    fn vbar(&self) -> u64 {
        LiveEl1.vbar()
    }

    #[inline]
    fn sctlr(&self) -> u64 {
        LiveEl1.sctlr()
    }

    #[inline]
    fn stack_pointers(&self) -> [u64; 2] {
        LiveEl1.stack_pointers()
    }

    fn exception(&self) -> Exception {
        LiveEl1.exception()
    }

    fn set_return(&mut self, elr: u64, spsr: u64) {
        LiveEl1.set_return(elr, spsr);
    }

    fn set_syndrome(&mut self, esr: u64, far: u64) {
        LiveEl1.set_syndrome(esr, far);
    }
}
