//! GICv3: setting it up with `arm-gic`, and performing what the virtual GIC decides.

use alloc::vec::Vec;
use core::ptr::NonNull;

use arm_gic::IntId as PhysicalIntId;
use arm_gic::gicv3::registers::{Gicd, GicdCtlr, GicrSgi};
use arm_gic::gicv3::{GicDistributor, GicRedistributor, Group};
use hv_core::id::{IntId, Mpidr};
use hv_core::vgic::SpiMask;
use safe_mmio::{UniqueMmioPointer, field, field_shared};
use spin::Once;

use crate::patience::Mutex;
use crate::sysregs;

/// SGI that makes a pCPU leave its guest and look at its mailbox.
pub const DOORBELL: u32 = 0;
/// SGI that stops a pCPU for good.
pub const STOP: u32 = 1;

/// Priority of every interrupt of ours; the guest's priorities are the virtual GIC's business.
const PRIORITY: u8 = 0x80;
/// Size of a redistributor without and with virtual LPIs (IHI0069 12.10).
const FRAME_SIZE: u64 = 0x2_0000;
const FRAME_SIZE_VLPI: u64 = 0x4_0000;

/// The machine's distributor and redistributors.
pub struct Gic {
    distributor: Mutex<UniqueMmioPointer<'static, Gicd>>,
    redistributors: Vec<Redistributor>,
}

struct Redistributor {
    mpidr: Mpidr,
    regs: Mutex<UniqueMmioPointer<'static, GicrSgi>>,
}

static GIC: Once<Gic> = Once::new();

/// The interrupt controller, once set up.
pub fn get() -> &'static Gic {
    GIC.get()
        .expect("the GIC is set up before any pCPU runs a guest")
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

/// Sets up the distributor and finds the redistributors.
///
/// # Safety
///
/// `distributor` and `redistributors` (start and size) are those of this machine, mapped as device
/// memory, and nobody else drives them.
pub unsafe fn start(distributor: u64, redistributors: &[(u64, u64)]) -> &'static Gic {
    // SAFETY: the caller answers for the address.
    let mut distributor = unsafe { registers::<Gicd>(distributor) };
    let mut driver = GicDistributor::new(distributor.reborrow());
    driver.enable_all_interrupts(false);
    driver.configure_default_settings();
    let distributor = Mutex::new(distributor);
    let mut found = Vec::new();
    for &(start, size) in redistributors {
        let mut at = start;
        while at < start + size {
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
            at += if typer.virtual_lpis_supported() {
                FRAME_SIZE_VLPI
            } else {
                FRAME_SIZE
            };
        }
    }
    GIC.call_once(|| Gic {
        distributor,
        redistributors: found,
    })
}

impl Gic {
    /// How many SPIs there are.
    pub fn spis(&self) -> u32 {
        let regs = self.distributor.lock();
        field_shared!(regs, typer).read().num_spis()
    }

    fn redistributor(&self, mpidr: Mpidr) -> Option<&Redistributor> {
        self.redistributors
            .iter()
            .find(|redistributor| redistributor.mpidr == mpidr)
    }

    /// Sets up this pCPU's side: wakes its redistributor, enables the doorbells and these PPIs.
    pub fn start_pcpu(&self, mpidr: Mpidr, ppis: &[u32]) {
        let Some(redistributor) = self.redistributor(mpidr) else {
            panic!("no redistributor for MPIDR {:#x}", mpidr.bits());
        };
        let mut regs = redistributor.regs.lock();
        let mut driver = GicRedistributor::new(regs.reborrow());
        // An error means that it is awake already.
        let _ = driver.mark_core_awake();
        driver.configure_default_settings();
        let sgis = [DOORBELL, STOP].map(PhysicalIntId::sgi);
        let ppis = ppis.iter().map(|&intid| PhysicalIntId::ppi(intid - 16));
        for intid in sgis.into_iter().chain(ppis) {
            driver
                .set_group(intid, Group::Group1NS)
                .and_then(|()| driver.set_interrupt_priority(intid, PRIORITY))
                .and_then(|()| driver.enable_interrupt(intid, true))
                .unwrap_or_else(|error| panic!("{intid:?}: {error}"));
        }
        sysregs::gic::enable_cpu_interface();
    }

    /// Enables an SPI of our own, level triggered, routed to one pCPU.
    pub fn enable_spi(&self, intid: u32, to: Mpidr) {
        let mask = SpiMask {
            block: intid / 32,
            bits: 1 << (intid % 32),
        };
        self.set_trigger(mask.block, 0, mask.bits);
        self.route(IntId(intid), to);
        self.enable(mask);
    }

    /// GICD_ISENABLER.
    pub fn enable(&self, mask: SpiMask) {
        let mut regs = self.distributor.lock();
        if let Some(mut register) = field!(regs, isenabler).get(mask.block as usize) {
            register.write(mask.bits);
        }
    }

    /// GICD_ICENABLER, waiting until it has taken effect.
    pub fn disable(&self, mask: SpiMask) {
        let mut regs = self.distributor.lock();
        if let Some(mut register) = field!(regs, icenabler).get(mask.block as usize) {
            register.write(mask.bits);
        }
        while field_shared!(regs, ctlr).read().contains(GicdCtlr::RWP) {
            core::hint::spin_loop();
        }
    }

    /// GICD_ICPENDR.
    pub fn clear_pending(&self, mask: SpiMask) {
        let mut regs = self.distributor.lock();
        if let Some(mut register) = field!(regs, icpendr).get(mask.block as usize) {
            register.write(mask.bits);
        }
    }

    /// GICD_ICACTIVER.
    pub fn clear_active(&self, mask: SpiMask) {
        let mut regs = self.distributor.lock();
        if let Some(mut register) = field!(regs, icactiver).get(mask.block as usize) {
            register.write(mask.bits);
        }
    }

    /// GICD_ICFGR: these SPIs of a block to edge, those to level.
    pub fn set_trigger(&self, block: u32, edge: u32, level: u32) {
        let mut regs = self.distributor.lock();
        for half in 0..2 {
            let (edge, level) = (edge >> (16 * half) & 0xffff, level >> (16 * half) & 0xffff);
            if edge | level == 0 {
                continue;
            }
            if let Some(mut register) = field!(regs, icfgr).get((block * 2 + half) as usize) {
                let old = register.read();
                register.write(old & !spread(level) | spread(edge));
            }
        }
    }

    /// GICD_IROUTER: to one pCPU.
    pub fn route(&self, spi: IntId, to: Mpidr) {
        let mut regs = self.distributor.lock();
        // irouter begins with SPI 0.
        if let Some(mut register) = field!(regs, irouter).get(spi.0.wrapping_sub(32) as usize) {
            register.write(to.bits());
        }
    }

    /// Clears the active state of a PPI of any pCPU (GICR_ICACTIVER0).
    pub fn clear_active_ppi(&self, mpidr: Mpidr, intid: IntId) {
        if let Some(redistributor) = self.redistributor(mpidr) {
            let mut regs = redistributor.regs.lock();
            let mut sgi = field!(regs, sgi);
            if let Some(mut register) = field!(sgi, icactiver).get(0) {
                register.write(1 << (intid.0 & 31));
            }
        }
    }
}

/// The bit above each of 16: Int_config[1] of GICD_ICFGR (IHI0069 12.9.9).
const fn spread(bits: u32) -> u32 {
    let mut spread = 0;
    let mut bit = 0;
    while bit < 16 {
        spread |= (bits >> bit & 1) << (2 * bit + 1);
        bit += 1;
    }
    spread
}
