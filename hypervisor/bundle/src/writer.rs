//! Writes a devicetree blob front to back (Devicetree Specification 5). `dtoolkit` can write too, from a
//! model made of hash maps, which would be a tenth of the hypervisor's image and much of its heap; this
//! is what EL2 needs.

use alloc::vec::Vec;

use dtb::token;

/// A blob in the making.
#[derive(Default)]
pub struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Writer {
    /// Begins a node within the current one; properties come before children.
    pub fn begin(&mut self, name: &str) {
        self.word(token::BEGIN_NODE);
        self.structure.extend_from_slice(name.as_bytes());
        self.structure.push(0);
        self.pad();
    }

    /// Ends the current node.
    pub fn end(&mut self) {
        self.word(token::END_NODE);
    }

    /// Adds a property to the current node.
    pub fn property(&mut self, name: &str, value: &[u8]) {
        let name = self.string(name);
        self.word(token::PROPERTY);
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
        self.word(token::END);
        // An empty entry alone is a reservation block.
        const RESERVATIONS: usize = 16;
        let (structure, strings) = (self.structure.len(), self.strings.len());
        let used = dtb::header::SIZE + RESERVATIONS + structure + strings;
        let total = (used + headroom).next_multiple_of(8);
        let parts = [RESERVATIONS, structure, strings, total - used];
        // What has no header is no blob, and whoever reads it says so: 4 GiB do not fit any memory that this runs in.
        let header = dtb::write_header(parts, 0).unwrap_or([0; dtb::header::SIZE]);
        let mut blob = Vec::with_capacity(total);
        blob.extend_from_slice(&header);
        blob.resize(header.len() + RESERVATIONS, 0);
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
