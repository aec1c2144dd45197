//! From a blob to plans, whatever a machine's devicetree says: nothing panics, what is refused is refused by a sentence
//! with a mend, and what is not is apart from everything that is somebody else's.
//!
//! The steps are those of `hypervisor/src/start.rs`, in its order. Trees of real shape are changed: cells become
//! addresses that mean something, nodes and properties go, come twice and change places, bytes of the blob flip.
//!
//! `FUZZ_SECONDS=n cargo test --release -p hv-bundle --test fuzz` goes on for n seconds, from `FUZZ_SEED` if that is set,
//! and with the blobs in the folder `FUZZ_TREES` as well; a failure says the seed of its case, and `FUZZ_SEED` has it again.

#[path = "../../../platform/tests/data/trees.rs"]
mod trees;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use hv_bundle::{
    Bundle, Fresh, Guest, GuestConfig, Host, Identity, Image, Keep, Loaded, Places, Secret, VmPlan,
    find_home, given, identity, plan, tables,
};
use platform::devicetree::{Settled, Tree};
use platform::{Console, DeviceKind, Gic, Machine, Range, Start};
use trees::{GicVersion, pi, virt, virt_with_nexus};

/// Cases of a run without `FUZZ_SECONDS`.
const CASES: u64 = 800;
const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const LIMIT: u64 = 1 << 39;
/// A flat binary.
const KERNEL: &[u8] = &[0x1f, 0x20, 0x03, 0xd5, 0xff, 0xff, 0xff, 0x17];

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end.max(1) as u64) as usize
    }

    fn is(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn of<'a, T>(&mut self, choice: &'a [T]) -> &'a T {
        &choice[self.below(choice.len())]
    }

    /// A cell that might mean something.
    fn cell(&mut self) -> u32 {
        const USEFUL: [u32; 40] = [
            0,
            0,
            0,
            1,
            2,
            3,
            4,
            5,
            7,
            16,
            31,
            32,
            33,
            0x40,
            0x44,
            0x80,
            0x100,
            0x200,
            0x800,
            0x1000,
            0x2000,
            0x8000,
            0x1_0000,
            0x2_0000,
            0x20_0000,
            0x0800_0000,
            0x0801_0000,
            0x0808_0000,
            0x080a_0000,
            0x0900_0000,
            0x0a00_0000,
            0x3b40_0000,
            0x4000_0000,
            0x4020_0000,
            0x4800_0000,
            0x7e20_1000,
            0x8000_0000,
            0xbfff_f000,
            0xff84_1000,
            u32::MAX,
        ];
        match self.below(12) {
            0 => self.roll() as u32,
            1 => self
                .of(&USEFUL)
                .wrapping_add(self.below(9) as u32)
                .wrapping_sub(4),
            2 => *self.of(&[
                trees::GIC_PHANDLE,
                trees::CLOCK_PHANDLE,
                trees::GPIO_PHANDLE,
            ]),
            _ => *self.of(&USEFUL),
        }
    }
}

/// How many nodes there are from here downwards.
fn count(node: &DeviceTreeNode) -> usize {
    let children = node.children();
    1 + children.map(count).sum::<usize>()
}

/// The node that is so many behind this one, in the tree's order.
fn at(node: &mut DeviceTreeNode, mut index: usize) -> Option<&mut DeviceTreeNode> {
    if index == 0 {
        return Some(node);
    }
    index -= 1;
    for child in node.children_mut() {
        let size = count(child);
        if index < size {
            return at(child, index);
        }
        index -= size;
    }
    None
}

fn any<'t>(tree: &'t mut DeviceTree, dice: &mut Dice) -> &'t mut DeviceTreeNode {
    let index = dice.below(count(&tree.root));
    at(&mut tree.root, index).expect("a node that was counted")
}

/// A node that discovery reads more of than of most.
fn telling<'t>(tree: &'t mut DeviceTree, dice: &mut Dice) -> &'t mut DeviceTreeNode {
    const PATHS: [&str; 19] = [
        "/intc@8000000",
        "/pl011@9000000",
        "/virtio_mmio@a000000",
        "/memory@40000000",
        "/chosen",
        "/timer",
        "/cpus/cpu@0",
        "/pl031@9010000",
        "/soc",
        "/soc/serial@7e201000",
        "/soc/interrupt-controller@40041000",
        "/soc/watchdog@7e100000",
        "/soc/mailbox@7e00b880",
        "/memory@0",
        "/reserved-memory/atf@1000",
        "/emmc2bus",
        "/bus@8000000",
        "/bus@8000000/motherboard",
        "/bus@8000000/motherboard/pl011@9000000",
    ];
    let path = *dice.of(&PATHS);
    if tree.find_node(path).is_none() || dice.is(4) {
        return any(tree, dice);
    }
    tree.find_node_mut(path).expect("it was just there")
}

/// The name of one of its properties.
fn name_in(node: &DeviceTreeNode, dice: &mut Dice) -> Option<String> {
    let mut names: Vec<String> = node.properties().map(|own| own.name().to_owned()).collect();
    let known = ["reg", "interrupts", "ranges", "interrupt-map"];
    names.extend(
        names
            .clone()
            .into_iter()
            .filter(|name| known.contains(&name.as_str())),
    );
    (!names.is_empty()).then(|| dice.of(&names).clone())
}

fn set(node: &mut DeviceTreeNode, name: &str, value: &[u8]) {
    if let Ok(property) = DeviceTreeProperty::new(name, value) {
        node.add_property(property);
    }
}

/// Changes a tree in one way.
fn change(tree: &mut DeviceTree, dice: &mut Dice) {
    let way = dice.below(14);
    let node = telling(tree, dice);
    let Some(name) = name_in(node, dice) else {
        return;
    };
    let mut value = node
        .property(&name)
        .map(|own| own.value().to_vec())
        .unwrap_or_default();
    match way {
        // A cell.
        0..=5 => {
            let cells = value.len() / 4;
            if cells > 0 {
                let place = dice.below(cells) * 4;
                value[place..place + 4].copy_from_slice(&dice.cell().to_be_bytes());
            }
            set(node, &name, &value);
        }
        // All of them.
        6 => {
            let cells = 1 + dice.below(8);
            let value: Vec<u8> = (0..cells).flat_map(|_| dice.cell().to_be_bytes()).collect();
            set(node, &name, &value);
        }
        // Longer or shorter.
        7 => {
            value.truncate(dice.below(value.len() + 1));
            set(node, &name, &value);
        }
        8 => {
            value.extend(dice.cell().to_be_bytes());
            set(node, &name, &value);
        }
        9 => drop(node.remove_property(&name)),
        // Somebody else's.
        10 => {
            let other = telling(tree, dice);
            set(other, &name, &value);
        }
        // A node is gone, or there a second time.
        11 => {
            let children: Vec<String> = node
                .children()
                .map(|child| child.name().to_owned())
                .collect();
            if !children.is_empty() && dice.is(3) {
                let name = dice.of(&children).clone();
                node.remove_child(&name);
            }
        }
        12 => {
            let mut twin = DeviceTreeNode::new_unchecked(format!("twin@{:x}", dice.roll() as u16));
            let properties: Vec<(String, Vec<u8>)> = node
                .properties()
                .map(|own| (own.name().to_owned(), own.value().to_vec()))
                .collect();
            for (name, value) in properties {
                set(&mut twin, &name, &value);
            }
            telling(tree, dice).add_child(twin);
        }
        _ => {
            let names = [
                "interrupt-parent",
                "#address-cells",
                "#size-cells",
                "#interrupt-cells",
                "phandle",
                "status",
            ];
            let name = *dice.of(&names);
            set(node, name, &dice.cell().to_be_bytes());
        }
    }
}

/// What must be said of a refusal.
fn refused(error: impl std::fmt::Display) {
    let said = error.to_string();
    assert!(
        said.contains("; ") || said.contains("asks") || said.contains("memory"),
        "no mend: {said}"
    );
}

fn pages(range: Range) -> Range {
    let start = range.start & !(PAGE - 1);
    Range::between(start, range.end().next_multiple_of(PAGE))
}

/// From a blob to plans, as `start.rs` does it; whether it got there.
fn boot(blob: &[u8], dice: &mut Dice) -> bool {
    if let Ok(console) = Console::locate(blob, LIMIT) {
        assert!(console.base.end() <= LIMIT && !console.base.is_empty());
        assert!(console.kind.fits(console.base));
    }
    let machine = match Machine::discover(blob) {
        Ok(machine) => machine,
        Err(error) => {
            refused(error);
            return false;
        }
    };
    let base = machine.ram[0].start;
    let loaded = Loaded {
        image: Range::new(base.saturating_add(2 * MIB), MIB),
        dtb: Range::new(base.saturating_add(64 * MIB), blob.len() as u64),
    };
    let checked = Places::check(&machine, LIMIT).and_then(|own| own.check_loaded(&loaded));
    if let Err(error) = checked {
        refused(error);
        return false;
    }
    let taken = [loaded.image, loaded.dtb, machine.initrd.unwrap_or_default()];
    let image = Image {
        size: MIB,
        record: PAGE,
    };
    let home = match find_home(&machine, image, &taken, LIMIT) {
        Ok(home) => home,
        Err(error) => {
            refused(error);
            return false;
        }
    };
    let mapped = identity(&machine, home, LIMIT);
    hold_mapping(&machine, home, &loaded, &mapped);

    let keep = match Keep::find(&machine, &[home, loaded.dtb], LIMIT) {
        Ok(keep) => keep,
        Err(error) => {
            refused(error);
            return false;
        }
    };
    let is_ram = |range: Range| {
        mapped
            .iter()
            .any(|own| !own.is_device && own.range.covers(range))
    };
    assert!(is_ram(keep.from) && is_ram(keep.to), "{keep:x?}");
    for other in [home, loaded.dtb, keep.from] {
        assert!(!keep.to.overlaps(other), "{keep:x?} {other:x?}");
    }

    let host = Host {
        dtb: blob,
        taken: &[home, keep.to],
        limit: LIMIT,
        spis: 32 * dice.below(32) as u32,
        secret: Secret::gather(&machine.seed, &Fresh::default()),
        transport: |_| [2, 2],
    };
    let guest = Guest {
        config: GuestConfig::default(),
        kernel: KERNEL,
        ramdisk: Some(&[7; 100]),
        flash: None,
        capture: hv_bundle::Capture::default(),
    };
    let bundle = Bundle {
        operator: Default::default(),
        guests: vec![guest],
    };
    match plan(&machine, bundle, &host) {
        Ok(plans) => {
            for own in &plans {
                hold_plan(&machine, &host, own, is_ram);
            }
            true
        }
        Err(error) => {
            refused(error);
            false
        }
    }
}

/// What must hold of what is mapped.
fn hold_mapping(machine: &Machine, home: Range, loaded: &Loaded, mapped: &[Identity]) {
    for own in mapped {
        let range = own.range;
        assert!(range.start % PAGE == 0 && range.size % PAGE == 0 && !range.is_empty());
        assert!(range.end() <= LIMIT && !range.overlaps(home), "{own:x?}");
        if own.is_device {
            let normal = mapped.iter().filter(|other| !other.is_device);
            assert!(
                normal.into_iter().all(|other| !other.range.overlaps(range)),
                "{own:x?}"
            );
        }
    }
    let has = |range: Range, is_device| {
        let mut of_kind = mapped.iter().filter(|own| own.is_device == is_device);
        of_kind.any(|own| own.range.covers(range))
    };
    assert!(has(loaded.dtb, false));
    for cpu in &machine.cpus {
        if let Start::SpinTable { release_pa } = cpu.start {
            // Unless the image moves there: then nobody waits for it any more.
            let word = Range::new(release_pa, 8);
            assert!(has(word, false) || home.overlaps(word));
        }
    }
    let mut driven = machine.gic.driven();
    driven.push(machine.console.base);
    driven.extend(machine.power);
    for range in driven {
        assert!(has(range, true), "{range:x?}");
    }
    for device in &machine.devices {
        for &range in &device.mmio {
            assert!(has(range, true), "{range:x?}");
            assert!(device.kind != DeviceKind::VirtioMmio || range.size >= 0x74);
        }
    }
}

/// What must hold of a VM's plan.
fn hold_plan(machine: &Machine, host: &Host<'_>, own: &VmPlan<'_>, is_ram: impl Fn(Range) -> bool) {
    for &part in &own.ram {
        assert!(part.start % PAGE == 0 && part.size % PAGE == 0);
        assert!(is_ram(part), "{part:x?}");
        for other in host.taken.iter().chain(&machine.reserved) {
            assert!(!part.overlaps(*other), "{part:x?} {other:x?}");
        }
    }
    // The home has room for the tables of what is mapped: for those that were counted before this was planned.
    let normal = own.ram.iter().map(|&range| (range, false));
    let devices = own.registers.iter().map(|&range| (pages(range), true));
    let mapped = normal.chain(devices);
    let mapped = mapped.map(|(range, is_device)| Identity { range, is_device });
    let mapped: Vec<Identity> = mapped.collect();
    let known = tables(&given(machine, LIMIT));
    assert!(tables(&mapped) <= known + 6, "{} {known}", tables(&mapped));
    let pieces = [own.layout.kernel, own.layout.dtb];
    for piece in pieces.into_iter().chain(own.layout.ramdisk) {
        assert!(own.ram.iter().any(|part| part.covers(piece)));
    }
    let mut ours = machine.gic.regions();
    ours.extend(&machine.messages);
    ours.extend([machine.console.base, machine.shown.base]);
    ours.extend(machine.power);
    for range in own.registers.iter().map(|range| pages(*range)) {
        assert!(range.end() <= LIMIT && !range.is_empty());
        for other in &ours {
            assert!(!pages(*other).overlaps(range), "{range:x?} {other:x?}");
        }
        assert!(!machine.ram.iter().any(|bank| bank.overlaps(range)));
    }
    if let Gic::V2 { .. } = machine.gic {
        let interface = own.cpu_interface.expect("a GICv2 has one");
        assert!(
            interface.gicv.start.is_multiple_of(PAGE) && interface.gicv.size.is_multiple_of(PAGE)
        );
        assert!(interface.at.is_multiple_of(PAGE));
    }
    for &intid in own.interrupts.iter().filter(|&&intid| intid >= 32) {
        assert!(intid < 32 + host.spis && intid != machine.console.intid);
    }
    let settled = Settled::new(&own.dtb).expect("the guest's tree is sound");
    let fdt = platform::devicetree::Fdt::open(&settled).expect("it can be read");
    let tree = Tree::new(&fdt);
    assert!(tree.find("/chosen").is_some() && tree.find("/psci").is_some());
}

fn seeds() -> Vec<DeviceTree> {
    let mut all = vec![
        virt(2, GicVersion::V3),
        virt(2, GicVersion::V2),
        pi(),
        virt_with_nexus(),
    ];
    if let Ok(folder) = std::env::var("FUZZ_TREES") {
        let files = std::fs::read_dir(folder).expect("FUZZ_TREES is a folder");
        for file in files {
            let blob = std::fs::read(file.expect("an entry").path()).expect("a file");
            if let Ok(tree) = Fdt::new(&blob) {
                all.push(DeviceTree::from_fdt(&tree));
            }
        }
    }
    // The loader's word on the bundle.
    for tree in &mut all {
        let machine = Machine::discover(&tree.to_dtb());
        let base = machine.map_or(0, |machine| machine.ram[0].start);
        let chosen = tree.root.child_mut("chosen").expect("it has one");
        set(
            chosen,
            "linux,initrd-start",
            &(base + 128 * MIB).to_be_bytes(),
        );
        set(
            chosen,
            "linux,initrd-end",
            &(base + 130 * MIB).to_be_bytes(),
        );
    }
    all
}

/// One case; whether it got as far as a plan.
fn case(seeds: &[DeviceTree], seed: u64) -> bool {
    let mut dice = Dice(seed);
    let mut tree = dice.of(seeds).clone();
    for _ in 0..1 + dice.below(6) {
        change(&mut tree, &mut dice);
    }
    let mut blob = tree.to_dtb();
    if dice.is(8) {
        for _ in 0..1 + dice.below(4) {
            let place = dice.below(blob.len());
            blob[place] ^= 1 << dice.below(8);
        }
    }
    boot(&blob, &mut dice)
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_a_devicetree_says_ends_in_a_plan_or_a_refusal() {
    let seeds = seeds();
    for tree in &seeds[..4] {
        assert!(boot(&tree.to_dtb(), &mut Dice(7)), "unchanged, it boots");
    }
    let (first, seconds) = (variable("FUZZ_SEED"), variable("FUZZ_SECONDS"));
    let started = Instant::now();
    let (mut cases, mut plans) = (0, 0);
    let mut seed = first.unwrap_or(1);
    loop {
        let done = match (first, seconds) {
            (_, Some(seconds)) => started.elapsed() > Duration::from_secs(seconds),
            (Some(_), None) => cases == 1,
            (None, None) => cases == CASES,
        };
        if done {
            break;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| case(&seeds, seed)));
        let Ok(planned) = outcome else {
            panic!("the case of FUZZ_SEED={seed}");
        };
        plans += u64::from(planned);
        cases += 1;
        seed += 1;
    }
    println!("{cases} cases, {plans} of them with a plan");
    // Else the changes are too wild to test what comes after discovery.
    assert!(cases < CASES || plans > cases / 20, "{plans} of {cases}");
}
