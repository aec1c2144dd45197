//! The test image: the hypervisor, of the same sources and with the same flags as `main.rs`, with fault injection. The
//! only module that is another is `fault_injection`.
#![no_std]
#![no_main]

extern crate alloc;

#[expect(
    unsafe_code,
    reason = "a read that faults, what a probed pCPU wrote, where one gets stuck"
)]
mod fault_injection;
#[path = "modules.rs"]
mod modules;

use modules::*;
