//! halligan: a type-1 hypervisor for arm64 that can stop any vCPU, whatever it masks.
//!
//! The rules are in `hv-core`; this crate is the thin shell around them: it enters guests, reads and
//! writes hardware, and performs what the rules decide. Start reading at `hv_core::vm::VcpuLoop`.
//!
//! `unsafe` is denied in the workspace. The modules below that carry an `expect` are all the rooms where
//! it lives, each with its reason. `test_image.rs` is the root of the same sources with fault injection.
#![no_std]
#![no_main]

extern crate alloc;

#[expect(unsafe_code, reason = "frame records on our own stacks")]
mod backtrace;
#[expect(unsafe_code, reason = "MMU on and off, early tables")]
mod boot;
mod console;
#[expect(unsafe_code, reason = "memory functions in assembly")]
mod copy;
#[expect(unsafe_code, reason = "memory that the boot before this one wrote")]
mod crash_record;
#[expect(unsafe_code, reason = "instructions that a CPU may lack")]
mod crc;
mod entropy;
#[expect(unsafe_code, reason = "entry from the loader, in assembly")]
mod entry;
#[expect(unsafe_code, reason = "EL2's own exceptions and their stacks")]
mod fault;
#[path = "fault_injection/absent.rs"]
mod fault_injection;
#[expect(unsafe_code, reason = "calls EL3")]
mod firmware;
mod gic;
#[expect(unsafe_code, reason = "the world switch")]
mod guest;
#[expect(unsafe_code, reason = "hands memory to the allocator")]
mod heap;
#[expect(unsafe_code, reason = "addresses of linker symbols")]
mod memory;
#[expect(unsafe_code, reason = "memory-mapped registers")]
mod mmio;
mod patience;
#[expect(unsafe_code, reason = "each pCPU's block, by TPIDR_EL2 and by number")]
mod percpu;
#[expect(unsafe_code, reason = "where its registers are")]
mod reset;
mod run;
#[expect(unsafe_code, reason = "the address that EL3's events enter at")]
mod sdei_client;
#[expect(unsafe_code, reason = "entered by EL3's events")]
mod sdei_entry;
mod stage2;
#[expect(
    unsafe_code,
    reason = "moves the image and the bundle, starts the drivers"
)]
mod start;
#[expect(
    unsafe_code,
    reason = "what only the stopper touches, what parked pCPUs left"
)]
mod stop;
#[expect(unsafe_code, reason = "system registers, barriers and SMC")]
mod sysregs;
#[expect(unsafe_code, reason = "where its registers are")]
mod uart;
#[expect(unsafe_code, reason = "memory that the firmware writes")]
mod videocore;
#[expect(unsafe_code, reason = "writes the guest's RAM before it runs")]
mod vm;
#[expect(unsafe_code, reason = "what a stuck pCPU wrote")]
mod watchdog;
