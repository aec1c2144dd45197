//! The words that guests, firmware and tools share with the hypervisor: function identifiers, status
//! codes and the framing of the console. No rule lives here and nothing here knows a machine.
//!
//! A wrong number in this crate would be wrong on both sides of every test, so `tests/golden.rs` pins
//! each one as a literal beside its document and section.
#![no_std]
#![forbid(unsafe_code)]

pub mod cmdline;
pub mod console;
pub mod crash;
pub mod firmware;
pub mod operator;
pub mod policy;
pub mod psci;
pub mod sdei;
pub mod smccc;
pub mod trng;
pub mod vendor;
pub mod virtio;
pub mod watchdog;
