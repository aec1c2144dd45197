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

/// The largest run of RAM without `ours`, in whole blocks.
pub fn guest_ram(machine: &Machine, ours: &[Range]) -> Option<Range> {
    let mut parts: Vec<Range> = machine.ram.clone();
    for &hole in ours {
        parts = parts
            .into_iter()
            .flat_map(|part| without(part, hole))
            .collect();
    }
    parts
        .into_iter()
        .map(|part| {
            let end = part.end().min(memory::IDENTITY_END) & !(BLOCK_SIZE - 1);
            Range::new(part.start, end.saturating_sub(part.start))
        })
        .max_by_key(|part| part.size)
        .filter(|part| !part.is_empty())
}
