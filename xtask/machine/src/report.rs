//! What the flat test program (`guest-tests/flat`) says of where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context, Result, anyhow, ensure};
use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};

/// A report.
#[derive(Debug, Default)]
pub struct Report {
    facts: BTreeMap<String, u64>,
    /// The memory that can be read and written, ascending.
    pub ram: Vec<Range<u64>>,
    /// The memory that the devicetree has.
    pub described: Vec<Range<u64>>,
    /// Where the devicetree says that the initrd is.
    pub initrd: Option<Range<u64>>,
    /// Bytes of the devicetree, what is left free at its end included.
    pub dtb_size: u64,
}

impl Report {
    /// Reads the lines of a console, which must have a whole report.
    pub fn parse(console: &str) -> Result<Self> {
        let mut report = Self::default();
        let mut dtb = Vec::new();
        for line in console.lines() {
            let Some((name, value)) = line.trim_end().split_once('=') else {
                continue;
            };
            match name {
                "dtb" => dtb.extend(bytes(value)?),
                "ram" => {
                    let (start, end) = value.split_once('-').context("a range has an end")?;
                    report.ram.push(number(start)?..number(end)?);
                }
                _ => {
                    report.facts.insert(name.to_owned(), number(value)?);
                }
            }
        }
        report.fact("done").context("the report is cut short")?;
        report.read_devicetree(dtb)?;
        Ok(report)
    }

    /// The fact of that name.
    pub fn fact(&self, name: &str) -> Result<u64> {
        let fact = self.facts.get(name).copied();
        fact.with_context(|| format!("the program does not say `{name}`"))
    }

    /// Which facts, registers at entry above all, are not the same in `other`, and what they are; empty if all are.
    pub fn differences(&self, other: &Self) -> String {
        let names: BTreeSet<_> = self.facts.keys().chain(other.facts.keys()).collect();
        let shown =
            |value: Option<&u64>| value.map_or("not said".to_owned(), |v| format!("{v:#x}"));
        let differences = names.into_iter().filter_map(|name| {
            let [one, two] = [self, other].map(|report| report.facts.get(name));
            (one != two).then(|| format!("{name} is {}, and {}", shown(one), shown(two)))
        });
        differences.collect::<Vec<_>>().join("; ")
    }

    fn read_devicetree(&mut self, mut blob: Vec<u8>) -> Result<()> {
        let size = blob.get(4..8).context("the program found no devicetree")?;
        let size = u32::from_be_bytes(size.try_into()?);
        self.dtb_size = size.into();
        // What is behind structure and strings is not shown.
        blob.resize(usize::try_from(size)?, 0);
        let tree = Fdt::new(&blob).map_err(|error| anyhow!("the devicetree: {error:?}"))?;
        let root = tree.root();
        let cells = |name: &str| -> Result<usize> {
            let property = root.property(name).with_context(|| format!("no {name}"))?;
            Ok(u32::from_be_bytes(property.value().try_into()?) as usize)
        };
        let (address, size) = (cells("#address-cells")?, cells("#size-cells")?);
        for node in root.children() {
            if node.name().starts_with("memory@") || node.name() == "memory" {
                let reg = node.property("reg").context("memory without reg")?;
                for range in reg.value().chunks((address + size) * 4) {
                    let (start, size) = range.split_at(address * 4);
                    let (start, size) = (big_endian(start), big_endian(size));
                    self.described.push(start..start + size);
                }
            }
        }
        self.described.sort_by_key(|range| range.start);
        let chosen = tree.find_node("/chosen").context("no /chosen")?;
        let end = |name| chosen.property(name).map(|end| big_endian(end.value()));
        let ends = (end("linux,initrd-start"), end("linux,initrd-end"));
        self.initrd = match ends {
            (Some(start), Some(end)) => Some(start..end),
            (None, None) => None,
            ends => return Err(anyhow!("half an initrd: {ends:?}")),
        };
        Ok(())
    }
}

fn number(digits: &str) -> Result<u64> {
    u64::from_str_radix(digits, 16).with_context(|| format!("`{digits}` is no number"))
}

fn big_endian(bytes: &[u8]) -> u64 {
    let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
    bytes.iter().fold(0, add)
}

fn bytes(digits: &str) -> Result<Vec<u8>> {
    ensure!(digits.len().is_multiple_of(2), "half a byte: `{digits}`");
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    pairs.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

    fn set(node: &mut DeviceTreeNode, name: &str, cells: &[u32]) {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        node.add_property(DeviceTreeProperty::new(name, value).unwrap());
    }

    fn devicetree() -> String {
        let mut tree = DeviceTree::new();
        set(&mut tree.root, "#address-cells", &[2]);
        set(&mut tree.root, "#size-cells", &[1]);
        let mut memory = DeviceTreeNode::new("memory@1000").unwrap();
        set(&mut memory, "reg", &[0, 0x1000, 0x2000, 1, 0, 0x1000]);
        tree.root.add_child(memory);
        let mut chosen = DeviceTreeNode::new("chosen").unwrap();
        set(&mut chosen, "linux,initrd-start", &[0x5000]);
        set(&mut chosen, "linux,initrd-end", &[0, 0x6000]);
        tree.root.add_child(chosen);
        let digits = |byte: u8| format!("{byte:02x}");
        tree.to_dtb().into_iter().map(digits).collect()
    }

    #[test]
    fn facts_memory_and_devicetree_are_read() {
        let dtb = devicetree();
        let (one, two) = dtb.split_at(64);
        let text = format!(
            "noise\r\nx0=5\r\nx4=7\r\nsp=0\r\nat=40080000\r\ndtb={one}\r\ndtb={two}\r\n\
             ram=1000-3000\r\nram=100000000-100001000\r\ndone=1\r\n"
        );
        let report = Report::parse(&text).unwrap();
        assert_eq!(report.fact("at").unwrap(), 0x4008_0000);
        assert_eq!(report.differences(&report), "");
        let other = text.replace("x4=7", "x4=8").replace("sp=0\r\n", "");
        let other = Report::parse(&other).unwrap();
        let differences = "sp is 0x0, and not said; x4 is 0x7, and 0x8";
        assert_eq!(report.differences(&other), differences);
        assert_eq!(report.ram, [0x1000..0x3000, 0x1_0000_0000..0x1_0000_1000]);
        assert_eq!(report.described, report.ram);
        assert_eq!(report.initrd, Some(0x5000..0x6000));
        assert_eq!(report.dtb_size, dtb.len() as u64 / 2);
        let cut = text.replace("done=1", "");
        let error = Report::parse(&cut).unwrap_err().to_string();
        assert_eq!(error, "the report is cut short");
        let without = text.replace("dtb=", "btd=");
        assert!(Report::parse(&without).is_err());
    }
}
