//! RAM, and who owns which part of it already.

use alloc::vec::Vec;

use fdt::Fdt;

use super::CORRECT;
use super::tree::{Node, Tree};
use crate::{Error, Range};

/// The machine's memory, ascending and merged.
pub fn ram(tree: &Tree<'_>) -> Result<Vec<Range>, Error> {
    let mut ram = Vec::new();
    for node in tree.enabled() {
        if node.property("device_type") == Some(b"memory\0") {
            ram.extend(node.reg()?);
        }
    }
    let ram = merge(ram);
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
pub fn reserved(fdt: &Fdt<'_>, tree: &Tree<'_>) -> Result<Vec<Range>, Error> {
    let mut reserved = Vec::new();
    for entry in fdt.memory_reservations() {
        let (start, size) = (entry.address().addr() as u64, entry.size() as u64);
        if start.checked_add(size).is_none() {
            return Err(Error::new(
                "memory reservation block",
                "reserves what lies beyond all memory",
                CORRECT,
            ));
        }
        reserved.push(Range::new(start, size));
    }
    if let Some(parent) = tree.find("/reserved-memory") {
        for node in parent.children().filter(|node| node.is_enabled()) {
            if node.property("reg").is_some() {
                reserved.extend(node.reg()?);
            }
        }
    }
    Ok(merge(reserved))
}

/// Where the loader put the initrd.
pub fn initrd(chosen: Option<Node<'_>>) -> Result<Option<Range>, Error> {
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

/// Sorts ranges and joins those that touch or overlap; drops empty ones.
fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end() => {
                *last = Range::between(last.start, last.end().max(range.end()));
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::merge;
    use crate::Range;
    use alloc::vec;

    #[test]
    fn what_touches_becomes_one() {
        let ranges = vec![
            Range::new(0x3000, 0x1000),
            Range::new(0x1000, 0x1000),
            Range::new(0x9000, 0),
            Range::new(0x2000, 0x1000),
            Range::new(0x1800, 0x100),
            Range::new(0x5000, 0x1000),
        ];
        let merged = [Range::new(0x1000, 0x3000), Range::new(0x5000, 0x1000)];
        assert_eq!(merge(ranges), merged);
    }
}
