//! The GIC as a guest drives it: distributor, this CPU's private interrupts and CPU interface. A GICv3 (IHI0069)
//! unless the devicetree has a GICv2, whose differences are in `gic/v2.rs`.

mod registers;
pub mod v2;

use super::machine::machine;
use super::mmio::Device;
use super::sysreg::{self, read, write};

pub use registers::{NONE, gicd};

/// Priority of everything, unless a test says otherwise.
pub const PRIORITY: u8 = 0xa0;
/// ICC_RPR_EL1 when nothing is active.
pub const IDLE_PRIORITY: u64 = 0xff;

/// Redistributor type register (IHI0069 12.11).
pub const GICR_TYPER: u64 = 0x0008;
const GICR_WAKER: u64 = 0x0014;
/// Two 64 KiB frames a CPU; four with virtual LPIs (IHI0069 12.10).
const GICR_FRAME: u64 = 0x1_0000;
const TYPER_VLPIS: u64 = 1 << 1;
const TYPER_LAST: u64 = 1 << 4;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
const CTLR_RWP: u32 = 1 << 31;
/// EnableGrp1, its non-secure alias, and affinity routing: right whichever view this is.
const CTLR_ON: u32 = 1 << 0 | 1 << 1 | 1 << 4;

/// The distributor.
pub fn distributor() -> Device {
    machine().gicd
}

/// The group of every interrupt, a bit each. A GICv2 without security states has its guests in group 0.
pub fn group() -> u32 {
    if v2::is_it() { 0 } else { !0 }
}

/// Turns the distributor on, everything disabled, one group, no shared interrupt routed.
pub fn start_distributor() {
    let gicd = distributor();
    let registers = (gicd.read32(gicd::TYPER) & 0x1f) + 1;
    gicd.write32(gicd::CTLR, 0);
    wait_for_writes();
    for n in 1..u64::from(registers) {
        gicd.write32(gicd::ICENABLER + 4 * n, !0);
        gicd.write32(gicd::ICPENDR + 4 * n, !0);
        gicd.write32(gicd::ICACTIVER + 4 * n, !0);
        gicd.write32(gicd::IGROUPR + 4 * n, group());
    }
    for n in 8..8 * u64::from(registers) {
        gicd.write32(gicd::IPRIORITYR + 4 * n, u32::from(PRIORITY) * 0x0101_0101);
    }
    gicd.write32(gicd::CTLR, CTLR_ON);
    wait_for_writes();
}

fn wait_for_writes() {
    while distributor().read32(gicd::CTLR) & CTLR_RWP != 0 {
        core::hint::spin_loop();
    }
}

/// This CPU's redistributor: RD_base, with SGI_base 64 KiB above.
pub fn redistributor() -> Device {
    redistributor_of(sysreg::affinity())
}

/// The redistributor of the CPU with this affinity.
pub fn redistributor_of(affinity: u64) -> Device {
    let Some(all) = machine().gicr else {
        panic!("a GICv2 has no redistributors");
    };
    let affinity = (affinity >> 32 & 0xff) << 24 | affinity & 0xff_ffff;
    let mut offset = 0;
    loop {
        let typer = all.read64(offset + GICR_TYPER);
        if typer >> 32 == affinity {
            return all.part(offset, 2 * GICR_FRAME);
        }
        assert!(
            typer & TYPER_LAST == 0,
            "no redistributor for {affinity:#x}"
        );
        offset += GICR_FRAME * if typer & TYPER_VLPIS != 0 { 4 } else { 2 };
    }
}

/// The SGI and PPI registers: the redistributor's, which lie as the distributor's do, or those that a GICv2's
/// distributor shows this CPU.
pub fn private() -> Device {
    if v2::is_it() {
        return distributor();
    }
    redistributor().part(GICR_FRAME, GICR_FRAME)
}

/// The same of the CPU with this affinity.
pub fn private_of(affinity: u64) -> Device {
    redistributor_of(affinity).part(GICR_FRAME, GICR_FRAME)
}

/// The registers that hold `intid`.
pub fn bank(intid: u32) -> Device {
    if intid < 32 { private() } else { distributor() }
}

/// Wakes this CPU's interface: SGIs enabled, PPIs not, everything let through.
pub fn start_cpu() {
    if !v2::is_it() {
        wake_redistributor();
    }
    let private = private();
    private.write32(gicd::ICENABLER, !0xffff);
    private.write32(gicd::IGROUPR, group());
    private.write32(gicd::ICPENDR, !0);
    if v2::is_it() {
        for n in 0..4 {
            private.write32(gicd::CPENDSGIR + 4 * n, !0);
        }
    }
    private.write32(gicd::ICACTIVER, !0);
    for n in 0..8 {
        private.write32(gicd::IPRIORITYR + 4 * n, u32::from(PRIORITY) * 0x0101_0101);
    }
    private.write32(gicd::ISENABLER, 0xffff);
    start_interface();
}

fn wake_redistributor() {
    let waker = redistributor();
    waker.write32(
        GICR_WAKER,
        waker.read32(GICR_WAKER) & !WAKER_PROCESSOR_SLEEP,
    );
    while waker.read32(GICR_WAKER) & WAKER_CHILDREN_ASLEEP != 0 {
        core::hint::spin_loop();
    }
}

/// The CPU interface alone (IHI0069 12.2, IHI0048 4.4).
pub fn start_interface() {
    if v2::is_it() {
        return v2::start_interface();
    }
    write!("icc_sre_el1", 1 | read!("icc_sre_el1"));
    write!("icc_ctlr_el1", 0);
    write!("icc_bpr1_el1", 0);
    write!("icc_pmr_el1", 0xf0);
    write!("icc_igrpen1_el1", 1);
}

/// Lets nothing through to this CPU any more.
pub fn stop_cpu() {
    if v2::is_it() {
        v2::interface().write32(v2::gicc::CTLR, 0);
    } else {
        write!("icc_igrpen1_el1", 0);
    }
    private().write32(gicd::ICENABLER, !0);
}

/// Takes the highest pending interrupt, or [`NONE`].
pub fn acknowledge() -> u32 {
    if v2::is_it() {
        return v2::acknowledge();
    }
    let intid = read!("icc_iar1_el1");
    sysreg::isb();
    intid as u32 & 0xff_ffff
}

/// Ends `intid`: priority drop and deactivation.
pub fn end(intid: u32) {
    if v2::is_it() {
        return v2::interface().write32(v2::gicc::EOIR, v2::word(intid));
    }
    write!("icc_eoir1_el1", u64::from(intid));
}

/// Splits the end of an interrupt into [`end`], which drops the priority, and [`deactivate`], or joins them again
/// (EOImode: IHI0069 12.2 ICC_CTLR_EL1, IHI0048 4.4.1).
pub fn set_eoi_mode(is_split: bool) {
    if v2::is_it() {
        let mode = if is_split { v2::EOI_MODE } else { 0 };
        return v2::interface().write32(v2::gicc::CTLR, v2::ENABLE | mode);
    }
    write!("icc_ctlr_el1", u64::from(is_split) << 1);
    sysreg::isb();
}

/// Deactivates `intid`, whose priority has been dropped.
pub fn deactivate(intid: u32) {
    if v2::is_it() {
        return v2::interface().write32(v2::gicc::DIR, v2::word(intid));
    }
    write!("icc_dir_el1", u64::from(intid));
    sysreg::isb();
}

/// The running priority.
pub fn running_priority() -> u64 {
    if v2::is_it() {
        return v2::interface().read32(v2::gicc::RPR).into();
    }
    read!("icc_rpr_el1")
}

/// The highest pending interrupt, not taken.
pub fn highest_pending() -> u32 {
    if v2::is_it() {
        return v2::interface().read32(v2::gicc::HPPIR) & NONE;
    }
    read!("icc_hppir1_el1") as u32 & 0xff_ffff
}

/// Sets the priority mask.
pub fn set_priority_mask(priority: u8) {
    if v2::is_it() {
        return v2::interface().write32(v2::gicc::PMR, priority.into());
    }
    write!("icc_pmr_el1", u64::from(priority));
}

/// Sends `sgi` to the CPU with `affinity` (IHI0069 12.2 ICC_SGI1R_EL1, IHI0048 4.3.15).
pub fn send_sgi_to(affinity: u64, sgi: u32) {
    if v2::is_it() {
        return v2::send_raw(u32::from(v2::target(affinity)) << 16 | sgi);
    }
    let aff0 = affinity & 0xff;
    let value = (affinity >> 32 & 0xff) << 48
        | aff0 >> 4 << 44
        | (affinity >> 16 & 0xff) << 32
        | u64::from(sgi) << 24
        | (affinity >> 8 & 0xff) << 16
        | 1 << (aff0 & 0xf);
    send_sgi_raw(value);
}

/// Sends `sgi` to every CPU but this one.
pub fn send_sgi_to_others(sgi: u32) {
    if v2::is_it() {
        return v2::send_raw(1 << 24 | sgi);
    }
    send_sgi_raw(1 << 40 | u64::from(sgi) << 24);
}

/// Sends `sgi` to those of the first CPUs whose bits are set.
pub fn send_sgi_to_list(list: u8, sgi: u32) {
    if v2::is_it() {
        return v2::send_raw(u32::from(list) << 16 | sgi);
    }
    send_sgi_raw(u64::from(sgi) << 24 | u64::from(list));
}

/// Writes ICC_SGI1R_EL1, or as much of `value` as GICD_SGIR takes, earlier stores first.
pub fn send_sgi_raw(value: u64) {
    if v2::is_it() {
        return v2::send_raw(value as u32);
    }
    sysreg::store_barrier();
    write!("icc_sgi1r_el1", value);
}

/// Makes a private interrupt pending; an SGI as if this CPU had sent it.
pub fn pend(intid: u32) {
    if v2::is_it() && intid < 16 {
        let own = v2::target(sysreg::affinity());
        private().write8(gicd::SPENDSGIR + u64::from(intid), own);
    } else {
        private().write32(gicd::ISPENDR, bit(intid));
    }
}

/// Takes a pending private interrupt back, whoever sent it.
pub fn take_back(intid: u32) {
    if v2::is_it() && intid < 16 {
        private().write8(gicd::CPENDSGIR + u64::from(intid), !0);
    } else {
        private().write32(gicd::ICPENDR, bit(intid));
    }
}

/// Lets `intid` through.
pub fn enable(intid: u32) {
    bank(intid).write32(gicd::ISENABLER + word(intid), bit(intid));
}

/// Holds `intid` back, from when this returns.
pub fn disable(intid: u32) {
    bank(intid).write32(gicd::ICENABLER + word(intid), bit(intid));
    if intid >= 32 {
        wait_for_writes();
    }
}

/// Offset of the 32-bit register that holds `intid`, one bit each.
pub fn word(intid: u32) -> u64 {
    u64::from(intid / 32) * 4
}

/// The bit of `intid` in that register.
pub fn bit(intid: u32) -> u32 {
    1 << (intid % 32)
}

/// Whether the bit of `intid` is set in the registers at `offset`.
pub fn is_set(offset: u64, intid: u32) -> bool {
    bank(intid).read32(offset + word(intid)) & bit(intid) != 0
}

/// Routes a shared interrupt to the CPU with `affinity`.
pub fn route(intid: u32, affinity: u64) {
    if v2::is_it() {
        let register = gicd::ITARGETSR + u64::from(intid);
        return distributor().write8(register, v2::target(affinity));
    }
    distributor().write64(gicd::IROUTER + 8 * u64::from(intid), affinity);
}
