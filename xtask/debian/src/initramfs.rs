//! The guest's initramfs: our init and programs, and busybox, kexec-tools and
//! makedumpfile from Debian's arm64 packages with the libraries that they load.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::archive::Archive;
use crate::cache::{Cache, fingerprint, unwritable};
use crate::programs::{ARCHITECTURE, Programs};
use crate::progress::Progress;

mod cpio;
mod saver;
mod standalone;

pub use saver::Saver;

/// The suite of our guest's programs: a stable release, whose packages stay.
pub const SUITE: &str = "trixie";
/// The guest's programs, by their possible places in the packages.
const PROGRAMS: Programs<'_> = Programs {
    packages: &["busybox-static", "kexec-tools", "makedumpfile"],
    places: &[
        ("bin/busybox", &["usr/bin/busybox", "bin/busybox"]),
        ("sbin/kexec", &["usr/sbin/kexec", "sbin/kexec"]),
        (
            "sbin/vmcore-dmesg",
            &["usr/sbin/vmcore-dmesg", "sbin/vmcore-dmesg"],
        ),
        (
            "bin/makedumpfile",
            &["usr/bin/makedumpfile", "bin/makedumpfile"],
        ),
    ],
};
const INIT: &[u8] = include_bytes!("../../../guest-tests/linux/init");

/// What a guest's kernel is, and so what it needs beside init and Debian's programs.
#[derive(Clone, Copy, Debug)]
pub enum Guest<'a> {
    /// Any kernel; the guest has a shell.
    Any,
    /// One of ours, or like ours: kdump jobs load this Image as the kernel that saves the dump, and our programs are there.
    Ours(&'a Path),
    /// As it is shipped: the same, with the modules that it needs, in the order in which they are loaded, and nothing that
    /// would have to be compiled.
    Shipped {
        /// The Image.
        image: &'a Path,
        /// The modules.
        modules: &'a [PathBuf],
        /// The suite of the archive whose programs go with that kernel.
        suite: &'a str,
    },
}

/// The initramfs of a guest. Returns the path of a gzipped cpio archive.
pub fn ensure(cache: &Cache, guest: Guest<'_>, progress: &Progress) -> Result<PathBuf> {
    ensure_with(cache, guest, &Saver::Usual, progress)
}

/// The same, whose dumps are saved by that makedumpfile.
pub fn ensure_with(
    cache: &Cache,
    guest: Guest<'_>,
    saver: &Saver,
    progress: &Progress,
) -> Result<PathBuf> {
    let _lock = cache.lock("initramfs", progress)?;
    let read =
        |image: &Path| fs::read(image).with_context(|| format!("cannot read {}", image.display()));
    let suite = match guest {
        Guest::Any | Guest::Ours(_) => SUITE,
        Guest::Shipped { suite, .. } => suite,
    };
    let programs = match saver {
        Saver::Version(version) => saver::programs(cache, version, progress)?,
        Saver::Usual | Saver::Program(_) => programs(cache, suite, progress)?,
    };
    let mut files: Vec<(String, u32, Vec<u8>)> = Vec::new();
    let kernel = match guest {
        Guest::Any => None,
        Guest::Ours(image) => {
            let ours = standalone::ensure(cache, progress)?;
            files.extend(
                ours.into_iter()
                    .map(|(name, bytes)| (format!("bin/{name}"), 0o755, bytes)),
            );
            Some(read(image)?)
        }
        Guest::Shipped { image, modules, .. } => {
            for (number, module) in modules.iter().enumerate() {
                let name = module.file_name().unwrap_or_default().to_string_lossy();
                // init loads them in the order of their names.
                files.push((
                    format!("lib/modules/{number:02}-{name}"),
                    0o644,
                    read(module)?,
                ));
            }
            Some(read(image)?)
        }
    };
    if let Saver::Program(path) = saver {
        let program = saver::read(path, &programs)?;
        files.push((saver::PLACE.to_owned(), 0o755, program));
    }
    let digests: Vec<String> = files
        .iter()
        .map(|(_, _, bytes)| crate::cache::digest(bytes))
        .collect();
    let key = fingerprint(&[
        &crate::cache::digest(INIT),
        &kernel
            .as_deref()
            .map(crate::cache::digest)
            .unwrap_or_default(),
        &programs.file_name().unwrap_or_default().to_string_lossy(),
        &digests.join(" "),
    ]);
    let entry = cache.entry(&format!("initramfs-{key}"), |dir| {
        let step = progress.step("pack the initramfs");
        let path = dir.join("initramfs.cpio.gz");
        let bytes = pack(&programs, kernel.as_deref(), &files)?;
        fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))?;
        step.done();
        Ok(())
    })?;
    Ok(entry.join("initramfs.cpio.gz"))
}

/// Reads the package list of the guest's programs anew.
pub fn update(archive: &Archive, progress: &Progress) -> Result<()> {
    if let Some(root) = archive.root(SUITE, ARCHITECTURE, progress)? {
        root.update(progress)?;
    }
    Ok(())
}

/// The guest's programs and libraries, as a directory of the cache.
fn programs(cache: &Cache, suite: &str, progress: &Progress) -> Result<PathBuf> {
    let name = format!(
        "guest-programs-{}",
        PROGRAMS.fingerprint(&[suite, ARCHITECTURE])
    );
    cache.entry(&name, |dir| {
        let archive = Archive::open(cache)?;
        let root = archive
            .root(suite, ARCHITECTURE, progress)?
            .with_context(|| format!("the archive has no suite {suite}"))?;
        PROGRAMS.fetch(&archive, &root, dir, progress)
    })
}

/// Packs init, the kernel if there is one, `files` (path, mode, content), and everything below `programs`.
fn pack(
    programs: &Path,
    kernel: Option<&[u8]>,
    files: &[(String, u32, Vec<u8>)],
) -> Result<Vec<u8>> {
    let mut archive = cpio::Archive::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for dir in ["bin", "sbin", "lib", "lib/modules", "boot", "dev"] {
        archive.dir(dir)?;
    }
    // The kernel opens /dev/console for init before anything is mounted.
    archive.char_device("dev/console", 5, 1)?;
    archive.file("init", 0o755, INIT)?;
    if let Some(kernel) = kernel {
        archive.file("boot/Image", 0o644, kernel)?;
    }
    for (path, mode, content) in files {
        archive.file(path, *mode, content)?;
    }
    let has = |place: &str| files.iter().any(|(path, ..)| path == place);
    for dir in ["bin", "sbin", "lib"] {
        let path = programs.join(dir);
        let entries =
            fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut files = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        files.sort();
        for file in files {
            let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
                bail!("{} has no plain name", file.display());
            };
            let place = format!("{dir}/{name}");
            // Another one is there instead.
            if !has(&place) {
                archive.file(&place, 0o755, &fs::read(&file)?)?;
            }
        }
    }
    let mut gzip = archive.finish()?;
    gzip.flush()?;
    Ok(gzip.finish()?)
}
