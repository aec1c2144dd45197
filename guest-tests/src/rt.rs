//! The runtime under the tests, and the only room with `unsafe`.
//!
//! Tests see safe functions: calls to firmware, the interrupt controller, timers, other CPUs, caught
//! exceptions, and assembly routines that hold known patterns in every register.

pub mod assault;
pub mod bench;
pub mod call;
pub mod console;
pub mod copy;
pub mod cpu;
pub mod exception;
pub mod gic;
pub mod leftovers;
pub mod machine;
pub mod mmio;
pub mod patterns;
pub mod probe;
pub mod psci;
#[macro_use]
pub mod registry;
pub mod restarted;
pub mod sdei;
pub mod search;
pub mod start;
pub mod survivor;
pub mod suspend;
pub mod sync;
pub mod sysreg;
pub mod table;
pub mod text;
pub mod timer;
pub mod undescribed;
pub mod user;
mod vectors;
pub mod virtio;
pub mod walk;
pub mod wedge;
