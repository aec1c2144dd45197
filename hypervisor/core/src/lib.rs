//! The rules the hypervisor enforces, as values: what a guest's call means, which event fires, what an
//! interrupt does next. Nothing here reads a register, a clock or a lock but through
//! the traits of `vm`, allocates outside a constructor, or knows a machine; `hypervisor` performs what is decided here.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod a64;
pub mod clock;
pub mod confine;
pub mod entry;
pub mod evidence;
pub mod exit;
pub mod flash;
pub mod gwdt;
pub mod id;
pub mod idreg;
pub mod ladder;
pub mod mailbox;
pub mod operator;
pub mod os_lock;
pub mod patience;
pub mod pl011;
pub mod psci;
pub mod regs;
pub mod sdei;
pub mod siblings;
pub mod smc;
pub mod stop;
pub mod time;
pub mod trace;
pub mod trng;
pub mod turns;
pub mod vgic;
pub mod virtio;
pub mod vm;
pub mod walk;
pub mod watch;
pub mod word;
