//! The format of devicetree blobs (Devicetree Specification 5): is this one sound, and what is in it, in order. For all who
//! read or write one; it neither allocates nor panics, whatever the bytes.
//!
//! Everything that reading relies on is checked by [`Blob::check`]. (`dtoolkit` has a checker too, but it refuses names of
//! more than 31 bytes, which every other arm64 board in Linux has.)
#![no_std]
#![forbid(unsafe_code)]

mod walk;

pub use walk::{Token, Walk};

/// The fixed part at the start of every blob (5.2): big-endian words, and where each is.
pub mod header {
    /// Bytes of it.
    pub const SIZE: usize = 40;
    /// The first word.
    pub const MAGIC: u32 = 0xd00d_feed;
    /// The version that is read and written here.
    pub const VERSION: u32 = 17;
    /// The oldest version that it is compatible with.
    pub const COMPATIBLE_VERSION: u32 = 16;

    pub(crate) const TOTAL_SIZE: usize = 4;
    pub(crate) const STRUCTURE: usize = 8;
    pub(crate) const STRINGS: usize = 12;
    pub(crate) const RESERVATIONS: usize = 16;
    pub(crate) const OWN_VERSION: usize = 20;
    pub(crate) const LAST_COMPATIBLE_VERSION: usize = 24;
    pub(crate) const BOOT_CPU: usize = 28;
    pub(crate) const STRINGS_SIZE: usize = 32;
    pub(crate) const STRUCTURE_SIZE: usize = 36;
}

/// The tokens of a structure block (5.4.1).
pub mod token {
    /// A node begins; its name follows.
    pub const BEGIN_NODE: u32 = 1;
    /// A node ends.
    pub const END_NODE: u32 = 2;
    /// A property; its size, the offset of its name and its value follow.
    pub const PROPERTY: u32 = 3;
    /// Nothing.
    pub const NOP: u32 = 4;
    /// The end.
    pub const END: u32 = 9;
}

/// How deep nodes may nest; bounds the stack that reading takes. Real trees stay below 10.
const MAX_DEPTH: usize = 32;

/// What is wrong with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is something else.
    NoMagic,
    /// It is cut short or broken; the words follow "the blob".
    Broken(&'static str),
}

/// How many bytes the blob that starts with these bytes has; its first 40 suffice.
///
/// # Errors
///
/// If they are no blob's, or fewer than 40.
pub fn size(header: &[u8]) -> Result<usize, Damage> {
    if word(header, 0).is_some_and(|magic| magic != header::MAGIC) {
        return Err(Damage::NoMagic);
    }
    match word(header, header::TOTAL_SIZE) {
        Some(size) if header.len() >= header::SIZE && size as usize >= header::SIZE => {
            Ok(size as usize)
        }
        _ => Err(Damage::Broken("is too short for a header")),
    }
}

/// A blob that has been checked as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Blob<'a> {
    bytes: &'a [u8],
    reservations: &'a [u8],
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
    pub fn check(dtb: &'a [u8]) -> Result<Self, Damage> {
        let Some(bytes) = dtb.get(..size(dtb)?) else {
            return Err(Damage::Broken("is cut short"));
        };
        let oldest = word(bytes, header::LAST_COMPATIBLE_VERSION).unwrap_or_default();
        let newest = word(bytes, header::OWN_VERSION).unwrap_or_default();
        if !(oldest..=newest).contains(&header::VERSION) {
            return Err(Damage::Broken("has a version other than 17"));
        }
        let (Some(structure), Some(strings)) = (
            block(bytes, header::STRUCTURE, header::STRUCTURE_SIZE),
            block(bytes, header::STRINGS, header::STRINGS_SIZE),
        ) else {
            return Err(Damage::Broken("has a header that does not fit it"));
        };
        let Some(reservations) = reservations(bytes) else {
            return Err(Damage::Broken("has a reservation block without end"));
        };
        let mut blob = Self {
            bytes,
            reservations,
            structure,
            strings,
            has_nops: false,
        };
        blob.has_nops = blob.check_structure()?;
        Ok(blob)
    }

    /// Follows the structure block's grammar (5.4.2) to its end; returns whether there are NOPs.
    fn check_structure(&self) -> Result<bool, Damage> {
        const BROKEN: Damage = Damage::Broken("has a broken structure block");
        let (mut depth, mut has_nops) = (0, false);
        // Whether a property may come next: not behind a node's children.
        let mut in_properties = false;
        let mut has_root = false;
        for (token, _) in self.walk() {
            match token {
                Token::BeginNode(name)
                    if depth > 0 && is_name(name) || !has_root && name.is_empty() =>
                {
                    has_root = true;
                    in_properties = true;
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(Damage::Broken("nests its nodes too deep"));
                    }
                }
                Token::Property(name, _) if in_properties => {
                    if !is_name(name) {
                        return Err(Damage::Broken("has a property without a proper name"));
                    }
                }
                Token::EndNode if depth > 0 => {
                    in_properties = false;
                    depth -= 1;
                }
                Token::Nop => has_nops = true,
                Token::End if has_root && depth == 0 => return Ok(has_nops),
                _ => return Err(BROKEN),
            }
        }
        Err(BROKEN)
    }

    /// All of it.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The reservation block, with the empty entry that ends it.
    pub const fn reservations(&self) -> &'a [u8] {
        self.reservations
    }

    /// The strings block.
    pub const fn strings(&self) -> &'a [u8] {
        self.strings
    }

    /// The number of the boot CPU.
    pub fn boot_cpu(&self) -> u32 {
        word(self.bytes, header::BOOT_CPU).unwrap_or_default()
    }

    /// Whether parts of it are blanked out with NOPs, as firmware does to remove them.
    pub const fn has_nops(&self) -> bool {
        self.has_nops
    }

    /// Its tokens in order.
    pub const fn walk(&self) -> Walk<'a> {
        Walk::new(self.structure, self.strings)
    }
}

/// The header of a blob that consists, behind it, of these parts in this order: a reservation block, a structure block,
/// strings, and `spare` bytes. None if it would be too large for the format.
pub fn write_header(
    [reservations, structure, strings, spare]: [usize; 4],
    boot_cpu: u32,
) -> Option<[u8; header::SIZE]> {
    let structure_at = header::SIZE.checked_add(reservations)?;
    let strings_at = structure_at.checked_add(structure)?;
    let total = strings_at.checked_add(strings)?.checked_add(spare)?;
    let number = |number: usize| u32::try_from(number).ok();
    let fields = [
        header::MAGIC,
        number(total)?,
        number(structure_at)?,
        number(strings_at)?,
        header::SIZE as u32,
        header::VERSION,
        header::COMPATIBLE_VERSION,
        boot_cpu,
        number(strings)?,
        number(structure)?,
    ];
    let mut bytes = [0; header::SIZE];
    let (words, _) = bytes.as_chunks_mut();
    for (word, field) in words.iter_mut().zip(fields) {
        *word = field.to_be_bytes();
    }
    Some(bytes)
}

/// The part of the blob that two fields of its header delimit.
fn block(bytes: &[u8], start: usize, size: usize) -> Option<&[u8]> {
    let start = word(bytes, start)? as usize;
    bytes.get(start..start.checked_add(word(bytes, size)? as usize)?)
}

/// The reservation block with the empty entry that ends it.
fn reservations(bytes: &[u8]) -> Option<&[u8]> {
    let block = bytes.get(word(bytes, header::RESERVATIONS)? as usize..)?;
    let (entries, _) = block.as_chunks::<16>();
    let last = entries.iter().position(|entry| *entry == [0; 16])?;
    block.get(..(last + 1) * 16)
}

/// Whether this can be a name and a component of a path.
fn is_name(name: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_graphic() && *byte != b'/';
    !name.is_empty() && name.iter().all(fits)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests;
