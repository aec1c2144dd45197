//! How a program reaches a board over its serial line: both ends, as pure machines.
//!
//! Bytes and the time go in, bytes and [`host::Event`]s or [`loader::Action`]s come out; nothing here knows a
//! UART, a clock or a terminal. What is on the line may be lost, broken or somebody else's text; a board may
//! be reset and a host may come back. Nothing is started that is not, byte for byte in the board's memory,
//! what the host has announced the hashes of.
//!
//! * [`frame`]: a message on the line, between zeroes, with a checksum.
//! * [`message`]: what is said.
//! * [`offer`]: what is to be loaded, cut into blocks.
//! * [`loader`]: the board's end.
//! * [`host`]: the host's end.
//! * [`fdt`]: the board's devicetree, told of what was loaded.
//! * [`fault`]: a line on which things go wrong, for tests.
#![no_std]
#![forbid(unsafe_code)]

pub mod fault;
pub mod fdt;
pub mod frame;
pub mod host;
pub mod loader;
pub mod message;
pub mod offer;

/// Milliseconds of a clock that does not go back; where it begins does not matter.
pub type Millis = u64;

/// The rate of the line in baud, 8n1, unless host and loader have agreed on another.
pub const BASE_RATE: u32 = 115_200;
