//! Who gets which RAM.

use alloc::vec::Vec;

use platform::{Machine, Range};

/// What one level 2 entry of a table maps with a granule of 4 KiB.
pub const BLOCK_SIZE: u64 = 2 << 20;

/// RAM is given away in units of this size, the granule: what one level 3 entry maps.
pub const PAGE_SIZE: u64 = 4096;

/// The largest page of a kernel (DDI0487 D8.1.8, granule sizes).
pub const LARGEST_PAGE: u64 = 64 << 10;

/// The one or two parts of `range` outside `hole`.
pub fn without(range: Range, hole: Range) -> impl Iterator<Item = Range> {
    let before = Range::between(range.start, hole.start.clamp(range.start, range.end()));
    let after = Range::between(hole.end().clamp(range.start, range.end()), range.end());
    let parts = if range.overlaps(hole) {
        [before, after]
    } else {
        [range, Range::new(0, 0)]
    };
    parts.into_iter().filter(|part| !part.is_empty())
}

/// The highest place below `limit` for `size` bytes of RAM, a multiple of `align`, a power of two, that meets nothing in
/// `taken` nor what the machine reserves.
#[inline(never)]
pub fn highest_free(
    machine: &Machine,
    taken: &[Range],
    limit: u64,
    size: u64,
    align: u64,
) -> Option<u64> {
    let below = |end: u64| Some(end.checked_sub(size)? & !(align - 1));
    let highest = |bank: &Range| {
        let mut start = below(bank.end().min(limit))?;
        while start >= bank.start {
            let candidate = Range::new(start, size);
            let mut others = taken.iter().chain(&machine.reserved);
            match others.find(|range| range.overlaps(candidate)) {
                Some(other) => start = below(other.start)?,
                None => return Some(start),
            }
        }
        None
    };
    machine.ram.iter().filter_map(highest).max()
}

/// RAM below `limit` in whole pages, without what is `taken` and what the machine reserves; the lowest first.
pub fn free_pages(machine: &Machine, taken: &[Range], limit: u64) -> Vec<Range> {
    let mut parts: Vec<Range> = machine.ram.clone();
    for &hole in taken.iter().chain(&machine.reserved) {
        parts = parts
            .into_iter()
            .flat_map(|part| without(part, hole))
            .collect();
    }
    whole_pages(parts, limit)
}

/// The whole pages of these parts below `limit`.
pub fn whole_pages(parts: Vec<Range>, limit: u64) -> Vec<Range> {
    whole_units(parts, limit, PAGE_SIZE)
}

/// The whole units of these parts below `limit`; a unit is a power of two.
pub fn whole_units(mut parts: Vec<Range>, limit: u64, unit: u64) -> Vec<Range> {
    parts.retain_mut(|part| {
        let end = part.end().min(limit) & !(unit - 1);
        let start = part.start.checked_next_multiple_of(unit);
        *part = Range::between(start.unwrap_or(end), end);
        !part.is_empty()
    });
    parts
}

/// Takes `most` bytes at most from `free`, the lowest first.
pub fn take_lowest(free: &mut Vec<Range>, most: u64) -> Vec<Range> {
    let mut left = most;
    let mut taken = Vec::new();
    for part in free.iter_mut() {
        let size = part.size.min(left);
        if size != 0 {
            taken.push(Range::new(part.start, size));
            *part = Range::new(part.start + size, part.size - size);
            left -= size;
        }
    }
    free.retain(|part| !part.is_empty());
    taken
}

/// Takes `most` bytes at most from `free`, the lowest first, in whole blocks that lie to their boundaries as `base` does.
pub fn take_in_step(free: &mut Vec<Range>, base: u64, most: u64) -> Vec<Range> {
    let phase = base % BLOCK_SIZE;
    let mut left = most - most % BLOCK_SIZE;
    let mut taken = Vec::new();
    for part in core::mem::take(free) {
        let down = part.start - part.start % BLOCK_SIZE + phase;
        let start = if down < part.start {
            down.saturating_add(BLOCK_SIZE)
        } else {
            down
        };
        let room = part.end().saturating_sub(start);
        let size = (room - room % BLOCK_SIZE).min(left);
        let own = Range::new(start, size);
        if size == 0 {
            free.push(part);
            continue;
        }
        left -= size;
        free.extend(without(part, own));
        taken.push(own);
    }
    taken
}

/// The lowest address in any of these ranges.
pub fn lowest_of(ranges: &[Range]) -> Option<u64> {
    ranges.iter().map(|range| range.start).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use platform::{Conduit, Gic, Timers, Uart, UartKind};

    const GIB: u64 = 1 << 30;
    const LIMIT: u64 = 512 * GIB;

    fn machine(ram: &[Range], reserved: &[Range]) -> Machine {
        let uart = Uart {
            kind: UartKind::Pl011,
            base: Range::new(0x900_0000, 0x1000),
            intid: 33,
            path: "/uart".into(),
        };
        Machine {
            model: "".into(),
            ram: ram.into(),
            reserved: reserved.into(),
            cpus: Vec::new(),
            psci: Some(Conduit::Smc),
            gic: Gic::V3 {
                dist: Range::new(0, 0),
                redists: Vec::new(),
                redist_stride: None,
                maintenance: 25,
            },
            messages: Vec::new(),
            timers: Timers {
                hyp_physical: 26,
                virt: 27,
                physical: 30,
            },
            console: uart.clone(),
            shown: uart,
            power: None,
            bootargs: "".into(),
            seed: Vec::new(),
            initrd: None,
            devices: Vec::new(),
            left_out: Vec::new(),
        }
    }

    #[test]
    fn a_hole_leaves_what_is_on_either_side_of_it() {
        let range = Range::new(0x1000, 0x3000);
        let parts = |hole| -> Vec<Range> { without(range, hole).collect() };
        let [low, high] = [Range::new(0x1000, 0x1000), Range::new(0x3000, 0x1000)];
        assert_eq!(parts(Range::new(0x2000, 0x1000)), [low, high]);
        assert_eq!(parts(Range::new(0, 0x3000)), [high]);
        assert_eq!(parts(Range::new(0x2000, 0x9000)), [low]);
        assert_eq!(parts(Range::new(0, 0x9000)), []);
        assert_eq!(parts(Range::new(0x4000, 0x1000)), [range]);
        assert_eq!(parts(Range::new(0x2000, 0)), [range]);
    }

    #[test]
    fn the_highest_place_meets_nothing_that_is_taken() {
        let bank = Range::new(0x4000_0000, GIB);
        let highest = |taken: &[Range], size| {
            highest_free(&machine(&[bank], &[]), taken, LIMIT, size, BLOCK_SIZE)
        };
        assert_eq!(highest(&[], BLOCK_SIZE), Some(bank.end() - BLOCK_SIZE));
        let top = Range::new(bank.end() - 1, 1);
        assert_eq!(
            highest(&[top], BLOCK_SIZE),
            Some(bank.end() - 2 * BLOCK_SIZE)
        );
        assert_eq!(highest(&[], GIB), Some(bank.start));
        assert_eq!(highest(&[], GIB + 1), None);
        assert_eq!(highest(&[bank], 1), None);
        let reserving = machine(&[bank], &[top]);
        let place = |align| highest_free(&reserving, &[], LIMIT, BLOCK_SIZE, align);
        assert_eq!(place(BLOCK_SIZE), Some(bank.end() - 2 * BLOCK_SIZE));
        let page = bank.end() - BLOCK_SIZE - PAGE_SIZE;
        assert_eq!(place(PAGE_SIZE), Some(page));
    }

    #[test]
    fn ram_that_cannot_be_mapped_is_nobodys() {
        let banks = [
            Range::new(0x4000_0000, GIB),
            Range::new(LIMIT - GIB, 2 * GIB),
        ];
        let machine = machine(&banks, &[]);
        let place = highest_free(&machine, &[], LIMIT, BLOCK_SIZE, BLOCK_SIZE);
        assert_eq!(place, Some(LIMIT - BLOCK_SIZE));
        let blocks = [banks[0], Range::new(LIMIT - GIB, GIB)];
        assert_eq!(free_pages(&machine, &[], LIMIT), blocks);
    }

    #[test]
    fn only_pages_that_are_touched_are_lost() {
        let ragged = Range::new(0x4000_1800, 8 * BLOCK_SIZE);
        let holes = [Range::new(0x4040_0000, 1), Range::new(0x4060_0fff, 2)];
        let free = free_pages(&machine(&[ragged], &holes), &[], LIMIT);
        let parts = [
            Range::between(0x4000_2000, 0x4040_0000),
            Range::between(0x4040_1000, 0x4060_0000),
            Range::between(0x4060_2000, 0x4100_1000),
        ];
        assert_eq!(free, parts);
    }

    #[test]
    fn blocks_are_taken_in_step_with_a_base() {
        let parts = [
            Range::new(0x4000_1000, 3 * BLOCK_SIZE),
            Range::new(0x5000_0000, 5 * BLOCK_SIZE),
        ];
        let mut free = parts.to_vec();
        let taken = take_in_step(&mut free, 0x8000_0000, 4 * BLOCK_SIZE + PAGE_SIZE);
        let block = Range::new(0x4020_0000, 2 * BLOCK_SIZE);
        assert_eq!(taken, [block, Range::new(0x5000_0000, 2 * BLOCK_SIZE)]);
        let left = [
            Range::between(0x4000_1000, 0x4020_0000),
            Range::between(0x4060_0000, 0x4060_1000),
            Range::between(0x5040_0000, 0x50a0_0000),
        ];
        assert_eq!(free, left);
        // Out of step with the boundaries, where that is what the guest's are.
        let mut free = parts.to_vec();
        let taken = take_in_step(&mut free, 0x8000_1000, u64::MAX);
        let behind = Range::new(0x5000_1000, 4 * BLOCK_SIZE);
        assert_eq!(taken, [parts[0], behind]);
        assert_eq!(take_in_step(&mut free, 0, u64::MAX), []);
    }

    #[test]
    fn what_is_taken_is_gone() {
        let whole = [
            Range::new(0, 2 * BLOCK_SIZE),
            Range::new(8 * BLOCK_SIZE, 4 * BLOCK_SIZE),
        ];
        let mut free = whole.to_vec();
        let first = take_lowest(&mut free, 3 * BLOCK_SIZE);
        assert_eq!(first, [whole[0], Range::new(8 * BLOCK_SIZE, BLOCK_SIZE)]);
        let rest = take_lowest(&mut free, u64::MAX);
        assert_eq!(rest, [Range::new(9 * BLOCK_SIZE, 3 * BLOCK_SIZE)]);
        assert_eq!(free, []);
        assert_eq!(take_lowest(&mut free, u64::MAX), []);
    }
}
