//! The devicetree as the VideoCore firmware hands it over: Linux's, completed. And of what QEMU does not model,
//! it says so.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use dtoolkit::fdt::Fdt;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};

use debian::paths::write_if_new;

/// What the VideoCore keeps of the first GiB: its firmware and the frame buffer.
const VIDEOCORE: Range<u64> = 0x3c00_0000..0x4000_0000;

/// One change to the tree. Nodes go by their names, which have the unit's address in them and are unique; the
/// buses above them have been called differently over the years.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// The node is not to be used.
    Disable(&'static str),
    /// It is.
    Enable(&'static str),
    /// The child of the node goes.
    RemoveChild(&'static str, &'static str),
    /// The property of the node goes.
    RemoveProperty(&'static str, &'static str),
}

/// What config.txt with `dtoverlay=disable-bt` does, so that the good UART is the console's.
const CONFIGURED: [Edit; 1] = [Edit::RemoveChild("serial@7e201000", "bluetooth")];

/// What QEMU's model has not: to touch it is an external abort. Its card is in the slot of the older SDHCI, where the
/// board has its radio.
const MODELLED: [Edit; 16] = [
    Edit::Disable("clock@7ef00000"),
    Edit::Disable("interrupt-controller@7ef00100"),
    Edit::Disable("hdmi@7ef00700"),
    Edit::Disable("hdmi@7ef05700"),
    Edit::Disable("i2c@7ef04500"),
    Edit::Disable("i2c@7ef09500"),
    Edit::Disable("pcie@7d500000"),
    Edit::Disable("ethernet@7d580000"),
    Edit::Disable("rng@7e104000"),
    Edit::Disable("avs-monitor@7d5d2000"),
    Edit::Disable("thermal"),
    Edit::Disable("mmc@7e340000"),
    Edit::Enable("mmc@7e300000"),
    Edit::RemoveChild("mmc@7e300000", "wifi@1"),
    Edit::RemoveProperty("mmc@7e300000", "mmc-pwrseq"),
    Edit::RemoveProperty("mmc@7e300000", "non-removable"),
];

/// What is said in the tree besides.
#[derive(Clone, Debug)]
pub struct Handover<'a> {
    /// RAM in MiB, the VideoCore's part included.
    pub memory_mib: u64,
    /// The kernel's command line.
    pub bootargs: &'a str,
    /// Where the initrd is.
    pub initrd: Option<Range<u64>>,
    /// Whether the console is the mini-UART.
    pub mini_uart: bool,
}

/// Reads Linux's devicetree at `stock` and writes to `completed` what the kernel is handed.
pub fn complete(stock: &Path, completed: &Path, handover: &Handover<'_>) -> Result<()> {
    let blob = fs::read(stock)
        .with_context(|| format!("cannot read the devicetree {}", stock.display()))?;
    let edited =
        edit(&blob, handover).with_context(|| format!("in the devicetree {}", stock.display()))?;
    write_if_new(completed, &edited)
}

/// Linux's devicetree at `stock` as the card of a real board has it: the console on the good UART, whose pins are the
/// header's 8 and 10. The rest its firmware completes.
pub fn configure(stock: &Path) -> Result<Vec<u8>> {
    let blob = fs::read(stock)
        .with_context(|| format!("cannot read the devicetree {}", stock.display()))?;
    let fdt = Fdt::new(&blob).map_err(|error| anyhow!("it is damaged: {error:?}"))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    for edit in CONFIGURED
        .into_iter()
        .chain([Edit::Disable("serial@7e215040")])
    {
        apply(&mut tree.root, edit)?;
    }
    let pins = node(&mut tree, "/soc/gpio@7e200000/uart0-gpio14")?;
    let phandle = pins
        .property("phandle")
        .context("uart0-gpio14 has no phandle")?;
    let phandle = phandle.value().to_vec();
    let uart = node(&mut tree, "/soc/serial@7e201000")?;
    set(uart, "pinctrl-0", phandle)?;
    reserve_first_page(&mut tree);
    let chosen = node(&mut tree, "/chosen")?;
    set(chosen, "stdout-path", b"serial0:115200n8\0".to_vec())?;
    Ok(tree.to_dtb())
}

fn edit(blob: &[u8], handover: &Handover<'_>) -> Result<Vec<u8>> {
    let fdt = Fdt::new(blob).map_err(|error| anyhow!("it is damaged: {error:?}"))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    for edit in CONFIGURED.iter().chain(&MODELLED) {
        apply(&mut tree.root, *edit)?;
    }
    reserve_first_page(&mut tree);
    let memory = node(&mut tree, "/memory@0")?;
    set(memory, "reg", memory_cells(handover.memory_mib))?;
    let chosen = node(&mut tree, "/chosen")?;
    let uart = u32::from(handover.mini_uart);
    let stdout = format!("serial{uart}:115200n8\0");
    set(chosen, "stdout-path", stdout.into_bytes())?;
    if !handover.bootargs.is_empty() {
        let bootargs = [handover.bootargs.as_bytes(), b"\0"].concat();
        set(chosen, "bootargs", bootargs)?;
    }
    if let Some(initrd) = &handover.initrd {
        // The board's firmware writes one cell, as it loads nothing above 4 GiB.
        let cell = |at: u64| anyhow::Ok(u32::try_from(at)?.to_be_bytes().to_vec());
        set(chosen, "linux,initrd-start", cell(initrd.start)?)?;
        set(chosen, "linux,initrd-end", cell(initrd.end)?)?;
    }
    Ok(tree.to_dtb())
}

/// The page with the spin table is nobody's.
fn reserve_first_page(tree: &mut DeviceTree) {
    let page = MemoryReservation::new(0, 0x1000);
    if !tree.memory_reservations.contains(&page) {
        tree.memory_reservations.push(page);
    }
}

/// RAM without the VideoCore's part, in the root's two cells of address and one of size.
fn memory_cells(mib: u64) -> Vec<u8> {
    let end = mib << 20;
    let parts = [
        0..end.min(VIDEOCORE.start),
        VIDEOCORE.end..end.max(VIDEOCORE.end),
    ];
    let parts = parts.iter().filter(|part| !part.is_empty());
    parts
        .flat_map(|part| {
            let size = (part.end - part.start) as u32;
            let mut cells = part.start.to_be_bytes().to_vec();
            cells.extend(size.to_be_bytes());
            cells
        })
        .collect()
}

fn node<'a>(tree: &'a mut DeviceTree, path: &str) -> Result<&'a mut DeviceTreeNode> {
    tree.find_node_mut(path)
        .with_context(|| format!("it has no {path}"))
}

fn set(node: &mut DeviceTreeNode, name: &str, value: Vec<u8>) -> Result<()> {
    node.remove_property(name);
    let property = DeviceTreeProperty::new(name, value);
    node.add_property(property.map_err(|error| anyhow!("{name}: {error:?}"))?);
    Ok(())
}

/// Does it to every node of that name at or below `at`; what is not there needs no edit.
fn apply(at: &mut DeviceTreeNode, edit: Edit) -> Result<()> {
    let (Edit::Disable(name)
    | Edit::Enable(name)
    | Edit::RemoveChild(name, _)
    | Edit::RemoveProperty(name, _)) = edit;
    if at.name() == name {
        match edit {
            Edit::Disable(_) => set(at, "status", b"disabled\0".to_vec())?,
            Edit::Enable(_) => set(at, "status", b"okay\0".to_vec())?,
            Edit::RemoveChild(_, child) => drop(at.remove_child(child)),
            Edit::RemoveProperty(_, property) => drop(at.remove_property(property)),
        }
    }
    at.children_mut().try_for_each(|child| apply(child, edit))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Properties = &'static [(&'static str, &'static [u8])];
    /// Nodes by their paths, parents first, with their properties.
    const STOCK: [(&str, Properties); 9] = [
        ("/chosen", &[("stdout-path", b"serial1:115200n8\0")]),
        ("/memory@0", &[("reg", &[0; 12])]),
        ("/soc", &[]),
        ("/soc/serial@7e201000", &[("status", b"okay\0")]),
        ("/soc/serial@7e201000/bluetooth", &[]),
        (
            "/soc/mmc@7e300000",
            &[("mmc-pwrseq", &[0; 4]), ("non-removable", b"")],
        ),
        ("/soc/mmc@7e300000/wifi@1", &[]),
        ("/scb", &[]),
        ("/scb/pcie@7d500000", &[]),
    ];

    fn stock() -> Vec<u8> {
        let mut tree = DeviceTree::new();
        for (path, properties) in STOCK {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let mut node = DeviceTreeNode::new(name).unwrap();
            for (name, value) in properties {
                set(&mut node, name, value.to_vec()).unwrap();
            }
            let parent = match parent {
                "" => &mut tree.root,
                path => tree.find_node_mut(path).unwrap(),
            };
            parent.add_child(node);
        }
        tree.to_dtb()
    }

    fn edited(memory_mib: u64, bootargs: &str, initrd: Option<Range<u64>>) -> DeviceTree {
        let handover = Handover {
            memory_mib,
            bootargs,
            initrd,
            mini_uart: false,
        };
        let blob = edit(&stock(), &handover).unwrap();
        DeviceTree::from_fdt(&Fdt::new(&blob).unwrap())
    }

    fn property(tree: &DeviceTree, path: &str, name: &str) -> Option<Vec<u8>> {
        let node = tree.find_node(path)?;
        node.property(name).map(|it| it.value().to_vec())
    }

    #[test]
    fn what_qemu_has_not_is_off_and_its_card_slot_on() {
        let tree = edited(1024, "", None);
        let status = |path| property(&tree, path, "status").unwrap();
        assert_eq!(status("/scb/pcie@7d500000"), b"disabled\0");
        assert_eq!(status("/soc/mmc@7e300000"), b"okay\0");
        for name in ["mmc-pwrseq", "non-removable"] {
            assert_eq!(property(&tree, "/soc/mmc@7e300000", name), None);
        }
        assert!(tree.find_node("/soc/mmc@7e300000/wifi@1").is_none());
    }

    #[test]
    fn the_good_uart_is_the_console() {
        let tree = edited(1024, "", None);
        let stdout = property(&tree, "/chosen", "stdout-path").unwrap();
        assert_eq!(stdout, b"serial0:115200n8\0");
        assert!(tree.find_node("/soc/serial@7e201000").is_some());
        assert!(tree.find_node("/soc/serial@7e201000/bluetooth").is_none());
    }

    #[test]
    fn memory_is_what_the_videocore_leaves() {
        let first = [0, 0, 0, 0, 0, 0, 0, 0, 0x3c, 0, 0, 0];
        let second = [0, 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0];
        assert_eq!(memory_cells(1024), first);
        assert_eq!(memory_cells(2048), [first, second].concat());
        let tree = edited(2048, "", None);
        let reg = property(&tree, "/memory@0", "reg").unwrap();
        assert_eq!(reg, [first, second].concat());
        let page = MemoryReservation::new(0, 0x1000);
        assert_eq!(tree.memory_reservations, [page]);
    }

    #[test]
    fn words_and_initrd_are_handed_over() {
        let tree = edited(1024, "a=b", Some(0x800_0000..0x812_3456));
        let chosen = |name| property(&tree, "/chosen", name).unwrap();
        assert_eq!(chosen("bootargs"), b"a=b\0");
        assert_eq!(chosen("linux,initrd-start"), [8, 0, 0, 0]);
        assert_eq!(chosen("linux,initrd-end"), [8, 0x12, 0x34, 0x56]);
        let tree = edited(1024, "", None);
        assert_eq!(property(&tree, "/chosen", "bootargs"), None);
        assert_eq!(property(&tree, "/chosen", "linux,initrd-start"), None);
    }

    #[test]
    fn what_is_no_devicetree_of_the_board_is_refused() {
        let handover = Handover {
            memory_mib: 1024,
            bootargs: "",
            initrd: None,
            mini_uart: false,
        };
        assert!(edit(b"nothing", &handover).is_err());
        assert!(edit(&DeviceTree::new().to_dtb(), &handover).is_err());
    }
}
