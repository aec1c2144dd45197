//! Which bytes of a bundle are covered by what. Each image's `hash-1` covers its data, as U-Boot has
//! it; our own [`DIGEST`] in the root covers all the rest, the configurations and the header included,
//! so that no bit of a bundle can change unnoticed and none is hashed twice.

use core::ops::Range;

use platform::devicetree::{Node, Tree};

use crate::Crc32;

/// The root's property with the hash of everything but images' data and itself.
pub const DIGEST: &str = "halligan,digest";

/// What an image's `hash-1` says it was made with: U-Boot's name for CRC-32.
pub const ALGORITHM: &str = "crc32";

/// A CRC-32, the most significant byte first, as U-Boot writes it.
pub type Hash = [u8; 4];

/// The hash of one part.
pub fn hash(crc: &dyn Crc32, bytes: &[u8]) -> Hash {
    crc.checksum(bytes).to_be_bytes()
}

/// The hash of the parts of the bundle `bytes` that no image's hash covers.
pub fn frame(crc: &dyn Crc32, bytes: &[u8], tree: &Tree<'_, '_>) -> Hash {
    let own = tree.find("/").and_then(|root| root.property(DIGEST));
    let data = images(tree).filter_map(|image| image.property("data"));
    let mut state = crc.start();
    let mut at = 0;
    // In the order of the structure block, where properties come before children.
    for left_out in own.into_iter().chain(data) {
        let left_out = place(bytes, left_out);
        let covered = bytes.get(at..left_out.start).unwrap_or_default();
        state = crc.update(state, covered);
        at = left_out.end;
    }
    let last = bytes.get(at..).unwrap_or_default();
    (!crc.update(state, last)).to_be_bytes()
}

/// The nodes below `/images`.
pub fn images<'t, 'a>(tree: &'t Tree<'t, 'a>) -> impl Iterator<Item = Node<'t, 'a>> {
    let images = tree.find("/images").map(Node::children);
    images.into_iter().flatten()
}

/// Where `part`, a piece of `whole`, is in it.
pub fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start..start.saturating_add(part.len())
}
