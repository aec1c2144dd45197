use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use introspection::core_file::CoreFile;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

/// How a page is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    None,
    Zlib,
    Lzo,
    Snappy,
    Zstd,
}

impl Packing {
    fn pack(self, page: &[u8]) -> (u32, Vec<u8>) {
        match self {
            Self::None => (0, page.to_vec()),
            Self::Zlib => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(page).unwrap();
                (1, encoder.finish().unwrap())
            }
            Self::Lzo => (2, lzo(page)),
            Self::Snappy => (4, vec![0; 16]),
            Self::Zstd => (0x20, compress_to_vec(page, CompressionLevel::Fastest)),
        }
    }
}

/// A stream of LZO1X of one byte, and of what is copied from there.
fn lzo(page: &[u8]) -> Vec<u8> {
    let count = page.len() - 1;
    // One literal; a match of so many bytes at distance 1, of two bytes of length beyond 33; the end.
    let mut stream = vec![18, page[0], 32];
    let rest = count - 2 - 31;
    stream.resize(stream.len() + (rest - 1) / 255, 0);
    stream.extend([((rest - 1) % 255 + 1) as u8, 0, 0, 17, 0, 0]);
    stream
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// What makedumpfile writes of these pages, whose numbers ascend, with `info` as VMCOREINFO. A page without content is full of zeros,
/// and one for all is there.
pub fn compressed(
    block: usize,
    level: u32,
    packing: Packing,
    pages: &[(u64, Vec<u8>)],
    info: &str,
) -> Vec<u8> {
    let last = pages.last().map_or(0, |(number, _)| *number) as usize;
    let bitmap_blocks = 2 * (last / 8 + 1).div_ceil(block);
    let bitmap = (2 + bitmap_blocks / 2) * block;
    let descriptors = (2 + bitmap_blocks) * block;
    let mut dump = vec![0; descriptors];
    put(&mut dump, 0, b"KDUMP   ");
    for (at, word) in [
        (8, 6),
        (428, block as u32),
        (432, 1),
        (436, bitmap_blocks as u32),
        (440, last as u32 + 1),
        (block + 8, level),
    ] {
        put(&mut dump, at, &word.to_le_bytes());
    }
    for (number, _) in pages {
        dump[bitmap + *number as usize / 8] |= 1 << (number % 8);
    }
    let (mut rows, mut contents) = (Vec::new(), Vec::new());
    let content_at = descriptors + 24 * pages.len();
    let zero = vec![0; block];
    let mut row = |at: usize, size: usize, flags: u32| {
        rows.extend((at as u64).to_le_bytes());
        rows.extend((size as u32).to_le_bytes());
        rows.extend(flags.to_le_bytes());
        rows.extend([0; 8]);
    };
    if level & 1 != 0 {
        let (_, packed) = Packing::None.pack(&zero);
        contents.extend(packed);
    }
    for (_, page) in pages {
        if page.is_empty() {
            row(content_at, block, 0);
            continue;
        }
        let (flags, packed) = packing.pack(page);
        row(content_at + contents.len(), packed.len(), flags);
        contents.extend(packed);
    }
    dump.extend(rows);
    dump.extend(contents);
    let info_at = dump.len() as u64;
    put(&mut dump, block + 32, &info_at.to_le_bytes());
    put(&mut dump, block + 40, &(info.len() as u64).to_le_bytes());
    dump.extend(info.as_bytes());
    // A note without a name, the end of them.
    let notes_at = dump.len() as u64;
    put(&mut dump, block + 48, &notes_at.to_le_bytes());
    put(&mut dump, block + 56, &12u64.to_le_bytes());
    dump.extend([0; 12]);
    dump
}

fn page(block: usize, byte: u8) -> Vec<u8> {
    vec![byte; block]
}

fn open(dump: &[u8]) -> Result<Dumped<Vec<u8>>> {
    Dumped::of(dump.to_vec(), dump.len() as u64)
}

fn read(dump: &mut Dumped<Vec<u8>>, block: usize, number: u64) -> Result<(Presence, u8)> {
    let mut bytes = page(block, 0xee);
    let presence = dump.page(number * block as u64, &mut bytes)?;
    let first = bytes[0];
    assert!(bytes.iter().all(|byte| *byte == first), "{presence:?}");
    Ok((presence, first))
}

#[test]
fn each_page_is_found_by_its_number_however_it_is_packed() {
    for block in [4096, 16384, 65536] {
        for packing in [Packing::None, Packing::Zlib, Packing::Lzo, Packing::Zstd] {
            // Across several spans of the bitmap, and in its last bits.
            let numbers = [3u64, 7, 8, 511, 512, 513, 4000, 70000];
            let pages: Vec<(u64, Vec<u8>)> = numbers
                .iter()
                .zip(1u8..)
                .map(|(number, byte)| (*number, page(block, byte)))
                .collect();
            let dump = compressed(block, 16, packing, &pages, "");
            let mut dump = open(&dump).unwrap();
            assert_eq!(
                (dump.level(), dump.page_size()),
                (Some(16), Some(block as u64))
            );
            for (number, byte) in numbers.iter().zip(1u8..) {
                let found = read(&mut dump, block, *number).unwrap();
                assert_eq!(found, (Presence::Here, byte), "{number} {packing:?}");
            }
            for number in [0, 2, 4, 9, 514, 70001, 1 << 40, u64::MAX / block as u64] {
                let found = read(&mut dump, block, number).unwrap();
                assert_eq!(found, (Presence::Absent, 0xee), "{number}");
            }
            let size = block as u64;
            let expected = [(3, 1), (7, 2), (511, 3), (4000, 1), (70000, 1)];
            assert_eq!(
                dump.ranges(),
                expected.map(|(first, count)| (first * size, count * size))
            );
            assert_eq!(Pages::size(&dump), 8 * size);
        }
    }
}

#[test]
fn one_page_of_zeros_stands_for_all() {
    let pages = [(1, Vec::new()), (2, page(4096, 5)), (3, Vec::new())];
    let mut dump = open(&compressed(4096, 31, Packing::Zlib, &pages, "")).unwrap();
    let found = [1, 2, 3].map(|number| read(&mut dump, 4096, number).unwrap());
    let expected = [
        (Presence::Zero, 0),
        (Presence::Here, 5),
        (Presence::Zero, 0),
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_elf_core_has_pieces_in_any_order_and_copies_instead() {
    let core = CoreFile {
        ram: vec![(0x4000_0000, 0x4000), (0x5000_0000, 0x2000)],
        mapped: vec![(0xffff_0000_0000_0000, 0x4000_1000, 0x1000)],
        copies: vec![(0x4000_2000, page(4096, 9))],
        ..CoreFile::default()
    };
    let mut bytes = core.head();
    for byte in 1..=6 {
        bytes.extend(page(4096, byte));
    }
    bytes.extend(core.tail());
    let mut dump = open(&bytes).unwrap();
    assert_eq!((dump.level(), dump.page_size()), (None, None));
    for (number, expected) in [
        (0x40000, Some(1)),
        (0x40001, Some(2)),
        (0x40002, Some(9)),
        (0x40003, Some(4)),
        (0x40004, None),
        (0x50001, Some(6)),
    ] {
        let (presence, byte) = read(&mut dump, 4096, number).unwrap();
        assert_eq!(presence == Presence::Here, expected.is_some());
        assert_eq!(byte, expected.unwrap_or(0xee));
    }
    assert_eq!(Pages::size(&dump), 0x6000);
    // As memory, across pages; and where there is none.
    let mut bytes = [0; 4];
    dump.read(0x4000_0ffe, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 1, 2, 2]);
    assert!(dump.read(0x4000_3ffe, &mut bytes).is_err());
    assert!(dump.read(u64::MAX - 1, &mut bytes).is_err());
    // A page of 16 KiB of which a part is there is not there.
    let mut large = page(0x4000, 0);
    assert_eq!(dump.page(0x4000_0000, &mut large).unwrap(), Presence::Here);
    assert_eq!(
        dump.page(0x5000_0000, &mut large).unwrap(),
        Presence::Absent
    );
}

#[test]
fn what_is_not_read_here_is_named_with_the_mend() {
    let pages = [(1, page(4096, 1))];
    let whole = compressed(4096, 0, Packing::Zlib, &pages, "");
    let with = |at: usize, value: u32| {
        let mut dump = whole.clone();
        put(&mut dump, at, &value.to_le_bytes());
        format!("{:#}", open(&dump).unwrap_err())
    };
    for (at, value, expected) in [
        (8, 77, "version 77"),
        (424, 8, "incomplete"),
        (428, 0, "blocks of 0 bytes"),
        (428, 4097, "blocks of 4097 bytes"),
        (4096 + 12, 1, "--reassemble"),
        (436, u32::MAX, "its bitmaps claim"),
        (436, 40_000, "its bitmaps claim"),
    ] {
        let error = with(at, value);
        assert!(error.contains(expected), "{error}");
    }
    let flattened = [&b"makedumpfile\0\0\0\0"[..], &[0; 4096]].concat();
    let error = open(&flattened).unwrap_err().to_string();
    assert!(error.contains("makedumpfile -R"), "{error}");
    let mut snappy = open(&compressed(4096, 0, Packing::Snappy, &pages, "")).unwrap();
    let error = format!("{:#}", read(&mut snappy, 4096, 1).unwrap_err());
    assert!(error.contains("snappy") && error.contains("-c"), "{error}");
    assert!(open(&page(4096, 0)).is_err());
}

#[test]
fn a_descriptor_that_leads_astray_is_an_error_of_its_page_alone() {
    let pages = [(1, page(4096, 1)), (2, page(4096, 2))];
    let whole = compressed(4096, 0, Packing::Zlib, &pages, "");
    let first = 4096 * 4;
    for (at, value) in [
        (first, vec![0xff; 8]),
        (first, vec![0; 8]),
        (first, (whole.len() as u64 - 2).to_le_bytes().to_vec()),
        (first + 8, u32::MAX.to_le_bytes().to_vec()),
        (first + 8, 4097u32.to_le_bytes().to_vec()),
        (first + 8, 3u32.to_le_bytes().to_vec()),
        (first + 12, 0x40u32.to_le_bytes().to_vec()),
        (first + 12, 3u32.to_le_bytes().to_vec()),
        (first + 12, 0x20u32.to_le_bytes().to_vec()),
        (first + 12, 0x2u32.to_le_bytes().to_vec()),
    ] {
        let mut dump = whole.clone();
        put(&mut dump, at, &value);
        let mut dump = open(&dump).unwrap();
        let mut bytes = page(4096, 0);
        let found = dump.page(4096, &mut bytes);
        assert!(found.is_err(), "{at} {value:x?}");
        assert_eq!(read(&mut dump, 4096, 2).unwrap(), (Presence::Here, 2));
    }
}

#[test]
fn broken_dumps_of_any_kind_are_refused_or_read_without_harm() {
    let pages: Vec<(u64, Vec<u8>)> = [1u64, 2, 40, 600]
        .into_iter()
        .map(|number| (number, page(4096, number as u8)))
        .collect();
    let mut dumps: Vec<Vec<u8>> = [Packing::Zlib, Packing::Lzo, Packing::Zstd]
        .map(|packing| compressed(4096, 1, packing, &pages, ""))
        .into();
    let core = CoreFile {
        ram: vec![(0x1000, 0x4000)],
        ..CoreFile::default()
    };
    dumps.push([core.head(), page(0x4000, 7)].concat());
    let look = |dump: &[u8]| {
        let Ok(mut dump) = open(dump) else { return };
        assert!(dump.ranges().len() <= 8 * 4096);
        let size = dump.page_size().unwrap_or(4096);
        let mut bytes = page(size as usize, 0);
        for number in 0..700 {
            let _ = dump.page(number * size, &mut bytes);
        }
        let _ = dump.read(0x1fff, &mut [0; 8]);
    };
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for dump in &dumps {
        for cut in (0..dump.len()).step_by(509) {
            look(&dump[..cut]);
        }
        // Headers, descriptors and contents alike.
        let places: Vec<usize> = (0..dump.len()).filter(|at| dump[*at] != 0).collect();
        for _ in 0..400 {
            let mut broken = dump.clone();
            for _ in 0..1 + random(3) {
                let at = places[random(places.len())] + random(2);
                if let Some(byte) = broken.get_mut(at) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
                }
            }
            look(&broken);
        }
    }
}
