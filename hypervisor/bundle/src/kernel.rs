//! What kind of program a guest's kernel is: an arm64 Image (Linux `Documentation/arch/arm64/booting.rst`)
//! or a flat binary without a header. Everything else is named and refused.

use crate::Error;

/// Where the Image header has its magic, and what that is.
const IMAGE_MAGIC: (usize, &[u8]) = (0x38, b"ARM\x64");

/// Images are loaded at this alignment plus their text offset.
const IMAGE_UNIT: u64 = 2 << 20;

/// Where old Images that leave `image_size` 0 expect to be.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;

/// A kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// How it wants to be placed.
    pub format: Format,
    /// How many bytes its file has.
    pub size: u64,
}

/// How a kernel wants to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An arm64 Image.
    Image {
        /// Bytes from a 2 MiB boundary to its first.
        text_offset: u64,
        /// Bytes of memory it takes, those not in the file included.
        image_size: u64,
        /// The page size it was built for, if it says.
        page_size: Option<u32>,
    },
    /// Just code, to be put at RAM base + 0x80000.
    Flat,
}

/// How a compressed kernel is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip
    Gzip,
    /// bzip2
    Bzip2,
    /// xz
    Xz,
    /// LZ4
    Lz4,
    /// Zstandard
    Zstd,
    /// An EFI program that unpacks itself (Linux `CONFIG_EFI_ZBOOT`).
    EfiZboot,
}

impl Compression {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::EfiZboot => "EFI zboot",
        }
    }
}

/// How compressed files begin.
const COMPRESSED: [(&[u8], Compression); 6] = [
    (b"\x1f\x8b", Compression::Gzip),
    (b"BZh", Compression::Bzip2),
    (b"\xfd7zXZ\0", Compression::Xz),
    (b"\x02\x21\x4c\x18", Compression::Lz4),
    (b"\x04\x22\x4d\x18", Compression::Lz4),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
];

const OTHER_MACHINE: &str = "give an arm64 Image";

/// Where other files say what they are, what they are, and what to give instead.
const REFUSED: [(usize, &[u8], &str, &str); 8] = [
    (
        0,
        b"\x7fELF",
        "an ELF file, such as vmlinux",
        "give the Image (arch/arm64/boot/Image), or make a flat binary with objcopy -O binary",
    ),
    (0x202, b"HdrS", "an x86 bzImage", OTHER_MACHINE),
    (0x38, b"RSC\x05", "a RISC-V Image", OTHER_MACHINE),
    (
        0x24,
        b"\x18\x28\x6f\x01",
        "a 32-bit Arm zImage",
        OTHER_MACHINE,
    ),
    (
        0,
        b"\x27\x05\x19\x56",
        "a U-Boot uImage",
        "give the Image it was made from",
    ),
    (
        0,
        b"\xd0\x0d\xfe\xed",
        "a FIT image or a devicetree",
        "give the Image inside it",
    ),
    (
        0,
        b"07070",
        "a cpio archive, such as an initramfs",
        "give it as the ramdisk",
    ),
    (
        0,
        b"MZ",
        "an EFI program without an arm64 Image header",
        OTHER_MACHINE,
    ),
];

impl Kernel {
    /// Says what `bytes`, a whole file, is.
    ///
    /// # Errors
    ///
    /// If it is something known that is not an arm64 Image of this byte order, or damaged or empty.
    #[inline(never)]
    pub fn recognise(bytes: &[u8]) -> Result<Self, Error> {
        let size = bytes.len() as u64;
        if has(bytes, IMAGE_MAGIC.0, IMAGE_MAGIC.1) {
            let format = image(bytes)?;
            return Ok(Self { format, size });
        }
        if has(bytes, 0, b"MZ") && has(bytes, 4, b"zimg") {
            return Err(Error::Compressed(Compression::EfiZboot));
        }
        if let Some(&(_, how)) = COMPRESSED.iter().find(|(magic, _)| has(bytes, 0, magic)) {
            return Err(Error::Compressed(how));
        }
        if let Some(&(_, _, is, mend)) = REFUSED.iter().find(|row| has(bytes, row.0, row.1)) {
            return Err(Error::NotAKernel { is, mend });
        }
        if size < 4 {
            return Err(Error::NotAKernel {
                is: "empty",
                mend: "give an arm64 Image or a flat binary",
            });
        }
        Ok(Self {
            format: Format::Flat,
            size,
        })
    }

    /// How many bytes of memory it takes as far as is known.
    pub fn footprint(&self) -> u64 {
        match self.format {
            Format::Image { image_size, .. } => image_size.max(self.size),
            Format::Flat => self.size,
        }
    }
}

/// Reads the Image header: text_offset at 8, image_size at 16, flags at 24, little-endian all.
fn image(bytes: &[u8]) -> Result<Format, Error> {
    let damaged = Error::NotAKernel {
        is: "an arm64 Image with a damaged header",
        mend: "build or copy it again",
    };
    let (Some(text_offset), Some(image_size), Some(flags)) =
        (number(bytes, 8), number(bytes, 16), number(bytes, 24))
    else {
        return Err(damaged);
    };
    if flags & 1 != 0 {
        return Err(Error::NotAKernel {
            is: "a big-endian arm64 Image",
            mend: "build it with CONFIG_CPU_LITTLE_ENDIAN=y",
        });
    }
    // No arm64 machine has more than 52 bits of physical address (DDI0487 D8.1).
    if text_offset >= IMAGE_UNIT || image_size >= 1 << 52 {
        return Err(damaged);
    }
    Ok(Format::Image {
        text_offset: if image_size == 0 {
            OLD_TEXT_OFFSET
        } else {
            text_offset
        },
        image_size,
        page_size: match flags >> 1 & 3 {
            1 => Some(4 << 10),
            2 => Some(16 << 10),
            3 => Some(64 << 10),
            _ => None,
        },
    })
}

fn has(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let number = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    fn header(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
        bytes
    }

    fn file(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    }

    #[test]
    fn an_image_says_where_it_wants_to_be() {
        // The header of Linux 7.3: offset 0, 4 KiB pages, anywhere in memory.
        let kernel = Kernel::recognise(&header(0, 0x0200_0000, 0xa));
        assert_eq!(
            kernel,
            Ok(Kernel {
                format: Format::Image {
                    text_offset: 0,
                    image_size: 0x0200_0000,
                    page_size: Some(4096),
                },
                size: 128,
            })
        );
        assert_eq!(kernel.map(|kernel| kernel.footprint()), Ok(0x0200_0000));
    }

    #[test]
    fn an_efi_stub_does_not_hide_an_image() {
        let mut bytes = header(0, 4096, 0xa);
        bytes[..2].copy_from_slice(b"MZ");
        assert!(Kernel::recognise(&bytes).is_ok());
    }

    #[test]
    fn an_image_without_a_size_is_an_old_one() {
        let kernel = Kernel::recognise(&header(0, 0, 0)).expect("an old Image");
        assert!(matches!(
            kernel.format,
            Format::Image {
                text_offset: 0x8_0000,
                ..
            }
        ));
        assert_eq!(kernel.footprint(), 128);
    }

    #[test]
    fn big_endian_and_damaged_images_are_refused() {
        for bytes in [
            header(0, 4096, 0xb),
            header(2 << 20, 4096, 0xa),
            header(0, 1 << 60, 0xa),
        ] {
            assert!(matches!(
                Kernel::recognise(&bytes),
                Err(Error::NotAKernel { .. })
            ));
        }
    }

    #[test]
    fn code_without_a_header_is_flat() {
        let kernel = Kernel::recognise(&file(0, &[0x00, 0x00, 0x80, 0xd2]));
        assert_eq!(kernel.map(|kernel| kernel.format), Ok(Format::Flat));
    }

    #[test]
    fn compressed_kernels_are_named() {
        for (magic, how) in COMPRESSED {
            assert_eq!(
                Kernel::recognise(&file(0, magic)),
                Err(Error::Compressed(how))
            );
        }
        assert_eq!(
            Kernel::recognise(&file(0, b"MZ\0\0zimg")),
            Err(Error::Compressed(Compression::EfiZboot))
        );
    }

    #[test]
    fn other_files_are_named_with_the_mend() {
        for (at, magic, is, mend) in REFUSED {
            let error = Kernel::recognise(&file(at, magic)).expect_err(is);
            assert!(error.to_string().contains(is), "{error}");
            assert!(error.to_string().contains(mend), "{error}");
        }
        assert!(Kernel::recognise(&[]).is_err());
    }

    #[test]
    fn no_short_file_is_read_beyond_its_end() {
        let bytes = header(0, 4096, 0xa);
        for length in 0..bytes.len() {
            let _ = Kernel::recognise(&bytes[..length]);
        }
    }
}
