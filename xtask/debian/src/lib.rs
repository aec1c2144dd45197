//! What xtask takes from Debian: packages, tools, the Rust sources, the guest's kernel and its initramfs, kernels as they are; and the cache they
//! are kept in.
#![forbid(unsafe_code)]

pub mod archive;
pub mod cache;
pub mod crash_utility;
pub mod initramfs;
pub mod kernel;
pub mod paths;
pub mod programs;
pub mod progress;
pub mod stock;
pub mod toolchain;
pub mod tools;
