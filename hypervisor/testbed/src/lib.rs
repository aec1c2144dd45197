//! A machine in memory, for the tests of `hv-core`: pCPUs with list registers and a physical GIC, which `hv-core`
//! reaches through the traits [`hv_core::vm::Hardware`] and [`hv_core::vm::Vm`] alone, as it does on the machine.
//!
//! A test is the guest and its devices. What a guest does that exits (a store to the GIC, a call, a trapped register)
//! goes in as an exit; what it does without one (acknowledging an interrupt, ending it) it does to the list registers.
#![forbid(unsafe_code)]

mod cpu;
mod exits;
mod guest;
mod interface;
mod machine;
mod physical;
mod told;
mod world;

pub use cpu::{Cpu, Site};
pub use exits::{
    DISTRIBUTOR, Exit, GICC_DIR, GWDT, PVPANIC, RAM, REDISTRIBUTORS, SGI_FRAME, Transfer, UART,
    exit_of, page_word, ram_byte,
};
pub use interface::{Acknowledged, Ended, Interface};
pub use machine::{Built, Machine};
pub use physical::{Physical, Wire};
pub use told::Told;
pub use world::{Place, World};

/// The maintenance interrupt of the virtual CPU interface.
pub const MAINTENANCE: u32 = 25;
/// The machine's console.
pub const CONSOLE: u32 = 32 + 7;
/// The EL2 timer's.
pub const ALARM: u32 = 26;
