//! The console, and the devices a guest may be given.

use alloc::vec::Vec;

use super::CORRECT;
use super::gic::Controller;
use super::tree::{Node, Tree};
use crate::{Device, DeviceKind, Error, Range, Spi, Uart, UartKind};

/// The UARTs there are drivers for.
const UARTS: [(&str, UartKind); 2] = [
    ("arm,pl011", UartKind::Pl011),
    ("brcm,bcm2835-aux-uart", UartKind::MiniUart),
];

/// The devices that may be passed through: they do no DMA beyond what a guest's own memory takes, and
/// nothing else on the machine depends on them.
const PASSABLE: [(&str, DeviceKind); 3] = [
    ("virtio,mmio", DeviceKind::VirtioMmio),
    ("arm,pl031", DeviceKind::Rtc),
    ("arm,pl061", DeviceKind::Gpio),
];

/// The console with its interrupt.
pub fn console(tree: &Tree<'_>, gic: &Controller<'_>) -> Result<Uart, Error> {
    let (node, kind, base) = uart(tree)?;
    match node.interrupts(gic.node)?.unwrap_or_default().first() {
        Some(interrupt) => Ok(Uart {
            kind,
            base,
            intid: interrupt.intid,
            path: node.path(),
        }),
        None => Err(node.error("interrupts", "leads to no interrupt of the GIC", CORRECT)),
    }
}

/// The UART that `/chosen stdout-path` names, else the first one there is a driver for.
pub fn uart<'t>(tree: &'t Tree<'t>) -> Result<(Node<'t>, UartKind, Range), Error> {
    let named = stdout(tree).and_then(|node| Some((node, uart_kind(node)?)));
    let found = named.or_else(|| {
        tree.enabled()
            .find_map(|node| Some((node, uart_kind(node)?)))
    });
    let Some((node, kind)) = found else {
        return Err(Error::new(
            "/chosen stdout-path",
            "leads to no UART there is a driver for",
            "let it name a PL011",
        ));
    };
    match node.reg()?.first() {
        Some(&base) => Ok((node, kind, base)),
        None => Err(node.error("reg", "is empty", CORRECT)),
    }
}

/// The node `/chosen stdout-path` leads to: a path or an alias, options behind a colon
/// (Devicetree Specification 3.6).
fn stdout<'t>(tree: &'t Tree<'t>) -> Option<Node<'t>> {
    let path = tree.find("/chosen")?.string("stdout-path").ok()??;
    let path = path.split(':').next()?;
    if path.starts_with('/') {
        return tree.find(path);
    }
    tree.find(tree.find("/aliases")?.string(path).ok()??)
}

fn uart_kind(node: Node<'_>) -> Option<UartKind> {
    let row = UARTS.iter().find(|(name, _)| node.is_compatible(name));
    row.map(|&(_, kind)| kind)
}

/// The enabled devices of the table whose interrupts lead straight to the GIC.
pub fn passable(tree: &Tree<'_>, gic: &Controller<'_>) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    for node in tree.enabled() {
        let Some(&(compatible, kind)) = PASSABLE.iter().find(|(name, _)| node.is_compatible(name))
        else {
            continue;
        };
        let Some(interrupts) = node.interrupts(gic.node)? else {
            continue;
        };
        let spis = interrupts
            .into_iter()
            .filter(|interrupt| interrupt.is_shared())
            .map(|interrupt| Spi {
                intid: interrupt.intid,
                edge: interrupt.edge,
            });
        devices.push(Device {
            path: node.path(),
            compatible,
            kind,
            mmio: node.reg()?,
            spis: spis.collect(),
        });
    }
    Ok(devices)
}
