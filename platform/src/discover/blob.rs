//! Is this blob safe to read? `dtoolkit` checks header, structure and strings; what `fdt` silently
//! relies on beyond that is checked or made true here, because `fdt` panics where it is not.

use alloc::borrow::Cow;

use dtoolkit::fdt_mut::FdtMut;

use crate::Error;

/// The fixed part at the start of every blob (Devicetree Specification 5.2).
const HEADER_SIZE: usize = 40;
const MAGIC: u32 = 0xd00d_feed;

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
    let (Some(magic), Some(size)) = (word(header, 0), word(header, 4)) else {
        return Err(Error::new(BLOB, "is too short for a header", HAND_OVER));
    };
    if magic != MAGIC {
        return Err(Error::new(
            BLOB,
            "does not start with the devicetree magic 0xd00dfeed",
            "have the loader pass its address in x0",
        ));
    }
    let size = size as usize;
    if header.len() < HEADER_SIZE || size < HEADER_SIZE {
        return Err(Error::new(BLOB, "is too short for a header", HAND_OVER));
    }
    Ok(size)
}

/// Checks the whole of `dtb` and returns it in a form that `fdt` reads without surprises: no byte
/// behind its end, no NOP between its nodes, no structure outside the structure block.
pub fn check(dtb: &[u8]) -> Result<Cow<'_, [u8]>, Error> {
    let Some(dtb) = dtb.get(..dtb_size(dtb)?) else {
        return Err(Error::new(BLOB, "is cut short", HAND_OVER));
    };
    dtoolkit::fdt::Fdt::new(dtb).map_err(Error::Malformed)?;
    let Some(extent) = Extent::measure(dtb) else {
        return Err(Error::new(BLOB, "has a broken structure block", HAND_OVER));
    };
    if extent.depth > MAX_DEPTH {
        return Err(Error::new(
            BLOB,
            "nests its nodes more than 32 deep",
            HAND_OVER,
        ));
    }
    if !extent.has_nops {
        return Ok(Cow::Borrowed(dtb));
    }
    // Firmware blanks out what it removes with NOPs, which `fdt` does not expect everywhere.
    let mut compact = used(dtb).to_vec();
    let size = compact.len() as u32;
    if let Some(total) = compact.get_mut(4..8) {
        total.copy_from_slice(&size.to_be_bytes());
    }
    FdtMut::new(&mut compact)
        .map_err(Error::Malformed)?
        .compact();
    Ok(Cow::Owned(compact))
}

/// The blob without the room some loaders leave behind its strings, the last block of all.
fn used(dtb: &[u8]) -> &[u8] {
    let strings = word(dtb, 12).zip(word(dtb, 32));
    let end = strings.map(|(start, size)| start as usize + size as usize);
    end.and_then(|end| dtb.get(..end)).unwrap_or(dtb)
}

/// What a walk over the structure block finds.
struct Extent {
    depth: usize,
    has_nops: bool,
}

impl Extent {
    /// Walks the tokens of a blob that `dtoolkit` accepts; `None` if they do not end with the
    /// structure block, as its header gives it.
    fn measure(dtb: &[u8]) -> Option<Self> {
        let start = word(dtb, 8)? as usize;
        let size = word(dtb, 36)? as usize;
        let tokens = dtb.get(start..start.checked_add(size)?)?;
        let (mut at, mut depth) = (0usize, 0usize);
        let mut extent = Self {
            depth: 0,
            has_nops: false,
        };
        loop {
            // Devicetree Specification 5.4.1: each token is a big-endian word on a word boundary.
            let token = word(tokens, at)?;
            at += 4;
            match token {
                1 => {
                    depth += 1;
                    extent.depth = extent.depth.max(depth);
                    let name = tokens.get(at..)?.iter().position(|&byte| byte == 0)?;
                    at += (name + 1).next_multiple_of(4);
                }
                2 => depth = depth.checked_sub(1)?,
                3 => {
                    let length = word(tokens, at)? as usize;
                    at += 8 + length.next_multiple_of(4);
                }
                4 => extent.has_nops = true,
                9 => return Some(extent),
                _ => return None,
            }
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word))
}
