//! The guest bundle, read: a FIT image (U-Boot `doc/usage/fit/source_file_format.rst`) with one
//! configuration per guest, whose properties of our own begin with `halligan,`.

use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

use crate::digest::{self, DIGEST, Hash};
use crate::{Error, GuestConfig};

/// What a bundle holds; its parts are borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle<'a> {
    /// At least one guest, in the bundle's order.
    pub guests: Vec<Guest<'a>>,
}

/// One guest of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest<'a> {
    /// What it asks for.
    pub config: GuestConfig,
    /// Its kernel's file.
    pub kernel: &'a [u8],
    /// Its ramdisk, as it is.
    pub ramdisk: Option<&'a [u8]>,
}

const MAKE_AGAIN: &str = "make the bundle with this version's xtask";

/// The names of a configuration's own properties.
pub mod key {
    pub const VCPUS: &str = "halligan,vcpus";
    pub const MEMORY: &str = "halligan,memory";
    pub const SDEI: &str = "halligan,sdei";
    pub const BOOTARGS: &str = "bootargs";
    pub const NAME: &str = "description";
    pub const KERNEL: &str = "kernel";
    pub const RAMDISK: &str = "ramdisk";
}

impl<'a> Bundle<'a> {
    /// Checks and reads a bundle. `bytes` may be longer than it; the rest is ignored.
    ///
    /// # Errors
    ///
    /// If it is none, cut short or altered, or asks for what is not known here.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let fit = open(bytes)?;
        verify(fit)?;
        let Some(configurations) = fit.find_node("/configurations") else {
            return Err(Error::invalid(
                "the guest bundle's /configurations",
                "is missing",
                MAKE_AGAIN,
            ));
        };
        let guests = configurations
            .children()
            .map(|node| guest(fit, node))
            .collect::<Result<Vec<_>, _>>()?;
        if guests.is_empty() {
            return Err(Error::invalid(
                "the guest bundle's /configurations",
                "holds no guest",
                MAKE_AGAIN,
            ));
        }
        Ok(Self { guests })
    }
}

/// Is this a whole and sound devicetree blob?
pub fn open(bytes: &[u8]) -> Result<Fdt<'_>, Error> {
    let needs = platform::dtb_size(bytes).map_err(|_| {
        Error::invalid(
            "the guest bundle",
            "is no FIT image",
            "hand over, as the initrd, the bundle that xtask makes",
        )
    })?;
    let Some(bytes) = bytes.get(..needs) else {
        return Err(Error::CutShort {
            has: bytes.len() as u64,
            needs: needs as u64,
        });
    };
    Fdt::new(bytes).map_err(|error| Error::Malformed {
        what: "the guest bundle",
        error,
    })
}

/// Compares every hash.
fn verify(fit: Fdt<'_>) -> Result<(), Error> {
    let altered = |place: &str| Error::Altered {
        place: String::from(place),
    };
    let frame = digest::frame(fit);
    let matches = |node: &FdtNode<'_>, key: &str, hash: Hash| {
        node.property(key).is_some_and(|own| own.value() == hash)
    };
    if !matches(&fit.root(), DIGEST, frame) {
        return Err(altered("its description of the guest"));
    }
    for image in digest::images(fit) {
        let Some(hash) = image.child("hash-1") else {
            return Err(altered(image.name()));
        };
        let is_sha256 = text(&hash, "algo")? == Some("sha256");
        if !is_sha256 || !matches(&hash, "value", digest::hash(data(&image)?)) {
            return Err(altered(image.name()));
        }
    }
    Ok(())
}

fn guest<'a>(fit: Fdt<'a>, node: FdtNode<'a>) -> Result<Guest<'a>, Error> {
    let mut config = GuestConfig {
        name: String::from(node.name()),
        ..GuestConfig::default()
    };
    let (mut kernel, mut ramdisk) = (None, None);
    for property in node.properties() {
        let name = property.name();
        match name {
            key::VCPUS => {
                let vcpus = number(&node, name, property.value())?;
                config.vcpus = u32::try_from(vcpus).unwrap_or(u32::MAX);
            }
            key::MEMORY => config.memory = number(&node, name, property.value())?,
            key::SDEI => config.sdei = number(&node, name, property.value())? != 0,
            key::NAME => config.name = String::from(text(&node, name)?.unwrap_or_default()),
            key::BOOTARGS => config.bootargs = String::from(text(&node, name)?.unwrap_or_default()),
            key::KERNEL => kernel = Some(image(fit, &node, name)?),
            key::RAMDISK => ramdisk = Some(image(fit, &node, name)?),
            _ => return Err(wrong(&node, name, "is not known to this hypervisor")),
        }
    }
    config.check()?;
    match kernel {
        Some(kernel) => Ok(Guest {
            config,
            kernel,
            ramdisk,
        }),
        None => Err(wrong(&node, key::KERNEL, "is missing")),
    }
}

/// The data of the image that a configuration's property names.
fn image<'a>(fit: Fdt<'a>, node: &FdtNode<'a>, key: &str) -> Result<&'a [u8], Error> {
    let name = text(node, key)?.unwrap_or_default();
    match digest::images(fit).find(|image| image.name() == name) {
        Some(image) => data(&image),
        None => Err(wrong(node, key, "names an image that is not there")),
    }
}

fn data<'a>(image: &FdtNode<'a>) -> Result<&'a [u8], Error> {
    image
        .property("data")
        .map(|data| data.value_as::<&[u8]>().unwrap_or_default())
        .ok_or_else(|| wrong(image, "data", "is missing"))
}

fn text<'a>(node: &FdtNode<'a>, key: &str) -> Result<Option<&'a str>, Error> {
    match node.property(key).map(|property| property.value_as()) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(wrong(node, key, "is no string")),
    }
}

/// A number of one or two cells.
fn number(node: &FdtNode<'_>, key: &str, value: &[u8]) -> Result<u64, Error> {
    match value.len() {
        4 | 8 => Ok(value
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))),
        _ => Err(wrong(node, key, "is no number")),
    }
}

fn wrong(node: &FdtNode<'_>, key: &str, what: &'static str) -> Error {
    let mut place = String::from("the guest bundle's ");
    place.push_str(node.name());
    place.push(' ');
    place.push_str(key);
    Error::invalid(place, what, MAKE_AGAIN)
}
