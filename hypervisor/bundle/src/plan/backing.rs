//! Where a guest's RAM is: the addresses that the guest knows, and the physical ones behind them.

use alloc::vec::Vec;

use platform::Range;

/// A piece of a guest's RAM, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the guest finds it.
    pub ipa: u64,
    /// Where it is.
    pub pa: u64,
    /// Length.
    pub size: u64,
}

/// All pieces of one guest, ascending by the guest's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backing(Vec<Piece>);

impl Backing {
    /// RAM that the guest finds where it is.
    #[must_use]
    pub fn one_to_one(ram: &[Range]) -> Self {
        let piece = |part: &Range| Piece {
            ipa: part.start,
            pa: part.start,
            size: part.size,
        };
        Self(ram.iter().map(piece).collect())
    }

    /// What the guest finds in the ranges `shown` is, one after the other, in the ranges `behind`. Ends with the shorter.
    #[must_use]
    pub fn of(shown: &[Range], behind: &[Range]) -> Self {
        let (mut shown, mut behind) = (shown.iter().copied(), behind.iter().copied());
        let (mut ipas, mut pas) = (Range::default(), Range::default());
        let mut pieces = Vec::new();
        loop {
            if ipas.is_empty() {
                let Some(next) = shown.next() else { break };
                ipas = next;
            }
            if pas.is_empty() {
                let Some(next) = behind.next() else { break };
                pas = next;
            }
            let size = ipas.size.min(pas.size);
            pieces.push(Piece {
                ipa: ipas.start,
                pa: pas.start,
                size,
            });
            ipas = Range::between(ipas.start + size, ipas.end());
            pas = Range::between(pas.start + size, pas.end());
        }
        pieces.retain(|piece| piece.size != 0);
        Self(pieces)
    }

    /// The pieces.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// What is behind the first of `size` bytes from `ipa` on, and how many of them follow there without a break; none if
    /// no RAM is there.
    #[must_use]
    #[inline]
    pub fn at(&self, ipa: u64, size: u64) -> Option<Range> {
        self.0.iter().find_map(|piece| {
            let offset = ipa.checked_sub(piece.ipa)?;
            let rest = piece.size.checked_sub(offset).filter(|&rest| rest != 0)?;
            Some(Range::new(piece.pa + offset, rest.min(size)))
        })
    }

    /// The physical ranges behind `size` bytes from `ipa` on, in their order, with how far into those bytes each begins.
    /// They end where the RAM does.
    pub fn parts(&self, ipa: u64, size: u64) -> impl Iterator<Item = (u64, Range)> + '_ {
        let mut done = 0;
        core::iter::from_fn(move || {
            let left = size.checked_sub(done).filter(|&left| left != 0)?;
            let part = self.at(ipa.checked_add(done)?, left)?;
            let before = done;
            done += part.size;
            Some((before, part))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Backing {
        let shown = [Range::new(0x4000, 0x3000), Range::new(0x9000, 0x2000)];
        let behind = [Range::new(0x10_0000, 0x1000), Range::new(0x20_0000, 0x8000)];
        Backing::of(&shown, &behind)
    }

    #[test]
    fn pieces_break_where_either_side_does() {
        let piece = |ipa, pa, size| Piece { ipa, pa, size };
        let expected = [
            piece(0x4000, 0x10_0000, 0x1000),
            piece(0x5000, 0x20_0000, 0x2000),
            piece(0x9000, 0x20_2000, 0x2000),
        ];
        assert_eq!(two().pieces(), expected);
        let ram = [Range::new(0x4000, 0x3000)];
        assert_eq!(
            Backing::one_to_one(&ram).pieces(),
            [piece(0x4000, 0x4000, 0x3000)]
        );
        assert_eq!(Backing::of(&ram, &[]).pieces(), []);
    }

    #[test]
    fn what_lies_across_pieces_is_found_in_each() {
        let backing = two();
        assert_eq!(backing.at(0x4ffc, 8), Some(Range::new(0x10_0ffc, 4)));
        let parts: Vec<_> = backing.parts(0x4800, 0x2800).collect();
        let expected = [
            (0, Range::new(0x10_0800, 0x800)),
            (0x800, Range::new(0x20_0000, 0x2000)),
        ];
        assert_eq!(parts, expected);
        // It ends where the RAM does.
        assert_eq!(backing.parts(0x6ff0, 0x100).count(), 1);
        for outside in [0, 0x3fff, 0x7000, 0x8fff, 0xb000, u64::MAX] {
            assert_eq!(backing.at(outside, 8), None, "{outside:#x}");
        }
        assert_eq!(backing.parts(u64::MAX, 8).count(), 0);
    }
}
