//! Who gets which RAM.

use alloc::vec::Vec;

use platform::{Machine, Range};

use crate::memory::{self, BLOCK_SIZE};

/// The one or two parts of `range` outside `hole`.
pub fn without(range: Range, hole: Range) -> impl Iterator<Item = Range> {
    let before = Range::new(
        range.start,
        hole.start.clamp(range.start, range.end()) - range.start,
    );
    let after_start = hole.end().clamp(range.start, range.end());
    let after = Range::new(after_start, range.end() - after_start);
    let parts = if range.overlaps(hole) {
        [before, after]
    } else {
        [range, Range::new(0, 0)]
    };
    parts.into_iter().filter(|part| !part.is_empty())
}

/// The highest block-aligned place for `size` bytes of RAM that meets nothing in `taken` nor what the
/// machine reserves, and lies in the identity map.
pub fn highest_free(machine: &Machine, taken: &[Range], size: u64) -> Option<u64> {
    let mut best = None;
    for bank in &machine.ram {
        let end = bank.end().min(memory::IDENTITY_END);
        let Some(highest) = end.checked_sub(size) else {
            continue;
        };
        let mut start = highest & !(BLOCK_SIZE - 1);
        while start >= bank.start {
            let candidate = Range::new(start, size);
            let is_taken = taken
                .iter()
                .chain(&machine.reserved)
                .any(|range| range.overlaps(candidate));
            if !is_taken {
                best = best.max(Some(start));
                break;
            }
            let Some(next) = start.checked_sub(BLOCK_SIZE) else {
                break;
            };
            start = next;
        }
    }
    best
}

/// RAM in whole blocks without `ours` and what the machine reserves, of `most` bytes at most; the lowest first.
pub fn guest_ram(machine: &Machine, ours: &[Range], most: u64) -> Vec<Range> {
    let mut parts: Vec<Range> = machine.ram.clone();
    for &hole in ours.iter().chain(&machine.reserved) {
        parts = parts
            .into_iter()
            .flat_map(|part| without(part, hole))
            .collect();
    }
    let mut left = most;
    parts.retain_mut(|part| {
        let start = part.start.next_multiple_of(BLOCK_SIZE);
        let end = part.end().min(memory::IDENTITY_END) & !(BLOCK_SIZE - 1);
        *part = Range::new(start, end.saturating_sub(start).min(left));
        left -= part.size;
        part.size != 0
    });
    parts
}
