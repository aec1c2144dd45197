//! The bundle that the hypervisor is handed: a kernel, its ramdisk and what the guest is to be.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use hv_abi::operator::Access;
use hv_bundle::{Format, Guest, GuestConfig, Kernel};

use crate::room::Needs;
use crate::run_dir::RunDir;
use crate::unpack::unpack;
use debian::paths::write_if_new;

/// One guest, as files.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    /// The kernel: an Image, also packed, or a flat binary.
    pub kernel: &'a Path,
    /// The initial ramdisk.
    pub initrd: Option<&'a Path>,
    /// What the guest is to be.
    pub config: GuestConfig,
    /// What its flash begins with.
    pub flash: Option<&'a Path>,
    /// What saves its memory.
    pub capture: Capture<'a>,
}

/// The files of a capture kernel ([`hv_bundle::Capture`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct Capture<'a> {
    /// The kernel, also packed; without, the guest's own.
    pub kernel: Option<&'a Path>,
    /// Its initial ramdisk.
    pub initrd: Option<&'a Path>,
}

impl Payload<'_> {
    /// Writes the bundle to `path`, and answers what room the guest needs.
    pub fn write(&self, path: &Path) -> Result<Needs> {
        self.write_for(path, USUAL_MIB, Access::Full)
    }

    /// The same for a machine with so many MiB of RAM, whose operator may do what `operator` says: a kernel that unpacks into
    /// more is refused.
    pub fn write_for(&self, path: &Path, memory_mib: u64, operator: Access) -> Result<Needs> {
        let needs = write_all(std::slice::from_ref(self), path, memory_mib, operator)?;
        needs.into_iter().next().context("a bundle has a guest")
    }

    fn read(&self, memory_mib: u64) -> Result<Files> {
        let kernel = read_kernel(self.kernel, memory_mib)?;
        let file = |what: &str, path: Option<&Path>| {
            let read = |path: &Path| {
                fs::read(path).with_context(|| format!("cannot read {what} {}", path.display()))
            };
            path.map(read).transpose()
        };
        let capture = self.capture.kernel;
        Ok(Files {
            kernel,
            ramdisk: file("the initrd", self.initrd)?,
            flash: file("the flash's file", self.flash)?,
            capture_kernel: capture
                .map(|kernel| read_kernel(kernel, memory_mib))
                .transpose()?,
            capture_ramdisk: file("the initrd of dump", self.capture.initrd)?,
        })
    }
}

/// What is in the files of a guest.
struct Files {
    kernel: Vec<u8>,
    ramdisk: Option<Vec<u8>>,
    flash: Option<Vec<u8>>,
    capture_kernel: Option<Vec<u8>>,
    capture_ramdisk: Option<Vec<u8>>,
}

/// Writes the bundle of all these guests to `path`, as [`Payload::write_for`]; the room that each needs.
pub fn write_all(
    payloads: &[Payload<'_>],
    path: &Path,
    memory_mib: u64,
    operator: Access,
) -> Result<Vec<Needs>> {
    let mut files = Vec::new();
    for payload in payloads {
        files.push(payload.read(memory_mib)?);
    }
    let guests = payloads.iter().zip(&files);
    let guests = guests.map(|(payload, files)| Guest {
        config: payload.config.clone(),
        kernel: &files.kernel,
        ramdisk: files.ramdisk.as_deref(),
        flash: files.flash.as_deref(),
        capture: hv_bundle::Capture {
            kernel: files.capture_kernel.as_deref(),
            ramdisk: files.capture_ramdisk.as_deref(),
        },
    });
    let guests: Vec<Guest<'_>> = guests.collect();
    let bundle = hv_bundle::write_for(operator, &guests)
        .map_err(|error| anyhow::anyhow!("cannot make the guest's bundle: {error}"))?;
    write_if_new(path, &bundle)?;
    let needs = files.iter().map(|files| Needs {
        kernel: footprint(&files.kernel),
        is_flat: is_flat(&files.kernel),
        ramdisk: size(files.ramdisk.as_ref()),
        bundle: size(Some(&bundle)),
    });
    Ok(needs.collect())
}

/// The memory that `kernel` takes, a file that has been recognised.
fn footprint(kernel: &[u8]) -> u64 {
    Kernel::recognise(kernel).map_or(0, |kernel| kernel.footprint())
}

/// Whether `kernel` has no header that says where it goes.
fn is_flat(kernel: &[u8]) -> bool {
    Kernel::recognise(kernel).is_ok_and(|kernel| matches!(kernel.format, Format::Flat))
}

fn size(bytes: Option<&Vec<u8>>) -> u64 {
    bytes.map_or(0, |bytes| bytes.len() as u64)
}

/// Where it is not known how much RAM there will be, no kernel is larger than so many MiB.
pub const USUAL_MIB: u64 = 2048;

/// A kernel that QEMU starts itself on a machine with so many MiB of RAM: `kernel`, or if that is packed what it unpacks
/// into, in `folder`; and what room it needs. Nothing is known of one that only QEMU understands.
pub fn bare(
    kernel: &Path,
    initrd: Option<&Path>,
    folder: &RunDir,
    memory_mib: u64,
) -> Result<(PathBuf, Needs)> {
    let ramdisk = match initrd {
        Some(initrd) => fs::metadata(initrd)
            .with_context(|| format!("cannot read the initrd {}", initrd.display()))?
            .len(),
        None => 0,
    };
    let (bytes, was_packed) = read_unpacked(kernel, memory_mib)?;
    let needs = Needs {
        kernel: footprint(&bytes),
        is_flat: is_flat(&bytes),
        ramdisk,
        bundle: 0,
    };
    if !was_packed {
        return Ok((kernel.to_owned(), needs));
    }
    let path = folder.file("Image");
    write_if_new(&path, &bytes)?;
    Ok((path, needs))
}

/// What `path` has, unpacked if need be, and whether that was so.
fn read_unpacked(path: &Path, memory_mib: u64) -> Result<(Vec<u8>, bool)> {
    let read = || -> Result<(Vec<u8>, bool)> {
        let bytes = fs::read(path)?;
        let packed = bytes.len();
        let unpacked = unpack(bytes, memory_mib << 20)?;
        let was_packed = unpacked.len() != packed;
        Ok((unpacked, was_packed))
    };
    read().with_context(|| format!("cannot use the kernel {}", path.display()))
}

/// Whether `kernel` is Xen: it says what its heap has, which no other kernel has. At EL1 it stays where it is, without a word
/// (xen/arch/arm/arm64/head.S, `check_cpu_mode`).
fn is_xen(kernel: &[u8]) -> bool {
    /// Its files have some 2 MB; those of Linux are larger.
    const MOST: usize = 8 << 20;
    const WORDS: &[u8] = b"Xen heap: ";
    kernel.len() <= MOST && kernel.windows(WORDS.len()).any(|window| window == WORDS)
}

/// The kernel in `path`, unpacked if need be, and checked to be one that may have so many MiB.
pub fn read_kernel(path: &Path, memory_mib: u64) -> Result<Vec<u8>> {
    let (bytes, _) = read_unpacked(path, memory_mib)?;
    match Kernel::recognise(&bytes) {
        Ok(_) if is_xen(&bytes) => bail!(
            "cannot use the kernel {}: it is Xen, which needs EL2, and a guest has EL1; give its domain's kernel itself",
            path.display()
        ),
        Ok(_) => Ok(bytes),
        Err(error) => bail!("cannot use the kernel {}: {error}", path.display()),
    }
}
