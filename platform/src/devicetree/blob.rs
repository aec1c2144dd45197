//! Is this blob safe to read? Everything that reading relies on is checked here. (`dtoolkit` has a
//! checker too, but it refuses names of more than 31 bytes, which every other arm64 board in Linux has.)

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::Error;

/// The fixed part at the start of every blob (Devicetree Specification 5.2), and where in it what is.
const HEADER_SIZE: usize = 40;
const MAGIC: u32 = 0xd00d_feed;
const TOTAL_SIZE: usize = 4;
const STRUCTURE: usize = 8;
const STRINGS: usize = 12;
const RESERVATIONS: usize = 16;
const VERSION: usize = 20;
const LAST_COMPATIBLE_VERSION: usize = 24;
const STRINGS_SIZE: usize = 32;
const STRUCTURE_SIZE: usize = 36;

/// The version that is read here, and all that say they are compatible with it.
const KNOWN_VERSION: u32 = 17;

/// How deep nodes may nest; bounds the stack that reading takes. Real trees stay below 10.
const MAX_DEPTH: usize = 32;

const HAND_OVER: &str = "have the loader hand over the whole devicetree, unaltered";

/// How many bytes the devicetree that starts with these bytes has; its first 40 suffice.
///
/// # Errors
///
/// If they are no devicetree's, or fewer than 40.
pub fn dtb_size(header: &[u8]) -> Result<usize, Error> {
    if word(header, 0).is_some_and(|magic| magic != MAGIC) {
        return Err(Error::new(
            "blob",
            "does not start with the devicetree magic 0xd00dfeed",
            "have the loader pass its address in x0",
        ));
    }
    match word(header, TOTAL_SIZE) {
        Some(size) if header.len() >= HEADER_SIZE && size as usize >= HEADER_SIZE => {
            Ok(size as usize)
        }
        _ => Err(broken("is too short for a header")),
    }
}

/// A blob that has been checked as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Blob<'a> {
    bytes: &'a [u8],
    structure: &'a [u8],
    strings: &'a [u8],
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
            return Err(broken("is cut short"));
        };
        let oldest = word(bytes, LAST_COMPATIBLE_VERSION).unwrap_or_default();
        let newest = word(bytes, VERSION).unwrap_or_default();
        if !(oldest..=newest).contains(&KNOWN_VERSION) {
            return Err(broken("has a version other than 17"));
        }
        let (Some(structure), Some(strings)) = (
            block(bytes, STRUCTURE, STRUCTURE_SIZE),
            block(bytes, STRINGS, STRINGS_SIZE),
        ) else {
            return Err(broken("has a header that does not fit it"));
        };
        if !reservations_end(bytes) {
            return Err(broken("has a reservation block without end"));
        }
        let mut blob = Self {
            bytes,
            structure,
            strings,
            has_nops: false,
        };
        blob.has_nops = blob.check_structure()?;
        Ok(blob)
    }

    /// Follows the structure block's grammar (Devicetree Specification 5.4.2) to its end; returns
    /// whether there are NOPs.
    fn check_structure(&self) -> Result<bool, Error> {
        const BROKEN: &str = "has a broken structure block";
        let mut walk = Walk::new(self.structure);
        let (mut depth, mut has_nops) = (0, false);
        // Whether a property may come next: not behind a node's children.
        let mut in_properties = false;
        let mut has_root = false;
        while let Some(token) = walk.next() {
            match token {
                Token::Begin(name)
                    if depth > 0 && is_name(name) || !has_root && name.is_empty() =>
                {
                    has_root = true;
                    in_properties = true;
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(broken("nests its nodes too deep"));
                    }
                }
                Token::Property(name) if in_properties => {
                    let name = self.strings.get(name as usize..);
                    if !name.and_then(until_nul).is_some_and(is_name) {
                        return Err(broken("has a property without a proper name"));
                    }
                }
                Token::EndNode if depth > 0 => {
                    in_properties = false;
                    depth -= 1;
                }
                Token::Nop => has_nops = true,
                Token::End if has_root && depth == 0 => return Ok(has_nops),
                _ => return Err(broken(BROKEN)),
            }
        }
        Err(broken(BROKEN))
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
        // The reservation block may be anywhere; a copy of it goes right behind the header.
        let reservations = word(self.bytes, RESERVATIONS).unwrap_or_default() as usize;
        let mut settled = Vec::with_capacity(self.bytes.len());
        settled.extend_from_slice(self.bytes.get(..HEADER_SIZE).unwrap_or_default());
        for entry in entries(self.bytes, reservations) {
            settled.extend_from_slice(entry);
        }
        settled.extend_from_slice(&[0; 16]);
        let structure = settled.len();
        let mut walk = Walk::new(self.structure);
        loop {
            let start = walk.at;
            let token = walk.next();
            if !matches!(token, Some(Token::Nop)) {
                settled.extend_from_slice(self.structure.get(start..walk.at).unwrap_or_default());
            }
            if matches!(token, Some(Token::End) | None) {
                break;
            }
        }
        let strings = settled.len();
        settled.extend_from_slice(self.strings);
        for (at, value) in [
            (TOTAL_SIZE, settled.len()),
            (RESERVATIONS, HEADER_SIZE),
            (STRUCTURE, structure),
            (STRUCTURE_SIZE, strings - structure),
            (STRINGS, strings),
        ] {
            if let Some(field) = settled.get_mut(at..at + 4) {
                field.copy_from_slice(&(value as u32).to_be_bytes());
            }
        }
        settled
    }
}

#[cold]
fn broken(what: &'static str) -> Error {
    Error::new("blob", what, HAND_OVER)
}

/// The part of the blob that two fields of its header delimit.
fn block(bytes: &[u8], start: usize, size: usize) -> Option<&[u8]> {
    let start = word(bytes, start)? as usize;
    bytes.get(start..start.checked_add(word(bytes, size)? as usize)?)
}

/// The entries of a reservation block before the empty one that ends it.
fn entries(bytes: &[u8], start: usize) -> impl Iterator<Item = &[u8; 16]> {
    let (entries, _) = bytes.get(start..).unwrap_or_default().as_chunks();
    entries.iter().take_while(|entry| **entry != [0; 16])
}

/// Whether an empty entry ends the reservation block.
fn reservations_end(bytes: &[u8]) -> bool {
    let start = word(bytes, RESERVATIONS).unwrap_or_default() as usize;
    let end = start + entries(bytes, start).count() * 16;
    bytes.get(end..end + 16).is_some()
}

/// Whether this can be a name and a component of a path.
fn is_name(name: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_graphic() && *byte != b'/';
    !name.is_empty() && name.iter().all(fits)
}

fn until_nul(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    bytes.get(..end)
}

enum Token<'a> {
    /// With the node's name.
    Begin(&'a [u8]),
    /// With the offset of its name among the strings.
    Property(u32),
    EndNode,
    Nop,
    End,
}

/// A walk over the tokens of a structure block: big-endian words on word boundaries
/// (Devicetree Specification 5.4.1).
struct Walk<'a> {
    structure: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn new(structure: &'a [u8]) -> Self {
        Self { structure, at: 0 }
    }

    /// The next token with all that belongs to it; none if there is no whole one.
    fn next(&mut self) -> Option<Token<'a>> {
        let token = word(self.structure, self.at)?;
        let body = self.at + 4;
        let (token, size) = match token {
            1 => {
                let name = until_nul(self.structure.get(body..)?)?;
                (Token::Begin(name), name.len() + 1)
            }
            2 => (Token::EndNode, 0),
            3 => {
                let size = word(self.structure, body)? as usize;
                (Token::Property(word(self.structure, body + 4)?), 8 + size)
            }
            4 => (Token::Nop, 0),
            9 => (Token::End, 0),
            _ => return None,
        };
        let end = body + size.next_multiple_of(4);
        self.structure.get(body..end)?;
        self.at = end;
        Some(token)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
