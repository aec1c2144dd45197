//! Which makedumpfile a guest saves its dump by.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::PROGRAMS;
use crate::archive::{Archive, upstream};
use crate::cache::Cache;
use crate::programs::{ARCHITECTURE, needed_in};
use crate::progress::Progress;

/// Its package, and where it is in the guest.
const PACKAGE: &str = "makedumpfile";
pub(super) const PLACE: &str = "bin/makedumpfile";
/// The suites that may have another version: releases, and then what comes.
const SUITES: [&str; 5] = ["bookworm", "trixie", "trixie-backports", "forky", "sid"];

/// Which one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Saver {
    /// That of the guest's other programs.
    #[default]
    Usual,
    /// That of this version, out of whatever suite of Debian's archive has it, with all that the guest has of Debian.
    Version(String),
    /// This program, for arm64.
    Program(PathBuf),
}

/// The guest's programs and libraries of the suite whose makedumpfile has this version, as a directory of the cache.
pub(super) fn programs(cache: &Cache, version: &str, progress: &Progress) -> Result<PathBuf> {
    let is_version = |c: char| c.is_ascii_digit() || c == '.';
    ensure!(
        !version.is_empty() && version.chars().all(is_version),
        "{version} is no version of makedumpfile; write one such as 1.7.6"
    );
    let name = format!(
        "guest-programs-makedumpfile-{version}-{}",
        PROGRAMS.fingerprint(&[ARCHITECTURE])
    );
    cache.entry(&name, |dir| {
        let archive = Archive::open(cache)?;
        let mut others = Vec::new();
        for suite in SUITES {
            let Some(root) = archive.root(suite, ARCHITECTURE, progress)? else {
                continue;
            };
            for offer in root.offers(&[PACKAGE])? {
                let found = upstream(&offer.version);
                if found == version {
                    // Packages come and go; an old list names some that are no longer there.
                    root.update(progress)?;
                    return PROGRAMS.fetch(&archive, &root, dir, progress);
                }
                others.push(format!("{found} ({suite})"));
            }
        }
        let others = others.join(", ");
        bail!("Debian's archive has no makedumpfile {version} for arm64; it has {others}")
    })
}

/// The program at `path`, which loads what is in `programs`.
pub(super) fn read(path: &Path, programs: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let program = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    check(&program, |library| {
        programs.join("lib").join(library).is_file()
    })
    .with_context(|| format!("{shown} cannot run in the guest"))?;
    Ok(program)
}

fn check(program: &[u8], has: impl Fn(&str) -> bool) -> Result<()> {
    const EM_AARCH64: [u8; 2] = [183, 0];
    let is_elf = program.starts_with(b"\x7fELF") && program.get(18..20) == Some(&EM_AARCH64);
    ensure!(is_elf, "it is no arm64 program");
    for library in needed_in(program)? {
        ensure!(
            has(&library),
            "it loads {library}, which the guest does not have; link it with -static"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_for_another_machine_or_with_other_libraries_is_refused() {
        let error = |program: &[u8]| check(program, |_| false).unwrap_err().to_string();
        assert_eq!(error(b"#!/bin/sh\n"), "it is no arm64 program");
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut arm = own.clone();
        arm[18..20].copy_from_slice(&[183, 0]);
        assert!(check(&arm, |_| true).is_ok());
        assert!(error(&arm).contains("which the guest does not have"));
        arm[18] = 62;
        assert_eq!(error(&arm), "it is no arm64 program");
    }
}
