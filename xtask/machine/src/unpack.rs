//! Packed kernels: what Linux's own `make` (`Image.gz`, `Image.zst`, ..., `vmlinuz.efi`, `image.fit`) and distributions produce.
//!
//! A file may have several streams, one behind the other, as `cat` and parallel packers make it. Behind the last may be
//! zeros, the size of what is unpacked in four bytes (`size_append` of Linux `scripts/Makefile.lib`), or a devicetree
//! (`Image.gz-dtb`); anything else is refused, so that nothing is cut off without a word.

mod fit;
mod lz4;
mod lzo;

use std::io::{self, Read};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::StreamingDecoder;

pub use lzo::lzo1x;

/// How a stream is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Bzip2,
    Xz,
    Lzma,
    Lz4,
    Lz4Legacy,
    Lzo,
    Zstd,
    ZstdSkippable,
}

/// The most memory that a stream may want for its dictionary: what `zstd -22 --ultra` and `xz -9e` want, and four times as
/// much for decoders' own needs.
const DICTIONARY: u64 = 128 << 20;
const DECODER_KIB: u32 = 512 << 10;

/// The names by which an EFI zboot image says how it is packed (Linux `drivers/firmware/efi/libstub/Makefile.zboot`).
const ZBOOT: [(&str, Packing); 8] = [
    ("gzip", Packing::Gzip),
    ("bzip2", Packing::Bzip2),
    ("xz", Packing::Xz),
    ("xzkern", Packing::Xz),
    ("lzma", Packing::Lzma),
    ("lz4", Packing::Lz4Legacy),
    ("lzo", Packing::Lzo),
    ("zstd", Packing::Zstd),
];

impl Packing {
    /// How `bytes` are packed, if they are.
    fn of(bytes: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 8] = [
            (b"\x1f\x8b\x08", Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x02\x21\x4c\x18", Self::Lz4Legacy),
            (b"\x04\x22\x4d\x18", Self::Lz4),
            (lzo::MAGIC, Self::Lzo),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            (b"\x2a\x4d\x18", Self::ZstdSkippable),
        ];
        let at = |packing| usize::from(packing == Self::ZstdSkippable);
        let found = magics.into_iter().find(|&(magic, packing)| {
            // A skippable frame's first byte is 0x50 to 0x5f (RFC 8878 3.1.2).
            let rest = bytes.get(at(packing)..).unwrap_or_default();
            rest.starts_with(magic) && (at(packing) == 0 || bytes[0] & 0xf0 == 0x50)
        });
        found
            .map(|(_, packing)| packing)
            .or_else(|| is_lzma(bytes).then_some(Self::Lzma))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 | Self::Lz4Legacy => "lz4",
            Self::Lzo => "lzop",
            Self::Zstd | Self::ZstdSkippable => "zstd",
        }
    }

    /// Unpacks the stream that `packed` begins with into `out`, of which no more than `limit` bytes and one; answers what is
    /// behind it. Where its end cannot be found all is taken for it.
    fn unpack<'a>(self, packed: &'a [u8], out: &mut Vec<u8>, limit: u64) -> io::Result<&'a [u8]> {
        let mut rest = packed;
        let room = (limit + 1).saturating_sub(out.len() as u64);
        match self {
            Self::Gzip => {
                let mut decoder = GzDecoder::new(packed);
                decoder.by_ref().take(room).read_to_end(out)?;
                Ok(decoder.into_inner())
            }
            Self::Bzip2 => {
                let mut decoder = BzDecoder::new(packed);
                decoder.by_ref().take(room).read_to_end(out)?;
                Ok(decoder.into_inner())
            }
            Self::Xz => {
                let mut decoder = XzReader::new_mem_limit(&mut rest, false, DECODER_KIB);
                decoder.by_ref().take(room).read_to_end(out)?;
                drop(decoder);
                Ok(rest)
            }
            Self::Lzma => {
                let mut decoder = LzmaReader::new_mem_limit(rest, DECODER_KIB, None)?;
                decoder.set_relaxed_end_condition(false);
                decoder.by_ref().take(room).read_to_end(out)?;
                let (behind, buffered) = decoder.into_parts();
                let unread = behind.len() + buffered.len();
                Ok(&packed[packed.len().saturating_sub(unread)..])
            }
            Self::Lz4 => lz4::frame(packed, out, room),
            Self::Lz4Legacy => lz4::legacy(packed, out, room),
            Self::Lzo => lzo::unpack(packed, out, room),
            Self::Zstd => {
                let frame = StreamingDecoder::new_with_max_window_size(&mut rest, DICTIONARY);
                let mut decoder = frame.map_err(io::Error::other)?;
                decoder.by_ref().take(room).read_to_end(out)?;
                let decoder = decoder.into_frame_decoder();
                let said = decoder.get_checksum_from_data();
                if said.is_some()
                    && said != decoder.get_calculated_checksum()
                    && out.len() as u64 <= limit
                {
                    return Err(io::Error::other("its checksum is another"));
                }
                Ok(rest)
            }
            Self::ZstdSkippable => {
                let size = packed.get(4..8).and_then(|bytes| bytes.try_into().ok());
                let size = size.map_or(u64::MAX, |bytes| 8 + u64::from(u32::from_le_bytes(bytes)));
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                packed
                    .get(size..)
                    .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

/// Whether they begin with the header of `lzma`, which has no magic number: properties, the size of the dictionary and
/// that of what is unpacked, which are as `lzma` makes them.
fn is_lzma(bytes: &[u8]) -> bool {
    let Some(&[0x5d, d0, d1, d2, d3, s0, s1, s2, s3, s4, s5, s6, s7]) = bytes.first_chunk() else {
        return false;
    };
    let dictionary = u32::from_le_bytes([d0, d1, d2, d3]);
    let size = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    // 2^n or 2^n + 2^(n-1), from 4 KiB on.
    let ones = dictionary.count_ones();
    let is_usual = dictionary >= 4096
        && (ones == 1
            || ones == 2 && dictionary.leading_zeros() + dictionary.trailing_zeros() == 30);
    is_usual && (size == u64::MAX || size < 1 << 38)
}

/// Undoes packing, alone or inside an EFI zboot or FIT image, and leaves the rest as it is. What is unpacked may have `limit`
/// bytes.
pub fn unpack(bytes: Vec<u8>, limit: u64) -> Result<Vec<u8>> {
    if let Some((packing, payload)) = zboot_payload(&bytes)? {
        return streams(packing, payload, limit);
    }
    let kernel = fit::kernel(&bytes).unwrap_or(&bytes);
    match Packing::of(kernel) {
        Some(packing) => streams(packing, kernel, limit),
        None if kernel.len() != bytes.len() => Ok(kernel.to_vec()),
        None => Ok(bytes),
    }
}

/// The streams that `packed` consists of, the first of which is packed so.
fn streams(first: Packing, packed: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let (mut packing, mut rest) = (first, packed);
    loop {
        let name = packing.name();
        let before = rest.len();
        let unpacked = packing.unpack(rest, &mut out, limit);
        ensure!(
            out.len() as u64 <= limit,
            "it unpacks into more than {} MiB, which is all the RAM there is; give the machine more memory, or a smaller kernel",
            limit >> 20
        );
        rest = unpacked.map_err(|error| damaged(name, &error))?;
        if is_end(rest, out.len()) {
            return Ok(out);
        }
        match Packing::of(rest) {
            Some(next) if next.name() == name && rest.len() < before => packing = next,
            _ => bail!(
                "{} bytes behind its {name} stream are no {name}; fetch the file again, or unpack it to an Image first",
                rest.len()
            ),
        }
    }
}

/// Whether nothing that matters follows the last stream: what is unpacked has `unpacked` bytes.
fn is_end(rest: &[u8], unpacked: usize) -> bool {
    const DEVICETREE: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
    let size = (unpacked as u32).to_le_bytes();
    rest.iter().all(|&byte| byte == 0) || rest == size || rest.starts_with(&DEVICETREE)
}

fn damaged(name: &str, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            anyhow!("its {name} stream is cut short; fetch the file again")
        }
        io::ErrorKind::OutOfMemory => {
            anyhow!(
                "its {name} stream wants a dictionary larger than {} MiB; pack it as Linux does",
                DICTIONARY >> 20
            )
        }
        _ => anyhow!("its {name} stream is damaged ({error}); fetch the file again"),
    }
}

/// The packed kernel inside an EFI zboot image, and how it is packed (Linux, drivers/firmware/efi/libstub/zboot-header.S):
/// "MZ", at 4 "zimg", at 8 the payload's offset, at 12 its size, at 24 the packing's name.
fn zboot_payload(bytes: &[u8]) -> Result<Option<(Packing, &[u8])>> {
    let Some(header) = bytes.first_chunk::<56>() else {
        return Ok(None);
    };
    if header[..2] != *b"MZ" || header[4..8] != *b"zimg" {
        return Ok(None);
    }
    let word = |at: usize| -> Result<usize> {
        let word: [u8; 4] = header[at..at + 4].try_into()?;
        Ok(usize::try_from(u32::from_le_bytes(word))?)
    };
    let name = header[24..56].split(|&byte| byte == 0).next();
    let name = String::from_utf8_lossy(name.unwrap_or_default());
    // "zstd22" is zstd at its highest level.
    let method = name.trim_end_matches(|c: char| c.is_ascii_digit() && name.starts_with("zstd"));
    let (start, size) = (word(8)?, word(12)?);
    let payload = bytes.get(start..start.saturating_add(size));
    let payload = payload.context("its EFI zboot image is cut short; fetch the file again")?;
    let known = ZBOOT.into_iter().find(|(known, _)| *known == method);
    match known.map(|(_, packing)| packing) {
        Some(Packing::Lz4Legacy) if payload.starts_with(b"\x04\x22\x4d\x18") => {
            Ok(Some((Packing::Lz4, payload)))
        }
        Some(packing) => Ok(Some((packing, payload))),
        None => bail!(
            "it is an EFI zboot image packed with {name}, which nobody knows; unpack it to an Image first"
        ),
    }
}

#[cfg(test)]
mod tests;
