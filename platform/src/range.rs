//! A piece of the physical address space.

/// `size` bytes from physical address `start` on. Discovery only makes ranges that end within the
/// 52 bits an arm64 physical address can have (DDI0487 D8.1), so that sums of theirs cannot overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// The first byte's address.
    pub start: u64,
    /// How many bytes.
    pub size: u64,
}

impl Range {
    /// The range of `size` bytes at `start`.
    pub const fn new(start: u64, size: u64) -> Self {
        Self { start, size }
    }

    /// The range from `start` up to, not including, `end`; empty if they are the wrong way round.
    pub const fn between(start: u64, end: u64) -> Self {
        Self::new(start, end.saturating_sub(start))
    }

    /// The first address after it.
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.size)
    }

    /// Whether it holds no byte.
    pub const fn is_empty(self) -> bool {
        self.size == 0
    }

    /// Whether the byte at `address` is in it.
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end()
    }

    /// Whether all of `other` is in it.
    pub const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether any byte is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end()
            && other.start < self.end()
            && !self.is_empty()
            && !other.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Range;

    #[test]
    fn neighbours_do_not_overlap() {
        let low = Range::new(0x1000, 0x1000);
        assert!(!low.overlaps(Range::new(0x2000, 0x1000)));
        assert!(low.overlaps(Range::new(0x1fff, 1)));
        assert!(!low.overlaps(Range::new(0x1800, 0)));
    }

    #[test]
    fn a_range_covers_itself_but_not_one_byte_more() {
        let range = Range::new(0x1000, 0x1000);
        assert!(range.covers(range));
        assert!(!range.covers(Range::new(0x1000, 0x1001)));
        assert!(!range.covers(Range::new(0xfff, 2)));
    }

    #[test]
    fn the_end_is_not_contained() {
        let range = Range::new(0x1000, 0x1000);
        assert!(range.contains(0x1000));
        assert!(range.contains(0x1fff));
        assert!(!range.contains(0x2000));
        assert!(Range::between(5, 3).is_empty());
    }
}
