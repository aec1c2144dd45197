//! GICv2 with the virtualisation extensions (IHI0048): the CPU interface GICC, and GICH, which holds the list
//! registers. Each CPU sees its own at the same address.
//!
//! Interrupts are in group 0 where there is no second security state, and the non-secure view is all there is where
//! there is one. Either way bit 0 of GICC_CTLR enables them, bit 9 splits the end of one from its deactivation, and
//! plain GICC_IAR acknowledges; its alias for group 1 is not for us (and reads as SGI 0 in QEMU).
//!
//! What is here stays out of its callers, which are made for a GICv3 first.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use gicc::Gicc;
use gich::Gich;
use hv_core::id::Mpidr;
use hv_core::vgic::MAX_INTERFACES;
use hv_core::vgic::interface::InterfaceState;
use hv_core::vgic::lr::{ListReg, hcr};
use platform::Range;

use super::gicd::{self, Gicd};
use super::own::{DOORBELL, PRIORITY, STOP};
use crate::mmio::Block;
use crate::sysregs;

/// GICC (IHI0048 4.4).
mod gicc {
    use crate::mmio::{Layout, ReadOnly, ReadWrite, Register, WriteOnly};

    pub enum Gicc {}

    impl Layout for Gicc {
        const SIZE: u64 = 0x2000;
    }

    pub const CTLR: Register<Gicc, u32, ReadWrite> = Register::at(0x00);
    pub const PMR: Register<Gicc, u32, ReadWrite> = Register::at(0x04);
    pub const BPR: Register<Gicc, u32, ReadWrite> = Register::at(0x08);
    pub const IAR: Register<Gicc, u32, ReadOnly> = Register::at(0x0c);
    pub const EOIR: Register<Gicc, u32, WriteOnly> = Register::at(0x10);
    pub const DIR: Register<Gicc, u32, WriteOnly> = Register::at(0x1000);
}

/// GICH (IHI0048 5.3).
mod gich {
    use crate::mmio::{Bank, Layout, ReadOnly, ReadWrite, Register};

    pub enum Gich {}

    impl Layout for Gich {
        const SIZE: u64 = 0x200;
    }

    pub const HCR: Register<Gich, u32, ReadWrite> = Register::at(0x00);
    pub const VTR: Register<Gich, u32, ReadOnly> = Register::at(0x04);
    pub const VMCR: Register<Gich, u32, ReadWrite> = Register::at(0x08);
    /// Of the first 32 list registers.
    pub const EISR: Register<Gich, u32, ReadOnly> = Register::at(0x20);
    /// Of the first 32 list registers.
    pub const ELSR: Register<Gich, u32, ReadOnly> = Register::at(0x30);
    pub const APR: Register<Gich, u32, ReadWrite> = Register::at(0xf0);
    pub const LR: Bank<Gich, u32, ReadWrite> = Bank::at(0x100, 64);
}

/// GICC_CTLR: interrupts are signalled, and GICC_EOIR only drops the priority.
const CTLR_ON: u32 = 1 << 0 | 1 << 9;
/// GICC_IAR: the INTID without the CPU that sent an SGI.
const IAR_INTID: u32 = 0x3ff;
/// Of a GICC that fills 128 KiB, the registers of its first 4 KiB repeat over the first 64: read from the last
/// repetition on, GICC_DIR lies where it always does.
const REPEATED: u64 = 0x2_0000;
const LAST_REPETITION: u64 = 0xf000;
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

/// The distributor.
#[inline]
fn gicd() -> Block<Gicd> {
    // SAFETY: `start` was promised it, and who asks for it has asked `is_it` first.
    unsafe { Block::at(GICD.load(Ordering::Relaxed) as u64) }
}

/// This pCPU's CPU interface.
#[inline]
fn gicc() -> Block<Gicc> {
    // SAFETY: as `gicd`.
    unsafe { Block::at(GICC.load(Ordering::Relaxed) as u64) }
}

/// This pCPU's virtual interface control.
#[inline]
fn gich() -> Block<Gich> {
    // SAFETY: as `gicd`.
    unsafe { Block::at(GICH.load(Ordering::Relaxed) as u64) }
}

/// Sets up the distributor: everything off and of one group, nobody's target.
///
/// # Safety
///
/// These are the places of the machine's GICD, GICC and GICH, mapped as device memory and nobody else's.
#[cold]
pub unsafe fn start(distributor: u64, cpu: &Range, hyp: u64) {
    // SAFETY: the caller answers for it.
    let gicd = unsafe { Block::<Gicd>::at(distributor) };
    let repetition = if cpu.size >= REPEATED {
        LAST_REPETITION
    } else {
        0
    };
    gicd.write(gicd::CTLR, 0);
    let blocks = blocks(&gicd);
    for block in 1..blocks {
        for bank in [gicd::ICENABLER, gicd::ICPENDR, gicd::ICACTIVER] {
            gicd.write(bank.get(block), !0);
        }
    }
    for word in 8..8 * blocks {
        gicd.write(gicd::IPRIORITYR.get(word), PRIORITIES);
        gicd.write(gicd::ITARGETSR.get(word), 0);
    }
    gicd.write(gicd::CTLR, 1);
    GICD.store(distributor as usize, Ordering::Relaxed);
    GICH.store(hyp as usize, Ordering::Relaxed);
    GICC.store((cpu.start + repetition) as usize, Ordering::Relaxed);
}

/// How many interrupts there are, in 32s (IHI0048 4.3.2).
fn blocks(gicd: &Block<Gicd>) -> u32 {
    (gicd.read(gicd::TYPER) & 0x1f) + 1
}

/// Four times ours.
const PRIORITIES: u32 = PRIORITY as u32 * 0x0101_0101;

/// Sets up this pCPU's registers, which are banked: those of its SGIs and PPIs, and its CPU interface. And the groups of all
/// interrupts, each time: a Raspberry Pi's armstub puts all of them into group 1, which nothing here enables, once on
/// each CPU, and may do so on this one after [`start`].
#[cold]
pub fn start_pcpu(mpidr: Mpidr, ppis: &[u32]) {
    let gicd = gicd();
    // A lone CPU interface reads 0 (IHI0048 4.3.12).
    let own = (gicd.read(gicd::ITARGETSR.get(0)) & 0xff)
        .max(1)
        .trailing_zeros();
    if let Some(interface) = INTERFACES.get(own as usize) {
        interface.store(mpidr.bits() | USED, Ordering::Relaxed);
    }
    for block in 0..blocks(&gicd) {
        gicd.write(gicd::IGROUPR.get(block), 0);
    }
    for bank in [gicd::ICENABLER, gicd::ICPENDR, gicd::ICACTIVER] {
        gicd.write(bank.get(0), !0);
    }
    for word in 0..4 {
        gicd.write(gicd::CPENDSGIR.get(word), !0);
    }
    for word in 0..8 {
        gicd.write(gicd::IPRIORITYR.get(word), PRIORITIES);
    }
    let ours = 1 << DOORBELL | 1 << STOP;
    let enabled = ppis
        .iter()
        .fold(ours, |bits, &intid| bits | 1 << (intid % 32));
    gicd.write(gicd::ISENABLER.get(0), enabled);
    let gicc = gicc();
    gicc.write(gicc::PMR, 0xff);
    gicc.write(gicc::BPR, 0);
    gicc.write(gicc::CTLR, CTLR_ON);
}

/// The bit of a pCPU's CPU interface; none before it has started.
#[inline(never)]
pub fn target(mpidr: Mpidr) -> u8 {
    let wanted = mpidr.bits() | USED;
    let mut interfaces = INTERFACES.iter();
    let number = interfaces.position(|interface| interface.load(Ordering::Relaxed) == wanted);
    number.map_or(0, |number| 1 << number)
}

/// GICD_SGIR for an SGI to one pCPU.
pub fn sgi(intid: u32, to: Mpidr) -> u32 {
    u32::from(target(to)) << 16 | intid
}

/// GICD_SGIR. One store, so nobody has to be waited for.
#[inline]
pub fn send_sgi(word: u32) {
    gicd().write(gicd::SGIR, word);
}

/// GICC_IAR: the INTID, and all of it. The sender of an SGI has stored a request in memory before; the barrier has that request be read
/// after this register.
#[inline]
pub fn acknowledge() -> (u32, u32) {
    let word = gicc().read(gicc::IAR);
    sysregs::order_after_device_read();
    (word & IAR_INTID, word)
}

/// GICC_EOIR.
#[inline]
pub fn drop_priority(word: u32) {
    gicc().write(gicc::EOIR, word);
}

/// GICC_DIR for an SGI, which wants to be told who sent it. GICD_ICACTIVER for all others: it ends an SPI for
/// whichever CPU acknowledged it, and has QEMU's model look at the line again, which GICC_DIR has not.
#[inline(never)]
pub fn deactivate(word: u32) {
    let intid = word & IAR_INTID;
    if intid < 16 {
        gicc().write(gicc::DIR, word);
    } else {
        gicd().write(gicd::ICACTIVER.get(intid / 32), 1 << (intid % 32));
    }
}

/// Whether the GIC looks at a line again when a list register deactivates its interrupt. QEMU's model does not;
/// it has no product number (GICD_IIDR, IHI0048 4.3.3), and every part of Arm's has one.
pub fn resamples() -> bool {
    gicd().read(gicd::IIDR) >> 24 != 0
}

/// GICC_CTLR off.
#[cold]
pub fn disable_cpu_interface() {
    gicc().write(gicc::CTLR, 0);
}

/// GICH_VTR: number of list registers and of priority bits.
#[cold]
pub fn virtual_interface() -> (usize, u32) {
    let vtr = gich().read(gich::VTR);
    ((vtr & 0x3f) as usize + 1, (vtr >> 29) + 1)
}

/// GICH_HCR.
pub fn hcr() -> u64 {
    u64::from(gich().read(gich::HCR))
}

/// Sets GICH_HCR, which has no TDIR: stage 2 traps GICC_DIR instead, see `hv_bundle::CpuInterface`.
#[inline(never)]
pub fn set_hcr(value: u64) {
    gich().write(gich::HCR, (value & !hcr::TDIR) as u32);
    // The list registers, too, are to be what they are before the guest runs.
    sysregs::complete_device_writes();
}

/// Everything disabled, nothing active.
#[cold]
pub fn reset_virtual_interface() {
    for register in [gich::HCR, gich::VMCR, gich::APR] {
        gich().write(register, 0);
    }
}

/// GICH_LR.
#[inline(never)]
pub fn list_register(index: usize) -> ListReg {
    ListReg::decode_v2(gich().read(gich::LR.get(index as u32)))
}

/// Sets GICH_LR.
#[inline]
pub fn set_list_register(index: usize, word: u32) {
    gich().write(gich::LR.get(index as u32 % 64), word);
}

/// GICH_ELSR0; no more than 16 list registers are used.
#[inline]
pub fn empty_list_registers() -> u64 {
    gich().read(gich::ELSR).into()
}

/// GICH_EISR0.
#[inline(never)]
pub fn ended_list_registers() -> u64 {
    gich().read(gich::EISR).into()
}

/// GICH_VMCR.
#[inline(never)]
pub fn vmcr() -> u64 {
    gich().read(gich::VMCR).into()
}

/// What the virtual CPU interface holds. GICH_VMCR has the bits of ICH_VMCR_EL2 that count here, and GICH_APR one for each of 32
/// priorities (IHI0048 5.3).
#[cold]
pub fn interface_state() -> InterfaceState {
    /// ICH_VTR_EL2.PREbits of 5 bits.
    const PRE_BITS: u64 = 4 << 26;
    InterfaceState {
        vmcr: vmcr(),
        vtr: PRE_BITS,
        active: [gich().read(gich::APR), 0, 0, 0],
    }
}
