//! LZO: files of `lzop`, as Linux's `make Image.lzo` has them made, and the LZO1X stream in their blocks (Linux
//! `Documentation/staging/lzo.rst`).

use std::io::{self, ErrorKind};

/// How such a file begins.
pub const MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";

/// Bits of the header's flags: checksums of what a block unpacks into and of how it is packed, an extra field, a filter.
const ADLER32_D: u32 = 1;
const ADLER32_C: u32 = 1 << 1;
const EXTRA_FIELD: u32 = 1 << 6;
const CRC32_D: u32 = 1 << 8;
const CRC32_C: u32 = 1 << 9;
const FILTER: u32 = 1 << 11;

/// The most that a block may unpack into.
const BLOCK: usize = 64 << 20;

fn cut() -> io::Error {
    ErrorKind::UnexpectedEof.into()
}

fn wrong(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size).ok_or_else(cut)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> io::Result<usize> {
        Ok(self.take(1)?[0].into())
    }

    /// A big-endian number of so many bytes.
    fn number(&mut self, size: usize) -> io::Result<u32> {
        let bytes = self.take(size)?.iter();
        Ok(bytes.fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
    }

    fn little_u16(&mut self) -> io::Result<usize> {
        Ok(self.byte()? | self.byte()? << 8)
    }

    /// The rest of a length that began with 0: 255 for each zero byte, and the byte behind them.
    fn length(&mut self) -> io::Result<usize> {
        let mut sum = 0;
        loop {
            match self.byte()? {
                0 if sum > BLOCK => return Err(wrong("a length is too large")),
                0 => sum += 255,
                last => return Ok(sum + last),
            }
        }
    }
}

/// Unpacks such a file, of which no more than `room` bytes and a block; answers what is behind it.
pub fn unpack<'a>(packed: &'a [u8], out: &mut Vec<u8>, room: u64) -> io::Result<&'a [u8]> {
    let begin = out.len();
    let mut reader = Reader(packed);
    let flags = header(&mut reader)?;
    let has = |flag: u32| flags & flag != 0;
    loop {
        let size = reader.number(4)? as usize;
        if size == 0 {
            return Ok(reader.0);
        }
        let packed_size = reader.number(4)? as usize;
        if size > BLOCK || packed_size > size {
            return Err(wrong("a block's size is too large"));
        }
        let adler = has(ADLER32_D).then(|| reader.number(4)).transpose()?;
        if has(CRC32_D) {
            reader.number(4)?;
        }
        for flag in [ADLER32_C, CRC32_C] {
            if has(flag) && packed_size < size {
                reader.number(4)?;
            }
        }
        let block = reader.take(packed_size)?;
        let start = out.len();
        if packed_size == size {
            out.extend(block);
        } else {
            lzo1x(block, out, size)?;
        }
        let is_whole = out.len() - start == size;
        if !is_whole || adler.is_some_and(|adler| adler != adler32(&out[start..])) {
            return Err(wrong("a block's size or checksum is another"));
        }
        if (out.len() - begin) as u64 >= room {
            return Ok(reader.0);
        }
    }
}

/// Reads the header, and answers its flags.
fn header(reader: &mut Reader<'_>) -> io::Result<u32> {
    /// The version since which there is more.
    const NEW: u32 = 0x940;
    reader.take(MAGIC.len())?;
    let version = reader.number(2)?;
    reader.number(2)?;
    if version >= NEW {
        reader.number(2)?;
    }
    let method = reader.number(1)?;
    if !(1..=3).contains(&method) {
        return Err(wrong("it is not packed with LZO1X"));
    }
    if version >= NEW {
        reader.number(1)?;
    }
    let flags = reader.number(4)?;
    if flags & FILTER != 0 {
        return Err(wrong("it is filtered"));
    }
    // Mode and time.
    reader.take(if version >= NEW { 12 } else { 8 })?;
    let name = reader.byte()?;
    reader.take(name + 4)?;
    if flags & EXTRA_FIELD != 0 {
        let size = reader.number(4)? as usize;
        reader.take(size + 4)?;
    }
    Ok(flags)
}

/// Unpacks a stream of LZO1X, which must become `size` bytes.
pub fn lzo1x(packed: &[u8], out: &mut Vec<u8>, size: usize) -> io::Result<()> {
    let mut reader = Reader(packed);
    let start = out.len();
    // How many literals the last instruction copied: 0 to 3 with a match, 4 for more.
    let mut state = 0;
    let mut first = true;
    while out.len() - start <= size {
        let code = reader.byte()?;
        if first && code >= 17 {
            first = false;
            let count = code - 17;
            out.extend(reader.take(count)?);
            state = count.min(4);
            continue;
        }
        first = false;
        let (distance, length, literals) = match code {
            0..=15 if state == 0 => {
                let count = 3 + if code == 0 {
                    15 + reader.length()?
                } else {
                    code
                };
                out.extend(reader.take(count)?);
                state = 4;
                continue;
            }
            0..=15 => {
                let high = reader.byte()? << 2;
                let near = high + (code >> 2 & 3);
                if state == 4 {
                    (near + 2049, 3, code & 3)
                } else {
                    (near + 1, 2, code & 3)
                }
            }
            16..=31 => {
                let length = 2 + match code & 7 {
                    0 => 7 + reader.length()?,
                    short => short,
                };
                let word = reader.little_u16()?;
                let distance = 16384 + ((code & 8) << 11) + (word >> 2);
                if distance == 16384 {
                    let is_all = reader.0.is_empty() && length == 3;
                    return is_all
                        .then_some(())
                        .ok_or_else(|| wrong("a block ends early"));
                }
                (distance, length, word & 3)
            }
            32..=63 => {
                let length = 2 + match code & 31 {
                    0 => 31 + reader.length()?,
                    short => short,
                };
                let word = reader.little_u16()?;
                ((word >> 2) + 1, length, word & 3)
            }
            _ => {
                let (near, length) = if code < 128 {
                    (code >> 2 & 7, 3 + (code >> 5 & 1))
                } else {
                    (code >> 2 & 7, 5 + (code >> 5 & 3))
                };
                ((reader.byte()? << 3) + near + 1, length, code & 3)
            }
        };
        let from = out
            .len()
            .checked_sub(distance)
            .filter(|&from| from >= start);
        let from = from.ok_or_else(|| wrong("a match lies before the block"))?;
        // It may overlap what it makes.
        for at in from..from + length {
            out.push(out[at]);
        }
        out.extend(reader.take(literals)?);
        state = literals;
    }
    Err(wrong("a block is larger than it says"))
}

/// RFC 1950 9.
fn adler32(bytes: &[u8]) -> u32 {
    const BASE: u32 = 65521;
    // So many bytes do not overflow.
    let (a, b) = bytes
        .chunks(5552)
        .fold((1u32, 0u32), |(mut a, mut b), chunk| {
            for &byte in chunk {
                a += u32::from(byte);
                b += a;
            }
            (a % BASE, b % BASE)
        });
    b << 16 | a
}
