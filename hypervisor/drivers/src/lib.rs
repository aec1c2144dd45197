//! Drivers of the few devices that the hypervisor and the chainloader drive themselves: UARTs, and of a Raspberry Pi the
//! mailbox to its firmware and the watchdog that resets it.
//!
//! Registers are typed blocks. Whoever makes a pointer to one answers for the address; with that, nothing here can
//! reach outside the block.
#![no_std]
#![forbid(unsafe_code)]

pub mod pace;
pub mod power;
pub mod uart;
pub mod videocore;
