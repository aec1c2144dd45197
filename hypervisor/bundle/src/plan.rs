//! What each VM gets of the machine, and where it goes: decided as a whole, before anything is built.
//!
//! The guests of a bundle are served in its order. CPUs and RAM go to whoever is first, the lowest first. Devices and the
//! console's input cannot be shared, and no configuration asks for them: the first VM has them all.

mod check;
mod own;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use platform::devicetree::{Fdt, Settled, Tree};
use platform::{Conduit, Cpu, Device, DeviceKind, Gic, Machine, Range};

use crate::digest::place;
use crate::guest_dtb::{KASLR_SEED, RNG_SEED};
use crate::layout::{Memory, Parts};
use crate::places::Places;
use crate::ram::{PAGE_SIZE, free_pages, highest_free, take_lowest};
use crate::{Bundle, Error, Guest, GuestSpec, Kernel, Layout, Secret, build_guest_dtb};
use check::Check;
use own::Own;

/// Bytes of one redistributor as guests find it: RD_base and SGI_base (IHI0069 12.10).
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// How many CPU interfaces a GICv2 has at most (IHI0048 2.3.1).
const MAX_INTERFACES: usize = 8;

/// Of a GICC that fills 128 KiB, the registers of its first 4 KiB repeat over the first 64, and GICC_DIR follows.
const REPEATED: u64 = 0x2_0000;
/// GICC's and GICV's registers (IHI0048 4.1.3).
const INTERFACE: u64 = 0x2000;

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
    /// How many VMs there can be.
    pub most_vms: u8,
    /// What guests' seeds are derived from, if there is anything secret.
    pub secret: Option<Secret>,
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

/// What one VM gets. All addresses are physical and, but for [`CpuInterface::at`], the guest's as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPlan<'a> {
    /// Its number: its place in the bundle.
    pub id: u8,
    /// What it asks for, with its kernel and ramdisk.
    pub guest: Guest<'a>,
    /// For each vCPU the affinity that it and its pCPU have.
    pub cpus: Vec<u64>,
    /// Its memory in whole pages, ascending.
    pub ram: Vec<Range>,
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
    /// The physical UART's interrupt, if this VM gets what is typed.
    pub input: Option<u32>,
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
    /// Interrupts of the machine that it gets: those of its devices, and PPIs of its pCPUs.
    pub interrupts: Vec<u32>,
    /// Devices of its own.
    pub own: Own,
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
    if bundle.guests.len() > usize::from(host.most_vms) {
        return Err(Error::invalid(
            "the bundle",
            "has several guests",
            "one is supported so far",
        ));
    }
    let places = Places::check(machine, host.limit)?;
    let check = Check::new(machine, host)?;
    let mut left = Left {
        machine,
        host,
        places,
        check,
        cpus: &machine.cpus,
        ram: free_pages(machine, host.taken, host.limit),
        devices: &machine.devices,
        input: Some(machine.console.intid),
    };
    let numbered = (0..).zip(bundle.guests);
    numbered
        .map(|(id, guest)| left.give_to(id, guest))
        .collect()
}

/// What nobody has got yet.
struct Left<'m> {
    machine: &'m Machine,
    host: &'m Host<'m>,
    places: Places<'m>,
    check: Check<'m>,
    cpus: &'m [Cpu],
    ram: Vec<Range>,
    devices: &'m [Device],
    input: Option<u32>,
}

impl Left<'_> {
    /// Plans one VM, and keeps the rest for those after it.
    fn give_to<'a>(&mut self, id: u8, guest: Guest<'a>) -> Result<VmPlan<'a>, Error> {
        let whose = format!("the guest {}", guest.config.name);
        let most = match guest.config.memory {
            0 => u64::MAX,
            bytes => bytes,
        };
        let own_devices = Own::find(&guest.config, &self.places, &mut self.ram)?;
        let ram = take_lowest(&mut self.ram, most);
        let memory = ram.iter().map(|part| part.size).sum();
        let available = self.cpus.len();
        guest.config.check_against(available as u32, memory)?;
        if ram.is_empty() {
            let what = "is left without RAM";
            return Err(Error::invalid(&whose, what, "give the machine more memory"));
        }
        let vcpus = match guest.config.vcpus as usize {
            0 => available,
            count => count,
        };
        let (own, rest) = self.cpus.split_at_checked(vcpus).unwrap_or_default();
        if own.is_empty() {
            let what = "is left without CPUs";
            return Err(Error::invalid(&whose, what, "start a larger machine"));
        }
        self.cpus = rest;
        let cpus: Vec<u64> = own.iter().map(|cpu| cpu.mpidr).collect();

        let given = core::mem::take(&mut self.devices);
        let timers = &self.machine.timers;
        let mut plan = VmPlan {
            id,
            cpus,
            ram,
            layout: Layout::default(),
            dtb: Vec::new(),
            seeding: None,
            uart: self.machine.shown.base,
            uart_intid: self.machine.shown.intid,
            input: self.input.take(),
            distributor: self.machine.gic.distributor(),
            redistributors: self.redistributors(&whose, vcpus)?,
            cpu_interface: self.cpu_interface(&whose, vcpus)?,
            registers: Vec::new(),
            transports: Vec::new(),
            interrupts: vec![timers.virt, timers.physical],
            own: own_devices,
            guest,
        };
        for device in given {
            self.check.device(device)?;
            plan.registers.extend(&device.mmio);
            if device.kind == DeviceKind::VirtioMmio {
                let starts = device.mmio.iter().map(|range| range.start);
                plan.transports.extend(starts);
            }
            for spi in &device.spis {
                if !plan.interrupts.contains(&spi.intid) {
                    plan.interrupts.push(spi.intid);
                }
            }
        }
        self.place(&mut plan, given)?;
        Ok(plan)
    }

    /// Makes the devicetree, and finds places for what the guest boots.
    fn place(&self, plan: &mut VmPlan<'_>, given: &[Device]) -> Result<(), Error> {
        let devices: Vec<&str> = given.iter().map(|device| device.path.as_str()).collect();
        let spec = |initrd| GuestSpec {
            ram: &plan.ram,
            cpus: &plan.cpus,
            bootargs: &plan.guest.config.bootargs,
            initrd,
            sdei: plan.guest.config.sdei,
            seeds: self.host.secret.is_some(),
            conduit: Conduit::Smc,
            console: &self.machine.shown.path,
            devices: &devices,
            own: plan.own,
        };
        let ramdisk = plan.guest.ramdisk.map(|ramdisk| ramdisk.len() as u64);
        // The tree says where the ramdisk is, and where that is depends on the tree's size: build it twice.
        let placeholder = ramdisk.map(|size| Range::new(0, size));
        let draft = build_guest_dtb(self.host.dtb, &spec(placeholder))?;
        let memory = Memory {
            pieces: &plan.ram,
            bare: self.bare(plan.guest.config.memory),
        };
        let parts = Parts {
            kernel: Kernel::recognise(plan.guest.kernel)?,
            ramdisk,
            dtb: draft.len() as u64,
            dtb_at: plan.guest.config.dtb_at,
        };
        let layout = Layout::place(&memory, &parts)?;
        let dtb = build_guest_dtb(self.host.dtb, &spec(layout.ramdisk))?;
        plan.seeding = match self.host.secret {
            Some(secret) => Some(seeding(&dtb, secret.of_vm(plan.id))?),
            None => None,
        };
        (plan.layout, plan.dtb) = (layout, dtb);
        Ok(())
    }

    /// What a guest with so much memory, 0 for all there is, would have of the first bank without a hypervisor.
    fn bare(&self, memory: u64) -> Range {
        let bank = self.machine.ram.first().copied().unwrap_or_default();
        let size = match memory {
            0 => bank.size,
            bytes => bank.size.min(bytes),
        };
        Range::new(bank.start, size)
    }

    /// The first frames of the machine's regions, one for each vCPU. They are emulated, so it does not matter whose frames
    /// the machine has there: every VM begins with the first.
    fn redistributors(&self, whose: &str, vcpus: usize) -> Result<Vec<Range>, Error> {
        let Gic::V3 { redists, .. } = &self.machine.gic else {
            return Ok(Vec::new());
        };
        let mut needed = vcpus as u64;
        let mut regions = Vec::new();
        for region in redists {
            let frames = (region.size / REDISTRIBUTOR_SIZE).min(needed);
            if frames != 0 {
                regions.push(Range::new(region.start, frames * REDISTRIBUTOR_SIZE));
            }
            needed -= frames;
        }
        if needed != 0 {
            return Err(Error::invalid(
                whose,
                "has more vCPUs than the interrupt controller's regions have redistributors",
                "ask for fewer, or correct the machine's devicetree",
            ));
        }
        Ok(regions)
    }

    /// What stage 2 shows of a GICv2's virtual CPU interface.
    fn cpu_interface(&self, whose: &str, vcpus: usize) -> Result<Option<CpuInterface>, Error> {
        let Gic::V2 { cpu, vcpu, .. } = &self.machine.gic else {
            return Ok(None);
        };
        if vcpus > MAX_INTERFACES {
            let what = "has more than 8 vCPUs, and a GICv2 serves no more";
            return Err(Error::invalid(whose, what, "ask for 8 or fewer"));
        }
        let size = if cpu.size >= REPEATED {
            REPEATED
        } else {
            INTERFACE
        };
        let half = size.min(vcpu.size) / 2;
        Ok(Some(CpuInterface {
            at: cpu.start,
            gicv: Range::new(vcpu.start, half),
            deactivate: Range::new(cpu.start + half, half),
        }))
    }
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
