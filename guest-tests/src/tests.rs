//! The tests, by the part of the contract they check.

mod assault;
mod canary;
mod contention;
mod copy;
mod el3;
mod gic;
mod gic_registers;
pub mod gicv2;
mod hostile;
mod idreg;
mod isolation;
mod metrics;
mod psci;
mod psci_errors;
mod registers;
mod reset;
mod sdei;
mod smccc;
mod suspend;
mod timer;
mod trng;
mod uart;
mod undescribed;
mod virtio;
mod watchdog;
mod wedge;
