//! The machines that xtask boots: what is built for them, what lies in their RAM, QEMU and serial lines to them, and what
//! they say.
#![forbid(unsafe_code)]

pub mod board;
pub mod build;
pub mod calls;
pub mod console;
pub mod control;
pub mod crafted;
pub mod disk;
pub mod el3;
pub mod ending;
pub mod firmware;
pub mod guest;
pub mod hashes;
pub mod operator;
pub mod payload;
pub mod port;
pub mod preflight;
pub mod protocol;
pub mod qemu;
pub mod raspi4b;
pub mod remote;
pub mod report;
pub mod room;
pub mod run_dir;
pub mod serial;
pub mod unpack;
pub mod words;
pub mod workshop;
