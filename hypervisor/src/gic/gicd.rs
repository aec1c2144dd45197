//! Offsets in the distributor that GICv2 and GICv3 have in common, and where each says who takes an SPI
//! (IHI0048 4.1, IHI0069 12.8).
#![allow(missing_docs, reason = "the names are IHI0069's")]

/// Bytes of the registers (IHI0048 4.1.2, IHI0069 12.8).
pub const SIZE_V2: u64 = 0x1000;
pub const SIZE_V3: u64 = 0x1_0000;

pub const CTLR: u64 = 0x000;
pub const TYPER: u64 = 0x004;
pub const IIDR: u64 = 0x008;
pub const IGROUPR: u64 = 0x080;
pub const ISENABLER: u64 = 0x100;
pub const ICENABLER: u64 = 0x180;
pub const ISPENDR: u64 = 0x200;
pub const ICPENDR: u64 = 0x280;
pub const ICACTIVER: u64 = 0x380;
pub const IPRIORITYR: u64 = 0x400;
pub const ITARGETSR: u64 = 0x800;
pub const ICFGR: u64 = 0xc00;
pub const SGIR: u64 = 0xf00;
pub const CPENDSGIR: u64 = 0xf10;
pub const IROUTER: u64 = 0x6000;
