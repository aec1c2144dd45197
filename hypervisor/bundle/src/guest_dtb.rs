//! The devicetree a guest sees: the machine's own, less what is ours, plus `psci` and `sdei`. Nodes get
//! in by being asked for; what a guest is not given, it does not read of.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property, ToPropertyValue};
use platform::{Conduit, Range};

use crate::Error;

/// Bytes left free behind a guest's devicetree for a bootloader to add to it; its size includes them.
pub const HEADROOM: usize = 4096;

/// How deep to look for nodes in the machine's devicetree.
const MAX_DEPTH: usize = 16;

const CORRECT: &str = "correct the machine's devicetree";

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
    /// How it calls us.
    pub conduit: Conduit,
    /// The path of the UART it is given.
    pub console: &'a str,
    /// The paths of the devices it is given.
    pub devices: &'a [&'a str],
}

/// Makes a guest's devicetree from the machine's.
///
/// # Errors
///
/// If the machine's is damaged or has no node for something `spec` names.
pub fn build(machine_dtb: &[u8], spec: &GuestSpec<'_>) -> Result<Vec<u8>, Error> {
    let mut graft = Graft::new(machine_dtb)?;
    graft.add_cpus(spec.cpus)?;
    graft.add_ram(spec.ram)?;
    graft.add_gic()?;
    graft.add_timer()?;
    graft.add(spec.console)?;
    for path in spec.devices {
        graft.add(path)?;
    }
    graft.add_clocks()?;
    graft.add_keys()?;
    graft.add_firmware(spec);
    graft.add_aliases();
    graft.add_chosen(spec);
    Ok(with_headroom(graft.tree.to_dtb()))
}

/// A guest's devicetree in the making, and the machine's that it is taken from.
struct Graft<'a> {
    machine: Fdt<'a>,
    tree: DeviceTree,
}

impl<'a> Graft<'a> {
    /// Starts with the root's properties.
    fn new(machine_dtb: &'a [u8]) -> Result<Self, Error> {
        let size = platform::dtb_size(machine_dtb).unwrap_or(usize::MAX);
        let bytes = machine_dtb.get(..size).unwrap_or(machine_dtb);
        let machine = Fdt::new(bytes).map_err(|error| Error::Malformed {
            what: "the machine's devicetree",
            error,
        })?;
        let mut tree = DeviceTree::new();
        tree.root = bare(&machine.root());
        Ok(Self { machine, tree })
    }

    /// Adds the node at `path` with all below it, and the buses above it.
    fn add(&mut self, path: &str) -> Result<&mut DeviceTreeNode, Error> {
        let source = self.source(path)?;
        let target = self.add_bare(path)?;
        for child in source.children() {
            target.add_child(copy(&child, MAX_DEPTH));
        }
        Ok(target)
    }

    /// Adds the node at `path` without children, and the buses above it.
    fn add_bare(&mut self, path: &str) -> Result<&mut DeviceTreeNode, Error> {
        let missing = || Error::invalid(path, "is not in the machine's devicetree", CORRECT);
        let mut source = self.machine.root();
        let mut target = &mut self.tree.root;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            source = source
                .children()
                .find(|child| child.name() == name)
                .ok_or_else(missing)?;
            if target.child(name).is_none_or(|child| child.name() != name) {
                target.add_child(bare(&source));
            }
            target = target.child_mut(name).ok_or_else(missing)?;
        }
        Ok(target)
    }

    fn source(&self, path: &str) -> Result<FdtNode<'a>, Error> {
        let mut node = self.machine.root();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            node = node
                .children()
                .find(|child| child.name() == name)
                .ok_or_else(|| {
                    Error::invalid(path, "is not in the machine's devicetree", CORRECT)
                })?;
        }
        Ok(node)
    }

    /// The paths of all nodes that have one of these `compatible`s.
    fn compatible(&self, names: &[&str]) -> Vec<String> {
        let mut paths = Vec::new();
        collect(&self.machine.root(), "", MAX_DEPTH, names, &mut paths);
        paths
    }

    fn first_compatible(&self, names: &[&str], place: &str) -> Result<String, Error> {
        self.compatible(names)
            .into_iter()
            .next()
            .ok_or_else(|| Error::invalid(place, "is not in the machine's devicetree", CORRECT))
    }

    /// `/cpus` with the guest's CPUs only, all of them started by PSCI.
    fn add_cpus(&mut self, mpidrs: &[u64]) -> Result<(), Error> {
        const KEPT: [&str; 5] = [
            "device_type",
            "compatible",
            "reg",
            "phandle",
            "capacity-dmips-mhz",
        ];
        let source = self.source("/cpus")?;
        let target = self.add_bare("/cpus")?;
        for &mpidr in mpidrs {
            let cpu = source
                .children()
                .find(|cpu| {
                    cpu.name_without_address() == "cpu" && number(cpu, "reg") == Some(mpidr)
                })
                .ok_or_else(|| {
                    Error::invalid(format!("/cpus: CPU {mpidr:#x}"), "is missing", CORRECT)
                })?;
            let mut node = DeviceTreeNode::new_unchecked(cpu.name());
            for property in cpu.properties() {
                if KEPT.contains(&property.name()) || property.name().contains("-cache") {
                    node.add_property(DeviceTreeProperty::from_property(&property));
                }
            }
            set(&mut node, "enable-method", "psci");
            target.add_child(node);
        }
        for node in source.children() {
            if node.name_without_address() != "cpu" && node.is_compatible("cache") {
                target.add_child(copy(&node, MAX_DEPTH));
            }
        }
        Ok(())
    }

    /// A `/memory` node for each piece of RAM.
    fn add_ram(&mut self, ram: &[Range]) -> Result<(), Error> {
        let root = self.machine.root().address_space();
        for range in ram {
            let mut reg = Vec::new();
            for (value, cells) in [
                (range.start, root.address_cells),
                (range.size, root.size_cells),
            ] {
                match (cells, u32::try_from(value)) {
                    (2, _) => reg.extend([(value >> 32) as u32, value as u32]),
                    (1, Ok(value)) => reg.push(value),
                    _ => {
                        return Err(Error::invalid(
                            "/ #address-cells or #size-cells",
                            "cannot hold the guest's memory",
                            CORRECT,
                        ));
                    }
                }
            }
            let mut node = DeviceTreeNode::new_unchecked(format!("memory@{:x}", range.start));
            set(&mut node, "device_type", "memory");
            set(&mut node, "reg", reg);
            self.tree.root.add_child(node);
        }
        Ok(())
    }

    /// The GIC as it is without virtualisation: no maintenance interrupt, no registers of ours, no
    /// message-signalled interrupts.
    fn add_gic(&mut self) -> Result<(), Error> {
        const V3: &str = "arm,gic-v3";
        let names = [V3, "arm,gic-400", "arm,cortex-a15-gic"];
        let path = self.first_compatible(&names, "the GIC")?;
        let source = self.source(&path)?;
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let bus = self.source(parent)?.address_space();
        let entry = (bus.address_cells + bus.size_cells) as usize * 4;
        let blocks = if source.is_compatible(V3) {
            1 + number(&source, "#redistributor-regions").unwrap_or(1) as usize
        } else {
            2
        };
        let reg = source.property("reg").map(|reg| reg.value().to_vec());
        let target = self.add_bare(&path)?;
        if let Some(mut reg) = reg {
            reg.truncate(entry.saturating_mul(blocks));
            set(target, "reg", reg);
        }
        for ours in [
            "interrupts",
            "interrupts-extended",
            "msi-controller",
            "mbi-ranges",
            "mbi-alias",
        ] {
            target.remove_property(ours);
        }
        Ok(())
    }

    fn add_timer(&mut self) -> Result<(), Error> {
        let path = self.first_compatible(&["arm,armv8-timer"], "the timer")?;
        self.add(&path).map(|_| ())
    }

    /// Clocks that need no driver of a device the guest has not got.
    fn add_clocks(&mut self) -> Result<(), Error> {
        for path in self.compatible(&["fixed-clock"]) {
            self.add(&path)?;
        }
        Ok(())
    }

    /// Keys on a GPIO controller that the guest has, such as QEMU's power button.
    fn add_keys(&mut self) -> Result<(), Error> {
        for path in self.compatible(&["gpio-keys"]) {
            let source = self.source(&path)?;
            let has = |phandle: u32| owns(&self.tree.root, phandle);
            let wired = source.children().any(|key| {
                key.property("gpios")
                    .and_then(|gpios| gpios.value().first_chunk::<4>().copied())
                    .is_some_and(|phandle| has(u32::from_be_bytes(phandle)))
            });
            if wired {
                self.add(&path)?;
            }
        }
        Ok(())
    }

    /// `psci` (Linux bindings `arm,psci`), and `sdei` (`arm,sdei`) if it is offered.
    fn add_firmware(&mut self, spec: &GuestSpec<'_>) {
        let method = spec.conduit.name();
        let mut psci = DeviceTreeNode::new_unchecked("psci");
        set(
            &mut psci,
            "compatible",
            &["arm,psci-1.0", "arm,psci-0.2"][..],
        );
        set(&mut psci, "method", method);
        self.tree.root.add_child(psci);
        if spec.sdei {
            let mut sdei = DeviceTreeNode::new_unchecked("sdei");
            set(&mut sdei, "compatible", "arm,sdei-1.0");
            set(&mut sdei, "method", method);
            let mut firmware = DeviceTreeNode::new_unchecked("firmware");
            firmware.add_child(sdei);
            self.tree.root.add_child(firmware);
        }
    }

    /// The machine's aliases for what the guest has got.
    fn add_aliases(&mut self) {
        let Some(source) = self.machine.find_node("/aliases") else {
            return;
        };
        let mut aliases = DeviceTreeNode::new_unchecked("aliases");
        for alias in source.properties() {
            let path = alias.value_as::<&str>().unwrap_or_default();
            if self.tree.find_node(path).is_some() {
                aliases.add_property(DeviceTreeProperty::from_property(&alias));
            }
        }
        self.tree.root.add_child(aliases);
    }

    /// `/chosen`: what the guest boots with, and the machine's seeds.
    fn add_chosen(&mut self, spec: &GuestSpec<'_>) {
        let mut chosen = DeviceTreeNode::new_unchecked("chosen");
        if !spec.bootargs.is_empty() {
            set(&mut chosen, "bootargs", spec.bootargs);
        }
        if let Some(initrd) = spec.initrd {
            set(&mut chosen, "linux,initrd-start", initrd.start);
            set(&mut chosen, "linux,initrd-end", initrd.end());
        }
        set(&mut chosen, "stdout-path", self.stdout(spec.console));
        if let Some(source) = self.machine.find_node("/chosen") {
            for seed in ["kaslr-seed", "rng-seed"] {
                if let Some(seed) = source.property(seed) {
                    chosen.add_property(DeviceTreeProperty::from_property(&seed));
                }
            }
        }
        self.tree.root.add_child(chosen);
    }

    /// The machine's `stdout-path`, which may set a speed, if it means the guest's console; else that.
    fn stdout(&self, console: &str) -> String {
        let own = self
            .machine
            .find_node("/chosen")
            .and_then(|chosen| chosen.property("stdout-path"))
            .and_then(|path| path.value_as::<String>().ok());
        match own {
            Some(own) => {
                let target = own.split(':').next().unwrap_or_default();
                let alias = self
                    .machine
                    .find_node("/aliases")
                    .and_then(|aliases| aliases.property(target))
                    .and_then(|path| path.value_as::<String>().ok());
                if target == console || alias.as_deref() == Some(console) {
                    own
                } else {
                    String::from(console)
                }
            }
            None => String::from(console),
        }
    }
}

/// Appends the paths of `node`'s descendants that are compatible with one of `names`.
fn collect(node: &FdtNode<'_>, path: &str, depth: usize, names: &[&str], paths: &mut Vec<String>) {
    if depth == 0 {
        return;
    }
    for child in node.children() {
        let path = format!("{path}/{}", child.name());
        collect(&child, &path, depth - 1, names, paths);
        if names.iter().any(|name| child.is_compatible(name)) {
            paths.push(path);
        }
    }
}

/// Whether `node` or one below it has this phandle.
fn owns(node: &DeviceTreeNode, phandle: u32) -> bool {
    node.phandle() == Ok(Some(phandle)) || node.children().any(|child| owns(child, phandle))
}

/// A node without its children.
fn bare(node: &FdtNode<'_>) -> DeviceTreeNode {
    let mut copy = DeviceTreeNode::new_unchecked(node.name());
    for property in node.properties() {
        copy.add_property(DeviceTreeProperty::from_property(&property));
    }
    copy
}

/// A node with its children, `depth` levels of them.
fn copy(node: &FdtNode<'_>, depth: usize) -> DeviceTreeNode {
    let mut whole = bare(node);
    if depth > 0 {
        for child in node.children() {
            whole.add_child(copy(&child, depth - 1));
        }
    }
    whole
}

/// A property of one or two cells.
fn number(node: &FdtNode<'_>, name: &str) -> Option<u64> {
    let value = node.property(name)?;
    let value = value.value();
    matches!(value.len(), 4 | 8).then(|| {
        value
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    })
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(String::from(name), value));
}

/// Makes room behind the strings and says so in the header (Devicetree Specification 5.2).
fn with_headroom(mut dtb: Vec<u8>) -> Vec<u8> {
    dtb.resize(dtb.len() + HEADROOM, 0);
    let size = dtb.len() as u32;
    if let Some(total) = dtb.get_mut(4..8) {
        total.copy_from_slice(&size.to_be_bytes());
    }
    dtb
}
