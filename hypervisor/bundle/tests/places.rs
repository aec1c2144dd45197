//! Addresses in a devicetree that cannot be: each is refused before anything is mapped, by name and place. And what is
//! mapped of a machine that is not refused.

#[path = "../../../platform/tests/data/trees.rs"]
mod trees;

use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use hv_bundle::{BLOCK_SIZE, Identity, Loaded, Places, highest_free, identity, tables};
use platform::{Machine, Range};
use trees::{GicVersion, With, node, pi, virt};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const LIMIT: u64 = 512 * GIB;
const PAGE: u64 = 4096;

/// Where QEMU puts them.
const LOADED: Loaded = Loaded {
    image: Range::new(0x4020_0000, MIB),
    dtb: Range::new(0x4400_0000, 0x4000),
};

fn set(tree: &mut DeviceTree, path: &str, name: &str, value: impl ToPropertyValue) {
    let node = tree.find_node_mut(path).expect("a node");
    node.add_property(DeviceTreeProperty::new(name, value).expect("a valid name"));
}

fn checked(tree: &DeviceTree, loaded: &Loaded) -> Result<(), String> {
    let machine = Machine::discover(&tree.to_dtb()).map_err(|error| error.to_string())?;
    let places = Places::check(&machine, LIMIT).map_err(|error| error.to_string())?;
    places
        .check_loaded(loaded)
        .map_err(|error| error.to_string())
}

/// What is said of `tree` with another property, which must have all of `words`, the place among them, and a mend.
fn refuses(
    mut tree: DeviceTree,
    path: &str,
    name: &str,
    value: impl ToPropertyValue,
    words: &[&str],
) {
    assert_eq!(checked(&tree, &LOADED), Ok(()), "before the change");
    set(&mut tree, path, name, value);
    said(checked(&tree, &LOADED), words);
}

fn said(result: Result<(), String>, words: &[&str]) {
    let said = result.expect_err(&format!("refused with {words:?}"));
    for word in words.iter().chain(&["; "]) {
        assert!(said.contains(word), "no `{word}`: {said}");
    }
}

fn v3() -> DeviceTree {
    virt(2, GicVersion::V3)
}

fn v2() -> DeviceTree {
    virt(2, GicVersion::V2)
}

const SLOT: &str = "/virtio_mmio@a000000";
const CLOCK: &str = "/pl031@9010000";
const CONSOLE: &str = "/pl011@9000000";
const GIC: &str = "/intc@8000000";

#[test]
fn a_bundle_outside_ram_is_refused() {
    for (end, place) in [
        (["linux,initrd-start", "linux,initrd-end"], [0u32, 0x1000]),
        (
            ["linux,initrd-start", "linux,initrd-end"],
            [0x4fff_0000, 0xc000_1000],
        ),
        (
            ["linux,initrd-start", "linux,initrd-end"],
            [0xc000_0000, 0xc000_1000],
        ),
    ]
    .map(|(names, [start, end])| ((names, [start, end]), format!("at {start:#x}")))
    {
        let mut tree = v3();
        let (names, values) = end;
        for (name, value) in names.into_iter().zip(values) {
            set(&mut tree, "/chosen", name, value);
        }
        let words = [
            "/chosen linux,initrd-start",
            &place,
            "out of the machine's RAM",
        ];
        said(checked(&tree, &LOADED), &words);
    }
    let mut tree = v3();
    set(&mut tree, "/chosen", "linux,initrd-start", [0x80u32, 0]);
    set(&mut tree, "/chosen", "linux,initrd-end", [0x81u32, 0]);
    said(
        checked(&tree, &LOADED),
        &["linux,initrd-start at 0x8000000000"],
    );
}

#[test]
fn what_the_loader_put_on_top_of_each_other_is_refused() {
    let dtb = |start| Loaded {
        dtb: Range::new(start, 0x4000),
        ..LOADED
    };
    let initrd = 0x4800_0000;
    let words = ["the initrd and the devicetree at 0x48000000", "overlap"];
    said(checked(&v3(), &dtb(initrd + 0x1000)), &words);
    let words = ["the devicetree and the image at 0x402fff00", "overlap"];
    said(checked(&v3(), &dtb(0x402f_ff00)), &words);
    let image = Loaded {
        image: Range::new(initrd - 0x1000, MIB),
        ..LOADED
    };
    said(
        checked(&v3(), &image),
        &["the initrd and the image at 0x48000000"],
    );
    let image = Loaded {
        image: Range::new(0x10_0000, MIB),
        ..LOADED
    };
    let words = [
        "the hypervisor's image at 0x100000",
        "out of the machine's RAM",
    ];
    said(checked(&v3(), &image), &words);
    // In flash: what is read and later overwritten has to be memory.
    said(
        checked(&v3(), &dtb(0x1000)),
        &["the devicetree at 0x1000", "out of the machine's RAM"],
    );
    // Next to each other is apart.
    assert_eq!(checked(&v3(), &dtb(initrd - 0x4000)), Ok(()));
}

#[test]
fn a_device_that_cannot_be_mapped_is_refused() {
    let unmapped = "does not map";
    for (reg, place, what) in [
        ([0x80u32, 0, 0, 0x200], "at 0x8000000000", unmapped),
        ([0x7f, 0xffff_ff00, 0, 0x200], "at 0x7fffffff00", unmapped),
        ([0x8000, 0, 0, 0x200], "at 0x800000000000", unmapped),
        ([0, 0x0a00_0000, 0x100, 0], "at 0xa000000", unmapped),
        ([0, 0x0a00_0000, 0, 0], "at 0xa000000", "a size of 0"),
        (
            [0, 0x0a00_0000, 0, 0x10],
            "at 0xa000000",
            "smaller than its registers",
        ),
        ([0, 0x0a00_0001, 0, 0x200], "at 0xa000001", "cannot have"),
    ] {
        refuses(v3(), SLOT, "reg", reg, &[SLOT, place, what]);
    }
    refuses(
        v3(),
        CLOCK,
        "reg",
        [0u32, 0x0901_0000, 0, 0],
        &[CLOCK, "a size of 0"],
    );
}

#[test]
fn a_device_where_something_else_is_is_refused() {
    // All that is ours is in RAM.
    let ram = "where RAM is";
    let gic = "the interrupt controller's";
    for (reg, words) in [
        ([0u32, 0x4000_0000, 0, 0x200], ["at 0x40000000", ram]),
        ([0, 0xbff0_0000, 0, 0x200], ["at 0xbff00000", ram]),
        ([0, 0x3fff_ff00, 0, 0x200], ["at 0x3fffff00", ram]),
        ([0, 0x0a00_0000, 0x40, 0], ["at 0xa000000", ram]),
        (
            [0, 0x0800_0000, 0, 0x200],
            [
                "at 0x8000000 and the interrupt controller's distributor",
                "",
            ],
        ),
        ([0, 0x080a_0000, 0, 0x200], [gic, "redistributors"]),
        ([0, 0x07ff_ff00, 0, 0x200], [gic, "distributor"]),
        ([0, 0x0808_0000, 0, 0x200], [gic, "messages"]),
        ([0, 0x0900_0800, 0, 0x200], ["at 0x9000800", CONSOLE]),
    ] {
        refuses(v3(), SLOT, "reg", reg, &[SLOT, words[0], words[1]]);
    }
    for (at, part) in [
        (0x0801_1000u32, "GICC"),
        (0x0803_0000, "GICH"),
        (0x0804_2000, "GICV"),
    ] {
        refuses(v2(), SLOT, "reg", [0u32, at, 0, 0x200], &[SLOT, gic, part]);
    }
}

#[test]
fn a_console_that_is_nowhere_is_refused() {
    for (reg, words) in [
        (
            [0x80u32, 0x0900_0000, 0, 0x1000],
            ["at 0x8009000000", "does not map"],
        ),
        ([0, 0x0900_0000, 0, 0], ["at 0x9000000", "a size of 0"]),
        (
            [0, 0x0900_0000, 0, 0x20],
            ["at 0x9000000", "smaller than its registers"],
        ),
        ([0, 0x0900_0002, 0, 0x1000], ["at 0x9000002", "cannot have"]),
        (
            [0, 0x5000_0000, 0, 0x1000],
            ["at 0x50000000", "where RAM is"],
        ),
        (
            [0, 0x0800_1000, 0, 0x1000],
            [
                "at 0x8001000 and the interrupt controller's",
                "share addresses",
            ],
        ),
    ] {
        refuses(v3(), CONSOLE, "reg", reg, &[CONSOLE, words[0], words[1]]);
    }
    // The one that guests are shown, and the mini-UART, which has registers in front of it.
    let mini = || {
        let mut tree = pi();
        set(&mut tree, "/chosen", "stdout-path", "/soc/serial@7e215040");
        set(&mut tree, "/soc/serial@7e215040", "status", "okay");
        tree
    };
    let loaded = Loaded {
        image: Range::new(0x20_0000, MIB),
        dtb: Range::new(0x100_0000, 0x4000),
    };
    assert_eq!(checked(&mini(), &loaded), Ok(()));
    let mut tree = mini();
    set(
        &mut tree,
        "/soc/serial@7e215040",
        "reg",
        [0x7e21_5000u32, 0x40],
    );
    said(
        checked(&tree, &loaded),
        &["/soc/serial@7e215040 at 0xfe215000", "cannot have"],
    );
    let mut tree = mini();
    set(
        &mut tree,
        "/soc/serial@7e201000",
        "reg",
        [0x7e21_5040u32, 0x200],
    );
    said(
        checked(&tree, &loaded),
        &["/soc/serial@7e201000 at 0xfe215040", "share addresses"],
    );
    let mut tree = pi();
    set(
        &mut tree,
        "/soc/watchdog@7e100000",
        "reg",
        [0x7e20_1000u32, 0x114],
    );
    said(
        checked(&tree, &loaded),
        &["the power management block at 0xfe201000"],
    );
}

#[test]
fn an_interrupt_controller_that_is_nowhere_is_refused() {
    let two = |first: [u32; 4], second: [u32; 4]| -> [u32; 8] {
        let both = [first, second].concat();
        both.try_into().expect("eight cells")
    };
    let dist = [0, 0x0800_0000, 0, 0x1_0000];
    let redists = [0, 0x080a_0000, 0, 0xf6_0000];
    for (reg, words) in [
        (
            two([0x80, 0, 0, 0x1_0000], redists),
            ["distributor at 0x8000000000", "does not map"],
        ),
        (
            two([0, 0x0800_0000, 0, 0x8000], redists),
            ["distributor at 0x8000000", "smaller"],
        ),
        (
            two([0, 0x0800_1000, 0, 0x1_0000], redists),
            ["distributor at 0x8001000", "cannot have"],
        ),
        (
            two([0, 0x4000_0000, 0, 0x1_0000], redists),
            ["distributor at 0x40000000", "where RAM is"],
        ),
        (
            two(dist, [0, 0x0800_0000, 0, 0xf6_0000]),
            ["redistributors at 0x8000000", "share addresses"],
        ),
        (
            two(dist, [0, 0x080a_0000, 0, 0x1_0000]),
            ["redistributors at 0x80a0000", "smaller"],
        ),
        (
            two(dist, [0, 0x080a_0000, 0, 0]),
            ["redistributors at 0x80a0000", "a size of 0"],
        ),
        (
            two(dist, [0, 0x080a_0000, 0x80, 0]),
            ["redistributors at 0x80a0000", "does not map"],
        ),
        (
            two(dist, [0, 0x080a_0000, 0, 0x4000_0000]),
            ["redistributors at 0x80a0000", "where RAM is"],
        ),
    ] {
        let bytes: Vec<u8> = reg.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        let words = ["the interrupt controller's", words[0], words[1]];
        refuses(v3(), GIC, "reg", &bytes[..], &words);
    }
    let parts = ["distributor", "GICC", "GICH", "GICV"];
    let starts = [0x0800_0000u32, 0x0801_0000, 0x0803_0000, 0x0804_0000];
    for (index, part) in parts.into_iter().enumerate() {
        let with = |own: [u32; 3]| -> Vec<u8> {
            let mut reg = Vec::new();
            for (other, start) in starts.into_iter().enumerate() {
                let [high, start, size] = if other == index {
                    own
                } else {
                    [0, start, 0x1_0000]
                };
                reg.extend(
                    [high, start, 0, size]
                        .iter()
                        .flat_map(|cell| cell.to_be_bytes()),
                );
            }
            reg
        };
        let start = starts[index];
        refuses(
            v2(),
            GIC,
            "reg",
            &with([0x80, start, 0x1_0000])[..],
            &[part, "does not map"],
        );
        refuses(
            v2(),
            GIC,
            "reg",
            &with([0, start, 0x100])[..],
            &[part, "at 0x80"],
        );
        refuses(
            v2(),
            GIC,
            "reg",
            &with([0, start + 4, 0x1_0000])[..],
            &[part, "cannot have"],
        );
        refuses(
            v2(),
            GIC,
            "reg",
            &with([0, 0x0900_0000, 0x1_0000])[..],
            &[part, "share addresses"],
        );
    }
}

#[test]
fn memory_that_cannot_be_mapped_is_left_alone_or_refused() {
    let far = [0x80u32, 0, 0, 0x8000_0000];
    refuses(
        v3(),
        "/memory@40000000",
        "reg",
        far,
        &["/memory", "no whole page"],
    );
    let less = [0u32, 0x4000_0800, 0, 0xf00];
    refuses(
        v3(),
        "/memory@40000000",
        "reg",
        less,
        &["/memory", "no whole page"],
    );
    // Some of it can be; a page at either end belongs to others as well.
    let mut tree = v3();
    tree.root.add_child(
        node("memory@7fc0000800")
            .with("device_type", "memory")
            .with("reg", [0x7fu32, 0xc000_0800, 0x4000, 0]),
    );
    assert_eq!(checked(&tree, &LOADED), Ok(()));
    let machine = Machine::discover(&tree.to_dtb()).expect("a machine");
    let mapped = identity(&machine, Range::default(), LIMIT);
    let whole = Range::between(0x7f_c000_1000, LIMIT);
    assert!(
        mapped
            .iter()
            .any(|own| own.range == whole && !own.is_device)
    );
    assert!(mapped.iter().all(|own| own.range.end() <= LIMIT));
}

#[test]
fn a_spin_table_that_is_nowhere_is_refused() {
    let loaded = Loaded {
        image: Range::new(0x20_0000, MIB),
        dtb: Range::new(0x100_0000, 0x4000),
    };
    assert_eq!(checked(&pi(), &loaded), Ok(()));
    for (address, what) in [
        ([0u32, 0xdc], "multiple of 8"),
        ([0x80, 0], "out of the machine's RAM"),
    ] {
        let mut tree = pi();
        set(&mut tree, "/cpus/cpu@2", "cpu-release-addr", address);
        said(
            checked(&tree, &loaded),
            &["CPU 0x2 cpu-release-addr at", what],
        );
    }
}

#[test]
fn a_machine_of_very_many_pieces_is_refused() {
    let mut tree = v3();
    // Each in a block of its own, and in a GiB of sixteen; and of no device more than there can be.
    let mut spread = |count: u64| {
        const DEVICES: u64 = 32;
        for device in 0..DEVICES {
            let slot = |index| [0x10_0000_0000 + index * 0x0400_0000, 0x1000];
            let own = (0..count).filter(|index| index % DEVICES == device);
            let words: Vec<u8> = own.flat_map(slot).flat_map(u64::to_be_bytes).collect();
            let path = format!("/virtio_mmio@{:x}", 0xa00_0000 + device * 0x200);
            set(&mut tree, &path, "reg", &words[..]);
        }
        checked(&tree, &LOADED)
    };
    assert_eq!(spread(3800), Ok(()));
    said(spread(3900), &["in more pieces than can be mapped"]);
}

#[test]
fn what_is_mapped_is_apart_from_home_and_in_whole_pages() {
    for tree in [v3(), v2(), pi()] {
        let machine = Machine::discover(&tree.to_dtb()).expect("a machine");
        let size = 4 * MIB;
        let start = highest_free(&machine, &[], LIMIT, size, BLOCK_SIZE).expect("room");
        let home = Range::new(start, size);
        let mapped = identity(&machine, home, LIMIT);
        for own in &mapped {
            let range = own.range;
            assert!(range.start % PAGE == 0 && range.size % PAGE == 0 && range.size != 0);
            assert!(!range.overlaps(home), "{own:x?}");
            let others = mapped
                .iter()
                .filter(|other| other.is_device != own.is_device);
            assert!(
                others.into_iter().all(|other| !other.range.overlaps(range)),
                "{own:x?}"
            );
        }
        let ram: u64 = machine.ram.iter().map(|bank| bank.size).sum();
        let normal = mapped.iter().filter(|own| !own.is_device);
        assert_eq!(normal.map(|own| own.range.size).sum::<u64>(), ram - size);
        for own in [machine.console.base, machine.gic.distributor()] {
            assert!(
                mapped
                    .iter()
                    .any(|other| other.is_device && other.range.covers(own))
            );
        }
        assert!(tables(&mapped) < 32, "{}", tables(&mapped));
    }
}

#[test]
fn tables_are_counted_by_the_ends_of_what_is_mapped() {
    let at = |start, size| Identity {
        range: Range::new(start, size),
        is_device: false,
    };
    let count = |start, size| tables(&[at(start, size)]);
    assert_eq!(count(GIB, GIB), 0);
    assert_eq!(count(GIB, GIB / 2), 1);
    assert_eq!(count(GIB / 2, GIB), 2);
    assert_eq!(count(0x0900_0000, PAGE), 2);
    assert_eq!(count(GIB - PAGE, 2 * PAGE), 4);
    // Neighbours share theirs.
    assert_eq!(tables(&[at(0x0900_0000, PAGE), at(0x0902_0000, PAGE)]), 2);
}
