//! What is different with a GICv2 (IHI0048): a CPU interface in memory, SGIs by a register of the distributor that
//! are pending once per sender, and banked registers in place of redistributors.

use core::sync::atomic::{AtomicU32, Ordering};

use super::registers::{NONE, gicd};
use crate::rt::machine::{MAX_CPUS, machine};
use crate::rt::mmio::Device;
use crate::rt::sysreg;

/// CPU interface registers (IHI0048 4.4).
pub mod gicc {
    #![allow(missing_docs, reason = "the names are IHI0048's")]
    pub const CTLR: u64 = 0x0000;
    pub const PMR: u64 = 0x0004;
    pub const BPR: u64 = 0x0008;
    pub const IAR: u64 = 0x000c;
    pub const EOIR: u64 = 0x0010;
    pub const RPR: u64 = 0x0014;
    pub const HPPIR: u64 = 0x0018;
    pub const DIR: u64 = 0x1000;
}

/// GICC_CTLR: group 0 is signalled, as IRQ.
pub const ENABLE: u32 = 1 << 0;
/// GICC_CTLR: the end of an interrupt only drops its priority.
pub const EOI_MODE: u32 = 1 << 9;
/// GICC_IAR's INTID; the CPU that sent an SGI is above it.
const INTID: u32 = 0x3ff;

/// What each CPU read from GICC_IAR for each SGI that it has not ended, and what it read last.
static TAKEN: [[AtomicU32; 16]; MAX_CPUS] = [const { [const { AtomicU32::new(0) }; 16] }; MAX_CPUS];
static LAST: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Whether the machine has one.
pub fn is_it() -> bool {
    machine().gicc.is_some()
}

/// The CPU interface.
pub fn interface() -> Device {
    match machine().gicc {
        Some(gicc) => gicc,
        None => panic!("there is no GICC"),
    }
}

/// The bit of the CPU with `affinity`: on machines with a GICv2 its interface has the number that Aff0 is.
pub fn target(affinity: u64) -> u8 {
    1 << (affinity & 7)
}

/// See [`super::start_interface`].
pub fn start_interface() {
    let gicc = interface();
    gicc.write32(gicc::PMR, 0xf0);
    gicc.write32(gicc::BPR, 0);
    gicc.write32(gicc::CTLR, ENABLE);
}

/// See [`super::acknowledge`].
pub fn acknowledge() -> u32 {
    let word = interface().read32(gicc::IAR);
    let (cpu, intid) = (sysreg::cpu_index(), word & INTID);
    if intid < 16 {
        TAKEN[cpu][intid as usize].store(word, Ordering::Relaxed);
    }
    if intid != NONE {
        LAST[cpu].store(word, Ordering::Relaxed);
    }
    intid
}

/// Which CPU interface had sent the SGI that this CPU took last.
pub fn last_sender() -> u32 {
    LAST[sysreg::cpu_index()].load(Ordering::Relaxed) >> 10 & 7
}

/// All of what GICC_IAR said of `intid`.
pub fn word(intid: u32) -> u32 {
    let sgi = TAKEN[sysreg::cpu_index()].get(intid as usize);
    sgi.map_or(intid, |word| word.load(Ordering::Relaxed))
}

/// GICD_SGIR, earlier stores first.
pub fn send_raw(value: u32) {
    sysreg::store_barrier();
    machine().gicd.write32(gicd::SGIR, value);
}
