//! What host and loader say to each other. Numbers are little endian; a message is a byte that says which,
//! the tag of the offer it is about, and what the variant holds, in its order.

use crate::frame::LONGEST;
use crate::offer::{BLOCK, Extent, Have, LONGEST_BOOTARGS, Offer, Part, Tag};

/// Of this protocol. A loader of another version says so, and no more.
pub const VERSION: u8 = 1;

/// What a host without a board's answer, or a loader without an offer, puts for a tag.
pub const NO_TAG: Tag = [0; 3];

/// What the host says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromHost<'a> {
    /// Is anybody there? Answered by `Ready`.
    Hello,
    /// This is to be loaded. Answered by how far the loader is with it.
    Offer(Offer<'a>),
    /// A part of it. Answered by `State`.
    Block {
        /// Of which offer.
        tag: Tag,
        /// Which.
        index: u32,
        /// Counts what the host sends; the answer repeats it.
        sequence: u32,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// From now on at so many baud. Answered by `Rate` at the old rate.
    Rate(u32),
    /// Start what was verified. Answered by `Going`.
    Go(Tag),
}

/// What the loader says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromLoader {
    /// It is there.
    Ready {
        /// The offer it has.
        tag: Tag,
        /// The protocol it speaks.
        version: u8,
        /// Whether it can change the line's rate.
        rates: bool,
        /// A number that is another one after a reset.
        life: u32,
    },
    /// Which blocks of an offer it has.
    State {
        /// The offer.
        tag: Tag,
        /// The blocks.
        have: Have,
        /// The highest sequence number it has heard.
        sequence: u32,
        /// Whether the line has been silent, so that nothing is on its way.
        idle: bool,
    },
    /// It will not load it.
    Refused(Tag, Refusal),
    /// It is hashing what it has; so many percent done.
    Checking(Tag, u8),
    /// All is in memory as offered, and can be started.
    Verified(Tag),
    /// A part is in memory otherwise than offered, and must be sent again.
    Mismatch(Tag, Part),
    /// It starts it now; so many more messages follow.
    Going(Tag, u8),
    /// The rate is this from now on.
    Rate(u32),
}

/// Why a loader does not load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Image or bundle is larger than the room for it.
    TooLarge,
    /// The image has no header of an arm64 Image, or an empty or impossible size.
    NoImage,
    /// The board's devicetree cannot be told of what was loaded.
    Devicetree,
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "image or bundle is larger than the room that the loader has for it",
            Self::NoImage => "what was sent as the image is no arm64 Image",
            Self::Devicetree => {
                "the devicetree that the firmware handed over is damaged or too large"
            }
        })
    }
}

const REFUSALS: [Refusal; 3] = [Refusal::TooLarge, Refusal::NoImage, Refusal::Devicetree];

/// A message in the making.
struct Writer<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let place = self.buffer.get_mut(self.length..)?.get_mut(..bytes.len())?;
        place.copy_from_slice(bytes);
        self.length += bytes.len();
        Some(())
    }
}

/// A message being read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|&[byte]| byte)
    }

    fn word(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn extent(&mut self) -> Option<Extent> {
        Some(Extent {
            size: self.word()?,
            hash: *self.array()?,
        })
    }

    fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    /// `message` if nothing is left.
    fn closed<T>(self, message: T) -> Option<T> {
        self.0.is_empty().then_some(message)
    }
}

/// Room for any message.
pub type Buffer = [u8; LONGEST];

impl<'a> FromHost<'a> {
    /// The message in bytes; none if it holds more than a message may.
    #[must_use]
    pub fn write<'b>(&self, buffer: &'b mut Buffer) -> Option<&'b [u8]> {
        let mut to = Writer { buffer, length: 0 };
        match self {
            Self::Hello => to.put(&[1, 0, 0, 0])?,
            Self::Offer(offer) => {
                if offer.bootargs.len() > LONGEST_BOOTARGS {
                    return None;
                }
                to.put(&[2])?;
                to.put(&offer.tag())?;
                for part in Part::ALL {
                    let extent = offer.extent(part);
                    to.put(&extent.size.to_le_bytes())?;
                    to.put(&extent.hash)?;
                }
                to.put(offer.bootargs)?;
            }
            Self::Block {
                tag,
                index,
                sequence,
                bytes,
            } => {
                to.put(&[3])?;
                to.put(tag)?;
                to.put(&index.to_le_bytes())?;
                to.put(&sequence.to_le_bytes())?;
                // The bytes begin where they can be copied by words.
                to.put(&[0; 4])?;
                to.put(bytes)?;
            }
            Self::Rate(rate) => {
                to.put(&[4, 0, 0, 0])?;
                to.put(&rate.to_le_bytes())?;
            }
            Self::Go(tag) => {
                to.put(&[5])?;
                to.put(tag)?;
            }
        }
        let length = to.length;
        buffer.get(..length)
    }

    /// Reads one; none if it is not of this protocol.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let kind = from.byte()?;
        let tag = *from.array()?;
        let message = match kind {
            1 => Self::Hello,
            2 => {
                let offer = Offer {
                    image: from.extent()?,
                    bundle: from.extent()?,
                    bootargs: from.rest(),
                };
                if offer.bootargs.len() > LONGEST_BOOTARGS || offer.tag() != tag {
                    return None;
                }
                Self::Offer(offer)
            }
            3 => {
                let (index, sequence) = (from.word()?, from.word()?);
                let _padding = from.word()?;
                let bytes = from.rest();
                if bytes.len() > BLOCK {
                    return None;
                }
                Self::Block {
                    tag,
                    index,
                    sequence,
                    bytes,
                }
            }
            4 => Self::Rate(from.word()?),
            5 => Self::Go(tag),
            _ => return None,
        };
        from.closed(message)
    }
}

impl FromLoader {
    /// The message in bytes.
    #[must_use]
    pub fn write<'b>(&self, buffer: &'b mut Buffer) -> Option<&'b [u8]> {
        let mut to = Writer { buffer, length: 0 };
        let (kind, tag) = match *self {
            Self::Ready { tag, .. } => (0x81, tag),
            Self::State { tag, .. } => (0x82, tag),
            Self::Refused(tag, _) => (0x83, tag),
            Self::Checking(tag, _) => (0x84, tag),
            Self::Verified(tag) => (0x85, tag),
            Self::Mismatch(tag, _) => (0x86, tag),
            Self::Going(tag, _) => (0x87, tag),
            Self::Rate(_) => (0x88, NO_TAG),
        };
        to.put(&[kind])?;
        to.put(&tag)?;
        match *self {
            Self::Ready {
                version,
                rates,
                life,
                ..
            } => {
                to.put(&[version, u8::from(rates)])?;
                to.put(&life.to_le_bytes())?;
            }
            Self::State {
                have,
                sequence,
                idle,
                ..
            } => {
                to.put(&have.next.to_le_bytes())?;
                to.put(&have.ahead.to_le_bytes())?;
                to.put(&sequence.to_le_bytes())?;
                to.put(&[u8::from(idle)])?;
            }
            Self::Refused(_, why) => {
                let number = REFUSALS.iter().position(|known| *known == why)?;
                to.put(&[u8::try_from(number).ok()?])?;
            }
            Self::Checking(_, percent) => to.put(&[percent])?,
            Self::Verified(_) => {}
            Self::Mismatch(_, part) => to.put(&[u8::from(part == Part::Bundle)])?,
            Self::Going(_, left) => to.put(&[left])?,
            Self::Rate(rate) => to.put(&rate.to_le_bytes())?,
        }
        let length = to.length;
        buffer.get(..length)
    }

    /// Reads one; none if it is not of this protocol.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let kind = from.byte()?;
        let tag = *from.array()?;
        let message = match kind {
            0x81 => {
                let ready = Self::Ready {
                    tag,
                    version: from.byte()?,
                    rates: from.byte()? != 0,
                    life: from.word()?,
                };
                // A later version may say more.
                from.rest();
                ready
            }
            0x82 => Self::State {
                tag,
                have: Have {
                    next: from.word()?,
                    ahead: u64::from_le_bytes(*from.array()?),
                },
                sequence: from.word()?,
                idle: from.byte()? != 0,
            },
            0x83 => Self::Refused(tag, *REFUSALS.get(usize::from(from.byte()?))?),
            0x84 => Self::Checking(tag, from.byte()?),
            0x85 => Self::Verified(tag),
            0x86 => Self::Mismatch(
                tag,
                match from.byte()? {
                    0 => Part::Image,
                    1 => Part::Bundle,
                    _ => return None,
                },
            ),
            0x87 => Self::Going(tag, from.byte()?),
            0x88 => Self::Rate(from.word()?),
            _ => return None,
        };
        from.closed(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: Tag = [1, 2, 3];

    #[test]
    fn all_that_is_said_is_understood() {
        let extent = |size| Extent {
            size,
            hash: [7; 32],
        };
        let offer = Offer {
            image: extent(5),
            bundle: extent(6),
            bootargs: b"words",
        };
        let block = FromHost::Block {
            tag: TAG,
            index: 9,
            sequence: 10,
            bytes: &[5; BLOCK],
        };
        let mut buffer = [0; LONGEST];
        for said in [
            FromHost::Hello,
            FromHost::Offer(offer),
            block,
            FromHost::Rate(921_600),
            FromHost::Go(TAG),
        ] {
            let bytes = said.write(&mut buffer).unwrap();
            assert_eq!(FromHost::read(bytes), Some(said));
            assert_eq!(FromLoader::read(bytes), None);
        }
        let have = Have {
            next: 5,
            ahead: u64::MAX,
        };
        for said in [
            FromLoader::Ready {
                tag: TAG,
                version: VERSION,
                rates: true,
                life: 77,
            },
            FromLoader::State {
                tag: TAG,
                have,
                sequence: 9,
                idle: true,
            },
            FromLoader::Refused(TAG, Refusal::Devicetree),
            FromLoader::Checking(TAG, 50),
            FromLoader::Verified(TAG),
            FromLoader::Mismatch(TAG, Part::Bundle),
            FromLoader::Going(TAG, 2),
            FromLoader::Rate(115_200),
        ] {
            let bytes = said.write(&mut buffer).unwrap();
            assert_eq!(FromLoader::read(bytes), Some(said));
            assert_eq!(FromHost::read(bytes), None);
        }
    }

    #[test]
    fn an_offer_that_is_not_what_its_tag_says_is_not_read() {
        let extent = Extent {
            size: 1,
            hash: [0; 32],
        };
        let offer = Offer {
            image: extent,
            bundle: extent,
            bootargs: b"",
        };
        let mut buffer = [0; LONGEST];
        let length = FromHost::Offer(offer).write(&mut buffer).unwrap().len();
        buffer[5] ^= 1;
        assert_eq!(FromHost::read(&buffer[..length]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..LONGEST)) {
            let _ = FromHost::read(&bytes);
            let _ = FromLoader::read(&bytes);
        }
    }
}
