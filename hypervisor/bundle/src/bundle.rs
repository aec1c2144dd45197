//! The guest bundle, read: a FIT image (U-Boot `doc/usage/fit/source_file_format.rst`) with one
//! configuration per guest, whose properties of our own begin with `halligan,`.

use alloc::string::String;
use alloc::vec::Vec;

use hv_abi::operator::Access;
use hv_abi::policy::{After, Policy};
use hv_abi::psci::Reclaim;
use hv_abi::sdei::{Definition, Priority, Scope};
use hv_abi::watchdog::{Act, Last, Nmi, Watchdog};
use platform::Range;
use platform::devicetree::{Fdt, Node, Settled, Tree, number};

use crate::digest::{self, ALGORITHM, DIGEST, Hash};
use crate::{Crc32, DumpConfig, Error, GuestConfig};

/// What a bundle holds; its parts are borrowed from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle<'a> {
    /// What the operator of the machine may do.
    pub operator: Access,
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
    /// What its flash begins with; the rest of that is erased.
    pub flash: Option<&'a [u8]>,
    /// What starts beside its memory to save that, if [`GuestConfig::dump`] says that something does.
    pub capture: Capture<'a>,
}

/// The files of a capture kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capture<'a> {
    /// The kernel; without, the guest's own.
    pub kernel: Option<&'a [u8]>,
    /// Its ramdisk.
    pub ramdisk: Option<&'a [u8]>,
}

const MAKE_AGAIN: &str = "make the bundle with this version's xtask";

/// An image's node with its hash.
const HASH: &str = "hash-1";

/// The names of a configuration's own properties, and of those of the machine, which are the root's.
pub mod key {
    pub const OPERATOR: &str = "halligan,operator";
    pub const VCPUS: &str = "halligan,vcpus";
    pub const MEMORY: &str = "halligan,memory";
    pub const SDEI: &str = "halligan,sdei";
    pub const FIRMWARE: &str = "halligan,firmware";
    pub const EVENTS: &str = "halligan,events";
    pub const RECLAIM: &str = "halligan,reclaim";
    pub const DEBUG_CALLS: &str = "halligan,debug-calls";
    pub const DTB_AT: &str = "halligan,dtb-at";
    pub const FLASH: &str = "halligan,flash";
    pub const PVPANIC: &str = "halligan,pvpanic";
    pub const GWDT: &str = "halligan,sbsa-gwdt";
    pub const WATCHDOG: &str = "halligan,watchdog";
    pub const PCPUS: &str = "halligan,cpus";
    pub const AFFINITIES: &str = "halligan,machine-affinities";
    pub const DEVICES: &str = "halligan,devices";
    pub const TRUSTED: &str = "halligan,trusted";
    pub const NMI: &str = "halligan,nmi";
    pub const POLICY: &str = "halligan,policy";
    pub const BOOTARGS: &str = "bootargs";
    pub const NAME: &str = "description";
    pub const KERNEL: &str = "kernel";
    pub const RAMDISK: &str = "ramdisk";
    pub const FLASH_CONTENTS: &str = "halligan,flash-contents";
    pub const CRASHKERNEL: &str = "halligan,crashkernel";
    pub const DUMP: &str = "halligan,dump";
    pub const DUMP_BOOTARGS: &str = "halligan,dump-bootargs";
    pub const DUMP_KERNEL: &str = "halligan,dump-kernel";
    pub const DUMP_RAMDISK: &str = "halligan,dump-ramdisk";
}

impl<'a> Bundle<'a> {
    /// Checks and reads a bundle, with `crc` to compute its checksums. `bytes` may be longer than it; the rest is
    /// ignored.
    ///
    /// # Errors
    ///
    /// If it is none, cut short or altered, or asks for what is not known here.
    #[inline(never)]
    pub fn parse(bytes: &'a [u8], crc: &dyn Crc32) -> Result<Self, Error> {
        let (bytes, fdt) = check(bytes)?;
        let tree = Tree::new(&fdt);
        verify(crc, bytes, &tree)?;
        let configurations = tree.find("/configurations").map(Node::children);
        let mut guests = Vec::new();
        for node in configurations.into_iter().flatten() {
            guests.push(guest(&tree, node)?);
        }
        if guests.is_empty() {
            return Err(Error::invalid(
                "the guest bundle's /configurations",
                "holds no guest",
                MAKE_AGAIN,
            ));
        }
        let operator = match tree.find("/") {
            Some(root) => operator(root)?,
            None => Access::Full,
        };
        Ok(Self { operator, guests })
    }
}

/// What the operator may do, of the machine; all there is where nothing is said.
fn operator(root: Node<'_, '_>) -> Result<Access, Error> {
    match root.property(key::OPERATOR) {
        None | Some([0, 0, 0, 0]) => Ok(Access::Full),
        Some([0, 0, 0, 1]) => Ok(Access::Read),
        Some([0, 0, 0, 2]) => Ok(Access::Off),
        Some(_) => Err(Error::invalid(
            "the guest bundle's halligan,operator",
            "is none of 0, 1 and 2",
            MAKE_AGAIN,
        )),
    }
}

/// Returns the bundle that `bytes` begin with if it is whole and a sound devicetree blob.
pub fn check(bytes: &[u8]) -> Result<(&[u8], Fdt<'_>), Error> {
    let Ok(needs) = platform::dtb_size(bytes) else {
        return Err(Error::invalid(
            "the guest bundle",
            "is no FIT image",
            "hand over, as the initrd, the bundle that xtask makes",
        ));
    };
    if bytes.len() < needs {
        return Err(Error::CutShort {
            has: bytes.len() as u64,
            needs: needs as u64,
        });
    }
    let bytes = bytes.get(..needs).unwrap_or(bytes);
    // It is too large to be copied, and nobody blanks out parts of one.
    let settled = Settled::new(bytes).map_err(unreadable)?;
    match Fdt::open_original(&settled).map_err(unreadable)? {
        Some(fdt) => Ok((bytes, fdt)),
        None => Err(Error::invalid(
            "the guest bundle",
            "has parts blanked out",
            MAKE_AGAIN,
        )),
    }
}

pub fn unreadable(error: platform::Error) -> Error {
    Error::Devicetree {
        whose: "the guest bundle's",
        error,
    }
}

/// Compares every hash.
fn verify(crc: &dyn Crc32, bytes: &[u8], tree: &Tree<'_, '_>) -> Result<(), Error> {
    // First of all: another version's bundle is whole, and its root's digest is another algorithm's, too.
    for image in digest::images(tree) {
        known(image)?;
    }
    let root = tree.find("/");
    let sealed = root.is_some_and(|root| holds(root, DIGEST, digest::frame(crc, bytes, tree)));
    if !sealed {
        return Err(altered("its description of the guest"));
    }
    for image in digest::images(tree) {
        let data = image.property("data").unwrap_or_default();
        let sound = image
            .child(HASH)
            .is_some_and(|hash| holds(hash, "value", digest::hash(crc, data)));
        if !sound {
            return Err(altered(image.name()));
        }
    }
    Ok(())
}

/// Refuses an image whose hash is none that is known here.
fn known(image: Node<'_, '_>) -> Result<(), Error> {
    let Some(hash) = image.child(HASH) else {
        return Err(altered(image.name()));
    };
    let algorithm = text(hash, "algo")?;
    if algorithm == ALGORITHM {
        return Ok(());
    }
    let mut place = String::from("the guest bundle's ");
    for part in [image.name(), " ", HASH, ": the algorithm ", algorithm] {
        place.push_str(part);
    }
    Err(Error::invalid(
        &place,
        "is not known to this hypervisor, which checks crc32",
        MAKE_AGAIN,
    ))
}

fn holds(node: Node<'_, '_>, key: &str, hash: Hash) -> bool {
    node.property(key) == Some(&hash[..])
}

fn altered(place: &str) -> Error {
    Error::Altered {
        place: String::from(place),
    }
}

fn guest<'a>(tree: &Tree<'_, 'a>, node: Node<'_, 'a>) -> Result<Guest<'a>, Error> {
    let mut config = GuestConfig::default();
    let (mut kernel, mut ramdisk, mut flash) = (None, None, None);
    let mut capture = Capture::default();
    for (key, value) in node.properties() {
        match key {
            key::VCPUS => config.vcpus = cells(node, key, value)?.try_into().unwrap_or(u32::MAX),
            key::MEMORY => config.memory = cells(node, key, value)?,
            key::SDEI => config.sdei = cells(node, key, value)? != 0,
            key::FIRMWARE => config.firmware = String::from(text(node, key)?),
            key::EVENTS => config.events = events(node, key, value)?,
            key::RECLAIM => {
                config.reclaim = match cells(node, key, value)? {
                    0 => Reclaim::Off,
                    1 => Reclaim::Parked,
                    _ => return Err(wrong(node, key, "is neither 0 nor 1")),
                }
            }
            key::DEBUG_CALLS => config.debug_calls = cells(node, key, value)? != 0,
            key::DTB_AT => config.dtb_at = Some(cells(node, key, value)?),
            key::FLASH => config.flash = cells(node, key, value)?,
            key::NMI => {
                config.nmi = nmi(value).ok_or_else(|| wrong(node, key, "is no NMI"))?;
            }
            key::WATCHDOG => {
                let watchdog = watchdog(value).ok_or_else(|| wrong(node, key, "is no watchdog"));
                config.watchdog = Some(watchdog?);
            }
            key::POLICY => {
                config.policy = policy(value).ok_or_else(|| wrong(node, key, "is no policy"))?;
            }
            key::PVPANIC => config.pvpanic = cells(node, key, value)? != 0,
            key::GWDT => {
                let act = Act::of_number(cells(node, key, value)?);
                config.gwdt = Some(act.ok_or_else(|| wrong(node, key, "is nothing to do"))?);
            }
            key::PCPUS => config.pcpus = numbers(node, key, value)?,
            key::AFFINITIES => config.machine_affinities = cells(node, key, value)? != 0,
            key::DEVICES => config.devices = Some(words(node, key, value)?),
            key::TRUSTED => config.trusted = cells(node, key, value)? != 0,
            key::NAME => config.name = String::from(text(node, key)?),
            key::BOOTARGS => config.bootargs = String::from(text(node, key)?),
            key::KERNEL => kernel = Some(image(tree, node, key)?),
            key::RAMDISK => ramdisk = Some(image(tree, node, key)?),
            key::CRASHKERNEL => {
                let range = range(value).ok_or_else(|| wrong(node, key, "is no range"))?;
                config.crashkernel = Some(range);
            }
            key::DUMP => dump_of(&mut config).memory = cells(node, key, value)?,
            key::DUMP_BOOTARGS => {
                dump_of(&mut config).bootargs = String::from(text(node, key)?);
            }
            key::DUMP_KERNEL => capture.kernel = Some(image(tree, node, key)?),
            key::DUMP_RAMDISK => capture.ramdisk = Some(image(tree, node, key)?),
            key::FLASH_CONTENTS => flash = Some(image(tree, node, key)?),
            _ => return Err(wrong(node, key, "is not known to this hypervisor")),
        }
    }
    config.check()?;
    if flash.is_some_and(|contents| contents.len() as u64 > config.flash) {
        return Err(wrong(node, key::FLASH_CONTENTS, "is larger than its flash"));
    }
    match kernel {
        Some(kernel) => Ok(Guest {
            config,
            kernel,
            ramdisk,
            flash,
            capture,
        }),
        None => Err(wrong(node, key::KERNEL, "is missing")),
    }
}

fn dump_of(config: &mut GuestConfig) -> &mut DumpConfig {
    config.dump.get_or_insert_default()
}

/// The data of the image that a configuration's property names.
fn image<'a>(tree: &Tree<'_, 'a>, node: Node<'_, 'a>, key: &str) -> Result<&'a [u8], Error> {
    let name = text(node, key)?;
    let mut images = digest::images(tree).filter(|image| image.name() == name);
    match images.next().and_then(|image| image.property("data")) {
        Some(data) => Ok(data),
        None => Err(wrong(node, key, "names an image that is not there")),
    }
}

fn text<'a>(node: Node<'_, 'a>, key: &str) -> Result<&'a str, Error> {
    match node.string(key) {
        Ok(text) => Ok(text.unwrap_or_default()),
        Err(_) => Err(wrong(node, key, "is no string")),
    }
}

fn cells(node: Node<'_, '_>, key: &str, value: &[u8]) -> Result<u64, Error> {
    match value.len() {
        4 | 8 => Ok(number(value)),
        _ => Err(wrong(node, key, "is no number")),
    }
}

/// A policy as [`crate::write`] puts it down: whether it is manual, and what follows each end, a cell each.
/// An address and a size, two cells each.
fn range(value: &[u8]) -> Option<Range> {
    let (&[start, size], []) = value.as_chunks::<8>() else {
        return None;
    };
    Some(Range::new(
        u64::from_be_bytes(start),
        u64::from_be_bytes(size),
    ))
}

fn policy(value: &[u8]) -> Option<Policy> {
    let (&[manual, off, reset, crash], []) = value.as_chunks::<4>() else {
        return None;
    };
    let [manual, off, reset, crash] = [manual, off, reset, crash].map(u32::from_be_bytes);
    Some(Policy {
        is_manual: manual != 0,
        on_off: After::of_number(off)?,
        on_reset: After::of_number(reset)?,
        on_crash: match crash {
            NOTHING => None,
            number => Some(After::of_number(number)?),
        },
    })
}

/// In place of an [`After`] where a guest is left as it is.
pub const NOTHING: u32 = u32::MAX;

/// An NMI as [`crate::write`] puts it down: the event, the limit and what is done last, a cell each.
fn nmi(value: &[u8]) -> Option<Nmi> {
    let [event, limit_ms, last] = three(value)?;
    Some(Nmi {
        event,
        limit_ms,
        last: Last::of_number(last)?,
    })
}

/// A watchdog as [`crate::write`] puts it down: the limit and two actions, a cell each.
fn watchdog(value: &[u8]) -> Option<Watchdog> {
    let [limit_ms, one, all] = three(value)?;
    Some(Watchdog {
        limit_ms,
        one: Act::of_number(one.into())?,
        all: Act::of_number(all.into())?,
    })
}

/// Three cells.
fn three(value: &[u8]) -> Option<[u32; 3]> {
    let (&[a, b, c], []) = value.as_chunks::<4>() else {
        return None;
    };
    Some([a, b, c].map(u32::from_be_bytes))
}

/// A list of cells.
fn numbers(node: Node<'_, '_>, key: &str, value: &[u8]) -> Result<Vec<u32>, Error> {
    match value.as_chunks::<4>() {
        (cells, []) => Ok(cells.iter().copied().map(u32::from_be_bytes).collect()),
        _ => Err(wrong(node, key, "is no list of numbers")),
    }
}

/// A list of strings; an empty one is a string without characters.
fn words(node: Node<'_, '_>, key: &str, value: &[u8]) -> Result<Vec<String>, Error> {
    let text = core::str::from_utf8(value).ok();
    let Some(text) = text.and_then(|text| text.strip_suffix('\0')) else {
        return Err(wrong(node, key, "is no list of strings"));
    };
    let words = text.split('\0').filter(|word| !word.is_empty());
    Ok(words.map(String::from).collect())
}

/// Events as [`crate::write`] puts them down: number, scope and priority, a cell each.
fn events(node: Node<'_, '_>, key: &str, value: &[u8]) -> Result<Vec<Definition>, Error> {
    let (events, []) = value.as_chunks::<12>() else {
        return Err(wrong(node, key, "is no list of events"));
    };
    let event = |bytes: &[u8; 12]| {
        let (words, _) = bytes.as_chunks::<4>();
        let &[number, scope, priority] = words else {
            return None;
        };
        Some(Definition {
            number: u32::from_be_bytes(number),
            scope: match u32::from_be_bytes(scope) {
                0 => Scope::Private,
                1 => Scope::Shared,
                _ => return None,
            },
            priority: match u32::from_be_bytes(priority) {
                0 => Priority::Normal,
                1 => Priority::Critical,
                _ => return None,
            },
        })
    };
    let events: Option<_> = events.iter().map(event).collect();
    events.ok_or_else(|| wrong(node, key, "is no list of events"))
}

#[cold]
#[inline(never)]
fn wrong(node: Node<'_, '_>, key: &str, what: &'static str) -> Error {
    let mut place = String::from("the guest bundle's ");
    for part in [node.name(), " ", key] {
        place.push_str(part);
    }
    Error::invalid(&place, what, MAKE_AGAIN)
}
