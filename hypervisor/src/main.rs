//! halligan: a type-1 hypervisor for arm64 that can stop any vCPU, whatever it masks.
//!
//! The rules are in `hv-core`; this crate is the thin shell around them: it enters guests, reads and
//! writes hardware, and performs what the rules decide. Start reading at `hv_core::vm::VcpuLoop`.
//!
//! `modules.rs` lists the modules. `test_image.rs` is the root of the same sources with fault injection.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "fault_injection/absent.rs"]
mod fault_injection;
// Named by its path, it has its modules in this folder.
#[path = "modules.rs"]
mod modules;

use modules::*;
