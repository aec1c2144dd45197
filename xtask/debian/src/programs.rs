//! Programs for arm64 of Debian's packages, with the libraries that they load.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};

use crate::archive::{Archive, Root, unpack};
use crate::cache::{fingerprint, unwritable};
use crate::progress::Progress;

/// Their architecture, in Debian's words.
pub const ARCHITECTURE: &str = "arm64";
/// Where Debian keeps arm64 libraries.
const LIBRARY_DIRS: [&str; 4] = [
    "usr/lib/aarch64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
    "lib",
];
/// The dynamic loader, under the name that programs ask for.
pub const LOADER: &str = "ld-linux-aarch64.so.1";

/// Where a program goes, and where packages may have it.
type Place<'a> = (&'a str, &'a [&'a str]);

/// Some programs, and the packages that have them.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    /// The packages.
    pub packages: &'a [&'a str],
    /// The programs.
    pub places: &'a [Place<'a>],
}

impl Programs<'_> {
    /// What tells them from others, with what is `besides`.
    pub fn fingerprint(&self, besides: &[&str]) -> String {
        let programs = self.places.iter().map(|(program, _)| *program);
        let programs = programs.collect::<Vec<_>>().join(" ");
        let packages = self.packages.join(" ");
        fingerprint(&[besides, &[&packages, &programs]].concat())
    }

    /// Fetches the packages of a suite, and leaves programs and libraries in `dir`, the latter in `lib`.
    pub fn fetch(
        &self,
        archive: &Archive,
        root: &Root,
        dir: &Path,
        progress: &Progress,
    ) -> Result<()> {
        let unpacked = dir.join("packages");
        fs::create_dir_all(&unpacked).map_err(|error| unwritable(&unpacked, &error))?;
        for package in closure(root, self.packages)? {
            let offers = root.offers(&[&package])?;
            // What only a virtual package names has no file.
            let Some(offer) = offers.first() else {
                continue;
            };
            unpack(&archive.fetch(root, offer, progress)?, &unpacked)?;
        }
        collect(self.places, &unpacked, dir)?;
        crate::cache::remove(&unpacked)
    }
}

/// The packages, and all library packages that they depend on.
fn closure(root: &Root, packages: &[&str]) -> Result<BTreeSet<String>> {
    let mut found: BTreeSet<String> = packages.iter().map(|&name| name.to_owned()).collect();
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
fn collect(places: &[Place<'_>], unpacked: &Path, dir: &Path) -> Result<()> {
    let mut todo = Vec::new();
    for (program, places) in places {
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
        .with_context(|| format!("none of Debian's packages has {name}"))?;
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

pub(crate) fn needed_in(data: &[u8]) -> Result<Vec<String>> {
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
