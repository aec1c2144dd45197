//! What makedumpfile writes by default (its IMPLEMENTATION file, `diskdump_mod.h`): a header, a sub header, two bitmaps of which the
//! second says which pages there are, a descriptor for each of those, and their content, most of it packed.

use anyhow::{Context, Result, bail, ensure};
use flate2::{Decompress, FlushDecompress, Status};
use introspection::oracle::Presence;
use introspection::pages::is_zero;
use introspection::vmcoreinfo::Range;
use machine::unpack;
use ruzstd::decoding::FrameDecoder;

use crate::vmcore::ReadAt;

// struct disk_dump_header.
const VERSION: usize = 8;
const STATUS: usize = 424;
const BLOCK_SIZE: usize = 428;
const SUB_HEADER_BLOCKS: usize = 432;
const BITMAP_BLOCKS: usize = 436;
const HEADER: usize = 464;
// struct kdump_sub_header.
const LEVEL: usize = 8;
const SPLIT: usize = 12;
const SUB_HEADER: usize = 104;
/// A `page_desc`: where its content is, how long that is, how it is packed, and the page's flags, which are always 0.
const DESCRIPTOR: u64 = 24;

// How a page is packed, and in the header what may be.
const ZLIB: u32 = 1;
const LZO: u32 = 2;
const SNAPPY: u32 = 4;
const ZSTD: u32 = 0x20;
/// In the header: it was cut short.
const INCOMPLETE: u32 = 8;

/// More is no guest's: 2 TiB of memory in pages of 4 KiB.
const LARGEST_BITMAP: u64 = 64 << 20;
/// So many bits of the bitmap have one sum of what is in front of them.
const SPAN: usize = 512;

/// Such a dump.
pub struct Compressed<D> {
    dump: D,
    length: u64,
    block: u64,
    level: u32,
    /// A bit for each page, by its number.
    bitmap: Vec<u8>,
    /// How many bits are set in front of each span.
    sums: Vec<u64>,
    /// Where the descriptors begin.
    descriptors: u64,
    /// Where the first content is: that of the page of zeros, if zeros are left out.
    content: u64,
    packed: Vec<u8>,
    inflate: Decompress,
}

impl<D> std::fmt::Debug for Compressed<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressed")
            .field("block", &self.block)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let rest = bytes.get(at..).and_then(|rest| rest.first_chunk());
    let word = rest.with_context(|| format!("it is cut short at offset {at}"))?;
    Ok(u32::from_le_bytes(*word))
}

impl<D: ReadAt> Compressed<D> {
    /// Of `dump`, which has so many bytes.
    pub fn of(dump: D, length: u64) -> Result<Self> {
        let header = dump.read_at(0, HEADER)?;
        let number = |at: usize| -> Result<u64> { Ok(word(&header, at)?.into()) };
        let version = number(VERSION)?;
        ensure!(
            (1..=16).contains(&version),
            "its header has version {version}, which is not known"
        );
        ensure!(
            word(&header, STATUS)? & INCOMPLETE == 0,
            "makedumpfile marked it as incomplete; give it more room"
        );
        let block = number(BLOCK_SIZE)?;
        ensure!(
            block.is_power_of_two() && (4096..=64 << 10).contains(&block),
            "it claims blocks of {block} bytes"
        );
        let sub_header = dump.read_at(block, SUB_HEADER)?;
        ensure!(
            word(&sub_header, SPLIT)? == 0,
            "it is one of several parts; `makedumpfile --reassemble` puts them together"
        );
        let (sub, blocks) = (number(SUB_HEADER_BLOCKS)?, number(BITMAP_BLOCKS)?);
        // Both bitmaps have the same length. No product overflows: blocks are counted by 32 bits.
        let bitmap_at = (1 + sub) * block;
        let size = blocks * block / 2;
        let descriptors = bitmap_at + 2 * size;
        ensure!(
            size <= LARGEST_BITMAP && descriptors <= length,
            "its bitmaps claim {} bytes, and it has {length}",
            2 * size
        );
        let bitmap = dump.read_at(bitmap_at + size, usize::try_from(size)?)?;
        let mut sums = Vec::with_capacity(bitmap.len() / (SPAN / 8) + 1);
        let mut sum = 0u64;
        for span in bitmap.chunks(SPAN / 8) {
            sums.push(sum);
            sum += span
                .iter()
                .map(|byte| u64::from(byte.count_ones()))
                .sum::<u64>();
        }
        let content = descriptors + DESCRIPTOR * sum;
        ensure!(
            content <= length,
            "it is cut short: it claims {sum} pages, and ends before their descriptors do"
        );
        Ok(Self {
            level: word(&sub_header, LEVEL)?,
            dump,
            length,
            block,
            bitmap,
            sums,
            descriptors,
            content,
            packed: Vec::new(),
            inflate: Decompress::new(true),
        })
    }

    pub const fn level(&self) -> u32 {
        self.level
    }

    pub const fn page_size(&self) -> u64 {
        self.block
    }

    /// Runs of pages that are there.
    pub fn ranges(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for (n, byte) in self.bitmap.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte >> bit & 1 != 0) {
                let at = (8 * n as u64 + bit) * self.block;
                match ranges.last_mut() {
                    Some((start, size)) if *start + *size == at => *size += self.block,
                    _ => ranges.push((at, self.block)),
                }
            }
        }
        ranges
    }

    /// Which one of the pages that are there this one is.
    fn index(&self, number: u64) -> Option<u64> {
        let number = usize::try_from(number).ok()?;
        let (at, bit) = (number / 8, number % 8);
        let own = *self.bitmap.get(at)?;
        if own >> bit & 1 == 0 {
            return None;
        }
        let span = number / SPAN;
        let before = self.bitmap[span * (SPAN / 8)..at].iter();
        let before: u32 = before.map(|byte| byte.count_ones()).sum();
        let own = (own & ((1 << bit) - 1)).count_ones();
        Some(self.sums[span] + u64::from(before + own))
    }

    pub fn page(&mut self, address: u64, into: &mut [u8]) -> Result<Presence> {
        ensure!(
            into.len() as u64 == self.block && address.is_multiple_of(self.block),
            "the dump has pages of {} bytes, and others are asked for",
            self.block
        );
        let Some(index) = self.index(address / self.block) else {
            return Ok(Presence::Absent);
        };
        let mut descriptor = [0; DESCRIPTOR as usize];
        self.dump
            .fill_at(self.descriptors + DESCRIPTOR * index, &mut descriptor)?;
        let (low, high) = (word(&descriptor, 0)?, word(&descriptor, 4)?);
        let offset = u64::from(high) << 32 | u64::from(low);
        let (size, flags) = (word(&descriptor, 8)?, word(&descriptor, 12)?);
        let end = offset.checked_add(size.into());
        ensure!(
            u64::from(size) <= self.block
                && offset >= self.content
                && end.is_some_and(|end| end <= self.length),
            "its descriptor leads to {size} bytes at {offset:#x}, where no content is"
        );
        self.packed.resize(size as usize, 0);
        self.dump.fill_at(offset, &mut self.packed)?;
        self.unpack(flags, into)?;
        // What is first in the dump is the page of zeros that all others share, or else a page of its own.
        let is_shared = offset == self.content && is_zero(into);
        Ok(match is_shared {
            true => Presence::Zero,
            false => Presence::Here,
        })
    }

    fn unpack(&mut self, flags: u32, into: &mut [u8]) -> Result<()> {
        let packed = self.packed.as_slice();
        let size = match flags & (ZLIB | LZO | SNAPPY | ZSTD) {
            0 => {
                ensure!(
                    packed.len() == into.len(),
                    "it is not packed and has {} bytes",
                    packed.len()
                );
                into.copy_from_slice(packed);
                into.len()
            }
            ZLIB => {
                self.inflate.reset(true);
                let status = self
                    .inflate
                    .decompress(packed, into, FlushDecompress::Finish);
                let status = status.context("it cannot be unpacked by zlib")?;
                ensure!(status == Status::StreamEnd, "it is longer than a page");
                usize::try_from(self.inflate.total_out())?
            }
            LZO => {
                let mut unpacked = Vec::with_capacity(into.len());
                unpack::lzo1x(packed, &mut unpacked, into.len())
                    .context("it cannot be unpacked by LZO")?;
                let count = unpacked.len().min(into.len());
                into[..count].copy_from_slice(&unpacked[..count]);
                unpacked.len()
            }
            ZSTD => FrameDecoder::new()
                .decode_all(packed, into)
                .context("it cannot be unpacked by zstd")?,
            SNAPPY => {
                bail!(
                    "it is packed by snappy, which is not read here; `makedumpfile -c` packs by zlib"
                )
            }
            flags => bail!("it is packed in a way that is not known ({flags:#x})"),
        };
        ensure!(size == into.len(), "it becomes {size} bytes, and no page");
        Ok(())
    }
}
