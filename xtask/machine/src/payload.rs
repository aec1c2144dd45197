//! The bundle that the hypervisor is handed: a kernel, its ramdisk and what the guest is to be.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use hv_bundle::{Guest, GuestConfig, Kernel};

use crate::room::Needs;
use debian::paths::write_if_new;

/// One guest, as files.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    /// The kernel: an Image, also gzipped, or a flat binary.
    pub kernel: &'a Path,
    /// The initial ramdisk.
    pub initrd: Option<&'a Path>,
    /// What the guest is to be.
    pub config: GuestConfig,
}

impl Payload<'_> {
    /// Writes the bundle to `path`, and answers what room the guest needs.
    pub fn write(&self, path: &Path) -> Result<Needs> {
        let kernel = read_kernel(self.kernel)?;
        let ramdisk = match self.initrd {
            Some(initrd) => Some(
                fs::read(initrd)
                    .with_context(|| format!("cannot read the initrd {}", initrd.display()))?,
            ),
            None => None,
        };
        let guest = Guest {
            config: self.config.clone(),
            kernel: &kernel,
            ramdisk: ramdisk.as_deref(),
        };
        let bundle = hv_bundle::write(&[guest])
            .map_err(|error| anyhow::anyhow!("cannot make the guest's bundle: {error}"))?;
        write_if_new(path, &bundle)?;
        Ok(Needs {
            kernel: footprint(&kernel),
            ramdisk: size(ramdisk.as_ref()),
            bundle: size(Some(&bundle)),
        })
    }
}

/// The memory that `kernel` takes, a file that has been recognised.
fn footprint(kernel: &[u8]) -> u64 {
    Kernel::recognise(kernel).map_or(0, |kernel| kernel.footprint())
}

fn size(bytes: Option<&Vec<u8>>) -> u64 {
    bytes.map_or(0, |bytes| bytes.len() as u64)
}

/// What room a kernel needs that QEMU starts itself; nothing is known of one that only QEMU understands.
pub fn bare_needs(kernel: &Path, initrd: Option<&Path>) -> Result<Needs> {
    let ramdisk = match initrd {
        Some(initrd) => fs::metadata(initrd)
            .with_context(|| format!("cannot read the initrd {}", initrd.display()))?
            .len(),
        None => 0,
    };
    Ok(Needs {
        kernel: read_kernel(kernel).map_or(0, |kernel| footprint(&kernel)),
        ramdisk,
        bundle: 0,
    })
}

/// The kernel in `path`, unpacked if need be, and checked to be one.
pub fn read_kernel(path: &Path) -> Result<Vec<u8>> {
    let read = || -> Result<Vec<u8>> {
        let bytes = unpack(fs::read(path)?)?;
        match Kernel::recognise(&bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => bail!("{error}"),
        }
    };
    read().with_context(|| format!("cannot use the kernel {}", path.display()))
}

/// Undoes gzip, alone or inside an EFI zboot image; leaves the rest as it is.
fn unpack(bytes: Vec<u8>) -> Result<Vec<u8>> {
    if let Some(packed) = zboot_payload(&bytes)? {
        return gunzip(packed);
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return gunzip(&bytes);
    }
    Ok(bytes)
}

fn gunzip(packed: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .context("its gzip stream is damaged; fetch the file again")?;
    Ok(bytes)
}

/// The compressed kernel inside an EFI zboot image (Linux, drivers/firmware/efi/libstub/zboot-header.S):
/// "MZ", at 4 "zimg", at 8 the payload's offset, at 12 its size, at 24 the compression's name.
fn zboot_payload(bytes: &[u8]) -> Result<Option<&[u8]>> {
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
    if name != "gzip" {
        bail!("it is an EFI zboot image packed with {name}; unpack it to an Image first");
    }
    let (start, size) = (word(8)?, word(12)?);
    let payload = bytes.get(start..start.saturating_add(size));
    payload
        .context("it is cut short; fetch the file again")
        .map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

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

    #[test]
    fn gzip_is_undone_alone_and_inside_zboot() {
        let kernel = b"a kernel of some kind".to_vec();
        assert_eq!(unpack(kernel.clone()).unwrap(), kernel);
        assert_eq!(unpack(gzip(&kernel)).unwrap(), kernel);
        assert_eq!(unpack(zboot("gzip", &gzip(&kernel))).unwrap(), kernel);
    }

    #[test]
    fn damaged_or_foreign_packing_is_named() {
        let packed = gzip(b"a kernel of some kind");
        let error = unpack(packed[..packed.len() - 9].to_vec()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
        let error = unpack(zboot("zstd22", &packed)).unwrap_err();
        assert!(error.to_string().contains("zstd22"), "{error}");
        let image = zboot("gzip", &packed);
        let error = unpack(image[..image.len() - 1].to_vec()).unwrap_err();
        assert!(error.to_string().contains("cut short"), "{error}");
    }
}
