//! Build ids: whether a vmlinux was built with a kernel, so that its addresses and types are the kernel's.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{LittleEndian, Object, ReadCache};

/// The head of an ELF note with a build id of 20 bytes (SHA-1), as `ld --build-id` makes it for Linux: the sizes of name
/// and id, NT_GNU_BUILD_ID, the name.
const NOTE: [u8; 16] = *b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
const SIZE: usize = 20;

/// That `vmlinux` belongs to the kernel whose unpacked Image is `image`, the file `kernel`. A kernel without a build id,
/// or one whose vmlinux has none, is taken at its word.
pub fn check(image: &[u8], kernel: &Path, vmlinux: &Path) -> Result<()> {
    let Some(id) = of_elf(vmlinux)? else {
        return Ok(());
    };
    let own = of_image(image);
    let Some(first) = own.first() else {
        return Ok(());
    };
    ensure!(
        own.contains(&id.as_slice()),
        "{} is of another build than the kernel {} (build ids {} and {}); give the vmlinux that was built with it",
        vmlinux.display(),
        kernel.display(),
        short(&id),
        short(first)
    );
    Ok(())
}

/// The build id of the ELF file at `path`, of which little is read.
pub fn of_elf(path: &Path) -> Result<Option<Vec<u8>>> {
    let read = || -> Result<Option<Vec<u8>>> {
        ensure!(fs::metadata(path)?.is_file(), "it is no file");
        let cache = ReadCache::new(File::open(path)?);
        let elf = ElfFile::<FileHeader64<LittleEndian>, _>::parse(&cache)
            .context("it is no ELF file of a 64-bit little-endian machine")?;
        Ok(elf.build_id()?.map(<[u8]>::to_vec))
    };
    read().with_context(|| format!("cannot use the vmlinux {}", path.display()))
}

/// The build ids in an Image: its own, and that of its vDSO.
fn of_image(image: &[u8]) -> Vec<&[u8]> {
    // Notes are aligned to 4 bytes.
    let places = (0..image.len().saturating_sub(NOTE.len() + SIZE - 1)).step_by(4);
    places
        .filter(|&at| image[at..].starts_with(&NOTE))
        .map(|at| &image[at + NOTE.len()..at + NOTE.len() + SIZE])
        .collect()
}

fn short(id: &[u8]) -> String {
    hexadecimal(id.get(..6).unwrap_or(id))
}

/// A build id as programs write it.
pub fn hexadecimal(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The release of the kernel in an Image, by the banner that it prints first (Linux, init/version.c).
pub fn release(image: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut at = 0;
    while let Some(found) = image
        .get(at..)?
        .windows(BANNER.len())
        .position(|part| part == BANNER)
    {
        at += found + BANNER.len();
        let rest = image.get(at..)?;
        let end = rest.iter().position(|byte| !byte.is_ascii_graphic())?;
        let release = rest.get(..end)?;
        // The same words stand where other programs read them.
        if release.first().is_some_and(u8::is_ascii_digit) {
            return String::from_utf8(release.to_vec()).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This program, its own build id taken out; it has one where the linker makes one.
    fn image(ids: &[[u8; SIZE]]) -> Vec<u8> {
        let mut image = vec![0x55; 400];
        for id in ids {
            image.extend(NOTE);
            image.extend(id);
            image.extend([0; 40]);
        }
        image
    }

    /// An ELF file of nothing but a note section's segment with this id.
    fn vmlinux(id: [u8; SIZE]) -> Vec<u8> {
        let mut note = NOTE.to_vec();
        note.extend(id);
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        elf.extend([2, 0, 0xb7, 0, 1, 0, 0, 0]);
        // Entry, program headers at 64, no section headers, flags, sizes and numbers.
        elf.extend(0u64.to_le_bytes());
        elf.extend(64u64.to_le_bytes());
        elf.extend(0u64.to_le_bytes());
        elf.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 1, 64, 0, 0] {
            elf.extend(half.to_le_bytes());
        }
        // PT_NOTE, readable, at 120.
        elf.extend(4u32.to_le_bytes());
        elf.extend(4u32.to_le_bytes());
        for word in [120u64, 0, 0, 36, 36, 4] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(note);
        elf
    }

    fn judge(image: &[u8], elf: &[u8]) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vmlinux");
        fs::write(&path, elf).unwrap();
        check(image, Path::new("/boot/Image"), &path)
    }

    #[test]
    fn an_image_tells_its_release() {
        let image = b"..Linux version %s\0..Linux version 7.3.4-rc1+ (me@here) (gcc ..";
        assert_eq!(release(image).as_deref(), Some("7.3.4-rc1+"));
        assert_eq!(release(&image[..40]), None);
        assert_eq!(release(b""), None);
        assert_eq!(hexadecimal(&[0, 0xab]), "00ab");
    }

    #[test]
    fn a_vmlinux_of_the_same_build_is_taken() {
        judge(&image(&[[7; SIZE]]), &vmlinux([7; SIZE])).unwrap();
        // The vDSO's may come first.
        judge(&image(&[[1; SIZE], [7; SIZE]]), &vmlinux([7; SIZE])).unwrap();
        judge(&image(&[]), &vmlinux([7; SIZE])).unwrap();
    }

    #[test]
    fn a_vmlinux_of_another_build_is_named() {
        let error = judge(&image(&[[1; SIZE], [2; SIZE]]), &vmlinux([7; SIZE]));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("vmlinux is of another build than the kernel /boot/Image"),
            "{error}"
        );
        assert!(error.contains("070707070707 and 010101010101"), "{error}");
    }

    #[test]
    fn what_is_no_vmlinux_is_said_to_be_none() {
        let error = judge(&image(&[]), b"a text file").unwrap_err();
        assert!(format!("{error:#}").contains("no ELF file"), "{error:#}");
        let error = check(&[], Path::new("Image"), Path::new("/no/such/vmlinux")).unwrap_err();
        assert!(error.to_string().contains("/no/such/vmlinux"), "{error}");
    }
}
