//! Whether everything that a devicetree gives an address can be where it says, asked before anything is mapped; and what
//! the hypervisor maps then.
//!
//! What is wrong is refused by name and place: a fault on the way would name neither.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use platform::{Device, DeviceKind, Gic, Machine, Range, Start, UartKind};

use crate::Error;
use crate::ram::{BLOCK_SIZE, PAGE_SIZE as PAGE, free_pages, without};

/// What one level 1 entry of a table maps with a granule of 4 KiB.
const GIB: u64 = 1 << 30;

const CORRECT: &str = "correct the machine's devicetree";
const MISPLACED: &str = "is at an address that such registers cannot have";
const TOO_SMALL: &str = "is smaller than its registers";

const DISTRIBUTOR: &str = "the interrupt controller's distributor";
const REDISTRIBUTORS: &str = "the interrupt controller's redistributors";
const GICC: &str = "the interrupt controller's GICC";
const GICH: &str = "the interrupt controller's GICH";
const GICV: &str = "the interrupt controller's GICV";
const MESSAGES: &str = "the interrupt controller's messages";

/// The frames that a GICv3's registers come in.
const FRAME: u64 = 0x1_0000;

/// How many tables mappings may take: those of 4096 fill 16 MiB.
const MOST_TABLES: u64 = 4096;

/// What the loader has put into memory, besides the initrd.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// The hypervisor's image, with the memory that it takes behind it.
    pub image: Range,
    /// The machine's devicetree.
    pub dtb: Range,
}

/// A range that is mapped at its own address, in whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Where it is.
    pub range: Range,
    /// Whether it is device memory; normal memory if not.
    pub is_device: bool,
}

/// Registers that guests do not get.
struct Kept<'m> {
    name: &'m str,
    range: Range,
    /// How many bytes there are at least, and what is said of fewer.
    least: (u64, &'static str),
    /// What their address is a multiple of.
    align: u64,
}

/// What of a machine guests do not get: looked up once, and compared with each device.
pub struct Places<'m> {
    machine: &'m Machine,
    limit: u64,
    kept: Vec<Kept<'m>>,
}

impl<'m> Places<'m> {
    /// Checks all addresses of a machine whose memory can be mapped below `limit`.
    ///
    /// # Errors
    ///
    /// If something is where it cannot be, alone or together with something else. The error names it and the place.
    #[inline(never)]
    pub fn check(machine: &'m Machine, limit: u64) -> Result<Self, Error> {
        let places = Self {
            machine,
            limit,
            kept: kept(machine),
        };
        if usable_ram(machine, limit).next().is_none() {
            let what = "has no whole page at an address that the hypervisor maps";
            let mend = "have the loader describe all of the machine's memory";
            return Err(Error::invalid("/memory", what, mend));
        }
        for (index, one) in places.kept.iter().enumerate() {
            places.registers(one.name, one.range, one.least, one.align)?;
            for other in places.kept.iter().take(index) {
                if one.range.overlaps(other.range) {
                    let place = format!("{} and {}", at(one.name, one.range), other.name);
                    return Err(Error::invalid(&place, "share addresses", CORRECT));
                }
            }
        }
        let console = &machine.console;
        if !console.kind.fits(console.base) {
            return Err(Error::invalid(
                &at(&console.path, console.base),
                MISPLACED,
                CORRECT,
            ));
        }
        for device in &machine.devices {
            places.device(device)?;
        }
        for cpu in &machine.cpus {
            if let Start::SpinTable { release_pa } = cpu.start {
                places.release(cpu.mpidr, release_pa)?;
            }
        }
        // One after the other: the heap is small this early.
        let too_many = |mapped: Vec<Identity>| tables(&mapped) > MOST_TABLES;
        if too_many(identity(machine, Range::default(), limit)) || too_many(given(machine, limit)) {
            let what = "has memory and devices in more pieces than can be mapped";
            return Err(Error::invalid("the machine", what, CORRECT));
        }
        Ok(places)
    }

    /// Checks what the loader has put into memory.
    ///
    /// # Errors
    ///
    /// If the image, the devicetree, or the initrd if there is one, is not in RAM, or they are in each other's way.
    #[inline(never)]
    pub fn check_loaded(&self, loaded: &Loaded) -> Result<(), Error> {
        let mend = "load them apart from each other, into RAM";
        let (image, dtb) = (loaded.image, loaded.dtb);
        let initrd = self.machine.initrd.unwrap_or_default();
        let is_ram = |range: Range| range.is_empty() || self.is_ram(range);
        let outside = "leads out of the machine's RAM";
        let over = "overlap in memory";
        let (name, range, what) = if !is_ram(image) {
            ("the hypervisor's image", image, outside)
        } else if !is_ram(dtb) {
            ("the devicetree", dtb, outside)
        } else if !is_ram(initrd) {
            ("/chosen linux,initrd-start", initrd, outside)
        } else if dtb.overlaps(image) {
            ("the devicetree and the image", dtb, over)
        } else if initrd.overlaps(image) {
            ("the initrd and the image", initrd, over)
        } else if initrd.overlaps(dtb) {
            ("the initrd and the devicetree", initrd, over)
        } else {
            return Ok(());
        };
        Err(Error::invalid(&at(name, range), what, mend))
    }

    /// Whether the machine has nothing in the pages of a range: neither RAM nor anything of which there is a description.
    pub fn is_nothing(&self, range: Range) -> bool {
        let machine = self.machine;
        let own = pages(range);
        let kept = self.kept.iter().map(|kept| kept.range);
        let devices = machine.devices.iter().flat_map(|device| &device.mmio);
        let rest = devices.chain(&machine.ram).chain(&machine.reserved);
        let mut all = kept.chain(rest.chain(&machine.messages).copied());
        own.end() <= self.limit && !all.any(|other| pages(other).overlaps(own))
    }

    /// Whether all of a range is RAM that is mapped.
    fn is_ram(&self, range: Range) -> bool {
        usable_ram(self.machine, self.limit).any(|bank| bank.covers(range))
    }

    /// Whether a device can be handed to a guest.
    fn device(&self, device: &Device) -> Result<(), Error> {
        // Writing to a transport's Status resets it (virtio 1.2, 4.2.2); its registers are words.
        let (least, align) = match device.kind {
            DeviceKind::VirtioMmio => (0x100, 4),
            _ => (1, 1),
        };
        for &range in &device.mmio {
            self.registers(&device.path, range, (least, TOO_SMALL), align)?;
            let kept = self.kept.iter().map(|kept| (kept.name, kept.range));
            let messages = self.machine.messages.iter();
            let messages = messages.map(|range| (MESSAGES, *range));
            let own = pages(range);
            let shared = kept
                .chain(messages)
                .find(|kept| pages(kept.1).overlaps(own));
            if let Some((name, _)) = shared {
                let place = format!("{} and {name}", at(&device.path, range));
                let what = "share a page, and no guest gets the latter";
                return Err(Error::invalid(&place, what, CORRECT));
            }
        }
        Ok(())
    }

    /// Whether registers can be where they are said to be.
    fn registers(
        &self,
        name: &str,
        range: Range,
        (least, small): (u64, &'static str),
        align: u64,
    ) -> Result<(), Error> {
        let own = pages(range);
        let what = if range.is_empty() {
            "has a size of 0"
        } else if range.size < least {
            small
        } else if own.end() > self.limit {
            "is at an address that the hypervisor does not map"
        } else if !range.start.is_multiple_of(align) {
            MISPLACED
        } else if self
            .machine
            .ram
            .iter()
            .any(|bank| pages(*bank).overlaps(own))
        {
            "has registers where RAM is"
        } else {
            return Ok(());
        };
        Err(Error::invalid(&at(name, range), what, CORRECT))
    }

    /// Whether a CPU can be released from a spin table there.
    fn release(&self, mpidr: u64, release_pa: u64) -> Result<(), Error> {
        let place = |what| {
            let name = format!("CPU {mpidr:#x} cpu-release-addr at {release_pa:#x}");
            Err(Error::invalid(&name, what, CORRECT))
        };
        if !release_pa.is_multiple_of(8) {
            place("is not a multiple of 8")
        } else if !self.is_ram(Range::new(release_pa, 8)) {
            place("leads out of the machine's RAM")
        } else {
            Ok(())
        }
    }
}

/// What guests do not get of a machine, or only an emulation of.
fn kept(machine: &Machine) -> Vec<Kept<'_>> {
    let mut kept = Vec::new();
    let mut keep = |name, range, least, align| {
        kept.push(Kept {
            name,
            range,
            least,
            align,
        });
    };
    match &machine.gic {
        // IHI0069 12.8 and 12.10.
        Gic::V3 { dist, redists, .. } => {
            keep(DISTRIBUTOR, *dist, (FRAME, TOO_SMALL), FRAME);
            for region in redists {
                keep(REDISTRIBUTORS, *region, (2 * FRAME, TOO_SMALL), FRAME);
            }
        }
        // IHI0048 4.1 and 5.3.
        Gic::V2 {
            dist,
            cpu,
            hyp,
            vcpu,
            ..
        } => {
            let interface = (2 * PAGE, "is described with less than 8 KiB");
            keep(DISTRIBUTOR, *dist, (PAGE, TOO_SMALL), PAGE);
            keep(GICC, *cpu, interface, PAGE);
            keep(GICH, *hyp, (0x200, TOO_SMALL), PAGE);
            keep(GICV, *vcpu, interface, PAGE);
        }
    }
    let (console, shown) = (&machine.console, &machine.shown);
    for uart in [console, shown] {
        // Up to UARTICR (DDI0183 3.2), and AUX_MU_BAUD (BCM2711 ARM Peripherals 2.2).
        let least = match uart.kind {
            UartKind::Pl011 => 0x48,
            UartKind::MiniUart => 0x2c,
        };
        keep(&uart.path, uart.base, (least, TOO_SMALL), 4);
        if console.base == shown.base {
            break;
        }
    }
    if let Some(power) = machine.power {
        // Up to PM_WDOG (Linux drivers/watchdog/bcm2835_wdt.c).
        keep("the power management block", power, (0x28, TOO_SMALL), 4);
    }
    kept
}

/// A machine's RAM in whole pages below `limit`.
fn usable_ram(machine: &Machine, limit: u64) -> impl Iterator<Item = Range> {
    let whole = move |bank: &Range| {
        let start = bank.start.checked_next_multiple_of(PAGE)?;
        let end = bank.end().min(limit) & !(PAGE - 1);
        (start < end).then(|| Range::between(start, end))
    };
    machine.ram.iter().filter_map(whole)
}

/// What the hypervisor maps at its own address: RAM outside `home`, where it is itself, and the devices that it drives or
/// resets.
#[inline(never)]
pub fn identity(machine: &Machine, home: Range, limit: u64) -> Vec<Identity> {
    let mut mapped = Vec::new();
    let mut map = |range, is_device| mapped.push(Identity { range, is_device });
    for bank in usable_ram(machine, limit) {
        for part in without(bank, home) {
            map(part, false);
        }
    }
    for range in machine.gic.driven() {
        map(pages(range), true);
    }
    map(pages(machine.console.base), true);
    if let Some(power) = machine.power {
        map(pages(power), true);
    }
    for device in &machine.devices {
        for &range in &device.mmio {
            map(pages(range), true);
        }
    }
    mapped
}

/// What guests may be given of a machine at its own address: what of RAM nothing is known to be in, and devices.
#[inline(never)]
pub fn given(machine: &Machine, limit: u64) -> Vec<Identity> {
    let mut mapped = Vec::new();
    let mut map = |range, is_device| mapped.push(Identity { range, is_device });
    for part in free_pages(machine, &[], limit) {
        map(part, false);
    }
    for device in &machine.devices {
        for &range in &device.mmio {
            map(pages(range), true);
        }
    }
    mapped
}

/// How many tables it takes to map these, besides those of the first two levels; or some number above what is allowed.
#[inline(never)]
pub fn tables(mapped: &[Identity]) -> u64 {
    let mut count = 0;
    for unit in [GIB, BLOCK_SIZE] {
        // A table where only a part of what one entry maps is mapped: at the ends of a range.
        let mut places: Vec<u64> = Vec::new();
        for own in mapped {
            let (start, end) = (own.range.start, own.range.end());
            for (end, byte) in [(start, start), (end, end.saturating_sub(1))] {
                let place = byte / unit;
                let is_new = !end.is_multiple_of(unit) && !places.contains(&place);
                if is_new && places.len() as u64 <= MOST_TABLES {
                    places.push(place);
                }
            }
        }
        count += places.len() as u64;
    }
    count
}

/// The pages that a range touches.
fn pages(range: Range) -> Range {
    let start = range.start & !(PAGE - 1);
    let end = range.end().checked_next_multiple_of(PAGE);
    Range::between(start, end.unwrap_or(u64::MAX))
}

fn at(name: &str, range: Range) -> String {
    format!("{name} at {:#x}", range.start)
}
