//! What a virtual machine is put together from.

use alloc::vec::Vec;

use hv_abi::firmware::Firmware;
use hv_bundle::{Backing, Layout, Seeding};
use hv_core::id::{IntId, Mpidr, VmId};
use hv_core::psci::Reclaim;
use hv_core::sdei::{self, Definition};
use hv_core::vgic::Vgic;
use hv_core::virtio::Mediator;
use hv_core::vm::GuestMap;
use platform::Range;

use crate::dump::Dump;
use crate::{stage2, sysregs};

/// What is loaded into the guest's RAM at each start.
pub struct GuestImage {
    /// Kernel, as in the bundle.
    pub kernel: &'static [u8],
    /// Ramdisk, as in the bundle.
    pub ramdisk: Option<&'static [u8]>,
    /// The guest's devicetree.
    pub dtb: Vec<u8>,
    /// The seeds in that, which are others each time.
    pub seeding: Option<Seeding>,
    /// Where each goes.
    pub layout: Layout,
}

/// The SDEI of a VM, as its configuration has it.
pub struct Sdei {
    /// Whose behaviour it is.
    pub firmware: Firmware,
    /// The events besides event 0.
    pub events: Vec<Definition>,
}

impl Sdei {
    /// As hv-core takes it.
    pub fn config(&self) -> sdei::Config<'_> {
        sdei::Config {
            firmware: self.firmware,
            events: &self.events,
            rate: sysregs::counter_frequency(),
        }
    }
}

/// What a VM is put together from.
pub struct VmParts {
    /// Its number.
    pub id: VmId,
    /// What its guest sees.
    pub map: GuestMap,
    /// The pCPU of each vCPU.
    pub pcpus: Vec<Mpidr>,
    /// The emulated UART's interrupt.
    pub uart_intid: IntId,
    /// What it boots.
    pub image: GuestImage,
    /// The SDEI it is offered.
    pub sdei: Sdei,
    /// What CPU_ON does with a vCPU that is parked in an event.
    pub reclaim: Reclaim,
    /// Where its RAM is.
    pub backing: Backing,
    /// Passed-through virtio-mmio transports, by address.
    pub transports: Vec<u64>,
    /// Its mediated devices, in the order of the map.
    pub mediators: Vec<Mediator>,
    /// Its interrupt controller.
    pub vgic: Vgic,
    /// What it can reach.
    pub stage2: stage2::Tables,
    /// It has a device that can reach all memory.
    pub reaches_all: bool,
    /// RAM of ours that keeps what is in its flash; empty if it has none.
    pub flash: Range,
    /// What that begins with.
    pub flash_contents: &'static [u8],
    /// What its crash kernel does is watched.
    pub is_watched: bool,
    /// What saves its memory, if anything does.
    pub dump: Option<Dump>,
}
