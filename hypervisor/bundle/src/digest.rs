//! Which bytes of a bundle are covered by what. Each image's `hash-1` covers its data, as U-Boot has
//! it; our own [`DIGEST`] in the root covers all the rest, the configurations and the header included,
//! so that no bit of a bundle can change unnoticed and none is hashed twice.

use core::ops::Range;

use platform::devicetree::{Node, Tree};
use sha2::{Digest, Sha256};

/// The root's property with the hash of everything but images' data and itself.
pub const DIGEST: &str = "halligan,digest";

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash of one part.
pub fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The hash of the parts of the bundle `bytes` that no image's hash covers.
pub fn frame(bytes: &[u8], tree: &Tree<'_, '_>) -> Hash {
    let own = tree.find("/").and_then(|root| root.property(DIGEST));
    let data = images(tree).filter_map(|image| image.property("data"));
    let mut hasher = Sha256::new();
    let mut at = 0;
    // In the order of the structure block, where properties come before children.
    for left_out in own.into_iter().chain(data) {
        let left_out = place(bytes, left_out);
        hasher.update(bytes.get(at..left_out.start).unwrap_or_default());
        at = left_out.end;
    }
    hasher.update(bytes.get(at..).unwrap_or_default());
    hasher.finalize().into()
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
