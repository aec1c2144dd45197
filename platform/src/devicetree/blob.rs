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

/// A blob that has been checked as a whole and has no NOPs: what `fdt` relies on.
#[derive(Clone, Debug)]
pub struct Settled<'a>(Cow<'a, [u8]>);

impl<'a> Settled<'a> {
    /// Checks a blob, and copies it without its NOPs if it has some. `dtb` may be longer than it; the rest is ignored.
    ///
    /// # Errors
    ///
    /// If it is cut short or damaged.
    pub fn new(dtb: &'a [u8]) -> Result<Self, Error> {
        let blob = Blob::check(dtb).map_err(error)?;
        Ok(Self(if blob.has_nops() {
            Cow::Owned(without_nops(&blob))
        } else {
            Cow::Borrowed(blob.bytes())
        }))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Those that it was made from, if it has no copy.
    pub const fn original(&self) -> Option<&'a [u8]> {
        match self.0 {
            Cow::Borrowed(bytes) => Some(bytes),
            Cow::Owned(_) => None,
        }
    }
}

#[cold]
#[inline(never)]
fn without_nops(blob: &Blob<'_>) -> Vec<u8> {
    let kept = || {
        let all = blob.walk();
        all.filter_map(|(token, bytes)| (token != Token::Nop).then_some(bytes))
    };
    let structure = kept().map(<[u8]>::len).sum();
    let (reservations, strings) = (blob.reservations(), blob.strings());
    let parts = [reservations.len(), structure, strings.len(), 0];
    let size = dtb::header::SIZE + parts.iter().sum::<usize>();
    // Smaller than the one that it is made from.
    let header = dtb::write_header(parts, blob.boot_cpu()).unwrap_or([0; dtb::header::SIZE]);
    let mut settled = Vec::with_capacity(size);
    settled.extend_from_slice(&header);
    settled.extend_from_slice(reservations);
    for bytes in kept() {
        settled.extend_from_slice(bytes);
    }
    settled.extend_from_slice(strings);
    settled
}
