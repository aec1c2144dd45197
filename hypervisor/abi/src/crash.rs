//! The crash record: the report's lines, framed as on the console, in memory that no boot clears, behind a header by which the next boot
//! and tools find it.

/// Size of the area, header included, in bytes. It begins on a page.
pub const SIZE: usize = 64 * 1024;
/// Size of the header: magic, length of the text, its checksum.
pub const HEADER_SIZE: usize = 24;
/// Where it may begin, in bytes.
pub const ALIGNMENT: usize = 4096;

const MAGIC: u64 = u64::from_le_bytes(*b"HLGNcrsh");

/// FNV-1a, 64 bits: enough to tell a record from what a reset left half written.
fn checksum(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The header in front of `text`.
pub fn header(text: &[u8]) -> [u8; HEADER_SIZE] {
    let mut header = [0; HEADER_SIZE];
    let words = [MAGIC, text.len() as u64, checksum(text)];
    for (bytes, word) in header.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    header
}

/// The text of the record that `area` begins with, if it does and the text is whole.
pub fn text(area: &[u8]) -> Option<&[u8]> {
    let (header, rest) = area.split_first_chunk::<HEADER_SIZE>()?;
    let mut words = header.chunks_exact(8).map(|bytes| {
        bytes
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    });
    let (magic, length, sum) = (words.next()?, words.next()?, words.next()?);
    if magic != MAGIC {
        return None;
    }
    let text = rest.get(..usize::try_from(length).ok()?)?;
    (length as usize <= SIZE - HEADER_SIZE && checksum(text) == sum).then_some(text)
}

/// The text of the first record in `memory`, which begins on a page.
pub fn find(memory: &[u8]) -> Option<&[u8]> {
    (0..memory.len())
        .step_by(ALIGNMENT)
        .find_map(|at| text(memory.get(at..)?))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn area(text: &[u8]) -> Vec<u8> {
        [&header(text)[..], text, &[0xff; 100]].concat()
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        assert_eq!(text(&area(b"what happened")), Some(&b"what happened"[..]));
        assert_eq!(text(&area(b"")), Some(&b""[..]));
    }

    #[test]
    fn what_is_damaged_or_cut_short_is_no_record() {
        let whole = area(b"what happened");
        for byte in 0..HEADER_SIZE + 13 {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1;
            assert_eq!(text(&damaged), None, "byte {byte}");
        }
        for length in 0..HEADER_SIZE + 13 {
            assert_eq!(text(&whole[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn it_is_found_on_any_page_of_a_memory() {
        let mut memory = vec![0; 3 * ALIGNMENT];
        assert_eq!(find(&memory), None);
        memory.extend(area(b"here"));
        assert_eq!(find(&memory), Some(&b"here"[..]));
    }
}
