//! The devicetree a guest sees: the machine's own, less what is ours, plus `psci` and `sdei`. Nodes get
//! in by being asked for; what a guest is not given, it does not read of.

mod own;

use alloc::format;
use alloc::vec::Vec;

use platform::devicetree::{Fdt, Node, Settled, Tree, number};
use platform::{Conduit, Range};

use crate::seed::{KASLR_SIZE, RNG_SIZE};
use crate::writer::Writer;
use crate::{Error, OwnDevices};

/// Bytes left free behind a guest's devicetree for a bootloader to add to it; its size includes them.
pub const HEADROOM: usize = 4096;

const EXTENDED: &str = "interrupts-extended";

const CORRECT: &str = "correct the machine's devicetree";

/// Of `/chosen`: where a kernel puts itself, and what its random numbers begin with.
pub const KASLR_SEED: &str = "kaslr-seed";
pub const RNG_SEED: &str = "rng-seed";

const GIC_V3: &str = "arm,gic-v3";
const GICS: [&str; 3] = [GIC_V3, "arm,gic-400", "arm,cortex-a15-gic"];

/// What a guest is given.
#[derive(Clone, Copy, Debug)]
pub struct GuestSpec<'a> {
    /// Its memory.
    pub ram: &'a [Range],
    /// Its vCPUs by the affinity they and their pCPUs have, in the order of their numbers.
    pub cpus: &'a [u64],
    /// Its kernel's command line; none if empty.
    pub bootargs: &'a str,
    /// Where its ramdisk is. Any other place makes a devicetree of the same size.
    pub initrd: Option<Range>,
    /// Whether it is offered SDEI.
    pub sdei: bool,
    /// Whether it gets seeds for random numbers. They are zero here, and written each time that it is loaded.
    pub seeds: bool,
    /// How it calls us.
    pub conduit: Conduit,
    /// The path of the UART it is given.
    pub console: &'a str,
    /// The paths of the devices it is given.
    pub devices: &'a [&'a str],
    /// Devices of its own.
    pub own: OwnDevices,
    /// Where a capture kernel finds the ELF header of what it is to save.
    pub elfcorehdr: Option<Range>,
}

/// Makes a guest's devicetree from the machine's.
///
/// # Errors
///
/// If the machine's is damaged or has no node for something `spec` names.
#[inline(never)]
pub fn build(machine_dtb: &[u8], spec: &GuestSpec<'_>) -> Result<Vec<u8>, Error> {
    let blob = Settled::new(machine_dtb).map_err(unusable)?;
    let fdt = Fdt::open(&blob).map_err(unusable)?;
    let tree = Tree::new(&fdt);
    let mut graft = Graft::new(&tree, spec)?;
    graft.root()?;
    Ok(graft.guest.finish(HEADROOM))
}

/// The `reg` of a child of the root.
fn reg(root: Node<'_, '_>, range: Range) -> Result<Vec<u8>, Error> {
    let (address, size) = root.cells().map_err(unusable)?;
    let mut reg = Vec::new();
    for (value, cells) in [(range.start, address), (range.size, size)] {
        let bytes = value.to_be_bytes();
        match bytes.split_at_checked(8 - cells * 4) {
            Some((beyond, bytes)) if beyond.iter().all(|&byte| byte == 0) => {
                reg.extend_from_slice(bytes);
            }
            _ => {
                let place = "/ #address-cells or #size-cells";
                let what = "cannot hold the guest's memory";
                return Err(Error::invalid(place, what, CORRECT));
            }
        }
    }
    Ok(reg)
}

fn unusable(error: platform::Error) -> Error {
    Error::Devicetree {
        whose: "the machine's",
        error,
    }
}

/// Whether a CPU's property describes its caches: `i-cache-size`, `next-level-cache` and such.
fn is_about_cache(name: &str) -> bool {
    name.as_bytes().windows(6).any(|part| part == b"-cache")
}

/// The machine's devicetree, what of it the guest is given, and the guest's own in the making.
struct Graft<'t, 'a, 's> {
    machine: &'t Tree<'t, 'a>,
    gic: Node<'t, 'a>,
    console: Node<'t, 'a>,
    /// Nodes that are taken over whole.
    given: Vec<Node<'t, 'a>>,
    spec: &'s GuestSpec<'s>,
    guest: Writer,
}

impl<'t, 'a, 's> Graft<'t, 'a, 's> {
    /// Looks up what the guest is given.
    fn new(machine: &'t Tree<'t, 'a>, spec: &'s GuestSpec<'s>) -> Result<Self, Error> {
        let missing =
            |place: &str| Error::invalid(place, "is not in the machine's devicetree", CORRECT);
        let find = |path: &str| machine.find(path).ok_or_else(|| missing(path));
        let compatible = |name: &str| machine.compatible(name).ok_or_else(|| missing(name));
        let console = find(spec.console)?;
        let gic = GICS.iter().find_map(|name| machine.compatible(name));
        let mut graft = Self {
            machine,
            gic: gic.ok_or_else(|| missing("a GIC"))?,
            console,
            given: Vec::from([console, compatible("arm,armv8-timer")?]),
            spec,
            guest: Writer::default(),
        };
        for path in spec.devices {
            graft.given.push(find(path)?);
        }
        for node in machine.all() {
            // Clocks that need no driver of a device the guest has not got, and those that are off, which a
            // Raspberry Pi's clock controller wants to find; and keys on a GPIO controller that it has, such
            // as QEMU's power button.
            let is_clock = node.property("#clock-cells").is_some();
            if node.is_compatible("fixed-clock")
                || is_clock && !node.is_enabled()
                || node.is_compatible("gpio-keys") && graft.has_wired(node)
            {
                graft.given.push(node);
            }
        }
        Ok(graft)
    }

    /// Whether any of these keys is on a GPIO controller that is given.
    fn has_wired(&self, keys: Node<'_, '_>) -> bool {
        keys.children().any(|key| {
            let gpio = key.property("gpios").and_then(|gpios| gpios.get(..4));
            gpio.is_some_and(|gpio| {
                let phandle = Some(number(gpio) as u32);
                self.given.iter().any(|node| node.phandle() == phandle)
            })
        })
    }

    /// Whether the guest has this node or part of it.
    fn is_given(&self, node: Node<'_, '_>) -> bool {
        let touches = |given: &Node<'_, '_>| node.is_within(*given) || given.is_within(node);
        touches(&self.gic) || self.given.iter().any(touches)
    }

    fn root(&mut self) -> Result<(), Error> {
        let Some(root) = self.machine.find("/") else {
            return Ok(());
        };
        self.guest.begin("");
        self.properties(root);
        self.firmware();
        self.ram(root)?;
        self.own(root)?;
        self.clock();
        self.cpus()?;
        self.children(root)?;
        self.aliases();
        self.chosen(root)?;
        self.guest.end();
        Ok(())
    }

    fn properties(&mut self, node: Node<'_, '_>) {
        for (name, value) in node.properties() {
            self.guest.property(name, value);
        }
    }

    /// What is given below a node.
    fn children(&mut self, node: Node<'_, '_>) -> Result<(), Error> {
        for child in node.children() {
            if child == self.gic {
                self.gic(child)?;
            } else if child == self.console {
                // Emulated: it has no pins and no DMA, nothing is wired to it, and it is there.
                let real = ["pinctrl-", "dma", "uart-has-rtscts", "status"];
                self.guest.begin(child.name());
                self.device(child, &real)?;
                self.guest.end();
            } else if self.given.contains(&child) {
                self.guest.begin(child.name());
                self.device(child, &[])?;
                for part in child.children() {
                    self.whole(part);
                }
                self.guest.end();
            } else if self.is_given(child) {
                // A bus.
                self.guest.begin(child.name());
                self.properties(child);
                self.children(child)?;
                self.guest.end();
            }
        }
        Ok(())
    }

    fn whole(&mut self, node: Node<'_, '_>) {
        self.guest.begin(node.name());
        self.properties(node);
        for child in node.children() {
            self.whole(child);
        }
        self.guest.end();
    }

    /// The properties of a device but for those whose names begin with one of `without`. An interrupt that goes by a nexus
    /// goes straight to the GIC: the guest need not have the nexus.
    fn device(&mut self, node: Node<'_, '_>, without: &[&str]) -> Result<(), Error> {
        let parent = node.interrupt_parent().map_err(unusable)?;
        let by_nexus = parent.is_some_and(Node::is_nexus);
        for (name, value) in node.properties() {
            let is_routed = name == EXTENDED || by_nexus && name == "interrupts";
            if !is_routed && !without.iter().any(|own| name.starts_with(own)) {
                self.guest.property(name, value);
            }
        }
        if !by_nexus && node.property(EXTENDED).is_none() {
            return Ok(());
        }
        let mut cells = Vec::new();
        let specifiers = node.specifiers(self.gic).map_err(unusable)?;
        for specifier in specifiers.unwrap_or_default() {
            let gic = self.gic.phandle().unwrap_or_default();
            cells.extend_from_slice(&gic.to_be_bytes());
            cells.extend_from_slice(specifier);
        }
        self.guest.property(EXTENDED, &cells);
        Ok(())
    }

    /// The GIC as it is without virtualisation: no maintenance interrupt, no registers of ours, no
    /// message-signalled interrupts.
    fn gic(&mut self, gic: Node<'_, '_>) -> Result<(), Error> {
        const OURS: [&str; 6] = [
            "interrupts",
            "interrupts-extended",
            "msi-controller",
            "mbi-ranges",
            "mbi-alias",
            // The emulated redistributors have no gaps.
            "redistributor-stride",
        ];
        let regions = gic.u32("#redistributor-regions").map_err(unusable)?;
        let blocks = if gic.is_compatible(GIC_V3) {
            1 + regions.unwrap_or(1) as usize
        } else {
            2
        };
        let (address, size) = match gic.parent() {
            Some(bus) => bus.cells().map_err(unusable)?,
            None => (0, 0),
        };
        self.guest.begin(gic.name());
        for (name, value) in gic.properties() {
            if name == "reg" {
                let end = (address + size) * 4 * blocks;
                self.guest.property(name, value.get(..end).unwrap_or(value));
            } else if !OURS.contains(&name) {
                self.guest.property(name, value);
            }
        }
        self.guest.end();
        Ok(())
    }

    /// `/cpus` with the guest's CPUs only, all of them started by PSCI.
    fn cpus(&mut self) -> Result<(), Error> {
        const KEPT: [&str; 5] = [
            "device_type",
            "compatible",
            "reg",
            "phandle",
            "capacity-dmips-mhz",
        ];
        let Some(cpus) = self.machine.find("/cpus") else {
            return Err(Error::invalid("/cpus", "is missing", CORRECT));
        };
        self.guest.begin(cpus.name());
        for (name, value) in cpus.properties() {
            if name != "enable-method" {
                self.guest.property(name, value);
            }
        }
        for &mpidr in self.spec.cpus {
            let is_it =
                |cpu: &Node<'_, '_>| cpu.base_name() == "cpu" && cpu.unit_address() == Ok(mpidr);
            let Some(cpu) = cpus.children().find(is_it) else {
                let place = format!("CPU {mpidr:#x}");
                let what = "is not in the machine's devicetree";
                return Err(Error::invalid(&place, what, CORRECT));
            };
            self.guest.begin(cpu.name());
            for (name, value) in cpu.properties() {
                if KEPT.contains(&name) || is_about_cache(name) {
                    self.guest.property(name, value);
                }
            }
            self.guest.text("enable-method", &["psci"]);
            self.guest.end();
        }
        for cache in cpus.children() {
            if cache.base_name() != "cpu" && cache.is_compatible("cache") {
                self.whole(cache);
            }
        }
        self.guest.end();
        Ok(())
    }

    /// One `/memory` node with each piece of RAM, or with as much of one at a time as a size of the root's holds.
    fn ram(&mut self, root: Node<'_, '_>) -> Result<(), Error> {
        let (_, size) = root.cells().map_err(unusable)?;
        let most = if size == 1 { 0x8000_0000 } else { u64::MAX };
        let mut own = Vec::new();
        for range in self.spec.ram {
            let mut start = range.start;
            while start < range.end() {
                let part = (range.end() - start).min(most);
                own.extend(reg(root, Range::new(start, part))?);
                start += part;
            }
        }
        let start = self.spec.ram.first().map_or(0, |range| range.start);
        self.guest.begin(&format!("memory@{start:x}"));
        self.guest.text("device_type", &["memory"]);
        self.guest.property("reg", &own);
        self.guest.end();
        Ok(())
    }

    /// `psci` (Linux bindings `arm,psci`), and `sdei` (`arm,sdei`) if it is offered.
    fn firmware(&mut self) {
        let method = self.spec.conduit.name();
        self.guest.begin("psci");
        let compatible = ["arm,psci-1.0", "arm,psci-0.2"];
        self.guest.text("compatible", &compatible);
        self.guest.text("method", &[method]);
        self.guest.end();
        if self.spec.sdei {
            self.guest.begin("firmware");
            self.guest.begin("sdei");
            self.guest.text("compatible", &["arm,sdei-1.0"]);
            self.guest.text("method", &[method]);
            self.guest.end();
            self.guest.end();
        }
    }

    /// The machine's aliases for what the guest has got.
    fn aliases(&mut self) {
        let Some(aliases) = self.machine.find("/aliases") else {
            return;
        };
        self.guest.begin(aliases.name());
        for (name, value) in aliases.properties() {
            let node = aliases.string(name).ok().flatten();
            let node = node.and_then(|path| self.machine.find(path));
            if node.is_some_and(|node| self.is_given(node)) {
                self.guest.property(name, value);
            }
        }
        self.guest.end();
    }

    /// `/chosen`: what the guest boots with, and room for its seeds.
    fn chosen(&mut self, root: Node<'_, '_>) -> Result<(), Error> {
        self.guest.begin("chosen");
        if !self.spec.bootargs.is_empty() {
            self.guest.text("bootargs", &[self.spec.bootargs]);
        }
        if let Some(initrd) = self.spec.initrd {
            self.guest.number("linux,initrd-start", initrd.start);
            self.guest.number("linux,initrd-end", initrd.end());
        }
        // The machine's own may set a speed; it counts if it means the guest's console.
        let own = self.machine.stdout().filter(|own| own.0 == self.console);
        let stdout = own.map_or(self.spec.console, |own| own.1);
        self.guest.text("stdout-path", &[stdout]);
        if self.spec.seeds {
            self.guest.property(KASLR_SEED, &[0; KASLR_SIZE]);
            self.guest.property(RNG_SEED, &[0; RNG_SIZE]);
        }
        // Devicetree schema chosen.yaml.
        if let Some(range) = self.spec.elfcorehdr {
            self.guest.property("linux,elfcorehdr", &reg(root, range)?);
        }
        self.guest.end();
        Ok(())
    }
}
