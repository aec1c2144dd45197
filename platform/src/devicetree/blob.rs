//! Is this blob safe to read?

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::Error;

/// The fixed part at the start of every blob (Devicetree Specification 5.2), and where in it what is.
const HEADER_SIZE: usize = 40;
const MAGIC: u32 = 0xd00d_feed;
const TOTAL_SIZE: usize = 4;
const STRUCTURE: usize = 8;
const STRINGS: usize = 12;
const STRINGS_SIZE: usize = 32;
const STRUCTURE_SIZE: usize = 36;

/// How deep nodes may nest; bounds the stack that reading takes. Real trees stay below 10.
const MAX_DEPTH: usize = 32;

const BLOB: &str = "blob";
const HAND_OVER: &str = "have the loader hand over the whole devicetree, unaltered";

/// How many bytes the devicetree that starts with these bytes has; its first 40 suffice.
///
/// # Errors
///
/// If they are no devicetree's, or fewer than 40.
pub fn dtb_size(header: &[u8]) -> Result<usize, Error> {
    let magic = word(header, 0);
    if magic.is_some_and(|magic| magic != MAGIC) {
        return Err(Error::new(
            BLOB,
            "does not start with the devicetree magic 0xd00dfeed",
            "have the loader pass its address in x0",
        ));
    }
    match word(header, TOTAL_SIZE) {
        Some(size) if header.len() >= HEADER_SIZE && size as usize >= HEADER_SIZE => {
            Ok(size as usize)
        }
        _ => Err(Error::new(BLOB, "is too short for a header", HAND_OVER)),
    }
}

/// A blob that has been checked as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Blob<'a> {
    bytes: &'a [u8],
    has_nops: bool,
}

impl<'a> Blob<'a> {
    /// Checks a blob. `dtb` may be longer than it; the rest is ignored.
    ///
    /// # Errors
    ///
    /// If it is cut short or damaged.
    #[inline(never)]
    pub fn check(dtb: &'a [u8]) -> Result<Self, Error> {
        let Some(bytes) = dtb.get(..dtb_size(dtb)?) else {
            return Err(Error::new(BLOB, "is cut short", HAND_OVER));
        };
        dtoolkit::fdt::Fdt::new(bytes).map_err(Error::Malformed)?;
        // `dtoolkit` follows the tokens wherever they lead; they must not leave the structure block.
        let mut walk = Walk::new(bytes);
        let mut has_nops = false;
        loop {
            match walk.next() {
                Some(Token::Nop) => has_nops = true,
                Some(Token::End) => return Ok(Self { bytes, has_nops }),
                Some(Token::Other) if walk.depth <= MAX_DEPTH => {}
                Some(Token::Other) => {
                    return Err(Error::new(BLOB, "nests its nodes too deep", HAND_OVER));
                }
                None => return Err(Error::new(BLOB, "has a broken structure", HAND_OVER)),
            }
        }
    }

    /// Its bytes, unless parts of it are blanked out with NOPs, as firmware does to remove them.
    pub fn settled(&self) -> Option<&'a [u8]> {
        (!self.has_nops).then_some(self.bytes)
    }

    /// Its bytes without what is blanked out.
    pub fn settle(&self) -> Cow<'a, [u8]> {
        match self.settled() {
            Some(bytes) => Cow::Borrowed(bytes),
            None => Cow::Owned(self.without_nops()),
        }
    }

    #[cold]
    #[inline(never)]
    fn without_nops(&self) -> Vec<u8> {
        let place = |at| word(self.bytes, at).unwrap_or_default() as usize;
        let piece = |start: usize, size| self.bytes.get(start..start.saturating_add(size));
        let mut settled = piece(0, place(STRUCTURE)).unwrap_or_default().to_vec();
        let mut walk = Walk::new(self.bytes);
        loop {
            let start = walk.at;
            let token = walk.next();
            if !matches!(token, Some(Token::Nop)) {
                settled.extend_from_slice(walk.tokens.get(start..walk.at).unwrap_or_default());
            }
            if matches!(token, Some(Token::End) | None) {
                break;
            }
        }
        let strings = settled.len();
        settled.extend_from_slice(piece(place(STRINGS), place(STRINGS_SIZE)).unwrap_or_default());
        for (at, value) in [
            (TOTAL_SIZE, settled.len()),
            (STRINGS, strings),
            (STRUCTURE_SIZE, strings - place(STRUCTURE)),
        ] {
            if let Some(field) = settled.get_mut(at..at + 4) {
                field.copy_from_slice(&(value as u32).to_be_bytes());
            }
        }
        settled
    }
}

enum Token {
    Nop,
    End,
    Other,
}

/// A walk over the tokens of a structure block: big-endian words on word boundaries
/// (Devicetree Specification 5.4.1).
struct Walk<'a> {
    tokens: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let block = word(bytes, STRUCTURE).zip(word(bytes, STRUCTURE_SIZE));
        let tokens = block.and_then(|(start, size)| {
            let start = start as usize;
            bytes.get(start..start.checked_add(size as usize)?)
        });
        Self {
            tokens: tokens.unwrap_or_default(),
            at: 0,
            depth: 0,
        }
    }

    /// The next token with all that belongs to it; none behind the end or what is broken.
    fn next(&mut self) -> Option<Token> {
        let token = word(self.tokens, self.at)?;
        self.at += 4;
        match token {
            1 => {
                self.depth += 1;
                let name = self.tokens.get(self.at..)?;
                let length = name.iter().position(|&byte| byte == 0)? + 1;
                self.at += length.next_multiple_of(4);
            }
            2 => self.depth = self.depth.checked_sub(1)?,
            3 => {
                let length = word(self.tokens, self.at)? as usize;
                self.at += 8 + length.next_multiple_of(4);
            }
            4 => return Some(Token::Nop),
            9 => return Some(Token::End),
            _ => return None,
        }
        Some(Token::Other)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
