//! Which bytes of a bundle are covered by what. Each image's `hash-1` covers its data, as U-Boot has
//! it; our own [`DIGEST`] in the root covers all the rest, the configurations and the header included,
//! so that no bit of a bundle can change unnoticed and none is hashed twice.

use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use sha2::{Digest, Sha256};

/// The root's property with the hash of everything but images' data and itself.
pub const DIGEST: &str = "halligan,digest";

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash of one part.
pub fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The hash of the parts of a bundle that no image's hash covers.
pub fn frame(fit: Fdt<'_>) -> Hash {
    let bytes = fit.data();
    let mut left_out: Vec<Range<usize>> = images(fit)
        .filter_map(|image| image.property("data"))
        .chain(fit.root().property(DIGEST))
        .map(|property| place(bytes, property.value()))
        .collect();
    left_out.sort_unstable_by_key(|range| range.start);
    let mut hasher = Sha256::new();
    let mut at = 0;
    for part in left_out {
        hasher.update(bytes.get(at..part.start).unwrap_or_default());
        at = part.end;
    }
    hasher.update(bytes.get(at..).unwrap_or_default());
    hasher.finalize().into()
}

/// The nodes below `/images`.
pub fn images(fit: Fdt<'_>) -> impl Iterator<Item = dtoolkit::fdt::FdtNode<'_>> {
    fit.find_node("/images")
        .into_iter()
        .flat_map(|images| images.children())
}

/// Where `part`, a piece of `whole`, is in it.
pub fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start..start.saturating_add(part.len())
}
