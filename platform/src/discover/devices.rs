//! The console, and the devices a guest may be given.

use alloc::vec::Vec;

use crate::devicetree::{Node, Tree};
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
pub fn console(tree: &Tree<'_, '_>, gic: Node<'_, '_>) -> Result<Uart, Error> {
    let (node, kind, base) = uart(tree)?;
    match node.interrupts(gic)?.unwrap_or_default().first() {
        Some(interrupt) => Ok(Uart {
            kind,
            base,
            intid: interrupt.intid,
            path: node.path(),
        }),
        None => Err(node.fault("interrupts", "leads to no interrupt of the GIC")),
    }
}

/// The UART that `/chosen stdout-path` names, else the first one there is a driver for.
pub fn uart<'t, 'a>(tree: &'t Tree<'t, 'a>) -> Result<(Node<'t, 'a>, UartKind, Range), Error> {
    let known = |node: &Node<'_, '_>| row(&UARTS, *node).is_some();
    let named = tree.stdout().map(|(node, _)| node).filter(known);
    let found = named.or_else(|| tree.all().find(|node| known(node) && node.is_enabled()));
    let Some((node, (_, kind))) = found.and_then(|node| Some((node, row(&UARTS, node)?))) else {
        return Err(Error::new(
            "/chosen stdout-path",
            "leads to no UART there is a driver for",
            "let it name a PL011",
        ));
    };
    match node.reg()?.first() {
        Some(&base) => Ok((node, kind, base)),
        None => Err(node.fault("reg", "is empty")),
    }
}

/// The enabled devices of the table whose interrupts lead straight to the GIC.
pub fn passable(tree: &Tree<'_, '_>, gic: Node<'_, '_>) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    for node in tree.all() {
        let Some((compatible, kind)) = row(&PASSABLE, node) else {
            continue;
        };
        if !node.is_enabled() {
            continue;
        }
        let Some(interrupts) = node.interrupts(gic)? else {
            continue;
        };
        let mut spis = Vec::new();
        for interrupt in interrupts {
            if interrupt.is_shared() {
                spis.push(Spi {
                    intid: interrupt.intid,
                    edge: interrupt.edge,
                });
            }
        }
        devices.push(Device {
            path: node.path(),
            compatible,
            kind,
            mmio: node.reg()?,
            spis,
        });
    }
    Ok(devices)
}

/// The row of a table that fits a node's `compatible`.
fn row<T: Copy>(table: &[(&'static str, T)], node: Node<'_, '_>) -> Option<(&'static str, T)> {
    table
        .iter()
        .find(|(name, _)| node.is_compatible(name))
        .copied()
}
