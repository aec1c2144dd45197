//! Devicetrees for tests, written the way the machines' own read. Also used by `hv-bundle`'s tests.
#![allow(dead_code, missing_docs, reason = "each test file takes what it needs")]

use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

pub const GIC_PHANDLE: u32 = 0x8001;
pub const CLOCK_PHANDLE: u32 = 0x8000;
pub const GPIO_PHANDLE: u32 = 0x8003;
pub const CPRMAN_PHANDLE: u32 = 7;

/// A node with properties to be added.
pub fn node(name: &str) -> DeviceTreeNode {
    DeviceTreeNode::new(name).expect("a valid node name")
}

/// Writing a node as one expression.
pub trait With {
    fn with(self, name: &str, value: impl ToPropertyValue) -> Self;
    fn holding(self, child: DeviceTreeNode) -> Self;
}

impl With for DeviceTreeNode {
    fn with(mut self, name: &str, value: impl ToPropertyValue) -> Self {
        self.add_property(DeviceTreeProperty::new(name, value).expect("a valid property name"));
        self
    }

    fn holding(mut self, child: DeviceTreeNode) -> Self {
        self.add_child(child);
        self
    }
}

/// Which GIC a `virt` machine has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum GicVersion {
    V2,
    V3,
}

/// QEMU's `virt,virtualization=on` with 2 GiB, as its `dumpdtb` shows it.
pub fn virt(cpus: u32, gic: GicVersion) -> DeviceTree {
    let mut tree = DeviceTree::new();
    let mut root = node("")
        .with("interrupt-parent", GIC_PHANDLE)
        .with("model", "linux,dummy-virt")
        .with("#size-cells", 2u32)
        .with("#address-cells", 2u32)
        .with("compatible", "linux,dummy-virt")
        .holding(
            node("psci")
                .with("migrate", 0xc400_0005u32)
                .with("cpu_on", 0xc400_0003u32)
                .with("method", "smc")
                .with(
                    "compatible",
                    &["arm,psci-1.0", "arm,psci-0.2", "arm,psci"][..],
                ),
        )
        .holding(
            node("memory@40000000")
                .with("reg", [0u32, 0x4000_0000, 0, 0x8000_0000])
                .with("device_type", "memory"),
        )
        .holding(
            node("platform-bus@c000000")
                .with("interrupt-parent", GIC_PHANDLE)
                .with("ranges", [0u32, 0, 0x0c00_0000, 0x0200_0000])
                .with("#address-cells", 1u32)
                .with("#size-cells", 1u32)
                .with("compatible", &["qemu,platform", "simple-bus"][..]),
        )
        .holding(
            node("fw-cfg@9020000")
                .with("dma-coherent", &[][..] as &[u8])
                .with("reg", [0u32, 0x0902_0000, 0, 0x18])
                .with("compatible", "qemu,fw-cfg-mmio"),
        );
    for slot in 0..32u32 {
        let base = 0x0a00_0000 + slot * 0x200;
        root.add_child(
            node(&format!("virtio_mmio@{base:x}"))
                .with("dma-coherent", &[][..] as &[u8])
                .with("interrupts", [0u32, 0x10 + slot, 1])
                .with("reg", [0u32, base, 0, 0x200])
                .with("compatible", "virtio,mmio"),
        );
    }
    root = root
        .holding(
            node("gpio-keys").with("compatible", "gpio-keys").holding(
                node("poweroff")
                    .with("gpios", [GPIO_PHANDLE, 3, 0])
                    .with("linux,code", 0x74u32)
                    .with("label", "GPIO Key Poweroff"),
            ),
        )
        .holding(
            node("pl061@9030000")
                .with("phandle", GPIO_PHANDLE)
                .with("clock-names", "apb_pclk")
                .with("clocks", CLOCK_PHANDLE)
                .with("interrupts", [0u32, 7, 4])
                .with("gpio-controller", &[][..] as &[u8])
                .with("#gpio-cells", 2u32)
                .with("compatible", &["arm,pl061", "arm,primecell"][..])
                .with("reg", [0u32, 0x0903_0000, 0, 0x1000]),
        )
        .holding(
            node("pcie@10000000")
                .with("interrupt-map-mask", [0x1800u32, 0, 0, 7])
                .with("#interrupt-cells", 1u32)
                .with("#address-cells", 3u32)
                .with("#size-cells", 2u32)
                .with("reg", [0x40u32, 0x1000_0000, 0, 0x1000_0000])
                .with("compatible", "pci-host-ecam-generic"),
        )
        .holding(
            node("pl031@9010000")
                .with("clock-names", "apb_pclk")
                .with("clocks", CLOCK_PHANDLE)
                .with("interrupts", [0u32, 2, 4])
                .with("reg", [0u32, 0x0901_0000, 0, 0x1000])
                .with("compatible", &["arm,pl031", "arm,primecell"][..]),
        )
        .holding(
            node("pl011@9000000")
                .with("clock-names", &["uartclk", "apb_pclk"][..])
                .with("clocks", [CLOCK_PHANDLE, CLOCK_PHANDLE])
                .with("interrupts", [0u32, 1, 4])
                .with("reg", [0u32, 0x0900_0000, 0, 0x1000])
                .with("compatible", &["arm,pl011", "arm,primecell"][..]),
        )
        .holding(
            node("pmu")
                .with("interrupts", [1u32, 7, 4])
                .with("compatible", "arm,armv8-pmuv3"),
        )
        .holding(interrupt_controller(gic))
        .holding(
            node("flash@0")
                .with("bank-width", 4u32)
                .with(
                    "reg",
                    [0u32, 0, 0, 0x0400_0000, 0, 0x0400_0000, 0, 0x0400_0000],
                )
                .with("compatible", "cfi-flash"),
        )
        .holding(virt_cpus(cpus))
        .holding(
            node("timer")
                .with(
                    "interrupts",
                    [1u32, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4, 1, 12, 4],
                )
                .with("always-on", &[][..] as &[u8])
                .with("compatible", &["arm,armv8-timer", "arm,armv7-timer"][..]),
        )
        .holding(
            node("apb-pclk")
                .with("phandle", CLOCK_PHANDLE)
                .with("clock-output-names", "clk24mhz")
                .with("clock-frequency", 24_000_000u32)
                .with("#clock-cells", 0u32)
                .with("compatible", "fixed-clock"),
        )
        .holding(node("aliases").with("serial0", "/pl011@9000000"))
        .holding(
            node("chosen")
                .with("linux,initrd-end", [0u32, 0x4900_0000])
                .with("linux,initrd-start", [0u32, 0x4800_0000])
                .with("bootargs", "loglevel=7")
                .with("stdout-path", "/pl011@9000000")
                .with("rng-seed", [0x1234_5678u32; 8])
                .with("kaslr-seed", [0x9abc_def0u32, 0x1234_5678]),
        );
    tree.root = root;
    tree
}

fn virt_cpus(count: u32) -> DeviceTreeNode {
    let mut cpus = node("cpus")
        .with("#size-cells", 0u32)
        .with("#address-cells", 1u32);
    let mut clusters = node("cpu-map");
    for index in 0..count {
        let phandle = 0x9000 + index;
        let mpidr = ((index / 8) << 8) | (index % 8);
        let mut cpu = node(&format!("cpu@{mpidr:x}"))
            .with("phandle", phandle)
            .with("reg", mpidr)
            .with("compatible", "arm,cortex-a72")
            .with("device_type", "cpu");
        if count > 1 {
            cpu = cpu.with("enable-method", "psci");
        }
        cpus.add_child(cpu);
        clusters.add_child(node(&format!("core{index}")).with("cpu", phandle));
    }
    cpus.holding(node("cpu-map").holding(clusters))
}

fn interrupt_controller(version: GicVersion) -> DeviceTreeNode {
    let gic = node("intc@8000000")
        .with("phandle", GIC_PHANDLE)
        .with("interrupts", [1u32, 9, 4])
        .with("ranges", &[][..] as &[u8])
        .with("#size-cells", 2u32)
        .with("#address-cells", 2u32)
        .with("interrupt-controller", &[][..] as &[u8])
        .with("#interrupt-cells", 3u32);
    match version {
        GicVersion::V3 => gic
            .with("compatible", "arm,gic-v3")
            .with("#redistributor-regions", 1u32)
            .with(
                "reg",
                [
                    0u32,
                    0x0800_0000,
                    0,
                    0x1_0000,
                    0,
                    0x080a_0000,
                    0,
                    0x00f6_0000,
                ],
            )
            .holding(
                node("its@8080000")
                    .with("phandle", 0x8002u32)
                    .with("reg", [0u32, 0x0808_0000, 0, 0x2_0000])
                    .with("#msi-cells", 1u32)
                    .with("msi-controller", &[][..] as &[u8])
                    .with("compatible", "arm,gic-v3-its"),
            ),
        GicVersion::V2 => gic.with("compatible", "arm,cortex-a15-gic").with(
            "reg",
            [
                0u32,
                0x0800_0000,
                0,
                0x1_0000,
                0,
                0x0801_0000,
                0,
                0x1_0000,
                0,
                0x0803_0000,
                0,
                0x1_0000,
                0,
                0x0804_0000,
                0,
                0x1_0000,
            ],
        ),
    }
}

/// The shape of a Raspberry Pi 4's tree: a bus with its own addresses, a spin table, no PSCI.
pub fn pi() -> DeviceTree {
    let mut tree = DeviceTree::new();
    tree.memory_reservations
        .push(dtoolkit::memreserve::MemoryReservation::new(0, 0x1000));
    let mut cpus = node("cpus")
        .with("enable-method", "brcm,bcm2836-smp")
        .with("#address-cells", 1u32)
        .with("#size-cells", 0u32);
    for index in 0..4u32 {
        cpus.add_child(
            node(&format!("cpu@{index}"))
                .with("device_type", "cpu")
                .with("compatible", "arm,cortex-a72")
                .with("reg", index)
                .with("enable-method", "spin-table")
                .with("cpu-release-addr", [0u32, 0xd8 + 8 * index]),
        );
    }
    let soc = node("soc")
        .with("compatible", "simple-bus")
        .with("#address-cells", 1u32)
        .with("#size-cells", 1u32)
        .with(
            "ranges",
            [
                0x7e00_0000u32,
                0,
                0xfe00_0000,
                0x0180_0000,
                0x4000_0000,
                0,
                0xff80_0000,
                0x0080_0000,
            ],
        )
        .holding(
            node("cprman@7e101000")
                .with("compatible", "brcm,bcm2711-cprman")
                .with("#clock-cells", 1u32)
                .with("reg", [0x7e10_1000u32, 0x2000])
                .with("phandle", CPRMAN_PHANDLE),
        )
        .holding(
            node("mailbox@7e00b880")
                .with("compatible", "brcm,bcm2835-mbox")
                .with("reg", [0x7e00_b880u32, 0x40])
                .with("interrupts", [0u32, 33, 4])
                .with("phandle", 0x1du32),
        )
        .holding(
            node("gpio@7e200000")
                .with("compatible", "brcm,bcm2711-gpio")
                .with("reg", [0x7e20_0000u32, 0xb4])
                .with("interrupts", [0u32, 113, 4, 0, 114, 4])
                .holding(
                    node("uart0-gpio32")
                        .with("brcm,pins", [32u32, 33])
                        .with("phandle", 9u32),
                ),
        )
        .holding(
            node("watchdog@7e100000")
                .with(
                    "compatible",
                    &["brcm,bcm2711-pm", "brcm,bcm2835-pm-wdt"][..],
                )
                .with("reg", [0x7e10_0000u32, 0x114, 0x7e00_a000, 0x24]),
        )
        .holding(
            node("serial@7e201000")
                .with("compatible", &["arm,pl011", "arm,primecell"][..])
                .with("reg", [0x7e20_1000u32, 0x200])
                .with("interrupts", [0u32, 121, 4])
                .with("clocks", [CPRMAN_PHANDLE, 19, CPRMAN_PHANDLE, 20])
                .with("pinctrl-0", 9u32)
                .with("pinctrl-names", "default")
                .with("uart-has-rtscts", &[][..] as &[u8])
                .holding(node("bluetooth").with("compatible", "brcm,bcm43438-bt")),
        )
        .holding(
            node("mmc@7e300000")
                .with("compatible", "brcm,bcm2835-sdhci")
                .with("reg", [0x7e30_0000u32, 0x100])
                .with("interrupts", [0u32, 126, 4])
                .with("clocks", [CPRMAN_PHANDLE, 28]),
        )
        .holding(
            node("firmware")
                .with(
                    "compatible",
                    &["raspberrypi,bcm2835-firmware", "simple-mfd"][..],
                )
                .with("mboxes", 0x1du32)
                .holding(node("gpio").with("phandle", 0xau32)),
        )
        .holding(
            node("serial@7e215040")
                .with("compatible", "brcm,bcm2835-aux-uart")
                .with("reg", [0x7e21_5040u32, 0x40])
                .with("interrupts", [0u32, 93, 4])
                .with("status", "disabled"),
        )
        .holding(
            node("interrupt-controller@40041000")
                .with("compatible", "arm,gic-400")
                .with("interrupt-controller", &[][..] as &[u8])
                .with("#interrupt-cells", 3u32)
                .with("phandle", 1u32)
                .with("interrupts", [1u32, 9, 0xf04])
                .with(
                    "reg",
                    [
                        0x4004_1000u32,
                        0x1000,
                        0x4004_2000,
                        0x2000,
                        0x4004_4000,
                        0x2000,
                        0x4004_6000,
                        0x2000,
                    ],
                ),
        );
    tree.root = node("")
        .with("model", "Raspberry Pi 4 Model B")
        .with("compatible", &["raspberrypi,4-model-b", "brcm,bcm2711"][..])
        .with("#address-cells", 2u32)
        .with("#size-cells", 1u32)
        .with("interrupt-parent", 1u32)
        .holding(node("aliases").with("serial0", "/soc/serial@7e201000"))
        .holding(node("chosen").with("stdout-path", "serial0:115200n8"))
        .holding(
            node("memory@0")
                .with("device_type", "memory")
                .with("reg", [0u32, 0, 0x3b40_0000, 0, 0x4000_0000, 0xbc00_0000]),
        )
        .holding(
            node("reserved-memory")
                .with("#address-cells", 2u32)
                .with("#size-cells", 1u32)
                .with("ranges", &[][..] as &[u8])
                .holding(node("linux,cma").with("size", 0x0400_0000u32))
                .holding(node("atf@1000").with("reg", [0u32, 0x1000, 0x7_f000])),
        )
        .holding(node("timer").with("compatible", "arm,armv8-timer").with(
            "interrupts",
            [1u32, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08, 1, 10, 0xf08],
        ))
        .holding(cpus)
        .holding(soc)
        .holding(
            node("emmc2bus")
                .with("compatible", "simple-bus")
                .with("#address-cells", 2u32)
                .with("#size-cells", 1u32)
                .with("ranges", [0u32, 0x7e00_0000, 0, 0xfe00_0000, 0x0180_0000])
                .with("dma-ranges", [0u32, 0xc000_0000, 0, 0, 0x4000_0000])
                .holding(
                    node("mmc@7e340000")
                        .with("compatible", "brcm,bcm2711-emmc2")
                        .with("reg", [0u32, 0x7e34_0000, 0x100])
                        .with("interrupts", [0u32, 126, 4]),
                ),
        )
        .holding(
            node("regulator-sd-io-1v8")
                .with("compatible", "regulator-gpio")
                .with("gpios", [0xau32, 4, 0]),
        );
    tree
}

/// `virt` with the console behind two buses of the kind that Arm's models have (Linux `arch/arm64/boot/dts/arm`,
/// `fvp-base-revc.dts`): the outer one passes interrupts on by its `interrupt-map`, by number alone.
pub fn virt_with_nexus() -> DeviceTree {
    let mut tree = virt(2, GicVersion::V3);
    let uart = tree.root.remove_child("pl011@9000000");
    let mut uart = uart.expect("virt has it");
    for (name, cells) in [("interrupts", vec![5u32]), ("reg", vec![3, 0x1000, 0x1000])] {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        uart.add_property(DeviceTreeProperty::new(name, &bytes[..]).expect("a valid name"));
    }
    let inner = node("motherboard")
        .with("compatible", "simple-bus")
        .with("#address-cells", 2u32)
        .with("#size-cells", 1u32)
        .with("ranges", &[][..] as &[u8])
        .holding(uart);
    let mut map = Vec::new();
    for line in 0..16u32 {
        // The unit's address, the line; the GIC, an address below it, the interrupt there.
        let row = [0, 0, line, GIC_PHANDLE, 0, 0, 0, line + 1, 4];
        map.extend(row.iter().flat_map(|cell| cell.to_be_bytes()));
    }
    tree.root.add_child(
        node("bus@8000000")
            .with("compatible", "simple-bus")
            .with("#address-cells", 2u32)
            .with("#size-cells", 1u32)
            .with("ranges", [3u32, 0, 0, 0x08ff_f000, 0x0010_0000])
            .with("#interrupt-cells", 1u32)
            .with("interrupt-map-mask", [0u32, 0, 63])
            .with("interrupt-map", &map[..])
            .holding(inner),
    );
    let chosen = tree.root.child_mut("chosen").expect("virt has it");
    let path = "/bus@8000000/motherboard/pl011@9000000";
    chosen.add_property(DeviceTreeProperty::new("stdout-path", path).expect("a valid name"));
    tree
}
