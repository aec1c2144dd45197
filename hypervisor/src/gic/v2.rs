//! GICv2 with the virtualisation extensions (IHI0048): the CPU interface GICC, and GICH, which holds the list
//! registers. Each CPU sees its own at the same address.
//!
//! Interrupts are in group 0 where there is no second security state, and the non-secure view is all there is where
//! there is one. Either way bit 0 of GICC_CTLR enables them, bit 9 splits the end of one from its deactivation, and
//! plain GICC_IAR acknowledges; its alias for group 1 is not for us (and reads as SGI 0 in QEMU).
//!
//! What is here stays out of its callers, which are made for a GICv3 first.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hv_core::id::Mpidr;
use hv_core::vgic::MAX_INTERFACES;
use hv_core::vgic::lr::{ListReg, hcr};
use platform::Range;

use super::gicd;
use super::own::{DOORBELL, PRIORITY, STOP};
use crate::mmio::Registers;
use crate::sysregs;

/// GICC (IHI0048 4.4).
mod gicc {
    pub const CTLR: u64 = 0x00;
    pub const PMR: u64 = 0x04;
    pub const BPR: u64 = 0x08;
    pub const IAR: u64 = 0x0c;
    pub const EOIR: u64 = 0x10;
    pub const DIR: u64 = 0x1000;
}

/// GICH (IHI0048 5.3).
mod gich {
    pub const HCR: u64 = 0x00;
    pub const VTR: u64 = 0x04;
    pub const VMCR: u64 = 0x08;
    pub const EISR0: u64 = 0x20;
    pub const ELSR0: u64 = 0x30;
    pub const APR: u64 = 0xf0;
    pub const LR: u64 = 0x100;
}

/// GICC_CTLR: interrupts are signalled, and GICC_EOIR only drops the priority.
const CTLR_ON: u32 = 1 << 0 | 1 << 9;
/// GICC_IAR: the INTID without the CPU that sent an SGI.
const IAR_INTID: u32 = 0x3ff;
/// Of a GICC that fills 128 KiB, the registers of its first 4 KiB repeat over the first 64: read from the last
/// repetition on, GICC_DIR lies where it always does.
const REPEATED: u64 = 0x2_0000;
const LAST_REPETITION: u64 = 0xf000;
/// GICC's and GICV's registers.
const INTERFACE: u64 = 0x2000;
/// GICH's registers (IHI0048 5.3.1).
const HYP: u64 = 0x200;
/// Marks an entry of [`INTERFACES`] as used: no affinity has this bit.
const USED: u64 = 1 << 63;

static GICD: AtomicUsize = AtomicUsize::new(0);
static GICC: AtomicUsize = AtomicUsize::new(0);
static GICH: AtomicUsize = AtomicUsize::new(0);
/// The affinity of the pCPU that has each CPU interface.
static INTERFACES: [AtomicU64; MAX_INTERFACES] = [const { AtomicU64::new(0) }; MAX_INTERFACES];

/// Whether the machine has a GICv2.
#[inline]
pub fn is_it() -> bool {
    GICC.load(Ordering::Relaxed) != 0
}

#[inline]
fn block(address: &AtomicUsize, size: u64) -> Registers {
    // SAFETY: `start` was promised them, and its users ask `is_it` first.
    unsafe { Registers::at(address.load(Ordering::Relaxed) as u64, size) }
}

/// Sets up the distributor: everything off and of one group, nobody's target.
///
/// # Safety
///
/// These are the places of the machine's GICD, GICC and GICH, mapped as device memory and nobody else's.
#[cold]
pub unsafe fn start(distributor: u64, cpu: &Range, hyp: u64) {
    // SAFETY: the caller answers for it.
    let gicd = unsafe { Registers::at(distributor, gicd::SIZE_V2) };
    let repetition = if cpu.size >= REPEATED {
        LAST_REPETITION
    } else {
        0
    };
    gicd.write(gicd::CTLR, 0);
    let blocks = u64::from(gicd.read(gicd::TYPER) & 0x1f) + 1;
    for block in 1..blocks {
        for bank in [gicd::ICENABLER, gicd::ICPENDR, gicd::ICACTIVER] {
            gicd.write(bank + 4 * block, !0);
        }
        gicd.write(gicd::IGROUPR + 4 * block, 0);
    }
    for word in 8..8 * blocks {
        gicd.write(gicd::IPRIORITYR + 4 * word, PRIORITIES);
        gicd.write(gicd::ITARGETSR + 4 * word, 0);
    }
    gicd.write(gicd::CTLR, 1);
    GICD.store(distributor as usize, Ordering::Relaxed);
    GICH.store(hyp as usize, Ordering::Relaxed);
    GICC.store((cpu.start + repetition) as usize, Ordering::Relaxed);
}

/// Four times ours.
const PRIORITIES: u32 = PRIORITY as u32 * 0x0101_0101;

/// Sets up this pCPU's registers, which are banked: those of its SGIs and PPIs, groups included (firmware may have
/// left them in group 1, which nothing here enables), and its CPU interface.
#[cold]
pub fn start_pcpu(mpidr: Mpidr, ppis: &[u32]) {
    let gicd = block(&GICD, gicd::SIZE_V2);
    // A lone CPU interface reads 0 (IHI0048 4.3.12).
    let own = (gicd.read(gicd::ITARGETSR) & 0xff).max(1).trailing_zeros();
    if let Some(interface) = INTERFACES.get(own as usize) {
        interface.store(mpidr.bits() | USED, Ordering::Relaxed);
    }
    gicd.write(gicd::IGROUPR, 0);
    for bank in [gicd::ICENABLER, gicd::ICPENDR, gicd::ICACTIVER] {
        gicd.write(bank, !0);
    }
    for word in 0..4 {
        gicd.write(gicd::CPENDSGIR + 4 * word, !0);
    }
    for word in 0..8 {
        gicd.write(gicd::IPRIORITYR + 4 * word, PRIORITIES);
    }
    let ours = 1 << DOORBELL | 1 << STOP;
    let enabled = ppis
        .iter()
        .fold(ours, |bits, &intid| bits | 1 << (intid % 32));
    gicd.write(gicd::ISENABLER, enabled);
    let gicc = block(&GICC, INTERFACE);
    gicc.write(gicc::PMR, 0xff);
    gicc.write(gicc::BPR, 0);
    gicc.write(gicc::CTLR, CTLR_ON);
}

/// The bit of a pCPU's CPU interface; none before it has started.
#[inline(always)]
pub fn target(mpidr: Mpidr) -> u8 {
    let wanted = mpidr.bits() | USED;
    let mut interfaces = INTERFACES.iter();
    let number = interfaces.position(|interface| interface.load(Ordering::Relaxed) == wanted);
    number.map_or(0, |number| 1 << number)
}

/// GICD_SGIR. One store, so nobody has to be waited for.
#[inline(never)]
pub fn send_sgi(intid: u32, to: Mpidr) {
    block(&GICD, gicd::SIZE_V2).write(gicd::SGIR, u32::from(target(to)) << 16 | intid);
}

/// GICC_IAR: the INTID, and all of it.
#[inline]
pub fn acknowledge() -> (u32, u32) {
    let word = block(&GICC, INTERFACE).read(gicc::IAR);
    (word & IAR_INTID, word)
}

/// GICC_EOIR.
#[inline]
pub fn drop_priority(word: u32) {
    block(&GICC, INTERFACE).write(gicc::EOIR, word);
}

/// GICC_DIR for an SGI, which wants to be told who sent it. GICD_ICACTIVER for all others: it ends an SPI for
/// whichever CPU acknowledged it, and has QEMU's model look at the line again, which GICC_DIR has not.
#[inline(never)]
pub fn deactivate(word: u32) {
    let intid = word & IAR_INTID;
    if intid < 16 {
        block(&GICC, INTERFACE).write(gicc::DIR, word);
    } else {
        let register = gicd::ICACTIVER + 4 * u64::from(intid / 32);
        block(&GICD, gicd::SIZE_V2).write(register, 1 << (intid % 32));
    }
}

/// Whether the GIC looks at a line again when a list register deactivates its interrupt. QEMU's model does not;
/// it has no product number (GICD_IIDR, IHI0048 4.3.3), and every part of Arm's has one.
pub fn resamples() -> bool {
    block(&GICD, gicd::SIZE_V2).read(gicd::IIDR) >> 24 != 0
}

/// GICC_CTLR off.
#[cold]
pub fn disable_cpu_interface() {
    block(&GICC, INTERFACE).write(gicc::CTLR, 0);
}

/// GICH_VTR: number of list registers and of priority bits.
#[cold]
pub fn virtual_interface() -> (usize, u32) {
    let vtr = block(&GICH, HYP).read(gich::VTR);
    ((vtr & 0x3f) as usize + 1, (vtr >> 29) + 1)
}

/// GICH_HCR.
pub fn hcr() -> u64 {
    u64::from(block(&GICH, HYP).read(gich::HCR))
}

/// Sets GICH_HCR, which has no TDIR: stage 2 traps GICC_DIR instead, see `hv_bundle::CpuInterface`.
#[inline(never)]
pub fn set_hcr(value: u64) {
    block(&GICH, HYP).write(gich::HCR, (value & !hcr::TDIR) as u32);
    // The list registers, too, are to be what they are before the guest runs.
    sysregs::complete_device_writes();
}

/// Everything disabled, nothing active.
#[cold]
pub fn reset_virtual_interface() {
    for register in [gich::HCR, gich::VMCR, gich::APR] {
        block(&GICH, HYP).write(register, 0);
    }
}

/// GICH_LR.
#[inline(never)]
pub fn list_register(index: usize) -> ListReg {
    ListReg::decode_v2(block(&GICH, HYP).read(gich::LR + 4 * index as u64))
}

/// Sets GICH_LR.
#[inline(never)]
pub fn set_list_register(index: usize, word: u32) {
    block(&GICH, HYP).write(gich::LR + 4 * index as u64, word);
}

/// GICH_ELSR0, of the first 32 list registers; no more than 16 are used.
#[inline(never)]
pub fn empty_list_registers() -> u64 {
    block(&GICH, HYP).read(gich::ELSR0).into()
}

/// GICH_EISR0, of the first 32 list registers.
#[inline(never)]
pub fn ended_list_registers() -> u64 {
    block(&GICH, HYP).read(gich::EISR0).into()
}

/// GICH_VMCR.
#[inline(never)]
pub fn vmcr() -> u64 {
    block(&GICH, HYP).read(gich::VMCR).into()
}
