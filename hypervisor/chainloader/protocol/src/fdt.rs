//! The board's devicetree: which UART its console is, and a copy that knows of what was loaded (Devicetree
//! Specification 0.4, chapter 5). Nothing in a blob makes this panic.

use dtb::{Blob, Token, token};

/// The blob is damaged, or there is no room for the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// What a kernel finds in `/chosen`.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// Where its initrd begins and ends, if it has one.
    pub initrd: Option<(u64, u64)>,
    /// Its command line; the one that is there stays if it is empty.
    pub bootargs: &'a [u8],
}

/// The properties that [`Chosen`] may set, each with a zero at its end.
const NAMES: &[u8] = b"linux,initrd-start\0linux,initrd-end\0bootargs\0";
const INITRD: [&[u8]; 2] = [b"linux,initrd-start", b"linux,initrd-end"];
const BOOTARGS: &[u8] = b"bootargs";

/// How many bytes of a blob say how large it is.
pub const HEADER: usize = dtb::header::SIZE;

/// Bytes of the blob at the start of `bytes`, of which [`HEADER`] suffice; none if there is none.
#[must_use]
pub fn size(bytes: &[u8]) -> Option<usize> {
    dtb::size(bytes).ok()
}

/// The property `name` of the node at `path`, whose names begin with a slash each; a name without a unit
/// address is that of any.
fn property<'a>(blob: &Blob<'a>, path: &[u8], name: &[u8]) -> Option<&'a [u8]> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let steps = || {
        path.split(|&byte| byte == b'/')
            .filter(|step| !step.is_empty())
    };
    let wanted = steps().count();
    // How deep we are, and how many of the names above us are the path's.
    let (mut depth, mut matched) = (0usize, 0usize);
    for (token, _) in blob.walk() {
        match token {
            Token::BeginNode(own) => {
                if depth > 0 && matched == depth - 1 {
                    let is_next = steps().nth(matched).is_some_and(|step| {
                        let bare = own.split(|&byte| byte == b'@').next();
                        step == own || Some(step) == bare
                    });
                    matched += usize::from(is_next);
                }
                depth += 1;
            }
            Token::EndNode => {
                depth = depth.checked_sub(1)?;
                matched = matched.min(depth.saturating_sub(1));
            }
            Token::Property(own, value)
                if own == name && matched == wanted && depth == wanted + 1 =>
            {
                return Some(value);
            }
            Token::Property(..) | Token::Nop | Token::End => {}
        }
    }
    None
}

/// Whether one of the strings of `list` is `string`.
fn holds(list: &[u8], string: &[u8]) -> bool {
    list.split(|&byte| byte == 0).any(|own| own == string)
}

/// Whether the machine of `dtb` says that it is a `machine`.
#[must_use]
pub fn is_machine(dtb: &[u8], machine: &str) -> bool {
    let blob = Blob::check(dtb).ok();
    let compatible = blob.and_then(|blob| property(&blob, b"/", b"compatible"));
    compatible.is_some_and(|list| holds(list, machine.as_bytes()))
}

/// Whether the console that `dtb` chooses is a `uart`; none if it does not say.
#[must_use]
pub fn console_is(dtb: &[u8], uart: &str) -> Option<bool> {
    let blob = Blob::check(dtb).ok()?;
    let path = property(&blob, b"/chosen", b"stdout-path")?;
    let path = path.split(|&byte| byte == 0 || byte == b':').next()?;
    let path = match path.first()? {
        b'/' => path,
        _ => property(&blob, b"/aliases", path)?,
    };
    let path = path.split(|&byte| byte == 0).next()?;
    let compatible = property(&blob, path, b"compatible")?;
    Some(holds(compatible, uart.as_bytes()))
}

/// Writes `dtb` to `out`, with `/chosen` as `chosen` says, and with `behind` as its last bytes, which no block of it has;
/// answers its size, a multiple of 16, which `behind` has to be, too.
///
/// # Errors
///
/// If the blob is damaged or there is no room for the new one.
pub fn choose(
    dtb: &[u8],
    chosen: &Chosen<'_>,
    behind: &[u8],
    out: &mut [u8],
) -> Result<usize, Damaged> {
    write(dtb, chosen, behind, out).ok_or(Damaged)
}

fn write(dtb: &[u8], chosen: &Chosen<'_>, behind: &[u8], out: &mut [u8]) -> Option<usize> {
    let blob = Blob::check(dtb).ok()?;
    let mut to = Writer { out, at: 0 };
    to.put(&[0; dtb::header::SIZE])?;
    to.put(blob.reservations())?;
    let structure = to.at;
    to.copy(&blob, chosen)?;
    let strings = to.at;
    to.put(blob.strings())?;
    to.put(NAMES)?;
    let end = to.at;
    to.pad(16)?;
    to.put(behind)?;
    let total = to.at;
    let parts = [
        blob.reservations().len(),
        strings - structure,
        end - strings,
        total - end,
    ];
    let header = dtb::write_header(parts, blob.boot_cpu())?;
    to.at = 0;
    to.put(&header)?;
    Some(total)
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let place = self.out.get_mut(self.at..)?.get_mut(..bytes.len())?;
        place.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    fn word(&mut self, word: u32) -> Option<()> {
        self.put(&word.to_be_bytes())
    }

    fn pad(&mut self, alignment: usize) -> Option<()> {
        let missing = self.at.next_multiple_of(alignment) - self.at;
        self.put([0; 16].get(..missing)?)
    }

    fn property(&mut self, blob: &Blob<'_>, name: &[u8], values: &[&[u8]]) -> Option<()> {
        let own = NAMES.windows(name.len()).position(|own| own == name)?;
        self.word(token::PROPERTY)?;
        let length: usize = values.iter().map(|value| value.len()).sum();
        self.word(u32::try_from(length).ok()?)?;
        self.word(u32::try_from(blob.strings().len() + own).ok()?)?;
        for value in values {
            self.put(value)?;
        }
        self.pad(4)
    }

    fn choices(&mut self, blob: &Blob<'_>, chosen: &Chosen<'_>) -> Option<()> {
        if let Some((start, end)) = chosen.initrd {
            for (name, value) in INITRD.iter().zip([start, end]) {
                self.property(blob, name, &[&value.to_be_bytes()])?;
            }
        }
        if !chosen.bootargs.is_empty() {
            self.property(blob, BOOTARGS, &[chosen.bootargs, b"\0"])?;
        }
        Some(())
    }

    /// Copies the structure block, `/chosen` as it is to be.
    fn copy(&mut self, blob: &Blob<'_>, chosen: &Chosen<'_>) -> Option<()> {
        let mut depth = 0usize;
        let (mut inside, mut done) = (false, false);
        for (token, bytes) in blob.walk() {
            let mut is_kept = true;
            match token {
                Token::BeginNode(name) => {
                    depth += 1;
                    inside = depth == 2 && name == b"chosen";
                }
                Token::EndNode => {
                    if depth == 1 && !done {
                        self.word(token::BEGIN_NODE)?;
                        self.put(b"chosen\0\0")?;
                        self.choices(blob, chosen)?;
                        self.word(token::END_NODE)?;
                        done = true;
                    }
                    depth = depth.checked_sub(1)?;
                    inside = false;
                }
                Token::Property(name, _) => {
                    let is_initrd = INITRD.contains(&name);
                    let is_bootargs = name == BOOTARGS && !chosen.bootargs.is_empty();
                    is_kept = !(inside && (is_initrd || is_bootargs));
                }
                Token::Nop => is_kept = false,
                Token::End => {}
            }
            if is_kept {
                self.put(bytes)?;
            }
            if matches!(token, Token::BeginNode(_)) && inside {
                self.choices(blob, chosen)?;
                done = true;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;
    use std::vec::Vec;

    use super::*;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    use dtoolkit::{Node, Property};
    use proptest::prelude::*;

    const BEHIND: [u8; 32] = [0xa5; 32];

    fn text(name: &str, value: &str) -> DeviceTreeProperty {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        DeviceTreeProperty::new(name, bytes).expect("a name")
    }

    fn board(chosen: bool) -> Vec<u8> {
        let mut root = DeviceTreeNode::new("").expect("a name");
        let add = |node: &mut DeviceTreeNode, property| {
            node.add_property(property);
        };
        add(
            &mut root,
            text("compatible", "raspberrypi,4-model-b\0brcm,bcm2711"),
        );
        let mut aliases = DeviceTreeNode::new("aliases").expect("a name");
        add(&mut aliases, text("serial0", "/soc/serial@7e201000"));
        add(&mut aliases, text("serial1", "/soc/serial@7e215040"));
        let mut soc = DeviceTreeNode::new("soc").expect("a name");
        for (name, compatible) in [
            ("serial@7e201000", "arm,pl011\0arm,primecell"),
            ("serial@7e215040", "brcm,bcm2835-aux-uart"),
        ] {
            let mut uart = DeviceTreeNode::new(name).expect("a name");
            add(&mut uart, text("compatible", compatible));
            soc.add_child(uart);
        }
        if chosen {
            let mut node = DeviceTreeNode::new("chosen").expect("a name");
            add(&mut node, text("bootargs", "the board's own words"));
            add(&mut node, text("stdout-path", "serial1:115200n8"));
            add(
                &mut node,
                DeviceTreeProperty::new("linux,initrd-start", [1u8, 2, 3, 4]).expect("a name"),
            );
            root.add_child(node);
        }
        root.add_child(aliases);
        root.add_child(soc);
        let mut tree = DeviceTree::new();
        tree.root = root;
        tree.to_dtb()
    }

    fn choose_on(blob: &[u8], chosen: &Chosen<'_>) -> Vec<u8> {
        let mut out = [0xee; 4096];
        let size = choose(blob, chosen, &BEHIND, &mut out).expect("a sound blob");
        assert_eq!(super::size(&out), Some(size));
        assert_eq!(size % 16, 0);
        assert!(out[..size].ends_with(&BEHIND));
        out[..size].to_vec()
    }

    fn value(blob: &[u8], name: &str) -> Option<Vec<u8>> {
        let fdt = Fdt::new(blob).expect("a sound blob");
        let node = fdt.find_node("/chosen")?;
        let property = node.property(name)?;
        Some(property.value().to_vec())
    }

    #[test]
    fn an_initrd_replaces_the_one_that_was_there() {
        let chosen = Chosen {
            initrd: Some((0x1800_0000, 0x1900_0001)),
            bootargs: b"",
        };
        let blob = choose_on(&board(true), &chosen);
        assert_eq!(
            value(&blob, "linux,initrd-start"),
            Some(0x1800_0000u64.to_be_bytes().to_vec())
        );
        assert_eq!(
            value(&blob, "linux,initrd-end"),
            Some(0x1900_0001u64.to_be_bytes().to_vec())
        );
        assert_eq!(
            value(&blob, "bootargs").as_deref(),
            Some(&b"the board's own words\0"[..])
        );
        assert_eq!(
            value(&blob, "stdout-path").as_deref(),
            Some(&b"serial1:115200n8\0"[..])
        );
        let names = |blob: &[u8]| {
            let fdt = Fdt::new(blob).expect("sound");
            fdt.root()
                .children()
                .map(|node| node.name().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&blob), names(&board(true)));
    }

    #[test]
    fn without_an_initrd_none_is_left_and_words_replace_words() {
        let chosen = Chosen {
            initrd: None,
            bootargs: b"ours",
        };
        let blob = choose_on(&board(true), &chosen);
        assert_eq!(value(&blob, "linux,initrd-start"), None);
        assert_eq!(value(&blob, "bootargs").as_deref(), Some(&b"ours\0"[..]));
    }

    #[test]
    fn a_tree_without_the_node_gets_it() {
        let chosen = Chosen {
            initrd: Some((1, 2)),
            bootargs: b"words",
        };
        let blob = choose_on(&board(false), &chosen);
        assert_eq!(value(&blob, "bootargs").as_deref(), Some(&b"words\0"[..]));
        assert_eq!(
            value(&blob, "linux,initrd-end"),
            Some(2u64.to_be_bytes().to_vec())
        );
    }

    #[test]
    fn the_console_is_the_one_behind_its_alias() {
        let blob = board(true);
        assert_eq!(console_is(&blob, "brcm,bcm2835-aux-uart"), Some(true));
        assert_eq!(console_is(&blob, "arm,pl011"), Some(false));
        assert_eq!(console_is(&board(false), "arm,pl011"), None);
        assert!(is_machine(&blob, "brcm,bcm2711"));
        assert!(!is_machine(&blob, "brcm,bcm2712"));
    }

    #[test]
    fn too_little_room_is_an_error() {
        let chosen = Chosen {
            initrd: Some((1, 2)),
            bootargs: b"",
        };
        let size = choose_on(&board(true), &chosen).len();
        let mut out = [0; 4096];
        for room in 0..size {
            assert!(choose(&board(true), &chosen, &BEHIND, &mut out[..room]).is_err());
        }
        assert!(choose(&board(true), &chosen, &BEHIND, &mut out[..size]).is_ok());
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut blob = board(true);
            for (at, value) in changes {
                let at = at.index(blob.len());
                blob[at] = value;
            }
            let length = cut.index(blob.len()) + 1;
            let chosen = Chosen { initrd: Some((1, 2)), bootargs: b"words" };
            for blob in [&blob[..], &blob[..length]] {
                let mut out = [0; 4096];
                let _ = choose(blob, &chosen, &BEHIND, &mut out);
                let _ = console_is(blob, "arm,pl011");
                let _ = size(blob);
            }
        }
    }
}
