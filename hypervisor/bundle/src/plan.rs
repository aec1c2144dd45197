//! What each VM gets of the machine, and where it goes: decided as a whole, before anything is built.
//!
//! Guests that name pCPUs get those, then those that say how many get the lowest that are left, in the bundle's order, and one
//! that says nothing gets the rest; of RAM likewise. Devices go to whoever asks for them; an only guest that asks for nothing gets
//! all.
//!
//! A guest with a device that nothing keeps from memory finds its RAM where it is, since that device does. Any other finds its
//! RAM where the machine's begins, wherever that is, and its virtio devices are [mediated](Mediated).

mod backing;
mod capture;
mod check;
mod evidence;
mod gic;
mod left;
mod mediated;
mod own;
mod wanted;

use alloc::format;
use alloc::vec::Vec;

use platform::devicetree::{Fdt, Settled, Tree};
use platform::{Machine, Range};

use crate::digest::place;
use crate::guest_dtb::{KASLR_SEED, RNG_SEED};
use crate::places::Places;
use crate::ram::{PAGE_SIZE, free_pages, highest_free};
use crate::{Bundle, Error, Guest, Layout, Secret};
use check::Check;
use left::Left;
use own::Own;

pub use backing::{Backing, Piece};
pub use capture::{CapturePlan, check_capture};
pub use mediated::Mediated;
pub use wanted::{Wanted, reaches_memory};

/// Bytes of one redistributor as guests find it: RD_base and SGI_base (IHI0069 12.10).
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// So many VMs there are at most.
pub const MAX_VMS: u8 = 16;

/// What the hypervisor knows of the machine beside [`Machine`].
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The machine's devicetree, which guests' are made from.
    pub dtb: &'a [u8],
    /// RAM that no guest may have: the hypervisor's own, the copy of the bundle.
    pub taken: &'a [Range],
    /// Physical addresses of guests' memory and devices end here.
    pub limit: u64,
    /// How many SPIs the interrupt controller has.
    pub spis: u32,
    /// What guests' seeds are derived from, if there is anything secret.
    pub secret: Option<Secret>,
    /// Version and DeviceID of the virtio-mmio transport at an address; zeros if none is there.
    pub transport: fn(u64) -> [u32; 2],
}

/// How a VM's seeds are made and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeding {
    /// What they are derived from.
    pub secret: Secret,
    /// Where in the devicetree the value of `kaslr-seed` is.
    pub kaslr: usize,
    /// Where in the devicetree the value of `rng-seed` is.
    pub rng: usize,
}

/// What one VM gets. Addresses are the guest's, and of all but its RAM and [`CpuInterface::at`] physical as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPlan<'a> {
    /// Its number: its place in the bundle.
    pub id: u8,
    /// What it asks for, with its kernel and ramdisk.
    pub guest: Guest<'a>,
    /// For each vCPU the affinity of its pCPU.
    pub cpus: Vec<u64>,
    /// For each vCPU its own.
    pub affinities: Vec<u64>,
    /// Its memory in whole pages, ascending.
    pub ram: Vec<Range>,
    /// Where that is.
    pub backing: Backing,
    /// Where in that goes what it boots.
    pub layout: Layout,
    /// Its devicetree.
    pub dtb: Vec<u8>,
    /// The seeds in that, if there are any.
    pub seeding: Option<Seeding>,
    /// The emulated PL011.
    pub uart: Range,
    /// Its interrupt.
    pub uart_intid: u32,
    /// The emulated distributor.
    pub distributor: Range,
    /// The emulated redistributors of a GICv3: in each region one after the other, in the order of the vCPUs.
    pub redistributors: Vec<Range>,
    /// The CPU interface of a GICv2.
    pub cpu_interface: Option<CpuInterface>,
    /// Their registers.
    pub registers: Vec<Range>,
    /// The addresses of those that are virtio-mmio transports.
    pub transports: Vec<u64>,
    /// Devices whose registers it is not shown.
    pub mediated: Vec<Mediated>,
    /// RAM for the queues of those, in that order.
    pub queues: Range,
    /// It has a device that can reach all memory.
    pub reaches_all: bool,
    /// Interrupts of the machine that it gets: those of its devices, and PPIs of its pCPUs.
    pub interrupts: Vec<u32>,
    /// Devices of its own.
    pub own: Own,
    /// RAM for tables of stage 2 that show each page of its RAM by itself; empty if none need be.
    pub tables: Range,
    /// What saves its memory, if anything does.
    pub capture: Option<CapturePlan<'a>>,
}

pub use own::Own as OwnDevices;

/// A CPU interface in memory, as a guest finds it. A GICv3 has system registers instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuInterface {
    /// Where the guest finds GICC.
    pub at: u64,
    /// What it finds there: the first half of GICV, which it drives itself.
    pub gicv: Range,
    /// The second half of GICC, which traps: it holds GICC_DIR and nothing else (IHI0048 4.4). GICV's own would
    /// find only those interrupts that are in a list register.
    pub deactivate: Range,
}

/// Where the bundle is, and where a copy of it is kept that no guest can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Where the loader put it.
    pub from: Range,
    /// Where the copy goes, in whole pages.
    pub to: Range,
}

impl Keep {
    /// Finds RAM below `limit` that the bundle does not lie in, and nothing else that is `taken`.
    ///
    /// # Errors
    ///
    /// If there is no bundle, or it is not in RAM, or there is too little.
    #[inline(never)]
    pub fn find(machine: &Machine, taken: &[Range], limit: u64) -> Result<Self, Error> {
        let Some(from) = machine.initrd else {
            return Err(Error::invalid(
                "/chosen",
                "has no linux,initrd-start, so there is no guest",
                "load a bundle as the initrd",
            ));
        };
        let reachable = Range::between(0, limit);
        if !reachable.covers(from) || !machine.ram.iter().any(|bank| bank.covers(from)) {
            return Err(Error::invalid(
                "/chosen linux,initrd-start",
                "leads out of the machine's RAM",
                "load the bundle into RAM",
            ));
        }
        let mut taken = taken.to_vec();
        taken.push(from);
        let size = from.size.next_multiple_of(PAGE_SIZE);
        match highest_free(machine, &taken, limit, size, PAGE_SIZE) {
            Some(start) => Ok(Self {
                from,
                to: Range::new(start, size),
            }),
            None => Err(Error::invalid(
                "RAM",
                "has no room for a copy of the bundle",
                "give the machine more memory",
            )),
        }
    }
}

/// Decides what each guest of a bundle gets. No two VMs get the same CPU, RAM, device or SPI, and none gets anything that
/// is the hypervisor's.
///
/// # Errors
///
/// If the machine has not got what the guests ask for, or its devicetree contradicts itself. The error names what and the
/// mend.
#[inline(never)]
pub fn plan<'a>(
    machine: &Machine,
    bundle: Bundle<'a>,
    host: &Host<'_>,
) -> Result<Vec<VmPlan<'a>>, Error> {
    let count = bundle.guests.len();
    if count > usize::from(MAX_VMS) {
        let place = format!("the bundle, with {count} guests,");
        let what = "has more than there can be";
        let mend = "give it fewer; docs/guests.md says how many";
        return Err(Error::invalid(&place, what, mend));
    }
    check_names(&bundle.guests)?;
    let places = Places::check(machine, host.limit)?;
    let check = Check::new(machine, host)?;
    let mut left = Left {
        machine,
        host,
        places,
        check,
        cpus: machine.cpus.clone(),
        ram: free_pages(machine, host.taken, host.limit),
        devices: machine.devices.iter().collect(),
        mediated: Vec::new(),
        is_only: count == 1,
    };
    let guests = bundle.guests;
    let cpus = left.share_cpus(&guests)?;
    let mut plans: Vec<VmPlan<'a>> = Vec::new();
    for takes_rest in [false, true] {
        for (index, (guest, cpus)) in guests.iter().zip(&cpus).enumerate() {
            if (guest.config.memory == 0) == takes_rest {
                let plan = left.give_to(index as u8, guest.clone(), cpus.clone())?;
                let place = plans.iter().take_while(|other| other.id < plan.id).count();
                plans.insert(place, plan);
            }
        }
    }
    Ok(plans)
}

/// Names tell guests apart, and two cannot both have what is left.
fn check_names(guests: &[Guest<'_>]) -> Result<(), Error> {
    for (index, guest) in guests.iter().enumerate() {
        let config = &guest.config;
        for other in guests.iter().take(index).map(|guest| &guest.config) {
            let (both, mend) = if config.name == other.name {
                ("have one name", "give each a name of its own")
            } else if config.vcpus == 0 && other.vcpus == 0 {
                ("both ask for all CPUs", "say cpus for all but one")
            } else if config.memory == 0 && other.memory == 0 {
                ("both ask for all memory", "say memory for all but one")
            } else {
                continue;
            };
            let place = format!("the guests {} and {}", other.name, config.name);
            return Err(Error::invalid(&place, both, mend));
        }
    }
    Ok(())
}

/// Finds where the seeds go in a guest's devicetree.
fn seeding(dtb: &[u8], secret: Secret) -> Result<Seeding, Error> {
    let unsound = |error| Error::Devicetree {
        whose: "the guest's",
        error,
    };
    // Of our own making, but nothing is read unchecked.
    let settled = Settled::new(dtb).map_err(unsound)?;
    let fdt = Fdt::open(&settled).map_err(unsound)?;
    let tree = Tree::new(&fdt);
    let chosen = tree.find("/chosen");
    let start = |name| Some(place(settled.bytes(), chosen?.property(name)?).start);
    match (start(KASLR_SEED), start(RNG_SEED)) {
        (Some(kaslr), Some(rng)) => Ok(Seeding { secret, kaslr, rng }),
        _ => Err(Error::invalid(
            "the guest's /chosen",
            "has no room for seeds",
            "correct the machine's devicetree",
        )),
    }
}
