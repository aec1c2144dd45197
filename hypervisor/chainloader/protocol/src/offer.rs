//! What is to be loaded: the image, the guests' bundle and the command line, and how they are cut into blocks.

use core::ops::Range;

use sha2::{Digest, Sha256};

/// Bytes of a block; the last of a part may be shorter.
pub const BLOCK: usize = 1024;

/// The longest command line in bytes.
pub const LONGEST_BOOTARGS: usize = 512;

/// A SHA-256.
pub type Hash = [u8; 32];

/// A name for an offer: the beginning of the hash of what it says.
pub type Tag = [u8; 3];

/// Which of the two things that are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The arm64 Image that is started.
    Image,
    /// The bundle, which the Image finds as its initrd.
    Bundle,
}

impl Part {
    /// Both, in the order in which they are sent.
    pub const ALL: [Self; 2] = [Self::Image, Self::Bundle];
}

/// How long a part is, and what its bytes hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its size in bytes.
    pub size: u32,
    /// Its SHA-256.
    pub hash: Hash,
}

impl Extent {
    /// That of `bytes`; none if they are more than a 32-bit size says.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            size: u32::try_from(bytes.len()).ok()?,
            hash: Sha256::digest(bytes).into(),
        })
    }

    const fn blocks(&self) -> u32 {
        self.size.div_ceil(BLOCK as u32)
    }
}

/// What a host wants to have started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<'a> {
    /// The image.
    pub image: Extent,
    /// The bundle; of size 0 if there is none.
    pub bundle: Extent,
    /// The image's command line; the board's own stays if it is empty.
    pub bootargs: &'a [u8],
}

/// A block's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The part it is of.
    pub part: Part,
    /// Which bytes of it.
    pub bytes: Range<usize>,
}

impl Offer<'_> {
    /// That part.
    #[must_use]
    pub const fn extent(&self, part: Part) -> &Extent {
        match part {
            Part::Image => &self.image,
            Part::Bundle => &self.bundle,
        }
    }

    /// Its name.
    #[must_use]
    pub fn tag(&self) -> Tag {
        let mut hasher = Sha256::new();
        for part in Part::ALL {
            let extent = self.extent(part);
            hasher.update(extent.size.to_le_bytes());
            hasher.update(extent.hash);
        }
        hasher.update(self.bootargs);
        let hash: Hash = hasher.finalize().into();
        let [a, b, c, ..] = hash;
        // No tag is what a loader without an offer says.
        [a | 1, b, c]
    }

    /// How many blocks it has.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.image.blocks().saturating_add(self.bundle.blocks())
    }

    /// Where a block belongs; none if there is no such block.
    #[must_use]
    pub fn place(&self, index: u32) -> Option<Place> {
        let (part, index) = match index.checked_sub(self.image.blocks()) {
            None => (Part::Image, index),
            Some(index) => (Part::Bundle, index),
        };
        let size = usize::try_from(self.extent(part).size).ok()?;
        let start = usize::try_from(index).ok()?.checked_mul(BLOCK)?;
        (start < size).then(|| Place {
            part,
            bytes: start..size.min(start + BLOCK),
        })
    }

    /// The first block of a part.
    #[must_use]
    pub const fn first_block(&self, part: Part) -> u32 {
        match part {
            Part::Image => 0,
            Part::Bundle => self.image.blocks(),
        }
    }
}

/// Which blocks are there: all below `next`, and of the 64 behind that one those whose bit is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Have {
    /// The first that is missing.
    pub next: u32,
    /// Bit n: block `next + 1 + n`.
    pub ahead: u64,
}

/// How far ahead of the first missing block one may be.
pub const REACH: u32 = u64::BITS;

impl Have {
    /// Whether a block is there.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        index < self.next || self.bit(index).is_some_and(|bit| self.ahead & bit != 0)
    }

    /// Whether a block may come now.
    #[must_use]
    pub fn reaches(&self, index: u32) -> bool {
        index == self.next || self.bit(index).is_some()
    }

    /// Adds one that may come.
    pub fn add(&mut self, index: u32) {
        if index == self.next {
            let run = self.ahead.trailing_ones();
            self.next = self.next.saturating_add(1 + run);
            self.ahead = self.ahead.checked_shr(run + 1).unwrap_or(0);
        } else if let Some(bit) = self.bit(index) {
            self.ahead |= bit;
        }
    }

    fn bit(&self, index: u32) -> Option<u64> {
        let distance = index.checked_sub(self.next)?.checked_sub(1)?;
        1u64.checked_shl(distance)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn offer(image: u32, bundle: u32) -> Offer<'static> {
        let extent = |size| Extent {
            size,
            hash: [0; 32],
        };
        Offer {
            image: extent(image),
            bundle: extent(bundle),
            bootargs: b"",
        }
    }

    #[test]
    fn blocks_cover_both_parts_and_do_not_cross() {
        let offer = offer(2049, 1024);
        assert_eq!(offer.blocks(), 4);
        let place = |index| offer.place(index).map(|place| (place.part, place.bytes));
        assert_eq!(place(1), Some((Part::Image, 1024..2048)));
        assert_eq!(place(2), Some((Part::Image, 2048..2049)));
        assert_eq!(place(3), Some((Part::Bundle, 0..1024)));
        assert_eq!(place(4), None);
        assert_eq!(offer.first_block(Part::Bundle), 3);
    }

    #[test]
    fn whatever_differs_has_another_tag() {
        let tags = [offer(1, 1), offer(1, 2), offer(2, 1)].map(|offer| offer.tag());
        let mut worded = offer(1, 1);
        worded.bootargs = b"words";
        let all: BTreeSet<_> = tags.into_iter().chain([worded.tag()]).collect();
        assert_eq!(all.len(), 4);
        assert!(!all.contains(&[0; 3]));
    }

    proptest! {
        #[test]
        fn what_is_there_is_what_was_added(order in Just((0u32..150).collect::<std::vec::Vec<_>>())
            .prop_shuffle())
        {
            let mut have = Have::default();
            let mut added = BTreeSet::new();
            let mut due: std::collections::VecDeque<_> = order.into();
            // What cannot come yet comes later.
            while let Some(index) = due.pop_front() {
                if have.reaches(index) {
                    have.add(index);
                    added.insert(index);
                } else {
                    prop_assert!(!have.has(index));
                    due.push_back(index);
                }
                for index in 0..150 {
                    prop_assert_eq!(have.has(index), added.contains(&index), "{}", index);
                }
            }
            prop_assert_eq!(have, Have { next: 150, ahead: 0 });
        }
    }
}
