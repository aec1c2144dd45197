//! Numbers that a GICv3 and a GICv2 have in common.

/// What the acknowledge register says when nothing is pending (IHI0069 2.2.1).
pub const NONE: u32 = 1023;

/// Distributor registers (IHI0069 12.8).
pub mod gicd {
    #![allow(missing_docs, reason = "the names are IHI0069's")]
    pub const CTLR: u64 = 0x0000;
    pub const TYPER: u64 = 0x0004;
    pub const IIDR: u64 = 0x0008;
    pub const IGROUPR: u64 = 0x0080;
    pub const ISENABLER: u64 = 0x0100;
    pub const ICENABLER: u64 = 0x0180;
    pub const ISPENDR: u64 = 0x0200;
    pub const ICPENDR: u64 = 0x0280;
    pub const ISACTIVER: u64 = 0x0300;
    pub const ICACTIVER: u64 = 0x0380;
    pub const IPRIORITYR: u64 = 0x0400;
    pub const ITARGETSR: u64 = 0x0800;
    pub const ICFGR: u64 = 0x0c00;
    pub const SGIR: u64 = 0x0f00;
    pub const CPENDSGIR: u64 = 0x0f10;
    pub const SPENDSGIR: u64 = 0x0f20;
    /// In a GICv2's distributor, which ends at 4 KiB.
    pub const PIDR2_V2: u64 = 0x0fe8;
    pub const IROUTER: u64 = 0x6000;
    pub const PIDR2: u64 = 0xffe8;
}
