//! The physical interrupt controller, as EL2 drives it, and the virtual interface its guests use: a GICv3 or a
//! GICv2. Everybody else asks here, and the answer is one load and one branch away: no lock, no table of
//! functions, so that what a GICv3 costs at an exit stays what it was.

use alloc::vec::Vec;

use hv_core::id::{IntId, Mpidr};
use hv_core::vgic::interface::InterfaceState;
use hv_core::vgic::lr::{ListReg, hcr};
use hv_core::vgic::{Model, SpiMask};
use spin::Once;

use crate::mmio::{Bank, Block, ReadWrite};
use crate::patience::Mutex;
use crate::sysregs::gic as interface;

mod change;
mod gicd;
mod own;
#[expect(unsafe_code, reason = "where its registers are")]
mod v2;
#[expect(unsafe_code, reason = "registers of the redistributors")]
mod v3;

pub use change::change_distributor;
pub use own::{DOORBELL, STOP};

/// GICD_CTLR.RWP (IHI0069 12.9.4); a GICv2 reads 0.
const CTLR_RWP: u32 = 1 << 31;

/// The machine's distributor, and redistributors if it is a GICv3.
pub struct Gic {
    gicd: Mutex<Block<gicd::Gicd>>,
    /// A GICv3's registers that route SPIs.
    routers: Option<Block<gicd::Routers>>,
    redistributors: Vec<v3::Redistributor>,
}

static GIC: Once<Gic> = Once::new();

/// The interrupt controller, once set up.
pub fn get() -> &'static Gic {
    GIC.get()
        .expect("the GIC is set up before any pCPU runs a guest")
}

/// Sets up the distributor, and finds the redistributors.
///
/// # Safety
///
/// The ranges are those of this machine, mapped as device memory, and nobody else drives them.
#[expect(unsafe_code, reason = "the caller answers for the addresses")]
pub unsafe fn start(gic: &platform::Gic) -> &'static Gic {
    let (distributor, routers, redistributors) = match gic {
        platform::Gic::V3 {
            dist,
            redists,
            redist_stride,
            ..
        } => {
            // SAFETY: the caller answers for the addresses.
            let found = unsafe { v3::start(dist.start, redists, *redist_stride) };
            (dist.start, Some(dist.start + gicd::ROUTERS), found)
        }
        platform::Gic::V2 { dist, cpu, hyp, .. } => {
            // SAFETY: the caller answers for the addresses.
            unsafe { v2::start(dist.start, cpu, hyp.start) };
            (dist.start, None, Vec::new())
        }
    };
    // SAFETY: the caller answers for the address.
    let gicd = unsafe { Block::at(distributor) };
    // SAFETY: as above; a GICv3's distributor has them (IHI0069 12.8).
    let routers = routers.map(|address| unsafe { Block::at(address) });
    GIC.call_once(|| Gic {
        gicd: Mutex::new(gicd),
        routers,
        redistributors,
    })
}

/// Which architecture it is.
pub fn model() -> Model {
    if v2::is_it() {
        Model::V2 {
            resamples: v2::resamples(),
        }
    } else {
        Model::V3
    }
}

impl Gic {
    /// How many SPIs there are.
    pub fn spis(&self) -> u32 {
        (self.gicd.lock().read(gicd::TYPER) & 0x1f) * 32
    }

    /// Sets up this pCPU's side: enables the doorbells and these PPIs.
    pub fn start_pcpu(&self, mpidr: Mpidr, ppis: &[u32]) {
        if v2::is_it() {
            v2::start_pcpu(mpidr, ppis);
        } else {
            v3::start_pcpu(&self.redistributors, mpidr, ppis);
        }
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

    /// The same of one that another pCPU has had, and has perhaps acknowledged and will never deactivate.
    pub fn take_over_spi(&self, intid: u32, to: Mpidr) {
        let mask = SpiMask {
            block: intid / 32,
            bits: 1 << (intid % 32),
        };
        self.disable(mask);
        self.clear_active(mask);
        self.enable_spi(intid, to);
    }

    fn write(&self, bank: Bank<gicd::Gicd, u32, ReadWrite>, mask: SpiMask) {
        self.gicd.lock().write(bank.get(mask.block), mask.bits);
    }

    /// GICD_ISENABLER.
    pub fn enable(&self, mask: SpiMask) {
        self.write(gicd::ISENABLER, mask);
    }

    /// GICD_ICENABLER, waiting until it has taken effect.
    pub fn disable(&self, mask: SpiMask) {
        self.write(gicd::ICENABLER, mask);
        while self.gicd.lock().read(gicd::CTLR) & CTLR_RWP != 0 {
            core::hint::spin_loop();
        }
    }

    /// GICD_ICPENDR.
    pub fn clear_pending(&self, mask: SpiMask) {
        self.write(gicd::ICPENDR, mask);
    }

    /// GICD_ICACTIVER.
    pub fn clear_active(&self, mask: SpiMask) {
        self.write(gicd::ICACTIVER, mask);
    }

    /// GICD_ICFGR: these SPIs of a block to edge, those to level.
    pub fn set_trigger(&self, block: u32, edge: u32, level: u32) {
        let gicd = self.gicd.lock();
        for half in 0..2 {
            let (edge, level) = (edge >> (16 * half) & 0xffff, level >> (16 * half) & 0xffff);
            if edge | level == 0 {
                continue;
            }
            let register = || gicd::ICFGR.get(block * 2 + half);
            let others = gicd.read(register()) & !spread(level);
            gicd.write(register(), others | spread(edge));
        }
    }

    /// GICD_IROUTER, or GICD_ITARGETSR: to one pCPU.
    pub fn route(&self, spi: IntId, to: Mpidr) {
        let gicd = self.gicd.lock();
        match self.routers {
            Some(routers) => routers.write(gicd::IROUTER.get(spi.0), to.bits()),
            None => gicd.write(gicd::TARGETS.get(spi.0), v2::target(to)),
        }
    }

    /// Clears the active state of a PPI of any pCPU (GICR_ICACTIVER0). A GICv2 lets nobody ask for that: its
    /// guests' private registers are banked, as the machine's are.
    pub fn clear_active_ppi(&self, mpidr: Mpidr, intid: IntId) {
        v3::clear_active_ppi(&self.redistributors, mpidr, intid);
    }

    /// GICD_ISPENDR or, of private interrupts, GICR_ISPENDR0 of a pCPU, if it says whether lines are up. A GICv2 tells of
    /// private ones on their own pCPU only, and GICD_ISPENDR of QEMU's GICv3 has latches alone; that one has no
    /// product number (GICD_IIDR, IHI0069 12.9.13).
    #[cold]
    pub fn lines(&self, mpidr: Mpidr, block: u32) -> Option<u32> {
        if block == 0 && !v2::is_it() {
            return v3::pending_ppis(&self.redistributors, mpidr);
        }
        let gicd = self.gicd.lock();
        let tells = if v2::is_it() {
            block != 0 || mpidr == crate::sysregs::mpidr()
        } else {
            gicd.read(gicd::IIDR) >> 24 != 0
        };
        tells.then(|| gicd.read(gicd::ISPENDR.get(block)))
    }
}

/// Which CPU interface and virtual interface the pCPUs have. Who asks something of them at each exit keeps this, so that
/// the answer is a branch away, without a load.
#[derive(Clone, Copy)]
pub struct Interface {
    is_v2: bool,
}

impl Interface {
    /// Those of this machine.
    pub fn of_machine() -> Self {
        Self { is_v2: v2::is_it() }
    }

    /// Acknowledges the highest pending interrupt: its INTID, 1023 when there is none, and the word that
    /// [`drop_priority`](Self::drop_priority) and [`deactivate`](Self::deactivate) want, which for an SGI of a
    /// GICv2 has the CPU that sent it (IHI0048 4.4.4).
    #[inline(always)]
    pub fn acknowledge(self) -> (u32, u32) {
        if self.is_v2 {
            v2::acknowledge()
        } else {
            let intid = interface::acknowledge();
            (intid, intid)
        }
    }

    /// Lets other interrupts come; this one stays active.
    #[inline(always)]
    pub fn drop_priority(self, word: u32) {
        if self.is_v2 {
            v2::drop_priority(word);
        } else {
            interface::drop_priority(word);
        }
    }

    /// Lets it come again: an SGI of our own, an SPI, or a PPI of this pCPU, which may have been acknowledged long ago. But for
    /// the SGI the INTID will do for the word.
    #[inline]
    pub fn deactivate(self, word: u32) {
        if self.is_v2 {
            v2::deactivate(word);
        } else {
            interface::deactivate(word);
        }
    }

    /// A bit for each empty list register (ICH_ELRSR_EL2, GICH_ELSR).
    #[inline(always)]
    pub fn empty_list_registers(self) -> u64 {
        if self.is_v2 {
            v2::empty_list_registers()
        } else {
            interface::empty_list_registers()
        }
    }

    /// A bit for each list register whose interrupt's end has a maintenance interrupt (ICH_EISR_EL2, GICH_EISR).
    #[inline(always)]
    pub fn ended_list_registers(self) -> u64 {
        if self.is_v2 {
            v2::ended_list_registers()
        } else {
            interface::ended_list_registers()
        }
    }

    /// Sets list register `index` to a [word](list_register_word).
    #[inline(always)]
    pub fn set_list_register(self, index: usize, word: u64) {
        if self.is_v2 {
            v2::set_list_register(index, word as u32);
        } else {
            interface::set_list_register(index, word);
        }
    }

    /// Sends an [`sgi`].
    #[inline(always)]
    pub fn send_sgi(self, word: u64) {
        if self.is_v2 {
            v2::send_sgi(word as u32);
        } else {
            interface::send_sgi(word);
        }
    }
}

/// An SGI to one pCPU, which has [started](Gic::start_pcpu), as it is written to ICC_SGI1R_EL1 or GICD_SGIR.
#[inline]
pub fn sgi(intid: u32, to: Mpidr) -> u64 {
    if v2::is_it() {
        v2::sgi(intid, to).into()
    } else {
        interface::sgi(intid, to)
    }
}

/// Sends an [`sgi`].
#[inline]
pub fn send_sgi(word: u64) {
    Interface::of_machine().send_sgi(word);
}

/// Turns the CPU interface off for good: this pCPU takes no interrupt any more.
pub fn disable_cpu_interface() {
    if GIC.get().is_none() {
        // It was never turned on, and it is not known which it is.
    } else if v2::is_it() {
        v2::disable_cpu_interface();
    } else {
        interface::disable_cpu_interface();
    }
}

/// Number of list registers and of priority bits.
pub fn virtual_interface() -> (usize, u32) {
    if v2::is_it() {
        v2::virtual_interface()
    } else {
        interface::virtual_interface()
    }
}

/// ICH_HCR_EL2 or GICH_HCR.
#[inline]
pub fn ich_hcr() -> u64 {
    if v2::is_it() {
        v2::hcr()
    } else {
        interface::ich_hcr()
    }
}

/// How many interrupts the guest has deactivated that were in no list register, since the last
/// [`set_ich_hcr`].
#[inline]
pub fn deactivations() -> u32 {
    let hcr = ich_hcr();
    if hcr::eoi_count(hcr) == 0 {
        return 0;
    }
    let vmcr = if v2::is_it() {
        v2::vmcr()
    } else {
        interface::ich_vmcr()
    };
    hcr::deactivations(hcr, vmcr)
}

/// Sets it; what the hardware has not got is left out.
#[inline]
pub fn set_ich_hcr(value: u64) {
    if v2::is_it() {
        v2::set_hcr(value);
    } else {
        interface::set_ich_hcr(value);
    }
}

/// The virtual CPU interface out of reset: everything disabled, nothing active.
pub fn reset_virtual_interface() {
    if v2::is_it() {
        v2::reset_virtual_interface();
    } else {
        interface::reset_virtual_interface();
    }
}

/// What the virtual CPU interface holds, as a GICv3 spells it.
#[cold]
pub fn interface_state() -> InterfaceState {
    if v2::is_it() {
        v2::interface_state()
    } else {
        interface::interface_state()
    }
}

/// List register `index`.
#[inline]
pub fn list_register(index: usize) -> ListReg {
    if v2::is_it() {
        v2::list_register(index)
    } else {
        interface::list_register(index)
    }
}

/// A list register's value as the hardware spells it.
#[inline]
pub fn list_register_word(value: ListReg) -> u64 {
    if v2::is_it() {
        value.encode_v2().into()
    } else {
        value.encode_v3()
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
