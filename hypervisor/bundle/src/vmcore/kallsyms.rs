//! Linux's own table of its symbols (Linux `kernel/kallsyms.c`, `scripts/kallsyms.c`, of 6.0 and later), read in the guest's memory:
//! where some of them are. VMCOREINFO says where its parts are.
//!
//! A name is a length, of one byte or from 128 on of two, and as many tokens: numbers of strings, which make the kind and
//! the name together.

use core::cell::Cell;

use platform::Range;

use super::info::value;
use crate::Piece;

/// More is no kernel's table: Linux with all of Debian's drivers has a third of it.
const MOST_SYMBOLS: u32 = 1 << 19;
/// So many looks at memory are taken at most, two of which are enough for most symbols: whoever has filled a table with what
/// may be one of the names is answered as soon.
pub(super) const MOST_LOOKS: u32 = 4 * MOST_SYMBOLS;
/// The length of the longest name that is looked for, with its kind, and so the most tokens of it that are read.
const LONGEST: usize = 20;
/// Bytes in front of the tokens: the length.
const LENGTH: usize = 2;

/// The guest's memory, by the addresses of its kernel's image.
pub(super) struct Image<'a, R> {
    /// Its RAM.
    pub ram: &'a [Piece],
    /// What an address of the image has more than where it is (`kimage_voffset`).
    pub voffset: u64,
    /// Reads in the RAM.
    pub read: R,
    /// How many more looks are taken.
    pub looks: Cell<u32>,
}

impl<R: Fn(u64, &mut [u8])> Image<'_, R> {
    /// So many bytes at an address, fewer than a page has; none if they are not all in RAM, or no more looks are taken.
    pub fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        self.looks.set(self.looks.get().checked_sub(1)?);
        let start = address.wrapping_sub(self.voffset);
        let is_in = |at: u64| {
            let mut ram = self.ram.iter();
            ram.any(|piece| {
                at.checked_sub(piece.ipa)
                    .is_some_and(|from| from < piece.size)
            })
        };
        // They may be in two pieces. What is between two that do not touch is whole pages.
        let last = start.checked_add(N as u64 - 1)?;
        let mut bytes = [0; N];
        (is_in(start) && is_in(last)).then(|| {
            (self.read)(start, &mut bytes);
            bytes
        })
    }

    fn word(&self, address: u64) -> Option<u32> {
        self.bytes(address).map(u32::from_le_bytes)
    }
}

/// Where the parts of the table are.
struct Table {
    count: u32,
    names: u64,
    tokens: u64,
    /// Where in the tokens' strings each begins.
    index: [u8; 512],
    offsets: u64,
    /// What an offset is added to; without, to where it is itself (7.0 and later).
    base: Option<u64>,
}

/// Where the symbols of these names are in the kernel whose VMCOREINFO is `text`; none if one is not in its table.
pub(super) fn find<const N: usize, R: Fn(u64, &mut [u8])>(
    names: [&[u8]; N],
    text: Range,
    image: &Image<'_, R>,
) -> Option<[u64; N]> {
    let symbol = |key| value(text, key, &image.read);
    let base = symbol(b"SYMBOL(kallsyms_relative_base)");
    let table = Table {
        count: image.word(symbol(b"SYMBOL(kallsyms_num_syms)")?)?,
        names: symbol(b"SYMBOL(kallsyms_names)")?,
        tokens: symbol(b"SYMBOL(kallsyms_token_table)")?,
        index: image.bytes(symbol(b"SYMBOL(kallsyms_token_index)")?)?,
        offsets: symbol(b"SYMBOL(kallsyms_offsets)")?,
        base: match base {
            Some(place) => Some(image.bytes(place).map(u64::from_le_bytes)?),
            None => None,
        },
    };
    table.find(names, image)
}

impl Table {
    fn find<const N: usize, R: Fn(u64, &mut [u8])>(
        &self,
        names: [&[u8]; N],
        image: &Image<'_, R>,
    ) -> Option<[u64; N]> {
        let mut found = [None; N];
        let mut at = self.names;
        for number in 0..self.count.min(MOST_SYMBOLS) {
            let entry: [u8; LENGTH + LONGEST] = image.bytes(at)?;
            let [first, second, ..] = entry;
            let (length, start) = if first < 128 {
                (usize::from(first), 1)
            } else {
                (usize::from(first & 127) | usize::from(second) << 7, LENGTH)
            };
            at = at.wrapping_add((start + length) as u64);
            let Some(tokens) = entry.get(start..start + length) else {
                continue;
            };
            if let Some(which) = self.which(tokens, names, image) {
                *found.get_mut(which)? = Some(self.address(number, image)?);
                if found.iter().all(Option::is_some) {
                    break;
                }
            }
        }
        let mut places = [0; N];
        for (place, found) in places.iter_mut().zip(found) {
            *place = found?;
        }
        Some(places)
    }

    /// Which of the names these tokens make.
    fn which<const N: usize, R: Fn(u64, &mut [u8])>(
        &self,
        tokens: &[u8],
        names: [&[u8]; N],
        image: &Image<'_, R>,
    ) -> Option<usize> {
        let mut name = [0; LONGEST];
        let mut length = 0;
        for &token in tokens {
            let (halves, _) = self.index.as_chunks::<2>();
            let place = u16::from_le_bytes(*halves.get(usize::from(token))?);
            let string: [u8; LONGEST] = image.bytes(self.tokens.wrapping_add(place.into()))?;
            for byte in string.into_iter().take_while(|&byte| byte != 0) {
                *name.get_mut(length)? = byte;
                length += 1;
            }
            let known = name.get(1..length).unwrap_or_default();
            if !names.iter().any(|wanted| wanted.starts_with(known)) {
                return None;
            }
        }
        let known = name.get(1..length)?;
        names.iter().position(|wanted| *wanted == known)
    }

    fn address<R: Fn(u64, &mut [u8])>(&self, number: u32, image: &Image<'_, R>) -> Option<u64> {
        let place = self.offsets.wrapping_add(4 * u64::from(number));
        let offset = image.word(place)?;
        Some(match self.base {
            Some(base) => base.wrapping_add(offset.into()),
            None => place.wrapping_add_signed((offset as i32).into()),
        })
    }
}
