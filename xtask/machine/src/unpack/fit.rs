//! The kernel inside a FIT image, as Linux's `make image.fit` makes it (Flattened Image Tree Specification 3): `/images` has a
//! node of a kernel, whose bytes are in it or behind the blob.

use dtb::{Blob, Token};

/// What is known of a node of `/images`.
#[derive(Clone, Copy, Default)]
struct Part<'a> {
    kind: &'a [u8],
    data: Option<&'a [u8]>,
    /// Where the data are behind the blob, and how many bytes they have.
    offset: Option<usize>,
    size: Option<usize>,
}

/// The bytes of the first kernel in the FIT image that `bytes` begin with; `None` if they are none, or one without a kernel.
pub fn kernel(bytes: &[u8]) -> Option<&[u8]> {
    let blob = Blob::check(bytes).ok()?;
    let mut path: Vec<&[u8]> = Vec::new();
    let mut part = Part::default();
    for (token, _) in blob.walk() {
        match token {
            Token::BeginNode(name) => {
                path.push(name);
                if is_part(&path) {
                    part = Part::default();
                }
            }
            Token::Property(name, value) if is_part(&path) => match name {
                b"type" => part.kind = value,
                b"data" => part.data = Some(value),
                b"data-offset" => part.offset = number(value),
                b"data-size" => part.size = number(value),
                _ => {}
            },
            Token::EndNode => {
                if is_part(&path) && part.kind.starts_with(b"kernel") {
                    return part.data.or_else(|| behind(bytes, &blob, part));
                }
                path.pop();
            }
            _ => {}
        }
    }
    None
}

/// Whether `path` is that of a child of `/images`.
fn is_part(path: &[&[u8]]) -> bool {
    matches!(path, [b"", b"images", _])
}

fn number(value: &[u8]) -> Option<usize> {
    let word = value.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(word)).ok()
}

/// The data of `part` behind the blob, from its end on, rounded up to a word.
fn behind<'a>(bytes: &'a [u8], blob: &Blob<'_>, part: Part<'_>) -> Option<&'a [u8]> {
    let end = blob.bytes().len().next_multiple_of(4);
    let start = end.checked_add(part.offset?)?;
    bytes.get(start..start.checked_add(part.size?)?)
}
