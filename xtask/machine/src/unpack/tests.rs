use std::io::Write;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

mod packed;

/// What `packed` has packed: words, a long row of zeros, and the words' beginning again.
fn plain() -> Vec<u8> {
    let mut state = 1u32;
    let mut out = Vec::new();
    for _ in 0..100 {
        // C99 7.20.2.2, with 31 bits.
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12345) & 0x7fff_ffff;
        out.extend(format!("word{} ", (state >> 16) % 17).bytes());
    }
    out.extend([0; 5000]);
    out.extend_from_within(..300);
    out
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<char> = hexadecimal.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Each packer's name here and in zboot images, and what it made.
const PACKED: [(&str, &str, &str); 9] = [
    ("gzip", "gzip", packed::GZIP),
    ("bzip2", "bzip2", packed::BZIP2),
    ("xz", "xz", packed::XZ),
    ("xz", "xzkern", packed::XZKERN),
    ("lzma", "lzma", packed::LZMA),
    ("lz4", "", packed::LZ4),
    ("lz4", "lz4", packed::LZ4_LEGACY),
    ("lzop", "lzo", packed::LZO),
    ("zstd", "zstd22", packed::ZSTD),
];

const LIMIT: u64 = 64 << 20;

fn zboot(name: &str, payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 64];
    image[..2].copy_from_slice(b"MZ");
    image[4..8].copy_from_slice(b"zimg");
    image[8] = 64;
    image[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image[24..24 + name.len()].copy_from_slice(name.as_bytes());
    image.extend(payload);
    image
}

fn refused(bytes: Vec<u8>) -> String {
    unpack(bytes, LIMIT).unwrap_err().to_string()
}

#[test]
fn what_is_not_packed_stays_as_it_is() {
    assert_eq!(unpack(plain(), LIMIT).unwrap(), plain());
    // Instructions that begin like lzma: its properties, a dictionary that nobody makes.
    let code = [
        0x5d, 0x01, 0x00, 0xd4, 0, 0, 0x80, 0xd2, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(unpack(code.to_vec(), LIMIT).unwrap(), code);
}

#[test]
fn every_packers_work_is_undone_alone_and_inside_zboot() {
    for (name, zboot_name, packed) in PACKED {
        assert_eq!(unpack(bytes(packed), LIMIT).unwrap(), plain(), "{name}");
        if !zboot_name.is_empty() {
            let image = zboot(zboot_name, &bytes(packed));
            assert_eq!(unpack(image, LIMIT).unwrap(), plain(), "zboot {zboot_name}");
        }
    }
}

/// A FIT image with a devicetree before a kernel; its data inside, or behind the blob.
fn fit(data: &[u8], is_inside: bool) -> Vec<u8> {
    let property =
        |name: &str, value: &[u8]| DeviceTreeProperty::new(name, value.to_vec()).unwrap();
    let node = |name: &str| DeviceTreeNode::new(name).unwrap();
    let mut tree_part = node("fdt-1");
    tree_part.add_property(property("type", b"flat_dt\0"));
    tree_part.add_property(property("data", b"some tree"));
    let mut kernel = node("kernel");
    kernel.add_property(property("type", b"kernel_noload\0"));
    if is_inside {
        kernel.add_property(property("data", data));
    } else {
        kernel.add_property(property("data-offset", &8u32.to_be_bytes()));
        let size = u32::try_from(data.len()).unwrap();
        kernel.add_property(property("data-size", &size.to_be_bytes()));
    }
    let mut images = node("images");
    images.add_child(tree_part);
    images.add_child(kernel);
    let mut tree = DeviceTree::new();
    tree.root.add_child(images);
    let mut file = tree.to_dtb();
    if !is_inside {
        file.resize(file.len().next_multiple_of(4) + 8, 0);
        file.extend(data);
    }
    file
}

#[test]
fn the_kernel_in_a_fit_image_is_found_and_unpacked() {
    for (name, _, packed) in PACKED {
        for is_inside in [true, false] {
            let image = fit(&bytes(packed), is_inside);
            assert_eq!(unpack(image, LIMIT).unwrap(), plain(), "{name}");
        }
    }
    assert_eq!(unpack(fit(&plain(), true), LIMIT).unwrap(), plain());
    // Data that end before they should are no kernel; nor is a devicetree.
    let image = fit(&plain(), false);
    let cut = image[..image.len() - 1].to_vec();
    assert_eq!(unpack(cut.clone(), LIMIT).unwrap(), cut);
    let tree = DeviceTree::new().to_dtb();
    assert_eq!(unpack(tree.clone(), LIMIT).unwrap(), tree);
}

#[test]
fn several_streams_are_all_undone() {
    for (name, _, packed) in PACKED {
        let twice = bytes(&[packed, packed].concat());
        let whole = [plain(), plain()].concat();
        assert_eq!(unpack(twice, LIMIT).unwrap(), whole, "{name}");
    }
    // A skippable frame, as parallel packers write it.
    let skipped = ["502a4d1803000000aabbcc", packed::ZSTD].concat();
    assert_eq!(unpack(bytes(&skipped), LIMIT).unwrap(), plain());
}

#[test]
fn the_size_zeros_and_a_devicetree_may_follow() {
    let size = u32::try_from(plain().len()).unwrap().to_le_bytes();
    for (name, zboot_name, packed) in PACKED {
        for tail in [&size[..], &[0; 12], b"\xd0\x0d\xfe\xed and so on"] {
            let file = [&bytes(packed), tail].concat();
            assert_eq!(
                unpack(file.clone(), LIMIT).unwrap(),
                plain(),
                "{name} {tail:?}"
            );
            if !zboot_name.is_empty() {
                assert_eq!(unpack(zboot(zboot_name, &file), LIMIT).unwrap(), plain());
            }
        }
    }
}

#[test]
fn what_else_follows_is_named() {
    for (name, _, packed) in PACKED {
        let error = refused([&bytes(packed)[..], b"something else"].concat());
        assert!(
            error.starts_with(&format!("14 bytes behind its {name} stream are no {name}"))
                || error.starts_with(&format!("its {name} stream is ")),
            "{name}: {error}"
        );
    }
    let error = refused(bytes(&[packed::GZIP, packed::ZSTD].concat()));
    assert!(
        error.contains("behind its gzip stream are no gzip"),
        "{error}"
    );
}

#[test]
fn every_place_to_cut_a_file_short_is_noticed() {
    for (name, _, packed) in PACKED {
        let whole = bytes(packed);
        for size in 16..whole.len() {
            let result = unpack(whole[..size].to_vec(), LIMIT);
            // A legacy frame has no end: between two blocks it is whole.
            let error = result.err().map(|error| error.to_string());
            let error = error.unwrap_or_else(|| panic!("{name}, {size} bytes"));
            assert!(
                error.starts_with(&format!("its {name} stream is "))
                    || error.contains("bytes behind its"),
                "{error}"
            );
        }
    }
    let image = zboot("zstd22", &bytes(packed::ZSTD));
    let error = refused(image[..image.len() - 1].to_vec());
    assert!(error.contains("EFI zboot image is cut short"), "{error}");
}

#[test]
fn a_damaged_file_is_never_taken_for_another_kernel() {
    for (name, _, packed) in PACKED {
        let whole = bytes(packed);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            let Ok(unpacked) = unpack(damaged.clone(), LIMIT) else {
                continue;
            };
            // Where it was packed and when is in no checksum, and a first byte that is another makes it unpacked.
            assert!(
                unpacked == plain() || unpacked == damaged || matches!(name, "lz4" | "lzma"),
                "{name}, byte {at}"
            );
        }
    }
}

#[test]
fn what_unpacks_into_more_than_there_is_room_for_is_stopped() {
    for (name, _, packed) in PACKED {
        let error = unpack(bytes(packed), plain().len() as u64 - 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("it unpacks into more than "),
            "{name}: {error}"
        );
        unpack(bytes(packed), plain().len() as u64).unwrap();
    }
    // 64 MiB and a byte of zeros.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&vec![0; (64 << 20) + 1]).unwrap();
    let error = refused(encoder.finish().unwrap());
    assert!(
        error.starts_with("it unpacks into more than 64 MiB, which is all the RAM"),
        "{error}"
    );
}

#[test]
fn packing_that_nobody_knows_is_named() {
    let error = refused(zboot("brotli", b"whatever"));
    assert!(error.contains("zboot image packed with brotli"), "{error}");
}
