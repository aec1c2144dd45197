//! The guest's initramfs: our init and programs, and busybox, kexec-tools and
//! makedumpfile from Debian's arm64 packages with the libraries that they load.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};

use crate::archive::{Archive, Root, unpack};
use crate::cache::{Cache, fingerprint, unwritable};
use crate::progress::Progress;

mod cpio;
mod saver;
mod standalone;

pub use saver::Saver;

/// The guest's architecture, in Debian's words.
const ARCHITECTURE: &str = "arm64";
/// The suite of our guest's programs: a stable release, whose packages stay.
pub const SUITE: &str = "trixie";
/// The packages of the guest's programs.
const PACKAGES: [&str; 3] = ["busybox-static", "kexec-tools", "makedumpfile"];
/// The programs, by their possible places in the packages.
const PROGRAMS: [(&str, &[&str]); 4] = [
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
];
/// Where Debian keeps arm64 libraries.
const LIBRARY_DIRS: [&str; 4] = [
    "usr/lib/aarch64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
    "lib",
];
/// The dynamic loader, under the name that programs ask for.
const LOADER: &str = "ld-linux-aarch64.so.1";
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
    let programs = PROGRAMS.map(|(program, _)| program).join(" ");
    let name = format!(
        "guest-programs-{}",
        fingerprint(&[suite, ARCHITECTURE, &PACKAGES.join(" "), &programs])
    );
    cache.entry(&name, |dir| {
        let archive = Archive::open(cache)?;
        let root = archive
            .root(suite, ARCHITECTURE, progress)?
            .with_context(|| format!("the archive has no suite {suite}"))?;
        fetch(&archive, &root, dir, progress)
    })
}

/// Fetches the packages of a suite, and leaves programs and libraries in `dir`.
fn fetch(archive: &Archive, root: &Root, dir: &Path, progress: &Progress) -> Result<()> {
    let unpacked = dir.join("packages");
    fs::create_dir_all(&unpacked).map_err(|error| unwritable(&unpacked, &error))?;
    for package in closure(root)? {
        let offers = root.offers(&[&package])?;
        // What only a virtual package names has no file.
        let Some(offer) = offers.first() else {
            continue;
        };
        unpack(&archive.fetch(root, offer, progress)?, &unpacked)?;
    }
    collect(&unpacked, dir)?;
    crate::cache::remove(&unpacked)
}

/// The packages, and all library packages that they depend on.
fn closure(root: &Root) -> Result<BTreeSet<String>> {
    let mut found: BTreeSet<String> = PACKAGES.map(str::to_owned).into();
    let mut todo: Vec<String> = found.iter().cloned().collect();
    while let Some(package) = todo.pop() {
        for dependency in root.depends(&package)? {
            let library = dependency.starts_with("lib") || dependency.starts_with("zlib");
            if library && found.insert(dependency.clone()) {
                todo.push(dependency);
            }
        }
    }
    Ok(found)
}

/// Copies the programs and what they load from `unpacked` to `dir`.
fn collect(unpacked: &Path, dir: &Path) -> Result<()> {
    let mut todo = Vec::new();
    for (program, places) in PROGRAMS {
        let place = places
            .iter()
            .map(|place| unpacked.join(place))
            .find(|path| path.is_file())
            .with_context(|| format!("Debian's packages have no {program}"))?;
        copy(&place, &dir.join(program))?;
        todo.push(place);
    }
    let mut known = BTreeSet::from([LOADER.to_owned()]);
    todo.push(copy_library(unpacked, dir, LOADER)?);
    while let Some(path) = todo.pop() {
        for library in needed(&path)? {
            if known.insert(library.clone()) {
                todo.push(copy_library(unpacked, dir, &library)?);
            }
        }
    }
    Ok(())
}

/// Copies one library to `lib`, under the name that it is loaded by.
fn copy_library(unpacked: &Path, dir: &Path, name: &str) -> Result<PathBuf> {
    let place = LIBRARY_DIRS
        .iter()
        .map(|place| unpacked.join(place).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no package of the guest has {name}"))?;
    copy(&place, &dir.join("lib").join(name))?;
    Ok(place)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(|error| unwritable(parent, &error))?;
    }
    fs::copy(from, to).map_err(|error| unwritable(to, &error))?;
    Ok(())
}

/// The libraries that an ELF file loads.
fn needed(path: &Path) -> Result<Vec<String>> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    needed_in(&data).with_context(|| format!("{} is no arm64 program", path.display()))
}

fn needed_in(data: &[u8]) -> Result<Vec<String>> {
    let header = FileHeader64::<object::Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((entries, strings)) = sections.dynamic(endian, data)? else {
        return Ok(Vec::new());
    };
    let strings = sections.strings(endian, data, strings)?;
    let mut libraries = Vec::new();
    for entry in entries {
        if entry.tag(endian) == DT_NEEDED {
            let name = entry.string(endian, strings)?;
            libraries.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(libraries)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_dynamic_program_are_found_and_text_is_refused() {
        let this = std::env::current_exe().unwrap();
        let libraries = needed(&this).unwrap();
        assert!(
            libraries.iter().any(|name| name.starts_with("libc.so")),
            "{libraries:?}"
        );
        assert!(needed_in(b"#!/bin/sh\n").is_err());
    }
}
