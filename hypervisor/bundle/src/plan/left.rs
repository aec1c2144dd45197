//! What nobody has got yet, and how a guest takes its part of that.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use platform::{Conduit, Cpu, Device, DeviceKind, Machine, Range};

use super::check::Check;
use super::evidence::{check_place, take_tables};
use super::mediated::{Mediated, start_of};
use super::own::{Own, free_spi, take_highest};
use super::{Backing, Host, VmPlan, Wanted, gic, reaches_memory, seeding};
use crate::layout::{Memory, Parts};
use crate::places::Places;
use crate::ram::{LARGEST_PAGE, PAGE_SIZE, lowest_of, take_in_step, take_lowest, whole_units};
use crate::{Error, Guest, GuestConfig, GuestSpec, Kernel, Layout, build_guest_dtb};

/// What nobody has got yet.
pub struct Left<'m> {
    pub machine: &'m Machine,
    pub host: &'m Host<'m>,
    pub places: Places<'m>,
    pub check: Check<'m>,
    pub cpus: Vec<Cpu>,
    pub ram: Vec<Range>,
    pub devices: Vec<&'m Device>,
    /// Those that are mediated: none in a page of theirs can be shown to a guest.
    pub mediated: Vec<&'m Device>,
    pub is_only: bool,
}

impl<'m> Left<'m> {
    /// Plans one VM, and keeps the rest for those after it.
    pub fn give_to<'a>(
        &mut self,
        id: u8,
        guest: Guest<'a>,
        cpus: Vec<u64>,
    ) -> Result<VmPlan<'a>, Error> {
        let whose = format!("the guest {}", guest.config.name);
        let given = self.devices_of(&whose, &guest.config)?;
        let own_devices = Own::find(&guest.config, &self.places, &mut self.ram)?;
        let is_trusted = self.trusts(&guest.config);
        let is_mediated = |device: &Device| is_mediated(device, is_trusted);
        let mut mediated = Vec::new();
        for device in given.iter().filter(|device| is_mediated(device)) {
            mediated.push(Mediated::of(&whose, device, self.host.transport)?);
        }
        let queues = match mediated.iter().map(Mediated::queue_bytes).sum() {
            0 => Range::default(),
            bytes => take_highest(&mut self.ram, bytes, "what virtio devices need")?,
        };
        let held = match &guest.config.dump {
            Some(dump) => self.hold_back(dump.memory)?,
            None => Range::default(),
        };
        let tables = take_tables(&guest.config, &mut self.ram)?;
        let mut shown = given.iter().filter(|device| !is_mediated(device));
        let reaches_all = shown.any(|device| reaches_memory(device.kind));
        let is_placed = self.is_only || reaches_all;
        let (ram, backing) = self.ram_of(&guest.config, is_placed);
        let memory = ram.iter().map(|part| part.size).sum();
        guest.config.check_memory(memory)?;
        if ram.is_empty() {
            let what = "is left without RAM";
            return Err(Error::invalid(&whose, what, "give the machine more memory"));
        }
        let vcpus = cpus.len();
        let timers = &self.machine.timers;
        let affinities = if guest.config.machine_affinities {
            cpus.clone()
        } else {
            let machines = self.machine.cpus.iter().map(|cpu| cpu.mpidr);
            machines.take(vcpus).collect()
        };
        let mut plan = VmPlan {
            id,
            cpus,
            affinities,
            ram,
            backing,
            layout: Layout::default(),
            dtb: Vec::new(),
            seeding: None,
            uart: self.machine.shown.base,
            uart_intid: self.machine.shown.intid,
            distributor: self.machine.gic.distributor(),
            redistributors: gic::redistributors(&self.machine.gic, &whose, vcpus)?,
            cpu_interface: gic::cpu_interface(&self.machine.gic, &whose, vcpus)?,
            registers: Vec::new(),
            transports: Vec::new(),
            mediated,
            queues,
            reaches_all,
            interrupts: vec![timers.virt, timers.physical],
            own: own_devices,
            tables,
            capture: None,
            guest,
        };
        for device in &given {
            self.check.device(device)?;
            if is_mediated(device) {
                continue;
            }
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
        if plan.guest.config.gwdt.is_some() {
            plan.own.gwdt_intid = free_spi(self.host.spis, |intid| {
                intid == plan.uart_intid
                    || plan.interrupts.contains(&intid)
                    || plan.mediated.iter().any(|it| it.intid == intid)
            })?;
        }
        self.place(&mut plan, &given, is_placed)?;
        check_place(&plan)?;
        plan.capture = self.give_capture(&plan, held, &given, is_placed)?;
        Ok(plan)
    }

    /// For each guest the affinities of the pCPUs that it gets.
    pub fn share_cpus(&mut self, guests: &[Guest<'_>]) -> Result<Vec<Vec<u64>>, Error> {
        let mut shares = vec![Vec::new(); guests.len()];
        let both = || guests.iter().map(|guest| &guest.config);
        // Who lists some, who says how many, and who takes the rest.
        for (config, share) in both().zip(&mut shares) {
            for &number in &config.pcpus {
                share.push(self.take_cpu(&config.name, number)?);
            }
        }
        for takes_rest in [false, true] {
            for (config, share) in both().zip(&mut shares) {
                if !config.pcpus.is_empty() || (config.vcpus == 0) != takes_rest {
                    continue;
                }
                let left = self.cpus.len();
                config.check_cpus(left as u32)?;
                let count = if takes_rest {
                    left
                } else {
                    config.vcpus as usize
                };
                share.extend(self.cpus.drain(..count).map(|cpu| cpu.mpidr));
                if share.is_empty() {
                    let whose = format!("the guest {}", config.name);
                    let what = "is left without CPUs";
                    return Err(Error::invalid(&whose, what, "start a larger machine"));
                }
            }
        }
        Ok(shares)
    }

    /// Takes the machine's CPU of this number, if nobody has it.
    fn take_cpu(&mut self, name: &str, number: u32) -> Result<u64, Error> {
        let wanted = self.machine.cpus.get(number as usize);
        let place = self.cpus.iter().position(|cpu| Some(cpu) == wanted);
        match place {
            Some(place) => Ok(self.cpus.remove(place).mpidr),
            None => {
                let place = format!("the guest {name}, cpus: {number}");
                let what = "is no CPU of the machine, or somebody has it already";
                Err(Error::invalid(
                    &place,
                    what,
                    "list others; they count from 0",
                ))
            }
        }
    }

    /// Takes RAM for a guest: where the guest finds it and where it is, which is the same if `is_placed`.
    ///
    /// If a capture kernel reads that later, it begins and ends with a page of any size: Linux reads whole pages of its own
    /// (fs/proc/vmcore.c), and beside the guest's RAM there is nothing to be read.
    fn ram_of(&mut self, config: &GuestConfig, is_placed: bool) -> (Vec<Range>, Backing) {
        let unit = match config.dump {
            Some(_) => LARGEST_PAGE,
            None => PAGE_SIZE,
        };
        let most = match config.memory {
            0 => u64::MAX,
            bytes => bytes,
        };
        if is_placed {
            let ram = whole_units(take_lowest(&mut self.ram, most), u64::MAX, unit);
            let backing = Backing::one_to_one(&ram);
            return (ram, backing);
        }
        // Blocks of the one are then blocks of the other, but for those at a hole.
        let mut shown = whole_units(self.machine.ram.clone(), self.host.limit, unit);
        let base = shown.first().map_or(0, |part| part.start);
        let behind = take_in_step(&mut self.ram, base, most);
        let size = behind.iter().map(|part| part.size).sum();
        let shown = take_lowest(&mut shown, size);
        let backing = Backing::of(&shown, &behind);
        (shown, backing)
    }

    /// Whether a guest may have devices that reach all memory.
    fn trusts(&self, config: &GuestConfig) -> bool {
        config.trusted || self.is_only && config.devices.is_none()
    }

    /// Takes the devices that a guest asks for.
    fn devices_of(&mut self, whose: &str, config: &GuestConfig) -> Result<Vec<&'m Device>, Error> {
        let words = match &config.devices {
            Some(words) => words.iter().map(String::as_str).collect(),
            None if self.is_only => vec!["all"],
            None => Vec::new(),
        };
        let is_trusted = self.trusts(config);
        let is_mediated = |device: &Device| is_mediated(device, is_trusted);
        let mut given: Vec<&Device> = Vec::new();
        for word in words {
            let wanted = Wanted::parse(word)?;
            let is_it = |device: &Device| {
                let is_before = |other: &&Device| {
                    other.kind == device.kind && lowest_of(&other.mmio) < lowest_of(&device.mmio)
                };
                wanted.is(
                    device,
                    self.machine.devices.iter().filter(is_before).count(),
                )
            };
            let is_there = |device: &Device| {
                // A place without a device is nothing to ask for but by its name.
                !is_mediated(device)
                    || wanted.is_one()
                    || (self.host.transport)(start_of(device))[1] != 0
            };
            let others = &self.mediated;
            let is_free = |device: &Device| {
                let is_beside = |other: &&Device| share_a_page(&other.mmio, &device.mmio);
                is_mediated(device) || !others.iter().any(is_beside)
            };
            let (taken, left): (Vec<_>, Vec<_>) = self
                .devices
                .iter()
                .partition(|device| is_it(device) && is_there(device) && is_free(device));
            // Of a kind that the machine has none of there is none.
            let mut all = self.machine.devices.iter();
            let is_missed = wanted.is_one()
                || wanted != Wanted::All && all.any(|device| is_it(device) && is_there(device));
            if taken.is_empty() && is_missed {
                let place = format!("{whose}, devices: {word}");
                let what = "is no device that a guest can have, or somebody has it already, or a device with its page or interrupt";
                let mend = "look into the machine's devicetree, or leave those to one guest";
                return Err(Error::invalid(&place, what, mend));
            }
            given.extend(taken);
            self.devices = left;
        }
        let shown = |device: &&&Device| !is_mediated(device);
        let is_shown = |device: &Device| {
            let mut shown = given.iter().filter(shown);
            shown.any(|other| share_a_page(&other.mmio, &device.mmio))
        };
        let mut mediated = given.iter().filter(|device| is_mediated(device));
        if let Some(device) = mediated.find(|device| is_shown(device)) {
            let place = format!("{whose}, devices: {}", device.path);
            let what =
                "is mediated, and has registers in a page with a device that the guest is shown";
            return Err(Error::invalid(&place, what, "leave one of them out"));
        }
        // A mediator answers for one transport and takes its interrupt, so both are no other device's.
        let has_both = |one: &Device, other: &Device| {
            let mut registers = one.mmio.iter();
            registers.any(|own| other.mmio.iter().any(|it| own.overlaps(*it)))
                || shares_an_interrupt(one, other)
        };
        let is_shared = |device: &Device| {
            let mut others = given.iter().filter(|other| !core::ptr::eq(**other, device));
            others.any(|other| has_both(device, other))
        };
        let mut mediated = given.iter().filter(|device| is_mediated(device));
        if let Some(device) = mediated.find(|device| is_shared(device)) {
            let place = format!("{whose}, devices: {}", device.path);
            let what = "is mediated, and has registers or an interrupt together with another device of the guest's";
            return Err(Error::invalid(&place, what, "leave one of them out"));
        }
        // Stage 2 shows whole pages: who has one register in a page has all (eight transports of QEMU's virt are in one). Nor do two
        // guests have one interrupt.
        self.devices.retain(|device| {
            let is_beside = |own: &&Device| {
                !is_mediated(own) && share_a_page(&own.mmio, &device.mmio)
                    || shares_an_interrupt(own, device)
            };
            !given.iter().any(is_beside)
        });
        let mediated = given.iter().filter(|device| is_mediated(device));
        self.mediated.extend(mediated);
        let mut shown = given.iter().filter(|device| !is_mediated(device));
        let free = shown.find(|device| reaches_memory(device.kind));
        if let Some(device) = free.filter(|_| !is_trusted) {
            let place = format!("{whose}, devices: {}", device.path);
            let what = "can be told to read and write all memory, and nothing on this machine checks where";
            let mend = "say trusted = true if this guest may do that";
            return Err(Error::invalid(&place, what, mend));
        }
        // As the machine has them.
        let is_given = |device: &&Device| given.iter().any(|own| core::ptr::eq(*own, *device));
        Ok(self.machine.devices.iter().filter(is_given).collect())
    }

    /// Makes the devicetree, and finds places for what the guest boots.
    fn place(
        &self,
        plan: &mut VmPlan<'_>,
        given: &[&Device],
        is_placed: bool,
    ) -> Result<(), Error> {
        let devices: Vec<&str> = given.iter().map(|device| device.path.as_str()).collect();
        let config = &plan.guest.config;
        let spec = GuestSpec {
            ram: &plan.ram,
            cpus: &plan.affinities,
            bootargs: &config.bootargs,
            initrd: None,
            sdei: config.sdei,
            seeds: self.host.secret.is_some(),
            conduit: Conduit::Smc,
            console: &self.machine.shown.path,
            devices: &devices,
            own: plan.own,
            elfcorehdr: None,
        };
        let memory = Memory {
            pieces: &plan.ram,
            bare: self.bare(plan, is_placed),
        };
        let files = (plan.guest.kernel, plan.guest.ramdisk, config.dtb_at);
        let (layout, dtb) = self.build(&spec, files, &memory)?;
        plan.seeding = match self.host.secret {
            Some(secret) => Some(seeding(&dtb, secret.of_vm(plan.id))?),
            None => None,
        };
        (plan.layout, plan.dtb) = (layout, dtb);
        Ok(())
    }

    /// Makes the devicetree that `spec` says but for the ramdisk, and finds places for a kernel, its ramdisk and the tree, which may
    /// be wanted somewhere.
    pub(super) fn build(
        &self,
        spec: &GuestSpec<'_>,
        (kernel, ramdisk, dtb_at): (&[u8], Option<&[u8]>, Option<u64>),
        memory: &Memory<'_>,
    ) -> Result<(Layout, Vec<u8>), Error> {
        let with = |initrd| build_guest_dtb(self.host.dtb, &GuestSpec { initrd, ..*spec });
        // The tree says where the ramdisk is, and where that is depends on the tree's size: build it twice.
        let draft = with(ramdisk.map(|ramdisk| Range::new(0, ramdisk.len() as u64)))?;
        let parts = Parts {
            kernel: Kernel::recognise(kernel)?,
            ramdisk: ramdisk.map(|ramdisk| ramdisk.len() as u64),
            dtb: draft.len() as u64,
            dtb_at,
        };
        let layout = Layout::place(memory, &parts)?;
        Ok((layout, with(layout.ramdisk)?))
    }

    /// What a guest would have of the first bank without a hypervisor.
    fn bare(&self, plan: &VmPlan<'_>, is_placed: bool) -> Range {
        let bank = self.machine.ram.first().copied().unwrap_or_default();
        let size = match plan.guest.config.memory {
            0 if is_placed => bank.size,
            0 => plan.ram.iter().map(|part| part.size).sum(),
            bytes => bytes,
        };
        Range::new(bank.start, size.min(bank.size))
    }
}

/// Bytes of a file, if there is one.
pub fn bytes_of(file: Option<&[u8]>) -> u64 {
    file.map_or(0, |file| file.len() as u64)
}

/// Whether a guest meets a transport of ours instead of the device's.
fn is_mediated(device: &Device, is_trusted: bool) -> bool {
    device.kind == DeviceKind::VirtioMmio && !is_trusted
}

/// Whether two devices raise the same interrupt.
fn shares_an_interrupt(one: &Device, other: &Device) -> bool {
    let mut spis = one.spis.iter();
    spis.any(|own| other.spis.iter().any(|spi| own.intid == spi.intid))
}

/// Whether any two of these registers are in one page.
fn share_a_page(some: &[Range], others: &[Range]) -> bool {
    let pages = |range: &Range| {
        let start = range.start - range.start % PAGE_SIZE;
        let end = range.end().checked_next_multiple_of(PAGE_SIZE);
        Range::between(start, end.unwrap_or(u64::MAX))
    };
    let others: Vec<Range> = others.iter().map(pages).collect();
    let meets = |range: Range| others.iter().any(|other| other.overlaps(range));
    some.iter().map(pages).any(meets)
}
