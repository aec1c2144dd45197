//! The console, what resets the machine, and the devices a guest may be given.

use alloc::string::String;
use alloc::vec::Vec;

use crate::devicetree::{Node, Tree, number};
use crate::{Clock, Device, DeviceKind, Error, Range, Spi, Uart, UartKind};

/// The UARTs there are drivers for.
const UARTS: [(&str, UartKind); 2] = [
    ("arm,pl011", UartKind::Pl011),
    ("brcm,bcm2835-aux-uart", UartKind::MiniUart),
];

/// The devices that may be passed through: nothing that stays ours depends on them. The last ones are a
/// Raspberry Pi's: its SD controllers and what Linux wants to find behind their phandles.
const PASSABLE: [(&str, DeviceKind); 12] = [
    ("virtio,mmio", DeviceKind::VirtioMmio),
    ("arm,pl031", DeviceKind::Rtc),
    ("arm,pl061", DeviceKind::Gpio),
    ("brcm,bcm2711-emmc2", DeviceKind::Sd),
    ("brcm,bcm2835-sdhci", DeviceKind::Sd),
    ("brcm,bcm2711-gpio", DeviceKind::Gpio),
    ("brcm,bcm2711-cprman", DeviceKind::Supply),
    (MAILBOX, DeviceKind::Supply),
    ("raspberrypi,bcm2835-firmware", DeviceKind::Supply),
    ("regulator-fixed", DeviceKind::Supply),
    ("regulator-gpio", DeviceKind::Supply),
    ("mmc-pwrseq-simple", DeviceKind::Supply),
];

/// How many devices a guest may be given or not: what is known of each takes memory.
const MOST_DEVICES: usize = 256;

/// The mailbox by which a Raspberry Pi's firmware is asked.
const MAILBOX: &str = "brcm,bcm2835-mbox";

/// The console with its interrupt.
pub fn console(tree: &Tree<'_, '_>, gic: Node<'_, '_>) -> Result<Uart, Error> {
    let (node, kind, base) = uart(tree, &|_, _| true)?;
    complete(node, kind, base, gic)
}

/// The PL011 a guest is shown: the console, or else the first, enabled or not.
pub fn shown(tree: &Tree<'_, '_>, gic: Node<'_, '_>, console: &Uart) -> Result<Uart, Error> {
    let [(name, kind), _] = UARTS;
    if console.kind == kind {
        return Ok(console.clone());
    }
    let Some(node) = tree.all().find(|node| node.is_compatible(name)) else {
        return Err(Error::new(
            &console.path,
            "is the only UART, and a guest is to see a PL011",
            "describe one, used or not",
        ));
    };
    complete(node, kind, base(node)?, gic)
}

fn complete(
    node: Node<'_, '_>,
    kind: UartKind,
    base: Range,
    gic: Node<'_, '_>,
) -> Result<Uart, Error> {
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

/// A device's first registers.
fn base(node: Node<'_, '_>) -> Result<Range, Error> {
    match node.reg()?.first() {
        Some(&base) => Ok(base),
        None => Err(node.fault("reg", "is empty")),
    }
}

/// Whether the console cannot be found without this node: a UART, what its clock may be, and where the RAM is.
pub fn concerns_console(node: Node<'_, '_>) -> bool {
    row(&UARTS, node).is_some()
        || node.is_compatible(MAILBOX)
        || node.property("clock-frequency").is_some()
        || ["chosen", "aliases", "memory"].contains(&node.base_name())
}

/// What a UART runs at: its first clock if that is fixed, else what the mailbox says.
pub fn clock(tree: &Tree<'_, '_>, uart: Node<'_, '_>) -> Clock {
    let source = uart.property("clocks").and_then(|clocks| clocks.get(..4));
    let source = source.and_then(|phandle| tree.by_phandle(number(phandle) as u32));
    let rate = source.and_then(|node| node.u32("clock-frequency").ok()?);
    let mailbox = tree.compatible(MAILBOX).and_then(|node| base(node).ok());
    match (rate, mailbox) {
        (Some(rate), _) => Clock::Fixed(rate),
        (None, Some(mailbox)) => Clock::Mailbox(mailbox),
        (None, None) => Clock::Unknown,
    }
}

/// The power management block of a BCM2835 and its successors (Linux binding `brcm,bcm2835-pm`).
pub fn power(tree: &Tree<'_, '_>) -> Result<Option<Range>, Error> {
    tree.compatible("brcm,bcm2835-pm-wdt").map(base).transpose()
}

/// The UART that `/chosen stdout-path` names, else the first one there is a driver for; of those whose registers suit.
pub fn uart<'t, 'a>(
    tree: &'t Tree<'t, 'a>,
    suits: &dyn Fn(UartKind, Option<Range>) -> bool,
) -> Result<(Node<'t, 'a>, UartKind, Range), Error> {
    let known = |node: &Node<'_, '_>| {
        row(&UARTS, *node).is_some_and(|(_, kind)| suits(kind, base(*node).ok()))
    };
    let named = tree.stdout().map(|(node, _)| node).filter(known);
    let found = named.or_else(|| tree.all().find(|node| known(node) && node.is_enabled()));
    let Some((node, (_, kind))) = found.and_then(|node| Some((node, row(&UARTS, node)?))) else {
        return Err(Error::new(
            "/chosen stdout-path",
            "leads to no UART there is a driver for",
            "let it name a PL011",
        ));
    };
    Ok((node, kind, base(node)?))
}

/// The enabled devices of the table whose interrupts lead to the GIC, and the paths of those whose do not.
pub fn passable(
    tree: &Tree<'_, '_>,
    gic: Node<'_, '_>,
) -> Result<(Vec<Device>, Vec<String>), Error> {
    let (mut devices, mut left_out) = (Vec::new(), Vec::new());
    for node in tree.all() {
        let Some((compatible, kind)) = row(&PASSABLE, node) else {
            continue;
        };
        if !node.is_enabled() {
            continue;
        }
        if devices.len() + left_out.len() == MOST_DEVICES {
            return Err(node.fault("", "is one device too many: 256 are the most"));
        }
        let Some(interrupts) = node.interrupts(gic)? else {
            left_out.push(node.path());
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
            mmio: match node.property("reg") {
                Some(_) => node.reg()?,
                None => Vec::new(),
            },
            spis,
        });
    }
    Ok((devices, left_out))
}

/// The row of a table that fits a node's `compatible`.
fn row<T: Copy>(table: &[(&'static str, T)], node: Node<'_, '_>) -> Option<(&'static str, T)> {
    table
        .iter()
        .find(|(name, _)| node.is_compatible(name))
        .copied()
}
