//! Blobs that can be read by `fdt`: checked, and without NOPs.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use dtb::{Blob, Damage, Token};

use crate::Error;

/// How many bytes the devicetree that starts with these bytes has; its first 40 suffice.
///
/// # Errors
///
/// If they are no devicetree's, or fewer than 40.
pub fn dtb_size(header: &[u8]) -> Result<usize, Error> {
    dtb::size(header).map_err(error)
}

#[cold]
#[inline(never)]
fn error(damage: Damage) -> Error {
    match damage {
        Damage::NoMagic => Error::new(
            "blob",
            "does not start with the devicetree magic 0xd00dfeed",
            "have the loader pass its address in x0",
        ),
        Damage::Broken(what) => {
            let mend = "have the loader hand over the whole devicetree, unaltered";
            Error::new("blob", what, mend)
        }
    }
}

/// Bytes that a copy without NOPs may have. What is read before the hypervisor has found RAM of its own has 512 KiB for
/// everything, of which the list of nodes takes up to 320.
const MOST_COPIED: usize = 128 << 10;

/// A blob that has been checked as a whole and has no NOPs: what `fdt` relies on.
#[derive(Clone, Debug)]
pub struct Settled<'a> {
    bytes: Cow<'a, [u8]>,
    is_cut: bool,
}

impl<'a> Settled<'a> {
    /// Checks a blob, and copies it without its NOPs if it has some: its first 128 KiB, if that would be more. `dtb` may be
    /// longer than it; the rest is ignored.
    ///
    /// # Errors
    ///
    /// If it is cut short or damaged.
    pub fn new(dtb: &'a [u8]) -> Result<Self, Error> {
        let blob = Blob::check(dtb).map_err(error)?;
        if blob.has_nops() {
            let (bytes, is_cut) = without_nops(&blob)?;
            let bytes = Cow::Owned(bytes);
            return Ok(Self { bytes, is_cut });
        }
        let bytes = Cow::Borrowed(blob.bytes());
        let is_cut = false;
        Ok(Self { bytes, is_cut })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Those that it was made from, if it has no copy.
    pub const fn original(&self) -> Option<&'a [u8]> {
        match self.bytes {
            Cow::Borrowed(bytes) => Some(bytes),
            Cow::Owned(_) => None,
        }
    }

    /// Whether a copy had no room for all of the blob.
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }
}

/// A copy without NOPs, and whether it ends before the blob does.
#[cold]
#[inline(never)]
fn without_nops(blob: &Blob<'_>) -> Result<(Vec<u8>, bool), Error> {
    /// Devicetree Specification 5.4.1: FDT_END_NODE and FDT_END.
    const END_NODE: [u8; 4] = 2_u32.to_be_bytes();
    const END: [u8; 4] = 9_u32.to_be_bytes();
    /// More than the root's begin, and two ends.
    const LEAST: usize = 64;
    let (reservations, strings) = (blob.reservations(), blob.strings());
    let start = dtb::header::SIZE + reservations.len();
    let around = start + strings.len();
    if around + LEAST > MOST_COPIED {
        return Err(super::too_large());
    }
    // Smaller than the one that it is made from.
    let mut settled = Vec::with_capacity(blob.bytes().len().min(MOST_COPIED));
    settled.extend_from_slice(&[0; dtb::header::SIZE]);
    settled.extend_from_slice(reservations);
    let (mut depth, mut is_cut) = (0, false);
    for (token, bytes) in blob.walk() {
        match token {
            Token::Nop => continue,
            Token::BeginNode(_) => depth += 1,
            Token::EndNode => depth -= 1,
            Token::Property(..) | Token::End => {}
        }
        // With the ends of all nodes that it leaves open.
        let ends = (depth + 1) * END.len();
        is_cut = settled.len() + bytes.len() + ends + strings.len() > MOST_COPIED;
        if is_cut {
            // Of those that were open before.
            if let Token::BeginNode(_) = token {
                depth -= 1;
            }
            break;
        }
        settled.extend_from_slice(bytes);
    }
    if is_cut {
        for left in (0..=depth).rev() {
            settled.extend_from_slice(if left > 0 { &END_NODE } else { &END });
        }
    }
    let structure = settled.len() - start;
    settled.extend_from_slice(strings);
    let parts = [reservations.len(), structure, strings.len(), 0];
    let header = dtb::write_header(parts, blob.boot_cpu());
    if let (Some(first), Some(header)) = (settled.first_chunk_mut(), header) {
        *first = header;
    }
    Ok((settled, is_cut))
}
