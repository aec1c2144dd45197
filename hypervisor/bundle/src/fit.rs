//! The guest bundle, written.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use hv_abi::operator::Access;
use hv_abi::policy::Policy;
use hv_abi::psci::Reclaim;
use hv_abi::sdei::{Definition, Priority, Scope};
use hv_abi::watchdog::{Nmi, Watchdog};
use platform::devicetree::Tree;

use crate::bundle::{Capture, NOTHING, check, key};
use crate::digest::{self, ALGORITHM, DIGEST, Hash};
use crate::plan::check_capture;
use crate::{Crc32, Crc32Table, DumpConfig, Error, Format, Guest, Kernel};

/// Makes a bundle of one or more guests. The same guests always make the same bytes.
///
/// # Errors
///
/// If a configuration makes no sense, a kernel is none, or there is no guest.
pub fn write(guests: &[Guest<'_>]) -> Result<Vec<u8>, Error> {
    write_for(Access::Full, guests)
}

/// The same of a machine whose operator may do what `operator` says.
///
/// # Errors
///
/// As [`write()`].
pub fn write_for(operator: Access, guests: &[Guest<'_>]) -> Result<Vec<u8>, Error> {
    if guests.is_empty() {
        return Err(Error::invalid(
            "the guest bundle",
            "would hold no guest",
            "give it one",
        ));
    }
    let is_paused = guests
        .iter()
        .any(|guest| guest.config.crashkernel.is_some());
    if is_paused && operator != Access::Full {
        return Err(Error::invalid(
            "crashkernel",
            "pauses the guest when its crash kernel begins, and the machine's operator may not let it go on",
            "say operator = \"full\", or leave crashkernel out",
        ));
    }
    let size: usize = guests
        .iter()
        .map(|guest| {
            let Capture { kernel, ramdisk } = guest.capture;
            let others = [guest.ramdisk, guest.flash, kernel, ramdisk]
                .map(|part| part.map_or(0, <[u8]>::len));
            guest.kernel.len() + others.iter().sum::<usize>()
        })
        .sum();
    if u32::try_from(size).is_err() {
        return Err(Error::invalid(
            "the guest bundle",
            "would be larger than 4 GiB",
            "give smaller ramdisks",
        ));
    }
    let crc = Crc32Table::new();
    let mut images = node("images");
    let mut configurations = node("configurations");
    set(&mut configurations, "default", "guest-1");
    for (number, guest) in (1..).zip(guests) {
        guest.config.check()?;
        if guest.config.dump.is_some() {
            check_capture(guest.capture.kernel.unwrap_or(guest.kernel))?;
        }
        let name = format!("kernel-{number}");
        images.add_child(kernel_image(&crc, &name, guest.kernel)?);
        if let Some(kernel) = guest.capture.kernel {
            let name = format!("dump-kernel-{number}");
            images.add_child(kernel_image(&crc, &name, kernel)?);
        }
        if let Some(ramdisk) = guest.capture.ramdisk {
            let name = format!("dump-ramdisk-{number}");
            images.add_child(image(&crc, &name, "ramdisk", "linux", ramdisk));
        }
        if let Some(ramdisk) = guest.ramdisk {
            images.add_child(image(
                &crc,
                &format!("ramdisk-{number}"),
                "ramdisk",
                "linux",
                ramdisk,
            ));
        }
        if let Some(contents) = guest.flash {
            if contents.len() as u64 > guest.config.flash {
                return Err(Error::invalid(
                    "the flash's contents",
                    "are larger than the flash",
                    "give it a larger flash",
                ));
            }
            let name = format!("flash-{number}");
            images.add_child(image(&crc, &name, "firmware", "u-boot", contents));
        }
        configurations.add_child(configuration(number, guest));
    }
    let mut tree = DeviceTree::new();
    set(&mut tree.root, "description", "halligan guest bundle");
    // U-Boot's tools want one; a fixed one keeps bundles reproducible.
    set(&mut tree.root, "timestamp", 0u32);
    set(&mut tree.root, "#address-cells", 1u32);
    set(&mut tree.root, DIGEST, Hash::default());
    match operator {
        Access::Full => {}
        Access::Read => set(&mut tree.root, key::OPERATOR, 1_u32),
        Access::Off => set(&mut tree.root, key::OPERATOR, 2_u32),
    }
    tree.root.add_child(images);
    tree.root.add_child(configurations);
    seal(&crc, tree.to_dtb())
}

/// Fills in the digest.
fn seal(crc: &dyn Crc32, mut bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    let (place, frame) = {
        let (whole, fdt) = check(&bytes)?;
        let tree = Tree::new(&fdt);
        let own = tree.find("/").and_then(|root| root.property(DIGEST));
        let place = digest::place(whole, own.unwrap_or_default());
        (place, digest::frame(crc, whole, &tree))
    };
    if let Some(own) = bytes.get_mut(place) {
        own.copy_from_slice(&frame);
    }
    Ok(bytes)
}

fn configuration(number: usize, guest: &Guest<'_>) -> DeviceTreeNode {
    let config = &guest.config;
    let mut node = node(&format!("guest-{number}"));
    set(&mut node, key::NAME, config.name.as_str());
    set(&mut node, key::KERNEL, format!("kernel-{number}"));
    if guest.ramdisk.is_some() {
        set(&mut node, key::RAMDISK, format!("ramdisk-{number}"));
    }
    if guest.flash.is_some() {
        set(&mut node, key::FLASH_CONTENTS, format!("flash-{number}"));
    }
    set(&mut node, key::BOOTARGS, config.bootargs.as_str());
    set(&mut node, key::VCPUS, config.vcpus);
    set(&mut node, key::MEMORY, config.memory);
    set(&mut node, key::SDEI, u32::from(config.sdei));
    set(&mut node, key::FIRMWARE, config.firmware.as_str());
    let events: Vec<u8> = config.events.iter().flat_map(event).collect();
    set(&mut node, key::EVENTS, events.as_slice());
    set(
        &mut node,
        key::RECLAIM,
        u32::from(config.reclaim == Reclaim::Parked),
    );
    set(&mut node, key::DEBUG_CALLS, u32::from(config.debug_calls));
    if let Some(at) = config.dtb_at {
        set(&mut node, key::DTB_AT, at);
    }
    if config.flash != 0 {
        set(&mut node, key::FLASH, config.flash);
    }
    if !config.pcpus.is_empty() {
        let cells = config.pcpus.iter().copied().flat_map(u32::to_be_bytes);
        set(&mut node, key::PCPUS, &cells.collect::<Vec<u8>>()[..]);
    }
    if config.machine_affinities {
        set(&mut node, key::AFFINITIES, 1_u32);
    }
    if let Some(words) = &config.devices {
        let mut text = words.join("\0");
        text.push('\0');
        set(&mut node, key::DEVICES, text.as_bytes());
    }
    if config.trusted {
        set(&mut node, key::TRUSTED, 1_u32);
    }
    if config.pvpanic {
        set(&mut node, key::PVPANIC, 1_u32);
    }
    if let Some(act) = config.gwdt {
        set(&mut node, key::GWDT, act as u32);
    }
    if config.policy != Policy::USUAL {
        let Policy {
            is_manual,
            on_off,
            on_reset,
            on_crash,
        } = config.policy;
        let crash = on_crash.map_or(NOTHING, |after| after as u32);
        let cells = [u32::from(is_manual), on_off as u32, on_reset as u32, crash];
        let cells = cells.map(u32::to_be_bytes);
        set(&mut node, key::POLICY, cells.as_flattened());
    }
    if config.nmi != Nmi::default() {
        let Nmi {
            event,
            limit_ms,
            last,
        } = config.nmi;
        let cells = [event, limit_ms, last as u32].map(u32::to_be_bytes);
        set(&mut node, key::NMI, cells.as_flattened());
    }
    if let Some(range) = config.crashkernel {
        let cells = [range.start, range.size].map(u64::to_be_bytes);
        set(&mut node, key::CRASHKERNEL, cells.as_flattened());
    }
    if let Some(DumpConfig { memory, bootargs }) = &config.dump {
        set(&mut node, key::DUMP, *memory);
        set(&mut node, key::DUMP_BOOTARGS, bootargs.as_str());
        if guest.capture.kernel.is_some() {
            set(&mut node, key::DUMP_KERNEL, format!("dump-kernel-{number}"));
        }
        if guest.capture.ramdisk.is_some() {
            let name = format!("dump-ramdisk-{number}");
            set(&mut node, key::DUMP_RAMDISK, name);
        }
    }
    if let Some(Watchdog { limit_ms, one, all }) = config.watchdog {
        let cells = [limit_ms, one as u32, all as u32].map(u32::to_be_bytes);
        set(&mut node, key::WATCHDOG, cells.as_flattened());
    }
    node
}

/// Number, scope and priority, a cell each.
fn event(event: &Definition) -> impl Iterator<Item = u8> + use<> {
    let scope = u32::from(event.scope == Scope::Shared);
    let priority = u32::from(event.priority == Priority::Critical);
    let cells = [event.number, scope, priority];
    cells.into_iter().flat_map(u32::to_be_bytes)
}

fn kernel_image(crc: &dyn Crc32, name: &str, kernel: &[u8]) -> Result<DeviceTreeNode, Error> {
    Ok(match Kernel::recognise(kernel)?.format {
        Format::Image { .. } => image(crc, name, "kernel", "linux", kernel),
        Format::Flat => image(crc, name, "standalone", "u-boot", kernel),
    })
}

/// An image node with the properties that U-Boot's `dumpimage` lists.
fn image(crc: &dyn Crc32, name: &str, kind: &str, os: &str, data: &[u8]) -> DeviceTreeNode {
    let mut hash = node("hash-1");
    set(&mut hash, "algo", ALGORITHM);
    set(&mut hash, "value", digest::hash(crc, data));
    let mut image = node(name);
    set(&mut image, "description", name);
    set(&mut image, "type", kind);
    set(&mut image, "arch", "arm64");
    set(&mut image, "os", os);
    set(&mut image, "compression", "none");
    set(&mut image, "data", data);
    image.add_child(hash);
    image
}

fn node(name: &str) -> DeviceTreeNode {
    DeviceTreeNode::new_unchecked(name)
}

fn set(node: &mut DeviceTreeNode, name: &str, value: impl ToPropertyValue) {
    node.add_property(DeviceTreeProperty::new_unchecked(String::from(name), value));
}
