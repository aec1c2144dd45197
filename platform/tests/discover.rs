//! What discovery makes of whole devicetrees, and that it says what is wrong with incomplete ones.

#[path = "data/trees.rs"]
mod trees;

use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use platform::{
    Clock, Conduit, Console, Cpu, DeviceKind, Gic, Machine, Range, Spi, Start, Timers, Uart,
    UartKind, dtb_size,
};
use trees::{GicVersion, With, node, pi, virt, virt_with_nexus};

/// Where the addresses end that can be written to.
const LIMIT: u64 = 1 << 39;

fn discover(tree: &DeviceTree) -> Machine {
    Machine::discover(&tree.to_dtb()).expect("a complete tree")
}

fn refusal(tree: &DeviceTree) -> String {
    Machine::discover(&tree.to_dtb())
        .expect_err("an incomplete tree")
        .to_string()
}

/// Changes one property of `virt` and returns what discovery says to that.
fn refusal_with(path: &str, property: DeviceTreeProperty) -> String {
    let mut tree = virt(4, GicVersion::V3);
    tree.find_node_mut(path)
        .expect("a node of virt")
        .add_property(property);
    refusal(&tree)
}

fn property(name: &str, value: impl dtoolkit::ToPropertyValue) -> DeviceTreeProperty {
    DeviceTreeProperty::new(name, value).expect("a valid name")
}

/// Removes the node or property at `path` of `virt` and returns what discovery says to that.
fn refusal_without(path: &str) -> String {
    let mut tree = virt(4, GicVersion::V3);
    let (parent, last) = path.rsplit_once('/').expect("an absolute path");
    let parent = tree
        .find_node_mut(if parent.is_empty() { "/" } else { parent })
        .expect("a node of virt");
    assert!(parent.remove_property(last).is_some() || parent.remove_child(last).is_some());
    refusal(&tree)
}

#[test]
fn virt_with_gicv3_is_understood() {
    let machine = discover(&virt(4, GicVersion::V3));
    assert_eq!(machine.model, "linux,dummy-virt");
    assert_eq!(machine.ram, [Range::new(0x4000_0000, 0x8000_0000)]);
    assert_eq!(machine.reserved, []);
    assert_eq!(machine.psci, Some(Conduit::Smc));
    let mpidrs: Vec<u64> = machine.cpus.iter().map(|cpu| cpu.mpidr).collect();
    assert_eq!(mpidrs, [0, 1, 2, 3]);
    assert!(machine.cpus.iter().all(|cpu| cpu.start == Start::Psci));
    assert_eq!(
        machine.gic,
        Gic::V3 {
            dist: Range::new(0x0800_0000, 0x1_0000),
            redists: vec![Range::new(0x080a_0000, 0x00f6_0000)],
            redist_stride: None,
            maintenance: 25,
        }
    );
    assert_eq!(
        machine.timers,
        Timers {
            hyp_physical: 26,
            virt: 27,
            physical: 30
        }
    );
    assert_eq!(
        machine.console,
        Uart {
            kind: UartKind::Pl011,
            base: Range::new(0x0900_0000, 0x1000),
            intid: 33,
            path: "/pl011@9000000".into(),
        }
    );
    assert_eq!(machine.bootargs, "loglevel=7");
    assert_eq!(machine.seed.len(), 8 + 32);
    assert!(machine.seed.starts_with(&[0x9a, 0xbc, 0xde, 0xf0]));
    assert!(machine.seed.ends_with(&[0x12, 0x34, 0x56, 0x78]));
    assert_eq!(machine.initrd, Some(Range::new(0x4800_0000, 0x0100_0000)));
}

#[test]
fn virt_offers_its_virtio_slots_clock_and_gpio() {
    let machine = discover(&virt(1, GicVersion::V3));
    let count = |kind| {
        machine
            .devices
            .iter()
            .filter(|device| device.kind == kind)
            .count()
    };
    assert_eq!(count(DeviceKind::VirtioMmio), 32);
    assert_eq!(count(DeviceKind::Rtc), 1);
    assert_eq!(count(DeviceKind::Gpio), 1);
    let slot = machine
        .devices
        .iter()
        .find(|device| device.path == "/virtio_mmio@a000200")
        .expect("the second slot");
    assert_eq!(slot.compatible, "virtio,mmio");
    assert_eq!(slot.mmio, [Range::new(0x0a00_0200, 0x200)]);
    assert_eq!(
        slot.spis,
        [Spi {
            intid: 49,
            edge: true
        }]
    );
}

#[test]
fn virt_with_gicv2_is_understood() {
    let machine = discover(&virt(2, GicVersion::V2));
    assert_eq!(
        machine.gic,
        Gic::V2 {
            dist: Range::new(0x0800_0000, 0x1_0000),
            cpu: Range::new(0x0801_0000, 0x1_0000),
            hyp: Range::new(0x0803_0000, 0x1_0000),
            vcpu: Range::new(0x0804_0000, 0x1_0000),
            maintenance: 25,
        }
    );
}

#[test]
fn a_board_with_a_translated_bus_and_a_spin_table_is_understood() {
    let machine = discover(&pi());
    assert_eq!(machine.model, "Raspberry Pi 4 Model B");
    assert_eq!(
        machine.ram,
        [
            Range::new(0, 0x3b40_0000),
            Range::new(0x4000_0000, 0xbc00_0000)
        ]
    );
    assert_eq!(machine.reserved, [Range::new(0, 0x8_0000)]);
    assert_eq!(machine.psci, None);
    assert_eq!(
        machine.cpus.last(),
        Some(&Cpu {
            mpidr: 3,
            start: Start::SpinTable { release_pa: 0xf0 }
        })
    );
    assert_eq!(
        machine.gic,
        Gic::V2 {
            dist: Range::new(0xff84_1000, 0x1000),
            cpu: Range::new(0xff84_2000, 0x2000),
            hyp: Range::new(0xff84_4000, 0x2000),
            vcpu: Range::new(0xff84_6000, 0x2000),
            maintenance: 25,
        }
    );
    assert_eq!(machine.console.path, "/soc/serial@7e201000");
    assert_eq!(machine.console.base, Range::new(0xfe20_1000, 0x200));
    assert_eq!(machine.console.intid, 153);
    assert_eq!(machine.initrd, None);
    assert_eq!(machine.bootargs, "");
}

#[test]
fn a_hundred_and_twenty_eight_cpus_fit_and_one_more_does_not() {
    assert_eq!(discover(&virt(128, GicVersion::V3)).cpus.len(), 128);
    assert_eq!(
        refusal(&virt(129, GicVersion::V3)),
        "devicetree /cpus has more than 128 CPUs; start the machine with 128 or fewer"
    );
}

#[test]
fn a_lone_cpu_needs_no_way_to_be_started() {
    let mut tree = virt(1, GicVersion::V3);
    tree.root.remove_child("psci");
    assert_eq!(discover(&tree).cpus[0].start, Start::Running);
    let mut tree = virt(2, GicVersion::V3);
    tree.root.remove_child("psci");
    assert!(refusal(&tree).contains("/cpus/cpu@0 enable-method"));
}

#[test]
fn psci_0_1_alone_does_not_count() {
    let psci = property("compatible", "arm,psci");
    assert!(refusal_with("/psci", psci).contains("there is no PSCI 0.2 or later"));
}

#[test]
fn each_missing_node_is_named() {
    for path in [
        "/timer",
        "/timer/interrupts",
        "/memory@40000000",
        "/memory@40000000/reg",
        "/cpus",
        "/cpus/cpu@2/reg",
        "/intc@8000000/interrupts",
        "/intc@8000000/reg",
        "/intc@8000000/#interrupt-cells",
        "/psci/method",
        "/chosen/linux,initrd-end",
    ] {
        let said = refusal_without(path);
        let node = path.split('/').nth(1).unwrap_or_default();
        let node = node.split('@').next().unwrap_or_default();
        assert!(said.contains(node), "{path}: {said}");
        assert!(said.contains("; "), "{path}: no mend in {said}");
    }
}

#[test]
fn a_cpu_number_that_is_no_affinity_is_refused() {
    let said = refusal_with("/cpus/cpu@1", property("reg", 0x8000_0001u32));
    assert!(said.contains("/cpus/cpu@1 reg"), "{said}");
    let said = refusal_with("/cpus/cpu@1", property("reg", 0u32));
    assert!(said.contains("is another CPU's too"), "{said}");
}

#[test]
fn memory_beyond_the_physical_address_space_is_refused() {
    let reg = property("reg", [0xffff_ffffu32, 0, 0xffff_ffff, 0]);
    assert!(refusal_with("/memory@40000000", reg).contains("/memory@40000000 reg"));
    let reg = property("reg", [0x0010_0000u32, 0, 0, 0x1000]);
    assert!(refusal_with("/memory@40000000", reg).contains("/memory@40000000 reg"));
}

/// QEMU's `virt` with so many nodes more, behind its own.
fn with_nodes(count: usize) -> DeviceTree {
    let mut tree = virt(1, GicVersion::V3);
    let mut rest = node("rest");
    for index in 0..count {
        rest.add_child(node(&format!("node{index}")));
    }
    tree.root.add_child(rest);
    tree
}

fn count_nodes(blob: &[u8]) -> usize {
    let settled = platform::devicetree::Settled::new(blob).expect("a sound blob");
    let fdt = platform::devicetree::Fdt::open(&settled).expect("a sound blob");
    platform::devicetree::Tree::new(&fdt).all().count()
}

#[test]
fn a_tree_of_very_many_nodes_is_refused_and_its_console_found() {
    let own = count_nodes(&with_nodes(0).to_dtb());
    discover(&with_nodes(3000 - own));
    for more in [1, 2, 100_000] {
        let tree = with_nodes(3000 - own + more);
        let what = "devicetree blob has more than 3000 nodes, or, with parts blanked out, than 128 KiB; \
             have the loader leave out what is not used";
        assert_eq!(refusal(&tree), what);
        let blob = tree.to_dtb();
        assert_eq!(count_nodes(&blob), 3000);
        let console = Console::locate(&blob, LIMIT).expect("it is among the first");
        assert_eq!(console.base.start, 0x0900_0000);
    }
}

#[test]
fn the_console_is_found_behind_very_many_nodes() {
    // As with a loader that lists what the board has first, at the root and on a bus.
    for has_bus in [false, true] {
        let mut tree = with_nodes(100_000);
        let mut of = |path: &str| tree.find_node_mut(path).expect("a node").clone();
        let (uart, chosen) = (of("/pl011@9000000"), of("/chosen"));
        tree.root.remove_child("pl011@9000000");
        tree.root.remove_child("chosen");
        if has_bus {
            let bus = node("bus")
                .with("#address-cells", 2u32)
                .with("#size-cells", 2u32)
                .with("ranges", &[][..] as &[u8]);
            tree.root.add_child(bus.holding(uart));
        } else {
            tree.root.add_child(uart);
            tree.root.add_child(chosen);
        }
        let console = Console::locate(&tree.to_dtb(), LIMIT).expect("it is the last");
        assert_eq!(console.base.start, 0x0900_0000);
        assert!(refusal(&tree).contains("has more than 3000 nodes"));
    }
}

#[test]
fn lists_without_end_are_refused_or_cut() {
    let cells = |cells: &[u32], count: usize| -> Vec<u8> {
        let one = cells.iter().flat_map(|cell| cell.to_be_bytes());
        one.collect::<Vec<u8>>().repeat(count)
    };
    let with = |path: &str, name: &str, bytes: &[u8]| {
        let mut tree = virt(1, GicVersion::V3);
        let node = tree.find_node_mut(path).expect("a node");
        node.add_property(property(name, bytes));
        tree
    };
    let place = [0, 0x0900_0000, 0, 0x1000];
    let uart = "/pl011@9000000";
    discover(&with(uart, "reg", &cells(&place, 512)));
    for count in [513, 100_000] {
        let said = refusal(&with(uart, "reg", &cells(&place, count)));
        let what = "/pl011@9000000 reg has more than 512 places";
        assert!(said.contains(what), "{said}");
    }
    discover(&with(uart, "interrupts", &cells(&[0, 1, 4], 1024)));
    for count in [1025, 100_000] {
        let said = refusal(&with(uart, "interrupts", &cells(&[0, 1, 4], count)));
        let what = "/pl011@9000000 interrupts has more than 1024 interrupts";
        assert!(said.contains(what), "{said}");
    }
    let machine = discover(&with("/chosen", "rng-seed", &cells(&[1], 100_000)));
    assert_eq!(machine.seed.len(), 512);
}

/// A copy of `blob` with so many NOPs in front of each node (Devicetree Specification 5.4.1).
fn with_nops(blob: &[u8], each: usize) -> Vec<u8> {
    const NOP: [u8; 4] = 4_u32.to_be_bytes();
    let blob = dtb::Blob::check(blob).expect("a sound blob");
    let mut structure = Vec::new();
    for (token, bytes) in blob.walk() {
        // The root has to come first.
        if matches!(token, dtb::Token::BeginNode(_)) && !structure.is_empty() {
            (0..each).for_each(|_| structure.extend_from_slice(&NOP));
        }
        structure.extend_from_slice(bytes);
    }
    let (reservations, strings) = (blob.reservations(), blob.strings());
    let parts = [reservations.len(), structure.len(), strings.len(), 0];
    let header = dtb::write_header(parts, blob.boot_cpu()).expect("it is not too large");
    [&header[..], reservations, &structure, strings].concat()
}

#[test]
fn nops_everywhere_are_left_out_and_what_is_too_large_for_a_copy_is_refused() {
    // A few nodes, a hundred thousand NOPs for each.
    let blob = with_nops(&with_nodes(10).to_dtb(), 100_000);
    assert!(blob.len() > 1 << 20);
    assert_eq!(
        Machine::discover(&blob),
        Machine::discover(&with_nodes(10).to_dtb())
    );
    for count in [8_000, 100_000] {
        let blob = with_nops(&with_nodes(count).to_dtb(), 1);
        let said = Machine::discover(&blob)
            .expect_err("it has no room")
            .to_string();
        let what = "devicetree blob has more than 3000 nodes, or, with parts blanked out, than 128 KiB; \
                    have the loader leave out what is not used";
        assert_eq!(said, what);
        let settled = platform::devicetree::Settled::new(&blob).expect("a sound blob");
        assert!(
            settled.bytes().len() <= 128 << 10,
            "{}",
            settled.bytes().len()
        );
        dtb::Blob::check(settled.bytes()).expect("what is left is sound");
        let console = Console::locate(&blob, LIMIT).expect("it is among the first");
        assert_eq!(console.base.start, 0x0900_0000);
    }
}

#[test]
fn very_many_devices_are_refused() {
    let with_clocks = |count: usize| {
        let mut tree = virt(1, GicVersion::V3);
        for index in 0..count {
            let base = 0x0c00_0000 + index as u32 * 0x1000;
            let clock = node(&format!("clock@{base:x}"))
                .with("compatible", "arm,pl031")
                .with("reg", [0u32, base, 0, 0x1000]);
            tree.root.add_child(clock);
        }
        tree
    };
    let own = discover(&with_clocks(0)).devices.len();
    assert_eq!(discover(&with_clocks(256 - own)).devices.len(), 256);
    let said = refusal(&with_clocks(257 - own));
    assert!(said.contains("is one device too many"), "{said}");
}

#[test]
fn disabled_devices_and_everything_below_them_do_not_count() {
    let mut tree = virt(1, GicVersion::V3);
    for name in ["virtio_mmio@a000000", "pl031@9010000"] {
        let node = tree.root.child_mut(name).expect("a device of virt");
        node.add_property(property("status", "disabled"));
    }
    assert_eq!(discover(&tree).devices.len(), 32);
}

#[test]
fn a_device_whose_interrupts_go_elsewhere_is_not_offered() {
    let mut tree = virt(1, GicVersion::V3);
    let device = tree.root.child_mut("pl031@9010000").expect("the clock");
    device.add_property(property("interrupt-parent", trees::GPIO_PHANDLE));
    let machine = discover(&tree);
    assert_eq!(machine.devices.len(), 33);
    assert_eq!(machine.left_out, ["/pl031@9010000"]);
}

#[test]
fn timers_are_found_by_name_when_they_have_names() {
    let mut tree = virt(1, GicVersion::V3);
    let timer = tree.root.child_mut("timer").expect("the timer");
    timer.add_property(property("interrupts", [1u32, 1, 4, 1, 2, 4, 1, 3, 4]));
    timer.add_property(property(
        "interrupt-names",
        &["virt", "hyp-phys", "phys"][..],
    ));
    assert_eq!(
        discover(&tree).timers,
        Timers {
            virt: 17,
            hyp_physical: 18,
            physical: 19
        }
    );
}

#[test]
fn interrupts_extended_leads_to_the_gic_by_itself() {
    let mut tree = virt(1, GicVersion::V3);
    let uart = tree.root.child_mut("pl011@9000000").expect("the UART");
    uart.remove_property("interrupts");
    uart.add_property(property(
        "interrupts-extended",
        [trees::GIC_PHANDLE, 0, 5, 4],
    ));
    assert_eq!(discover(&tree).console.intid, 37);
}

const NEXUS: &str = "/bus@8000000";
const BEHIND: &str = "/bus@8000000/motherboard/pl011@9000000";

/// What discovery says to another property of the tree with a nexus.
fn nexus_refusal(path: &str, property: DeviceTreeProperty) -> String {
    let mut tree = virt_with_nexus();
    let node = tree.find_node_mut(path).expect("a node of it");
    node.add_property(property);
    refusal(&tree)
}

#[test]
fn an_interrupt_map_leads_to_the_gic() {
    let machine = discover(&virt_with_nexus());
    assert_eq!(machine.console.path, BEHIND);
    assert_eq!(machine.console.base, Range::new(0x0900_0000, 0x1000));
    assert_eq!(machine.console.intid, 32 + 6);
    assert_eq!(machine.left_out, [""; 0]);
}

#[test]
fn an_interrupt_map_looks_at_the_address_where_its_mask_has_it() {
    // A device for each of two rows that differ in the address alone; flags that are the GIC's to know.
    let mut tree = virt(1, GicVersion::V3);
    let rows = [
        [0u32, 0x0d00_0000, 7, trees::GIC_PHANDLE, 0, 0, 0, 20, 1],
        [0, 0x0d00_1000, 7, trees::GIC_PHANDLE, 0, 0, 0, 21, 4],
    ];
    let bytes: Vec<u8> = rows
        .iter()
        .flatten()
        .flat_map(|cell| cell.to_be_bytes())
        .collect();
    let mut bus = node("bus")
        .with("compatible", "simple-bus")
        .with("#address-cells", 2u32)
        .with("#size-cells", 1u32)
        .with("ranges", &[][..] as &[u8])
        .with("#interrupt-cells", 1u32)
        .with("interrupt-map", &bytes[..]);
    for start in [0x0d00_0000u32, 0x0d00_1000, 0x0d00_2000] {
        let device = node(&format!("rtc@{start:x}"))
            .with("compatible", "arm,pl031")
            .with("interrupts", 7u32)
            .with("reg", [0, start, 0x1000]);
        bus.add_child(device);
    }
    tree.root.add_child(bus);
    let spis = |machine: &Machine| -> Vec<Spi> {
        let devices = machine
            .devices
            .iter()
            .filter(|own| own.path.starts_with("/bus/"));
        devices.flat_map(|own| own.spis.clone()).collect()
    };
    let spi = |intid, edge| Spi { intid, edge };
    let machine = discover(&tree);
    assert_eq!(spis(&machine), [spi(52, true), spi(53, false)]);
    // The third has no row: it is no guest's, and that is known.
    assert_eq!(machine.left_out, ["/bus/rtc@d002000"]);

    let bus = tree.root.child_mut("bus").expect("just added");
    bus.add_property(property("interrupt-map-mask", [0u32, 0, 7]));
    assert_eq!(spis(&discover(&tree)), [spi(52, true); 3]);
    let bus = tree.root.child_mut("bus").expect("just added");
    bus.add_property(property("interrupt-map-mask", [0u32, 0x1000, 0]));
    let third = [spi(52, true), spi(53, false), spi(52, true)];
    assert_eq!(spis(&discover(&tree)), third);
}

#[test]
fn an_interrupt_map_may_lead_to_another_one() {
    let mut tree = virt_with_nexus();
    tree.root.add_child(
        node("crossbar")
            .with("phandle", 0x77u32)
            .with("#address-cells", 0u32)
            .with("#interrupt-cells", 2u32)
            .with(
                "interrupt-map",
                [5u32, 1, trees::GIC_PHANDLE, 0, 0, 0, 99, 4],
            ),
    );
    let bus = tree.find_node_mut(NEXUS).expect("the bus");
    bus.add_property(property("interrupt-map", [0u32, 0, 5, 0x77, 5, 1]));
    assert_eq!(discover(&tree).console.intid, 32 + 99);
    // By name, too.
    let uart = tree.find_node_mut(BEHIND).expect("the UART");
    uart.remove_property("interrupts");
    uart.add_property(property("interrupts-extended", [0x77u32, 5, 1]));
    assert_eq!(discover(&tree).console.intid, 32 + 99);
    // Round in a circle.
    let bus = tree.find_node_mut("/crossbar").expect("just added");
    bus.add_property(property("interrupt-map", [5u32, 1, 0x77, 5, 1]));
    assert!(refusal(&tree).contains("goes round in circles"));
}

#[test]
fn a_broken_interrupt_map_is_named() {
    let place = "/bus@8000000 interrupt-map";
    let said = nexus_refusal(NEXUS, property("interrupt-map", [0u32, 0, 5, 0x77, 1]));
    assert!(
        said.contains(place) && said.contains("leads nowhere"),
        "{said}"
    );
    let short = [0u32, 0, 5, trees::GIC_PHANDLE, 0, 0, 0, 1];
    let said = nexus_refusal(NEXUS, property("interrupt-map", short));
    assert!(
        said.contains(place) && said.contains("whole rows"),
        "{said}"
    );
    let said = nexus_refusal(NEXUS, property("interrupt-map-mask", 63u32));
    assert!(said.contains("interrupt-map-mask does not fit"), "{said}");
    let said = nexus_refusal(NEXUS, property("#interrupt-cells", 9u32));
    assert!(said.contains("/bus@8000000 #interrupt-cells"), "{said}");
    let said = nexus_refusal(BEHIND, property("interrupts", 17u32));
    assert!(said.contains("leads to no interrupt of the GIC"), "{said}");
    let said = nexus_refusal(BEHIND, property("interrupts", &[1u8, 2, 3][..]));
    assert!(said.contains("does not fit #interrupt-cells"), "{said}");
}

#[test]
fn without_stdout_path_the_first_known_uart_is_the_console() {
    let mut tree = virt(1, GicVersion::V3);
    tree.root.remove_child("chosen");
    let machine = discover(&tree);
    assert_eq!(machine.console.path, "/pl011@9000000");
    assert_eq!(machine.initrd, None);
    tree.root.remove_child("pl011@9000000");
    assert!(refusal(&tree).contains("stdout-path"));
}

#[test]
fn the_console_is_found_even_if_the_rest_is_not() {
    let mut tree = virt(1, GicVersion::V3);
    tree.root.remove_child("intc@8000000");
    assert_eq!(
        Console::locate(&tree.to_dtb(), LIMIT),
        Ok(Console {
            model: "linux,dummy-virt".into(),
            kind: UartKind::Pl011,
            base: Range::new(0x0900_0000, 0x1000),
            clock: Clock::Fixed(24_000_000),
        })
    );
}

#[test]
fn a_console_that_cannot_be_reached_is_passed_over_for_one_that_can() {
    for (reg, what) in [
        ([0x80u32, 0, 0, 0x1000], "beyond the limit"),
        ([0, 0x4000_0000, 0, 0x1000], "in RAM"),
        ([0, 0x0d00_0000, 0, 0], "without a byte"),
        ([0, 0x0d00_0002, 0, 0x1000], "between words"),
    ] {
        let mut tree = virt(1, GicVersion::V3);
        let other = node("serial@0")
            .with("compatible", "arm,pl011")
            .with("interrupts", [0u32, 5, 4])
            .with("reg", reg);
        tree.root.add_child(other);
        let chosen = tree.root.child_mut("chosen").expect("virt has it");
        chosen.add_property(property("stdout-path", "/serial@0"));
        let console = Console::locate(&tree.to_dtb(), LIMIT).expect(what);
        assert_eq!(console.base.start, 0x0900_0000, "{what}");
        // The machine's is the one that it names, so that it can be told what is wrong with it.
        assert_eq!(discover(&tree).console.path, "/serial@0");
        tree.root.remove_child("pl011@9000000");
        assert!(Console::locate(&tree.to_dtb(), LIMIT).is_err(), "{what}");
    }
}

#[test]
fn memory_in_very_many_pieces_is_refused() {
    let pieces = |count: u32| -> Vec<u32> {
        let piece = |index| [0, 0x4000_0000 + index * 0x2000, 0, 0x1000];
        (0..count).flat_map(piece).collect()
    };
    let with = |path: &str, count| {
        let mut tree = virt(1, GicVersion::V3);
        let kept = node("reserved-memory")
            .with("#address-cells", 2u32)
            .with("#size-cells", 2u32)
            .with("ranges", &[][..] as &[u8])
            .holding(node("kept").with("reg", [0u32, 0, 0, 0]));
        tree.root.add_child(kept);
        let bytes: Vec<u8> = pieces(count)
            .iter()
            .flat_map(|cell| cell.to_be_bytes())
            .collect();
        let node = tree.find_node_mut(path).expect("a node");
        node.add_property(property("reg", &bytes[..]));
        Machine::discover(&tree.to_dtb())
    };
    for path in ["/memory@40000000", "/reserved-memory/kept"] {
        assert!(with(path, 256).is_ok());
        let refused = with(path, 257).expect_err("too many").to_string();
        assert!(
            refused.contains(&format!("{path} reg makes more than 256")),
            "{refused}"
        );
    }
    let mut tree = virt(1, GicVersion::V3);
    for index in 0..257u64 {
        let entry = dtoolkit::memreserve::MemoryReservation::new(index * 0x2000, 0x1000);
        tree.memory_reservations.push(entry);
    }
    assert!(refusal(&tree).contains("memory reservation block makes more than 256"));
}

#[test]
fn frames_below_the_interrupt_controller_are_its_own() {
    let machine = discover(&virt(1, GicVersion::V3));
    assert_eq!(machine.messages, [Range::new(0x0808_0000, 0x2_0000)]);
    assert_eq!(discover(&pi()).messages, []);
}

#[test]
fn a_boards_uart_clock_is_the_mailboxs_to_tell() {
    let console = Console::locate(&pi().to_dtb(), LIMIT).expect("a console");
    assert_eq!(console.model, "Raspberry Pi 4 Model B");
    assert_eq!(console.base, Range::new(0xfe20_1000, 0x200));
    assert_eq!(console.clock, Clock::Mailbox(Range::new(0xfe00_b880, 0x40)));
    let mut tree = pi();
    let soc = tree.find_node_mut("/soc").expect("the bus");
    soc.remove_child("mailbox@7e00b880");
    let console = Console::locate(&tree.to_dtb(), LIMIT).expect("a console");
    assert_eq!(console.clock, Clock::Unknown);
}

#[test]
fn a_pi_that_hands_over_no_devicetree_has_the_same_console() {
    let told = Console::locate(&pi().to_dtb(), LIMIT).expect("a console");
    let known = Console::of_peripherals_at(0xff84_0000).expect("a console");
    assert_eq!(
        (known.kind, known.base, known.clock),
        (told.kind, told.base, told.clock)
    );
    assert_eq!(Console::of_peripherals_at(0x0800_0000), None);
}

#[test]
fn a_guest_is_shown_a_pl011_whatever_the_console_is() {
    assert_eq!(discover(&pi()).shown, discover(&pi()).console);
    let mut tree = pi();
    let mut say = |path: &str, name: &str, value: &str| {
        let node = tree.find_node_mut(path).expect("a node");
        node.add_property(property(name, value));
    };
    say("/chosen", "stdout-path", "/soc/serial@7e215040:115200n8");
    say("/soc/serial@7e215040", "status", "okay");
    say("/soc/serial@7e201000", "status", "disabled");
    let machine = discover(&tree);
    assert_eq!(machine.console.kind, UartKind::MiniUart);
    assert_eq!(machine.console.base, Range::new(0xfe21_5040, 0x40));
    assert_eq!(machine.console.intid, 125);
    assert_eq!(machine.shown.kind, UartKind::Pl011);
    assert_eq!(machine.shown.path, "/soc/serial@7e201000");
    assert_eq!(machine.shown.intid, 153);
    let soc = tree.find_node_mut("/soc").expect("the bus");
    soc.remove_child("serial@7e201000");
    assert!(refusal(&tree).contains("a guest is to see a PL011"));
}

#[test]
fn a_board_is_reset_by_its_power_block() {
    assert_eq!(discover(&virt(1, GicVersion::V3)).power, None);
    assert_eq!(discover(&pi()).power, Some(Range::new(0xfe10_0000, 0x114)));
}

#[test]
fn a_board_offers_its_sd_controllers_and_what_they_depend_on() {
    let machine = discover(&pi());
    let found: Vec<(&str, DeviceKind, usize, usize)> = machine
        .devices
        .iter()
        .map(|device| {
            let (mmio, spis) = (device.mmio.len(), device.spis.len());
            (device.path.as_str(), device.kind, mmio, spis)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("/soc/cprman@7e101000", DeviceKind::Supply, 1, 0),
            ("/soc/mailbox@7e00b880", DeviceKind::Supply, 1, 1),
            ("/soc/gpio@7e200000", DeviceKind::Gpio, 1, 2),
            ("/soc/mmc@7e300000", DeviceKind::Sd, 1, 1),
            ("/soc/firmware", DeviceKind::Supply, 0, 0),
            ("/emmc2bus/mmc@7e340000", DeviceKind::Sd, 1, 1),
            ("/regulator-sd-io-1v8", DeviceKind::Supply, 0, 0),
        ]
    );
    assert_eq!(machine.devices[5].mmio, [Range::new(0xfe34_0000, 0x100)]);
}

#[test]
fn nodes_blanked_out_by_firmware_do_not_disturb() {
    let mut dtb = virt(4, GicVersion::V3).to_dtb();
    let whole = Machine::discover(&dtb).expect("a complete tree");
    let mut tree = dtoolkit::fdt_mut::FdtMut::from_slice(&mut dtb).expect("a valid blob");
    for name in ["pl061@9030000", "gpio-keys", "flash@0", "pmu"] {
        assert!(tree.root_mut().remove_child(name), "{name}");
    }
    // QEMU leaves the rest of a mebibyte empty.
    dtb.resize(0x10_0000, 0);
    dtb[4..8].copy_from_slice(&0x10_0000u32.to_be_bytes());
    let machine = Machine::discover(&dtb).expect("NOPs are no damage");
    assert_eq!(machine.devices.len() + 1, whole.devices.len());
    assert_eq!(machine.cpus, whole.cpus);
}

#[test]
fn names_as_long_as_real_boards_have_them_are_read() {
    let mut tree = virt(1, GicVersion::V3);
    let mut device = dtoolkit::model::DeviceTreeNode::new_unchecked(
        "an-uncommonly-long-name-for-a-small-device@1234",
    );
    device.add_property(DeviceTreeProperty::new_unchecked(
        "vendor,constant-charge-current-max-microamp",
        1u32,
    ));
    tree.root.add_child(device);
    assert!(Machine::discover(&tree.to_dtb()).is_ok());
}

#[test]
fn bytes_behind_the_blob_are_ignored() {
    let mut dtb = virt(1, GicVersion::V3).to_dtb();
    let size = dtb.len();
    dtb.resize(size + 4096, 0xa5);
    assert_eq!(dtb_size(&dtb[..40]), Ok(size));
    assert!(Machine::discover(&dtb).is_ok());
}

#[test]
fn a_blob_cut_short_anywhere_is_refused() {
    let dtb = virt(2, GicVersion::V3).to_dtb();
    for length in 0..dtb.len() {
        assert!(Machine::discover(&dtb[..length]).is_err(), "{length}");
    }
}

#[test]
fn nodes_nested_beyond_reason_are_refused() {
    let nested = |depth: usize| {
        let mut tree = virt(1, GicVersion::V3);
        let inner = (0..depth).fold(node("leaf"), |inner, _| node("nest").holding(inner));
        tree.root.add_child(inner);
        Machine::discover(&tree.to_dtb())
    };
    assert!(nested(29).is_ok());
    assert!(nested(200).is_err());
}
