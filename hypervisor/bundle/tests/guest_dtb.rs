//! The devicetree a guest gets, on machines shaped like QEMU's `virt` and a Raspberry Pi 4.

#[path = "../../../platform/tests/data/trees.rs"]
mod trees;

use dtoolkit::fdt::Fdt;
use dtoolkit::model::DeviceTree;
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};
use hv_bundle::{Error, GuestSpec, HEADROOM, OwnDevices, build_guest_dtb};
use platform::{Conduit, Machine, Range};
use trees::{GicVersion, pi, virt, virt_with_nexus};

const UART: &str = "/pl011@9000000";
const RAM: &[Range] = &[Range::new(0x4000_0000, 0x4000_0000)];

fn spec<'a>() -> GuestSpec<'a> {
    GuestSpec {
        ram: RAM,
        cpus: &[0, 1],
        bootargs: "panic=1",
        initrd: Some(Range::new(0x4800_0000, 0x1000)),
        sdei: true,
        seeds: true,
        conduit: Conduit::Smc,
        console: UART,
        devices: &[],
        own: OwnDevices::default(),
        elfcorehdr: None,
    }
}

fn build(machine: &DeviceTree, spec: &GuestSpec<'_>) -> DeviceTree {
    let dtb = build_guest_dtb(&machine.to_dtb(), spec).expect("a complete machine");
    DeviceTree::from_fdt(&Fdt::new(&dtb).expect("a sound blob"))
}

fn names(tree: &DeviceTree, path: &str) -> Vec<String> {
    let node = tree.find_node(path).expect("a node");
    let mut names: Vec<String> = node.children().map(|child| child.name().into()).collect();
    names.sort();
    names
}

fn text(tree: &DeviceTree, path: &str, name: &str) -> Option<String> {
    tree.find_node(path)?.property(name)?.value_as().ok()
}

fn cells(tree: &DeviceTree, path: &str, name: &str) -> Option<Vec<u32>> {
    tree.find_node(path)?.property(name)?.value_as().ok()
}

#[test]
fn a_guest_reads_of_nothing_it_is_not_given() {
    let tree = build(&virt(4, GicVersion::V3), &spec());
    assert_eq!(
        names(&tree, "/"),
        [
            "aliases",
            "apb-pclk",
            "chosen",
            "cpus",
            "firmware",
            "intc@8000000",
            "memory@40000000",
            "pl011@9000000",
            "psci",
            "timer"
        ]
    );
    assert_eq!(names(&tree, "/cpus"), ["cpu@0", "cpu@1"]);
    assert_eq!(names(&tree, "/intc@8000000"), [""; 0]);
}

#[test]
fn devices_of_a_guests_own_are_described() {
    let plain = build(&virt(2, GicVersion::V3), &spec());
    assert!(names(&plain, "/").iter().all(|name| {
        ["flash", "pvpanic", "watchdog"]
            .iter()
            .all(|own| !name.contains(own))
    }));
    let own = OwnDevices {
        flash: Range::new(0x400_0000, 0x400_0000),
        flash_ram: Range::new(0x7c00_0000, 0x400_0000),
        pvpanic: Range::new(0xb00_0000, 2),
        gwdt: [0xb01_0000, 0xb02_0000].map(|start| Range::new(start, 0x1000)),
        gwdt_intid: 287,
    };
    let tree = build(&virt(2, GicVersion::V3), &GuestSpec { own, ..spec() });
    let (flash, pvpanic) = ("/flash@4000000", "/pvpanic@b000000");
    assert_eq!(
        text(&tree, flash, "compatible").as_deref(),
        Some("cfi-flash")
    );
    assert_eq!(
        cells(&tree, flash, "reg"),
        Some(vec![0, 0x400_0000, 0, 0x400_0000])
    );
    assert_eq!(cells(&tree, flash, "bank-width"), Some(vec![4]));
    assert_eq!(
        text(&tree, pvpanic, "compatible").as_deref(),
        Some("qemu,pvpanic-mmio")
    );
    assert_eq!(
        cells(&tree, pvpanic, "reg"),
        Some(vec![0, 0xb00_0000, 0, 2])
    );
    let gwdt = "/watchdog@b010000";
    assert_eq!(
        text(&tree, gwdt, "compatible").as_deref(),
        Some("arm,sbsa-gwdt")
    );
    let frames = vec![0, 0xb01_0000, 0, 0x1000, 0, 0xb02_0000, 0, 0x1000];
    assert_eq!(cells(&tree, gwdt, "reg"), Some(frames));
    let gic = cells(&tree, "/intc@8000000", "phandle").unwrap();
    let interrupt = vec![gic[0], 0, 287 - 32, 4];
    assert_eq!(cells(&tree, gwdt, "interrupts-extended"), Some(interrupt));
}

#[test]
fn an_interrupt_behind_a_nexus_goes_straight_to_a_guests_gic() {
    let path = "/bus@8000000/motherboard/pl011@9000000";
    let spec = GuestSpec {
        console: path,
        ..spec()
    };
    let tree = build(&virt_with_nexus(), &spec);
    let interrupt = cells(&tree, path, "interrupts-extended");
    assert_eq!(interrupt, Some(vec![trees::GIC_PHANDLE, 0, 6, 4]));
    assert_eq!(cells(&tree, path, "interrupts"), None);
    // Where nothing is in between, all stays as it is.
    assert_eq!(
        cells(&tree, "/timer", "interrupts").map(|own| own.len()),
        Some(15)
    );
    assert_eq!(cells(&tree, "/timer", "interrupts-extended"), None);
}

#[test]
fn the_machines_own_words_stay() {
    let machine = virt(2, GicVersion::V3);
    let tree = build(&machine, &spec());
    assert_eq!(
        text(&tree, "/", "model").as_deref(),
        Some("linux,dummy-virt")
    );
    for path in ["/timer", UART, "/apb-pclk"] {
        assert_eq!(tree.find_node(path), machine.find_node(path), "{path}");
    }
    assert_eq!(
        cells(&tree, "/", "interrupt-parent"),
        Some(vec![trees::GIC_PHANDLE])
    );
    assert_eq!(text(&tree, "/chosen", "stdout-path").as_deref(), Some(UART));
    assert_eq!(text(&tree, "/aliases", "serial0").as_deref(), Some(UART));
}

#[test]
fn the_machines_seeds_are_not_the_guests() {
    let machine = virt(2, GicVersion::V3);
    let tree = build(&machine, &spec());
    assert_eq!(cells(&tree, "/chosen", "kaslr-seed"), Some(vec![0; 2]));
    assert_eq!(cells(&tree, "/chosen", "rng-seed"), Some(vec![0; 8]));
    let spec = GuestSpec {
        seeds: false,
        ..spec()
    };
    let tree = build(&machine, &spec);
    for seed in ["kaslr-seed", "rng-seed"] {
        assert_eq!(cells(&tree, "/chosen", seed), None);
    }
}

#[test]
fn emulated_redistributors_have_no_gaps() {
    let mut machine = virt(2, GicVersion::V3);
    let gic = machine.find_node_mut("/intc@8000000").expect("the GIC");
    let stride = dtoolkit::model::DeviceTreeProperty::new("redistributor-stride", [0u32, 0x4_0000]);
    gic.add_property(stride.expect("a property"));
    let tree = build(&machine, &spec());
    assert_eq!(cells(&tree, "/intc@8000000", "redistributor-stride"), None);
}

#[test]
fn memory_cpus_and_boot_words_are_the_guests() {
    let tree = build(&virt(4, GicVersion::V3), &spec());
    assert_eq!(
        cells(&tree, "/memory@40000000", "reg"),
        Some(vec![0, 0x4000_0000, 0, 0x4000_0000])
    );
    assert_eq!(
        text(&tree, "/chosen", "bootargs").as_deref(),
        Some("panic=1")
    );
    assert_eq!(
        cells(&tree, "/chosen", "linux,initrd-start"),
        Some(vec![0, 0x4800_0000])
    );
    assert_eq!(
        cells(&tree, "/chosen", "linux,initrd-end"),
        Some(vec![0, 0x4800_1000])
    );
    assert_eq!(
        text(&tree, "/cpus/cpu@1", "enable-method").as_deref(),
        Some("psci")
    );
}

#[test]
fn c010_psci_and_sdei_are_called_the_same_way() {
    let tree = build(&virt(2, GicVersion::V3), &spec());
    let psci = tree.find_node("/psci").expect("psci");
    assert!(psci.is_compatible("arm,psci-1.0") && psci.is_compatible("arm,psci-0.2"));
    assert_eq!(text(&tree, "/psci", "method").as_deref(), Some("smc"));
    assert_eq!(
        text(&tree, "/firmware/sdei", "compatible").as_deref(),
        Some("arm,sdei-1.0")
    );
    assert_eq!(
        text(&tree, "/firmware/sdei", "method").as_deref(),
        Some("smc")
    );
}

#[test]
fn without_sdei_nothing_speaks_of_it() {
    let spec = GuestSpec {
        sdei: false,
        ..spec()
    };
    let tree = build(&virt(2, GicVersion::V3), &spec);
    assert!(tree.find_node("/firmware").is_none());
}

#[test]
fn the_gic_is_one_without_virtualisation() {
    let tree = build(&virt(2, GicVersion::V3), &spec());
    let gic = tree.find_node("/intc@8000000").expect("the GIC");
    assert!(gic.property("interrupts").is_none());
    assert_eq!(
        cells(&tree, "/intc@8000000", "reg"),
        Some(vec![
            0,
            0x0800_0000,
            0,
            0x1_0000,
            0,
            0x080a_0000,
            0,
            0x00f6_0000
        ])
    );
    let tree = build(&virt(2, GicVersion::V2), &spec());
    assert_eq!(
        cells(&tree, "/intc@8000000", "reg"),
        Some(vec![
            0,
            0x0800_0000,
            0,
            0x1_0000,
            0,
            0x0801_0000,
            0,
            0x1_0000
        ])
    );
}

#[test]
fn devices_come_with_their_interrupts_and_the_power_button_with_its_gpio() {
    let spec = GuestSpec {
        devices: &["/virtio_mmio@a000200", "/pl061@9030000"],
        ..spec()
    };
    let machine = virt(2, GicVersion::V3);
    let tree = build(&machine, &spec);
    for path in ["/virtio_mmio@a000200", "/pl061@9030000", "/gpio-keys"] {
        assert_eq!(tree.find_node(path), machine.find_node(path), "{path}");
    }
    assert!(tree.find_node("/virtio_mmio@a000000").is_none());
}

#[test]
fn cpus_come_in_the_order_of_their_numbers() {
    let spec = GuestSpec {
        cpus: &[2, 0],
        ..spec()
    };
    let tree = build(&virt(4, GicVersion::V3), &spec);
    let cpus = tree.find_node("/cpus").expect("cpus");
    let names: Vec<&str> = cpus.children().map(|cpu| cpu.name()).collect();
    assert_eq!(names, ["cpu@2", "cpu@0"]);
}

#[test]
fn a_board_keeps_its_bus_and_loses_its_spin_table() {
    let spec = GuestSpec {
        ram: &[
            Range::new(0x8_0000, 0x1000_0000),
            Range::new(0x1_0000_0000, 0x1_0000_0000),
        ],
        cpus: &[0, 1, 2, 3],
        console: "/soc/serial@7e201000",
        devices: &["/soc/firmware", "/emmc2bus/mmc@7e340000"],
        ..spec()
    };
    let machine = pi();
    let tree = build(&machine, &spec);
    assert_eq!(
        names(&tree, "/soc"),
        [
            "firmware",
            "interrupt-controller@40041000",
            "serial@7e201000"
        ]
    );
    assert_eq!(names(&tree, "/soc/firmware"), ["gpio"]);
    assert_eq!(
        cells(&tree, "/emmc2bus", "dma-ranges"),
        cells(&machine, "/emmc2bus", "dma-ranges")
    );
    assert_eq!(
        cells(&tree, "/soc", "ranges"),
        cells(&machine, "/soc", "ranges")
    );
    assert_eq!(
        cells(&tree, "/soc/interrupt-controller@40041000", "reg"),
        Some(vec![0x4004_1000, 0x1000, 0x4004_2000, 0x2000])
    );
    let cpu = tree.find_node("/cpus/cpu@3").expect("a CPU");
    assert!(cpu.property("cpu-release-addr").is_none());
    let cpus = tree.find_node("/cpus").expect("CPUs");
    assert!(cpus.property("enable-method").is_none());
    // One cell does not hold 4 GiB.
    let memory = [
        [0, 0x8_0000, 0x1000_0000],
        [1, 0, 0x8000_0000],
        [1, 0x8000_0000, 0x8000_0000],
    ];
    assert_eq!(cells(&tree, "/memory@80000", "reg"), Some(memory.concat()));
    assert_eq!(
        text(&tree, "/chosen", "stdout-path").as_deref(),
        Some("serial0:115200n8")
    );
    assert!(tree.find_node("/reserved-memory").is_none());
}

#[test]
fn the_uart_is_emulated_so_it_has_no_pins_and_nothing_behind_it() {
    const PATH: &str = "/soc/serial@7e201000";
    let mut machine = pi();
    let node = machine.find_node_mut(PATH).expect("the UART");
    let off = dtoolkit::model::DeviceTreeProperty::new("status", "disabled").expect("a property");
    node.add_property(off);
    let spec = GuestSpec {
        console: PATH,
        ..spec()
    };
    let tree = build(&machine, &spec);
    let uart = tree.find_node(PATH).expect("the UART");
    assert_eq!(uart.children().count(), 0);
    let mut kept: Vec<String> = uart.properties().map(|own| own.name().into()).collect();
    kept.sort();
    assert_eq!(kept, ["clocks", "compatible", "interrupts", "reg"]);
}

#[test]
fn a_uart_has_a_clock_though_the_guest_has_not_the_machines() {
    const PATH: &str = "/soc/serial@7e201000";
    const CLOCKS: &str = "/soc/cprman@7e101000";
    let machine = pi();
    let spec = GuestSpec {
        console: PATH,
        ..spec()
    };
    let tree = build(&machine, &spec);
    assert!(tree.find_node(CLOCKS).is_none());
    let clock = |name| cells(&tree, "/uart-clock", name);
    for name in ["phandle", "#clock-cells"] {
        assert_eq!(clock(name), cells(&machine, CLOCKS, name));
    }
    assert_eq!(clock("clock-frequency"), Some(vec![48_000_000]));
    assert_eq!(
        text(&tree, "/uart-clock", "compatible").as_deref(),
        Some("fixed-clock")
    );
    // The machine's own, if the guest has it.
    let devices = &[CLOCKS];
    let tree = build(&machine, &GuestSpec { devices, ..spec });
    assert!(tree.find_node(CLOCKS).is_some() && tree.find_node("/uart-clock").is_none());
}

#[test]
fn a_clock_that_is_off_is_there_for_whoever_names_it() {
    use dtoolkit::model::{DeviceTreeNode, DeviceTreeProperty};
    let node = |name: &str, status: &str| {
        DeviceTreeNode::builder(name)
            .expect("a name")
            .property(DeviceTreeProperty::new("#clock-cells", 1u32).expect("a property"))
            .property(DeviceTreeProperty::new("status", status).expect("a property"))
            .build()
    };
    let mut machine = pi();
    let soc = machine.find_node_mut("/soc").expect("the bus");
    soc.add_child(node("dsi@7e209000", "disabled"));
    soc.add_child(node("dsi@7e700000", "okay"));
    let spec = GuestSpec {
        console: "/soc/serial@7e201000",
        ..spec()
    };
    let tree = build(&machine, &spec);
    let off = text(&tree, "/soc/dsi@7e209000", "status");
    assert_eq!(off.as_deref(), Some("disabled"));
    assert!(tree.find_node("/soc/dsi@7e700000").is_none());
}

#[test]
fn a_machine_can_be_discovered_from_what_its_guest_sees() {
    // All but the maintenance interrupt, which only a hypervisor has.
    let dtb = build_guest_dtb(&virt(4, GicVersion::V3).to_dtb(), &spec()).expect("a guest's tree");
    let said = Machine::discover(&dtb).expect_err("no GIC to virtualise with");
    assert!(
        said.to_string().contains("has no maintenance interrupt"),
        "{said}"
    );
}

#[test]
fn the_size_does_not_depend_on_where_the_ramdisk_is() {
    let machine = virt(2, GicVersion::V3).to_dtb();
    let size = |initrd| {
        let spec = GuestSpec { initrd, ..spec() };
        build_guest_dtb(&machine, &spec)
            .expect("a guest's tree")
            .len()
    };
    assert_eq!(
        size(Some(Range::new(0, 0))),
        size(Some(Range::new(0x1_2345_6000, 0x7_8900_0000)))
    );
    assert!(size(None) < size(Some(Range::new(0, 0))));
}

#[test]
fn there_is_room_for_a_loader_to_add_to_it() {
    let dtb = build_guest_dtb(&virt(2, GicVersion::V3).to_dtb(), &spec()).expect("a guest's tree");
    assert!(dtb.ends_with(&[0; HEADROOM]));
    let total = u32::from_be_bytes([dtb[4], dtb[5], dtb[6], dtb[7]]);
    assert_eq!(total as usize, dtb.len());
}

#[test]
fn what_the_machine_has_not_got_is_named() {
    let refusal = |spec: GuestSpec<'_>| {
        build_guest_dtb(&virt(2, GicVersion::V3).to_dtb(), &spec)
            .expect_err("nothing to take it from")
            .to_string()
    };
    let device = GuestSpec {
        devices: &["/uart@123"],
        ..spec()
    };
    assert!(refusal(device).contains("/uart@123"));
    let cpu = GuestSpec {
        cpus: &[0, 0x105],
        ..spec()
    };
    assert!(refusal(cpu).contains("CPU 0x105"));
}

#[test]
fn a_machines_damaged_devicetree_is_refused_without_panic() {
    let sound = virt(2, GicVersion::V3).to_dtb();
    for length in (0..sound.len()).step_by(5) {
        assert!(matches!(
            build_guest_dtb(&sound[..length], &spec()),
            Err(Error::Devicetree { .. })
        ));
    }
    let mut dtb = sound;
    for byte in (0..dtb.len()).step_by(7) {
        let bit = 1 << (byte / 7 % 8);
        dtb[byte] ^= bit;
        let _ = build_guest_dtb(&dtb, &spec());
        dtb[byte] ^= bit;
    }
}
