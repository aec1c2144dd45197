//! The guest's virtual counter and timer on this pCPU.

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTV_CTL_EL0, CNTVOFF_EL2, Readable, Writeable};

/// CNTV_CTL_EL0.IMASK (DDI0487 D24.10): the timer goes on and does not interrupt.
const IMASK: u64 = 1 << 1;

/// Has the virtual timer not interrupt; what its control register was.
pub fn mask_timer() -> u64 {
    let control = CNTV_CTL_EL0.get();
    CNTV_CTL_EL0.set(control | IMASK);
    barrier::isb(barrier::SY);
    control
}

/// The virtual counter is so far behind the system counter from here on, and then the timer's control register is this, if it is
/// to be set.
pub fn set(offset: u64, timer: Option<u64>) {
    CNTVOFF_EL2.set(offset);
    // Unmasked before that, the timer would interrupt for what has passed meanwhile.
    barrier::isb(barrier::SY);
    if let Some(control) = timer {
        CNTV_CTL_EL0.set(control);
    }
}
