//! Writes a devicetree blob front to back (Devicetree Specification 5). `dtoolkit` can write too, from a
//! model made of hash maps, which would be a tenth of the hypervisor's image and much of its heap; this
//! is what EL2 needs.

use alloc::vec::Vec;

const HEADER_SIZE: usize = 40;
const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const LAST_COMPATIBLE_VERSION: u32 = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;

/// A blob in the making.
#[derive(Default)]
pub struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Writer {
    /// Begins a node within the current one; properties come before children.
    pub fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.structure.extend_from_slice(name.as_bytes());
        self.structure.push(0);
        self.pad();
    }

    /// Ends the current node.
    pub fn end(&mut self) {
        self.word(END_NODE);
    }

    /// Adds a property to the current node.
    pub fn property(&mut self, name: &str, value: &[u8]) {
        let name = self.string(name);
        self.word(PROPERTY);
        self.word(value.len() as u32);
        self.word(name);
        self.structure.extend_from_slice(value);
        self.pad();
    }

    /// Adds a property that holds strings.
    pub fn text(&mut self, name: &str, strings: &[&str]) {
        let mut value = Vec::new();
        for string in strings {
            value.extend_from_slice(string.as_bytes());
            value.push(0);
        }
        self.property(name, &value);
    }

    /// Adds a property of two cells.
    pub fn number(&mut self, name: &str, value: u64) {
        self.property(name, &value.to_be_bytes());
    }

    /// The blob, with an empty reservation block, and with `headroom` bytes free at its end, which
    /// count as its own.
    pub fn finish(mut self, headroom: usize) -> Vec<u8> {
        self.word(END);
        let structure = HEADER_SIZE + 16;
        let strings = structure + self.structure.len();
        let total = (strings + self.strings.len() + headroom).next_multiple_of(8);
        let mut blob = Vec::with_capacity(total);
        for field in [
            MAGIC,
            total as u32,
            structure as u32,
            strings as u32,
            HEADER_SIZE as u32,
            VERSION,
            LAST_COMPATIBLE_VERSION,
            0,
            self.strings.len() as u32,
            self.structure.len() as u32,
        ] {
            blob.extend_from_slice(&field.to_be_bytes());
        }
        blob.resize(structure, 0);
        blob.extend_from_slice(&self.structure);
        blob.extend_from_slice(&self.strings);
        blob.resize(total, 0);
        blob
    }

    /// Where a name is among the strings; each is there once.
    fn string(&mut self, name: &str) -> u32 {
        let mut at = 0;
        for own in self.strings.split(|&byte| byte == 0) {
            if own == name.as_bytes() && at < self.strings.len() {
                return at as u32;
            }
            at += own.len() + 1;
        }
        let at = self.strings.len();
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at as u32
    }

    fn word(&mut self, word: u32) {
        self.structure.extend_from_slice(&word.to_be_bytes());
    }

    fn pad(&mut self) {
        let size = self.structure.len().next_multiple_of(4);
        self.structure.resize(size, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Writer;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node, Property};

    #[test]
    fn what_is_written_can_be_read() {
        let mut writer = Writer::default();
        writer.begin("");
        writer.text("compatible", &["one", "two"]);
        writer.property("empty", &[]);
        writer.begin("node@1");
        writer.number("reg", 0x1_0000_0002);
        writer.text("compatible", &["three"]);
        writer.end();
        writer.end();
        let blob = writer.finish(100);
        let fdt = Fdt::new(&blob).expect("a sound blob");
        let root = fdt.root();
        let value = |name| root.property(name).map(|own| own.value().to_vec());
        assert_eq!(value("compatible").as_deref(), Some(&b"one\0two\0"[..]));
        assert_eq!(value("empty").as_deref(), Some(&[][..]));
        let node = fdt.find_node("/node@1").expect("the node");
        let reg = node.property("reg").map(|own| own.value_as::<u64>());
        assert_eq!(reg, Some(Ok(0x1_0000_0002)));
    }

    #[test]
    fn each_name_is_kept_once() {
        let mut writer = Writer::default();
        let first = writer.string("reg");
        let other = writer.string("g");
        assert_ne!(first, other);
        assert_eq!(writer.string("reg"), first);
        assert_eq!(writer.string("g"), other);
    }
}
