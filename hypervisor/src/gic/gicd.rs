//! The distributor's registers that GICv2 and GICv3 have in common, and where each says who takes an SPI
//! (IHI0048 4.1, IHI0069 12.8).
#![allow(missing_docs, reason = "the names are IHI0069's")]

use crate::mmio::{Bank, Layout, ReadOnly, ReadWrite, Register, WriteOnly};

/// What a GICv2 has (IHI0048 4.1.2), and a GICv3 below its routing registers.
pub enum Gicd {}

impl Layout for Gicd {
    const SIZE: u64 = 0x1000;
}

/// GICD_IROUTER of a GICv3 (IHI0069 12.8).
pub enum Routers {}

impl Layout for Routers {
    const SIZE: u64 = 0x2000;
}

/// Where they begin in the distributor.
pub const ROUTERS: u64 = 0x6000;

type Read<T = u32> = Register<Gicd, T, ReadOnly>;
type Row<T = u32, A = ReadWrite> = Bank<Gicd, T, A>;

pub const CTLR: Register<Gicd, u32, ReadWrite> = Register::at(0x000);
pub const TYPER: Read = Register::at(0x004);
pub const IIDR: Read = Register::at(0x008);
pub const IGROUPR: Row = Bank::at(0x080, 32);
pub const ISENABLER: Row = Bank::at(0x100, 32);
pub const ICENABLER: Row = Bank::at(0x180, 32);
pub const ISPENDR: Row = Bank::at(0x200, 32);
pub const ICPENDR: Row = Bank::at(0x280, 32);
pub const ICACTIVER: Row = Bank::at(0x380, 32);
pub const IPRIORITYR: Row = Bank::at(0x400, 256);
pub const ITARGETSR: Row = Bank::at(0x800, 256);
/// The same, an interrupt at a time.
pub const TARGETS: Row<u8> = Bank::at(0x800, 1024);
pub const ICFGR: Row = Bank::at(0xc00, 64);
pub const SGIR: Register<Gicd, u32, WriteOnly> = Register::at(0xf00);
pub const CPENDSGIR: Row<u32, WriteOnly> = Bank::at(0xf10, 4);
/// By INTID.
pub const IROUTER: Bank<Routers, u64, ReadWrite> = Bank::at(0, 1020);
