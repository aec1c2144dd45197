//! The package that BL1 reads the later stages from, as TF-A's `include/tools_share/firmware_image_package.h`
//! lays it out: a table of UUIDs, offsets and sizes, then the images.

use anyhow::{Result, ensure};

/// Where QEMU's port of TF-A expects the package, from the start of flash (PLAT_QEMU_FIP_BASE).
const FIP_OFFSET: usize = 0x4_0000;
const TABLE_MAGIC: u32 = 0xaa64_0001;
/// Any number but 0.
const SERIAL: u32 = 0x1234_5678;

/// "Trusted Boot Firmware BL2".
const BL2: [u8; 16] = [
    0x5f, 0xf9, 0xec, 0x0b, 0x4d, 0x22, 0x3e, 0x4d, 0xa5, 0x44, 0xc3, 0x9d, 0x81, 0xc7, 0x3f, 0x0a,
];
/// "EL3 Runtime Firmware BL31".
const BL31: [u8; 16] = [
    0x47, 0xd4, 0x08, 0x6d, 0x4c, 0xfe, 0x98, 0x46, 0x9b, 0x95, 0x29, 0x50, 0xcb, 0xbd, 0x5a, 0x00,
];

/// What the machine's flash holds: BL1, and the package with the other two.
pub fn flash(bl1: &[u8], bl2: &[u8], bl31: &[u8]) -> Result<Vec<u8>> {
    ensure!(bl1.len() <= FIP_OFFSET, "BL1 is larger than its flash");
    let mut flash = bl1.to_vec();
    flash.resize(FIP_OFFSET, 0);
    flash.extend(package(&[(BL2, bl2), (BL31, bl31)]));
    Ok(flash)
}

fn package(images: &[([u8; 16], &[u8])]) -> Vec<u8> {
    const HEADER: usize = 16;
    const ENTRY: usize = 40;
    let mut package = Vec::new();
    package.extend(TABLE_MAGIC.to_le_bytes());
    package.extend(SERIAL.to_le_bytes());
    package.extend(0u64.to_le_bytes());
    let mut offset = (HEADER + ENTRY * (images.len() + 1)) as u64;
    let mut enter = |uuid: [u8; 16], size: u64| {
        package.extend(uuid);
        for word in [offset, size, 0] {
            package.extend(word.to_le_bytes());
        }
        offset += size;
    };
    for (uuid, image) in images {
        enter(*uuid, image.len() as u64);
    }
    enter([0; 16], 0);
    for (_, image) in images {
        package.extend(*image);
    }
    package
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_follows_bl1_and_names_both_images() {
        let flash = flash(b"one", b"two", b"three").unwrap();
        assert!(flash.starts_with(b"one\0"));
        let package = &flash[FIP_OFFSET..];
        let word = |at: usize| u64::from_le_bytes(package[at..at + 8].try_into().unwrap());
        assert_eq!(package[16..32], BL2);
        assert_eq!((word(32), word(40)), (0x88, 3));
        assert_eq!(package[56..72], BL31);
        assert_eq!((word(72), word(80)), (0x8b, 5));
        assert_eq!(word(112), 0x90, "the last entry says where it all ends");
        assert!(package.ends_with(b"twothree"));
    }

    #[test]
    fn too_large_a_bl1_is_refused() {
        assert!(flash(&vec![0; FIP_OFFSET + 1], b"", b"").is_err());
    }
}
