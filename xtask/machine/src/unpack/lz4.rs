//! LZ4: frames (LZ4 Frame Format Description), and the older ones that Linux's kernels are packed in.

use std::io::{self, ErrorKind, Read};

use lz4_flex::block::decompress;
use lz4_flex::frame::FrameDecoder;

/// The most that a block of a legacy frame unpacks into.
const LEGACY_BLOCK: usize = 8 << 20;

fn cut() -> io::Error {
    ErrorKind::UnexpectedEof.into()
}

/// A word of `bytes` at `at`.
fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map(|word| u32::from_le_bytes(*word)).ok_or_else(cut)
}

/// Unpacks a legacy frame, of which no more than `room` bytes: blocks of 8 MiB with their packed size before each, to the
/// end of the file or what is no block's size.
pub fn legacy<'a>(packed: &'a [u8], out: &mut Vec<u8>, room: u64) -> io::Result<&'a [u8]> {
    let begin = out.len();
    let mut rest = packed.get(4..).ok_or_else(cut)?;
    while !rest.is_empty() {
        let size = word(rest, 0)?;
        // A new frame, the unpacked size at the end, or padding.
        let is_last = rest.len() == 4 && size == out.len() as u32;
        if is_last || size == 0 || size > most_packed(LEGACY_BLOCK) {
            break;
        }
        let end = 4 + size as usize;
        let block = rest.get(4..end).ok_or_else(cut)?;
        out.extend(decompress(block, LEGACY_BLOCK).map_err(io::Error::other)?);
        rest = &rest[end..];
        if (out.len() - begin) as u64 >= room {
            break;
        }
    }
    Ok(rest)
}

/// What a block of so many bytes takes at most when it cannot be packed (`LZ4_COMPRESSBOUND`).
const fn most_packed(size: usize) -> u32 {
    (size + size / 255 + 16) as u32
}

/// Unpacks a frame, of which no more than `room` bytes. The decoder takes a missing end for an end, so it is looked for
/// before.
pub fn frame<'a>(packed: &'a [u8], out: &mut Vec<u8>, room: u64) -> io::Result<&'a [u8]> {
    let end = frame_end(packed)?;
    let (own, rest) = packed.split_at_checked(end).ok_or_else(cut)?;
    FrameDecoder::new(own).take(room).read_to_end(out)?;
    Ok(rest)
}

/// How many bytes the frame has that `packed` begins with.
fn frame_end(packed: &[u8]) -> io::Result<usize> {
    let flags = *packed.get(4).ok_or_else(cut)?;
    let has = |bit: u8| usize::from(flags >> bit & 1);
    // Magic, flags, block descriptor, content size, dictionary, header checksum.
    let mut at = 4 + 2 + 8 * has(3) + 4 * has(0) + 1;
    loop {
        // Bit 31: not packed.
        let size = word(packed, at)? & 0x7fff_ffff;
        at += 4;
        if size == 0 {
            return Ok(at + 4 * has(2));
        }
        at += size as usize + 4 * has(4);
    }
}
