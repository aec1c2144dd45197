//! GICv3: setting it up with `arm-gic`. Its CPU interface is in `sysregs/gic.rs`.

use alloc::vec::Vec;
use core::ptr::NonNull;

use arm_gic::IntId as PhysicalIntId;
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicDistributor, GicRedistributor, Group};
use hv_core::id::{IntId, Mpidr};
use platform::Range;
use safe_mmio::fields::ReadPureWrite;
use safe_mmio::{UniqueMmioPointer, field, field_shared};

use super::own::{DOORBELL, PRIORITY, STOP};
use crate::patience::Mutex;
use crate::sysregs;

/// Size of a redistributor without and with virtual LPIs (IHI0069 12.10).
const FRAME_SIZE: u64 = 0x2_0000;
const FRAME_SIZE_VLPI: u64 = 0x4_0000;

/// One pCPU's.
pub struct Redistributor {
    mpidr: Mpidr,
    regs: Mutex<UniqueMmioPointer<'static, GicrSgi>>,
}

/// The registers at `address`.
///
/// # Safety
///
/// They are there, mapped as device memory, and no other pointer to them is in use.
unsafe fn registers<T>(address: u64) -> UniqueMmioPointer<'static, T> {
    let pointer = core::ptr::with_exposed_provenance_mut::<T>(address as usize);
    let pointer = NonNull::new(pointer).expect("no device is at address 0");
    // SAFETY: the caller answers for the address.
    unsafe { UniqueMmioPointer::new(pointer) }
}

/// Sets up the distributor and finds the redistributors, `stride` bytes apart if that is more than what they say of
/// themselves.
///
/// # Safety
///
/// `distributor` and `redistributors` are those of this machine, mapped as device memory, and nobody else
/// drives them.
pub unsafe fn start(
    distributor: u64,
    redistributors: &[Range],
    stride: Option<u64>,
) -> Vec<Redistributor> {
    // SAFETY: the caller answers for the address.
    let mut distributor = unsafe { registers::<Gicd>(distributor) };
    let mut driver = GicDistributor::new(distributor.reborrow());
    driver.enable_all_interrupts(false);
    driver.configure_default_settings();
    // An SPI that a loader has left active would never come again (IHI0069 4.1).
    clear_all(field!(distributor, icpendr), 1);
    clear_all(field!(distributor, icactiver), 1);
    let mut found = Vec::new();
    for region in redistributors {
        let mut at = region.start;
        while at < region.end() {
            // SAFETY: the caller answers for the region, and each frame is met once.
            let regs = unsafe { registers::<GicrSgi>(at) };
            let gicr = field_shared!(regs, gicr);
            let typer = field_shared!(gicr, typer).read();
            found.push(Redistributor {
                mpidr: Mpidr::new(typer.core_mpidr()),
                regs: Mutex::new(regs),
            });
            if typer.last_redistributor() {
                break;
            }
            let implied = if typer.virtual_lpis_supported() {
                FRAME_SIZE_VLPI
            } else {
                FRAME_SIZE
            };
            at = at.saturating_add(stride.unwrap_or(implied).max(implied));
        }
    }
    found
}

/// Sets all bits of the registers from `first` on, each of which clears the state of an interrupt. Bits without an interrupt ignore the write.
fn clear_all<const N: usize>(mut bank: UniqueMmioPointer<[ReadPureWrite<u32>; N]>, first: usize) {
    for index in first..N {
        if let Some(mut register) = bank.get(index) {
            register.write(!0);
        }
    }
}

fn find(all: &[Redistributor], mpidr: Mpidr) -> Option<&Redistributor> {
    all.iter()
        .find(|redistributor| redistributor.mpidr == mpidr)
}

/// Sets up this pCPU's side: wakes its redistributor, enables the doorbells and these PPIs.
pub fn start_pcpu(all: &[Redistributor], mpidr: Mpidr, ppis: &[u32]) {
    let Some(redistributor) = find(all, mpidr) else {
        panic!("no redistributor for MPIDR {:#x}", mpidr.bits());
    };
    let mut regs = redistributor.regs.lock();
    let mut driver = GicRedistributor::new(regs.reborrow());
    // An error means that it is awake already.
    let _ = driver.mark_core_awake();
    driver.configure_default_settings();
    // A PPI that a loader has left active would never come again, either.
    let mut frame = field!(regs, sgi);
    clear_all(field!(frame, icpendr), 0);
    clear_all(field!(frame, icactiver), 0);
    let mut driver = GicRedistributor::new(regs.reborrow());
    let sgis = [DOORBELL, STOP].map(PhysicalIntId::sgi);
    let ppis = ppis.iter().map(|&intid| PhysicalIntId::ppi(intid - 16));
    for intid in sgis.into_iter().chain(ppis) {
        driver
            .set_group(intid, Group::Group1NS)
            .and_then(|()| driver.set_interrupt_priority(intid, PRIORITY))
            .and_then(|()| driver.enable_interrupt(intid, true))
            .unwrap_or_else(|_| panic!("not an SGI or PPI"));
    }
    sysregs::gic::enable_cpu_interface();
}

/// Clears the active state of a PPI of any pCPU (GICR_ICACTIVER0).
pub fn clear_active_ppi(all: &[Redistributor], mpidr: Mpidr, intid: IntId) {
    if let Some(redistributor) = find(all, mpidr) {
        let mut regs = redistributor.regs.lock();
        let mut sgi = field!(regs, sgi);
        if let Some(mut register) = field!(sgi, icactiver).get(0) {
            register.write(1 << (intid.0 & 31));
        }
    }
}

/// The pending state of the SGIs and PPIs of any pCPU (GICR_ISPENDR0).
pub fn pending_ppis(all: &[Redistributor], mpidr: Mpidr) -> Option<u32> {
    let mut regs = find(all, mpidr)?.regs.lock();
    let mut sgi = field!(regs, sgi);
    let mut register = field!(sgi, ispendr);
    Some(register.get(0)?.read())
}
