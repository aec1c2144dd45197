//! What the devicetree says about the machine the tests run on.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property, ToCellInt};
use spin::Once;

use super::call::Conduit;
use super::mmio::{Device, Region};
use super::sysreg;
use super::text::Text;

/// CPUs the runtime has room for.
pub const MAX_CPUS: usize = 64;

/// First INTID of the private peripheral and of the shared peripheral interrupts (IHI0069 2.2.1).
const FIRST_INTID: [u32; 2] = [32, 16];

/// The machine, as far as the tests care.
pub struct Machine {
    /// GIC distributor.
    pub gicd: Device,
    /// GIC redistributors, all frames, of a GICv3.
    pub gicr: Option<Device>,
    /// GIC CPU interface, of a GICv2.
    pub gicc: Option<Device>,
    /// The console's PL011.
    pub uart: Device,
    /// Its interrupt.
    pub uart_intid: Option<u32>,
    /// The PL031 clock, if the machine has one.
    pub rtc: Option<(Device, u32)>,
    /// All RAM the guest may use.
    pub memory: [Option<Region>; 8],
    /// Affinity of every CPU, the boot CPU first.
    pub cpus: [u64; MAX_CPUS],
    /// How many of `cpus` there are.
    pub cpu_count: usize,
    /// How PSCI is called.
    pub conduit: Conduit,
    /// How SDEI is called, if there is a node for it.
    pub sdei_conduit: Option<Conduit>,
    /// Virtual timer interrupt.
    pub virtual_timer_intid: u32,
    /// Non-secure EL1 physical timer interrupt.
    pub physical_timer_intid: u32,
    /// The devicetree.
    pub devicetree: Region,
    bootargs: Text<512>,
    tree: Fdt<'static>,
}

/// A node, and how addresses on the bus it is on become the CPU's: child address, the CPU's, size.
#[derive(Clone, Copy)]
struct Place {
    node: FdtNode<'static>,
    windows: [[u64; 3]; 4],
}

static MACHINE: Once<Machine> = Once::new();

/// The machine. `discover` ran before any test.
pub fn machine() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => sysreg::park(),
    }
}

/// Reads the devicetree at `address`; without a usable one there is no console to complain on.
pub fn discover(address: u64) {
    match read_tree(address).and_then(|(place, tree)| read_machine(place, tree)) {
        Some(machine) => MACHINE.call_once(|| machine),
        None => sysreg::park(),
    };
}

impl Machine {
    /// Whether `word` is one of the boot arguments.
    pub fn has_argument(&self, word: &str) -> bool {
        self.arguments().any(|argument| argument == word)
    }

    /// The number behind `name` among the boot arguments, as in `boots=10000`.
    pub fn number(&self, name: &str) -> Option<u64> {
        let value = |argument: &str| argument.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        self.arguments().find_map(value)
    }

    /// The boot arguments.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        self.bootargs.as_str().split_whitespace()
    }

    /// `kaslr-seed` and `rng-seed`, if they are there.
    pub fn seeds(&self) -> Option<(u64, [u8; 32])> {
        let chosen = self.tree.find_node("/chosen")?;
        let kaslr = chosen.property("kaslr-seed")?;
        let rng = chosen.property("rng-seed")?;
        let kaslr = u64::from_be_bytes(kaslr.value().try_into().ok()?);
        Some((kaslr, rng.value().try_into().ok()?))
    }

    /// Whether it is QEMU's `virt`, whose RAM is zeros before anything is loaded.
    pub fn begins_blank(&self) -> bool {
        self.tree.root().is_compatible("linux,dummy-virt")
    }

    /// The virtio-mmio transports, each with its interrupt.
    pub fn transports(&self) -> impl Iterator<Item = (Device, u32)> {
        let all = places(self.tree).filter(|place| place.node.is_compatible("virtio,mmio"));
        all.filter_map(|place| Some((device(place.regions().next()?), interrupt(place.node, 0)?)))
    }

    /// Whether some node of the devicetree describes `address`.
    pub fn describes(&self, address: u64) -> bool {
        let mut all = places(self.tree);
        all.any(|place| place.regions().any(|region| region.contains(address)))
    }

    /// The memory region that holds this image.
    pub fn home(&self) -> Region {
        let here = discover as *const () as u64;
        let mut regions = self.memory.iter().flatten();
        match regions.find(|region| region.contains(here)) {
            Some(region) => *region,
            None => sysreg::park(),
        }
    }
}

/// The nodes below the root and, of each bus, those below it: no machine here has a bus behind a bus.
fn places(tree: Fdt<'static>) -> impl Iterator<Item = Place> {
    let root = tree.root();
    root.children().flat_map(move |node| {
        let on_root = Place {
            node,
            windows: [[0, 0, u64::MAX], [0; 3], [0; 3], [0; 3]],
        };
        let windows = windows(root, node);
        let below = node.children().map(move |node| Place { node, windows });
        core::iter::once(on_root).chain(below)
    })
}

/// What `ranges` says of a bus (Devicetree Specification 2.3.8): all as it is if empty, nothing if it is not there.
fn windows(root: FdtNode<'static>, bus: FdtNode<'static>) -> [[u64; 3]; 4] {
    let mut windows = [[0; 3]; 4];
    let Some(ranges) = bus.property("ranges") else {
        return windows;
    };
    if ranges.value().is_empty() {
        windows[0] = [0, 0, u64::MAX];
    }
    let cells = |node: FdtNode<'static>, name: &str, default| match node.property(name) {
        Some(cells) => number(cells.value()) as usize,
        None => default,
    };
    let child = cells(bus, "#address-cells", 2) * 4;
    let parent = child + cells(root, "#address-cells", 2) * 4;
    let all = parent + cells(bus, "#size-cells", 1) * 4;
    for (window, entry) in windows.iter_mut().zip(ranges.value().chunks_exact(all)) {
        *window = [
            number(&entry[..child]),
            number(&entry[child..parent]),
            number(&entry[parent..]),
        ];
    }
    windows
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl Place {
    /// Its `reg`, as the CPU addresses it.
    fn regions(self) -> impl Iterator<Item = Region> {
        regions(self.node).filter_map(move |region| {
            let mut windows = self.windows.iter();
            let &[child, cpu, _] = windows
                .find(|[child, _, size]| region.base >= *child && region.end() - *child <= *size)?;
            Some(Region {
                base: region.base - child + cpu,
                size: region.size,
            })
        })
    }
}

fn read_tree(address: u64) -> Option<(Region, Fdt<'static>)> {
    // SAFETY: the boot protocol hands over a devicetree at this address, in memory that nothing else
    // uses; the first eight bytes are its magic and size.
    let header = unsafe { core::slice::from_raw_parts(address as *const u8, 8) };
    let size = u32::from_be_bytes(header.get(4..8)?.try_into().ok()?) as usize;
    if header.get(..4)? != [0xd0, 0x0d, 0xfe, 0xed] {
        return None;
    }
    // SAFETY: as above; `size` is what the header says the whole tree takes.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, size) };
    let place = Region {
        base: address,
        size: size as u64,
    };
    Some((place, Fdt::new(bytes).ok()?))
}

fn read_machine(devicetree: Region, tree: Fdt<'static>) -> Option<Machine> {
    let compatible = |wanted: &str| places(tree).find(|place| place.node.is_compatible(wanted));
    let v3 = compatible("arm,gic-v3");
    let v2 = || compatible("arm,cortex-a15-gic").or_else(|| compatible("arm,gic-400"));
    let mut gic_regions = v3.or_else(v2)?.regions();
    let (gicd, second) = (gic_regions.next()?, device(gic_regions.next()?));
    let stdout = text(tree.find_node("/chosen")?, "stdout-path")?;
    let stdout = stdout.split(':').next()?;
    let stdout = match tree.find_node("/aliases") {
        Some(aliases) => text(aliases, stdout).unwrap_or(stdout),
        None => stdout,
    };
    let wanted = tree.find_node(stdout)?;
    let uart = places(tree).find(|place| place.node.name() == wanted.name())?;
    let timer = compatible("arm,armv8-timer")?.node;
    let psci = tree.find_node("/psci")?;
    let sdei = find_compatible_in(tree.find_node("/firmware"), "arm,sdei-1.0");
    let (cpus, cpu_count) = read_cpus(tree)?;
    Some(Machine {
        gicd: device(gicd),
        gicr: v3.map(|_| second),
        gicc: v3.is_none().then_some(second),
        uart: device(uart.regions().next()?),
        uart_intid: interrupt(uart.node, 0),
        rtc: compatible("arm,pl031")
            .and_then(|rtc| Some((device(rtc.regions().next()?), interrupt(rtc.node, 0)?))),
        memory: read_memory(tree),
        cpus,
        cpu_count,
        conduit: Conduit::from_method(text(psci, "method")?)?,
        sdei_conduit: sdei.and_then(|node| Conduit::from_method(text(node, "method")?)),
        virtual_timer_intid: interrupt(timer, 2)?,
        physical_timer_intid: interrupt(timer, 1)?,
        bootargs: Text::format(format_args!(
            "{}",
            text(tree.find_node("/chosen")?, "bootargs").unwrap_or("")
        )),
        devicetree,
        tree,
    })
}

fn device(region: Region) -> Device {
    // SAFETY: the devicetree names it as a device's registers, and memory nodes are not devices.
    unsafe { Device::new(region) }
}

fn find_compatible_in(parent: Option<FdtNode<'static>>, wanted: &str) -> Option<FdtNode<'static>> {
    let parent = parent?;
    let mut children = parent.children();
    children.find(|node| node.is_compatible(wanted))
}

fn text(node: FdtNode<'static>, property: &str) -> Option<&'static str> {
    node.property(property)?.value_as::<&'static str>().ok()
}

fn regions(node: FdtNode<'static>) -> impl Iterator<Item = Region> {
    let list = node.reg().ok().flatten();
    list.into_iter().flatten().filter_map(|reg| {
        Some(Region {
            base: reg.address().ok()?,
            size: reg.size().ok()?,
        })
    })
}

/// The INTID of interrupt `index` of a node: cells of kind, number, flags (GICv3 binding), behind a phandle in
/// `interrupts-extended`, where all that a guest has lead to the GIC.
fn interrupt(node: FdtNode<'static>, index: usize) -> Option<u32> {
    let (property, first, step) = match node.property("interrupts") {
        Some(property) => (property, 0, 3),
        None => (node.property("interrupts-extended")?, 1, 4),
    };
    let cell = |n: usize| -> Option<u32> {
        let bytes = property.value().get(n * 4..n * 4 + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let at = index * step + first;
    let kind = cell(at)? as usize;
    Some(FIRST_INTID.get(kind)? + cell(at + 1)?)
}

fn read_memory(tree: Fdt<'static>) -> [Option<Region>; 8] {
    let mut memory = [None; 8];
    let root = tree.root();
    let nodes = root.children().filter(|node| {
        node.property("device_type")
            .is_some_and(|kind| kind.value() == b"memory\0")
    });
    for (slot, region) in memory.iter_mut().zip(nodes.flat_map(regions)) {
        *slot = Some(region);
    }
    memory
}

fn read_cpus(tree: Fdt<'static>) -> Option<([u64; MAX_CPUS], usize)> {
    let boot = sysreg::affinity();
    let mut cpus = [boot; MAX_CPUS];
    let mut count = 1;
    for cpu in tree.cpus().ok()?.cpus() {
        let id: u64 = cpu.ids().ok()?.next()?.to_int().ok()?;
        if id == boot {
            continue;
        }
        let Some(slot) = cpus.get_mut(count) else {
            break;
        };
        *slot = id;
        count += 1;
    }
    Some((cpus, count))
}
