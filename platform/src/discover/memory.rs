//! RAM, and who owns which part of it already.

use alloc::vec::Vec;

use crate::devicetree::{Fdt, Node, Tree};
use crate::{Error, Range};

/// How many pieces of RAM, and how many that are reserved, a machine may have: what is done with them takes time and
/// memory for each. Real ones stay below a hundred.
const MOST_PIECES: usize = 256;

/// The machine's memory, ascending and merged.
pub fn ram(tree: &Tree<'_, '_>) -> Result<Vec<Range>, Error> {
    let mut ram = Vec::new();
    for node in tree.all() {
        if node.property("device_type") == Some(b"memory\0") && node.is_enabled() {
            add_all(node, &mut ram)?;
        }
    }
    if ram.is_empty() {
        return Err(Error::new(
            "/memory",
            "is missing or empty",
            "have the loader fill it in",
        ));
    }
    Ok(ram)
}

/// The reservation block and the children of `/reserved-memory` that have a fixed place.
pub fn reserved(fdt: &Fdt<'_>, tree: &Tree<'_, '_>) -> Result<Vec<Range>, Error> {
    let mut reserved = Vec::new();
    for range in fdt.reservations() {
        add(&mut reserved, range);
        if reserved.len() > MOST_PIECES {
            return Err(Error::new("memory reservation block", MANY, FEWER));
        }
    }
    let children = tree.find("/reserved-memory").map(Node::children);
    for node in children.into_iter().flatten() {
        if node.property("reg").is_some() && node.is_enabled() {
            add_all(node, &mut reserved)?;
        }
    }
    Ok(reserved)
}

/// Where the loader put the initrd.
pub fn initrd(chosen: Option<Node<'_, '_>>) -> Result<Option<Range>, Error> {
    let Some(chosen) = chosen else {
        return Ok(None);
    };
    let start = chosen.number("linux,initrd-start")?;
    let end = chosen.number("linux,initrd-end")?;
    match (start, end) {
        (None, None) => Ok(None),
        (Some(start), Some(end)) if start < end => Ok(Some(Range::between(start, end))),
        _ => Err(chosen.error(
            "linux,initrd-start",
            "and linux,initrd-end do not enclose anything",
            "have the loader set both",
        )),
    }
}

const MANY: &str = "makes more than 256 pieces of memory";
const FEWER: &str = "have the loader join what is adjacent";

/// Adds what a node's `reg` holds.
fn add_all(node: Node<'_, '_>, ranges: &mut Vec<Range>) -> Result<(), Error> {
    for range in node.reg()? {
        add(ranges, range);
        if ranges.len() > MOST_PIECES {
            return Err(node.error("reg", MANY, FEWER));
        }
    }
    Ok(())
}

/// Adds a range to ascending ones, and joins it with those it touches.
fn add(ranges: &mut Vec<Range>, mut range: Range) {
    if range.is_empty() {
        return;
    }
    ranges.retain(|other| {
        let apart = other.end() < range.start || range.end() < other.start;
        if !apart {
            let start = range.start.min(other.start);
            range = Range::between(start, range.end().max(other.end()));
        }
        apart
    });
    let place = ranges.iter().take_while(|other| other.start < range.start);
    ranges.insert(place.count(), range);
}

#[cfg(test)]
mod tests {
    use super::add;
    use crate::Range;
    use alloc::vec::Vec;

    #[test]
    fn what_touches_becomes_one() {
        let mut ranges = Vec::new();
        for range in [
            Range::new(0x3000, 0x1000),
            Range::new(0x1000, 0x1000),
            Range::new(0x9000, 0),
            Range::new(0x2000, 0x1000),
            Range::new(0x1800, 0x100),
            Range::new(0x5000, 0x1000),
        ] {
            add(&mut ranges, range);
        }
        let merged = [Range::new(0x1000, 0x3000), Range::new(0x5000, 0x1000)];
        assert_eq!(ranges, merged);
    }
}
