//! The modules of the hypervisor, for either image: `main.rs` and `test_image.rs` are its roots, and add `fault_injection`.
//!
//! `unsafe` is denied in the workspace. The modules below that carry an `expect` are all the rooms where
//! it lives, each with its reason.

#[expect(unsafe_code, reason = "frame records on our own stacks")]
pub mod backtrace;
#[expect(unsafe_code, reason = "MMU on and off, early tables")]
pub mod boot;
pub mod console;
#[expect(unsafe_code, reason = "memory functions in assembly")]
pub mod copy;
#[expect(unsafe_code, reason = "memory that the boot before this one wrote")]
pub mod crash_record;
#[expect(unsafe_code, reason = "instructions that a CPU may lack")]
pub mod crc;
pub mod dump;
pub mod entropy;
#[expect(unsafe_code, reason = "entry from the loader, in assembly")]
pub mod entry;
#[expect(unsafe_code, reason = "EL2's own exceptions and their stacks")]
pub mod fault;
#[expect(unsafe_code, reason = "calls EL3")]
pub mod firmware;
pub mod gic;
#[expect(unsafe_code, reason = "the world switch")]
pub mod guest;
#[expect(
    unsafe_code,
    reason = "a guest's RAM, for the operator and for devices"
)]
pub mod guest_ram;
#[expect(unsafe_code, reason = "hands memory to the allocator")]
pub mod heap;
#[expect(unsafe_code, reason = "addresses of linker symbols")]
pub mod memory;
#[expect(unsafe_code, reason = "memory-mapped registers")]
pub mod mmio;
pub mod operator;
pub mod patience;
#[expect(unsafe_code, reason = "each pCPU's block, by TPIDR_EL2 and by number")]
pub mod percpu;
pub mod registers;
#[expect(unsafe_code, reason = "where its registers are")]
pub mod reset;
pub mod run;
#[expect(unsafe_code, reason = "the address that EL3's events enter at")]
pub mod sdei_client;
#[expect(unsafe_code, reason = "entered by EL3's events")]
pub mod sdei_entry;
#[expect(unsafe_code, reason = "tables in memory that was set aside")]
pub mod stage2;
#[expect(
    unsafe_code,
    reason = "moves the image and the bundle, starts the drivers"
)]
pub mod start;
#[expect(
    unsafe_code,
    reason = "what only the stopper touches, what parked pCPUs left"
)]
pub mod stop;
#[expect(unsafe_code, reason = "system registers, barriers and SMC")]
pub mod sysregs;
#[expect(unsafe_code, reason = "where its registers are")]
pub mod uart;
#[expect(unsafe_code, reason = "memory that the firmware writes")]
pub mod videocore;
#[expect(unsafe_code, reason = "registers of virtio transports")]
pub mod virtio;
#[expect(unsafe_code, reason = "writes the guest's RAM before it runs")]
pub mod vm;
#[expect(unsafe_code, reason = "what a stuck pCPU wrote")]
pub mod watchdog;
