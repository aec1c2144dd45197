//! Debian's own kernels, unchanged, with the modules that find a virtio disk, a Raspberry Pi 4's card, and of one a network card.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lzma_rust2::XzReader;

use crate::archive::Archive;
use crate::cache::{self, Cache, fingerprint, unwritable};
use crate::progress::Progress;

/// The package that depends on the kernel that a Debian machine runs.
const PACKAGE: &str = "linux-image-arm64";
/// The same with pages of 16 KiB.
const PACKAGE_16K: &str = "linux-image-arm64-16k";
/// What a kernel's package takes while it is fetched and taken apart.
const SPACE: u64 = 700_000_000;
/// The modules that find a virtio disk, in the order in which they are loaded; what they need is built in.
const MODULES: [&str; 2] = ["virtio_mmio", "virtio_blk"];
/// Those that find a Raspberry Pi 4's card, its supplies first (Linux, bcm2711-rpi-4-b.dts), and its watchdog, which is the board's reset.
const CARD: [&str; 6] = [
    "fixed",
    "gpio-regulator",
    "sdhci",
    "sdhci-pltfm",
    "sdhci-iproc",
    "bcm2835_wdt",
];
/// Those of a virtio network card in Linux 6.1 besides; later ones need others.
const NETWORK: [&str; 3] = ["failover", "net_failover", "virtio_net"];

/// A release of Debian, by the kernel that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Linux 6.1.
    Debian12,
    /// Linux 6.12.
    Debian13,
    /// Linux 6.12 with pages of 16 KiB.
    Debian13Pages16k,
    /// The newest kernel for Debian 13.
    Backports,
    /// The same with pages of 16 KiB.
    BackportsPages16k,
}

impl Release {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Debian12,
        Self::Debian13,
        Self::Debian13Pages16k,
        Self::Backports,
        Self::BackportsPages16k,
    ];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian-12",
            Self::Debian13 => "debian-13",
            Self::Debian13Pages16k => "debian-13-16k",
            Self::Backports => "backports",
            Self::BackportsPages16k => "backports-16k",
        }
    }

    /// The release of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|release| release.name() == name)
    }

    /// The suite of the archive.
    const fn suite(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Debian13 | Self::Debian13Pages16k => "trixie",
            Self::Backports | Self::BackportsPages16k => "trixie-backports",
        }
    }

    /// The package that depends on its kernel.
    const fn package(self) -> &'static str {
        match self {
            Self::Debian12 | Self::Debian13 | Self::Backports => PACKAGE,
            Self::Debian13Pages16k | Self::BackportsPages16k => PACKAGE_16K,
        }
    }

    /// Its modules, in the order in which they are loaded.
    fn modules(self) -> Vec<&'static str> {
        match self {
            Self::Debian12 => [&MODULES[..], &CARD, &NETWORK].concat(),
            _ => [&MODULES[..], &CARD].concat(),
        }
    }

    /// What the cache calls it, and these modules of it.
    fn entry(self) -> String {
        let modules = fingerprint(&self.modules());
        format!("stock-kernel-{}-{modules}", self.name())
    }

    /// The suite whose programs go with its kernel.
    const fn programs(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            _ => "trixie",
        }
    }

    /// How the versions of its kernels begin.
    const fn series(self) -> &'static str {
        match self {
            Self::Debian12 => "6.1.",
            Self::Debian13 | Self::Debian13Pages16k => "6.12.",
            Self::Backports | Self::BackportsPages16k => "7.",
        }
    }
}

/// A kernel as Debian ships it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The kernel, packed as Debian packs it.
    pub vmlinuz: PathBuf,
    /// What `uname -r` says.
    pub release: String,
    /// Its modules, unpacked, in the order in which they are loaded.
    pub modules: Vec<PathBuf>,
    /// The suite of the archive whose programs go with it.
    pub suite: &'static str,
}

/// Fetches the kernel of `release`, unless the cache has one.
pub fn ensure(cache: &Cache, release: Release, progress: &Progress) -> Result<Kernel> {
    let _lock = cache.lock("stock-kernels", progress)?;
    let entry = cache.entry(&release.entry(), |dir| fetch(cache, release, dir, progress))?;
    let files = release.modules().into_iter().map(file_name);
    let files: Vec<String> = files.collect();
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    cache::check_files(&entry, &[&["vmlinuz", "release"], &names[..]].concat())?;
    let version = fs::read_to_string(entry.join("release"))?;
    ensure!(
        version.starts_with(release.series()),
        "Debian {} has Linux {version}, but is to have {}x",
        release.suite(),
        release.series()
    );
    Ok(Kernel {
        vmlinuz: entry.join("vmlinuz"),
        release: version,
        modules: files.iter().map(|file| entry.join(file)).collect(),
        suite: release.programs(),
    })
}

fn file_name(module: &str) -> String {
    format!("{module}.ko")
}

/// Takes the kernel and its modules out of their packages, of which nothing else stays.
fn fetch(cache: &Cache, release: Release, dir: &Path, progress: &Progress) -> Result<()> {
    let suite = release.suite();
    cache.demand_space(SPACE, "fetching Debian's kernel")?;
    let archive = Archive::open(cache)?;
    let root = archive.suite(suite, progress)?;
    // Kernels come and go; an old list names one that is no longer there.
    root.update(progress)?;
    let package = release.package();
    let names = root.depends(package)?;
    let (image, version) = names
        .iter()
        .find_map(|name| Some((name, name.strip_prefix("linux-image-")?)))
        .with_context(|| format!("{package} of {suite} names no kernel"))?;
    // Since Linux 7 the files themselves are in packages of their own.
    let parts = root.depends(image)?;
    let own = |part: &str| {
        let name = format!("linux-{part}-{version}");
        parts.contains(&name).then_some(name)
    };
    let kernel = own("binary").unwrap_or_else(|| image.clone());
    let modules = own("modules").unwrap_or_else(|| image.clone());
    let mut files = vec![("*/vmlinuz*".to_owned(), dir.join("vmlinuz"))];
    if modules != kernel {
        archive.take(&root, &kernel, &files, progress)?;
        files.clear();
    }
    let file_of = |module: &&str| (format!("*/{module}.ko*"), dir.join(file_name(module)));
    let modules_of = release.modules();
    files.extend(modules_of.iter().map(file_of));
    archive.take(&root, &modules, &files, progress)?;
    for module in modules_of {
        unpack_module(&dir.join(file_name(module)))?;
    }
    let path = dir.join("release");
    fs::write(&path, version).map_err(|error| unwritable(&path, &error))?;
    Ok(())
}

/// Unpacks a module if it is packed: a guest may have nothing that can.
fn unpack_module(path: &Path) -> Result<()> {
    const XZ: &[u8] = b"\xfd7zXZ\0";
    let packed = fs::read(path)?;
    if !packed.starts_with(XZ) {
        return Ok(());
    }
    let mut module = Vec::new();
    XzReader::new(&packed[..], false)
        .read_to_end(&mut module)
        .with_context(|| format!("cannot unpack {}", path.display()))?;
    fs::write(path, module).map_err(|error| unwritable(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_release_is_known_by_its_name() {
        for release in Release::ALL {
            assert_eq!(Release::named(release.name()), Some(release));
        }
        assert_eq!(Release::named("trixie"), None);
    }
}
