//! The test image: the hypervisor, of the same sources and with the same flags as `main.rs`, with fault injection. The
//! only module that is another is `fault_injection`.
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
#[expect(
    unsafe_code,
    reason = "a read that faults, what a probed pCPU wrote, where one gets stuck"
)]
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
