//! What this machine is, read from its devicetree, and the few drivers that differ by board.
//!
//! A [`Machine`] is plain data: no register is touched here, and nothing is assumed about where memory
//! or devices are.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod devicetree;
mod discover;
mod error;
mod machine;
mod range;

pub use devicetree::dtb_size;
pub use error::Error;
pub use machine::{
    Clock, Conduit, Console, Cpu, Device, DeviceKind, Gic, MAX_CPUS, Machine, Spi, Start, Timers,
    Uart, UartKind,
};
pub use range::Range;
