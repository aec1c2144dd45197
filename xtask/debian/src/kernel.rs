//! The guest kernel: Linux from Debian's source package, configured by
//! `guest-tests/linux/kernel.config` and built once per version and
//! configuration; and the same with `guest-tests/linux/sdei-ending.patch`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::archive::{Archive, Offer, Root, at_least, upstream};
use crate::cache::{self, Cache, fingerprint, remove, unwritable};
use crate::initramfs;
use crate::progress::Progress;
use crate::tools;

pub mod config;
pub mod flags;
pub mod kbuild;
mod kconfig;
pub mod kunit;
pub mod pages;
mod source;
pub mod tree;

pub use source::PATCH;

use flags::Flags;
use kbuild::{Build, OUR_LINES, configure};
use source::Source;

/// The configuration; everything else that can be left out is.
const FRAGMENT: &str = include_str!("../../../guest-tests/linux/kernel.config");
/// The first Linux that stops CPUs through SDEI (CONFIG_ARM_SDEI_NMI).
const LEAST: [u32; 2] = [7, 3];
/// Source, objects and debug information together, with some room.
const SPACE: u64 = 3_500_000_000;

/// Which of the guest kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelVariant {
    /// As Debian has it.
    Plain,
    /// With our patch, by which `sdei_ending=` says how a CPU ends that SDEI stopped.
    Endings,
}

impl KernelVariant {
    /// What distinguishes it from all other kernels of its version.
    fn key(self) -> String {
        match self {
            Self::Plain => fingerprint(&[FRAGMENT]),
            Self::Endings => fingerprint(&[FRAGMENT, source::PATCH]),
        }
    }

    /// The directory of the cache that has it.
    fn entry(self, offer: &Offer) -> String {
        format!("linux-{}-{}", upstream(&offer.version), self.key())
    }
}

/// A guest kernel that is ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The arm64 Image.
    pub image: PathBuf,
    /// The same with symbols and debug information.
    pub vmlinux: PathBuf,
    /// Its version as it tells it, e.g. `7.3.4`.
    pub release: String,
}

/// Builds the guest kernel unless the cache has it, and the other variant with it.
pub fn ensure(cache: &Cache, variant: KernelVariant, progress: &Progress) -> Result<Kernel> {
    let _lock = cache.lock("kernel", progress)?;
    if let Some(chosen) = chosen(cache, variant) {
        return open(&chosen);
    }
    let archive = Archive::open(cache)?;
    let (root, offer) = choose(&archive, progress)?;
    let variants = [KernelVariant::Plain, KernelVariant::Endings];
    let is_there = |variant: &KernelVariant| cache.path().join(variant.entry(&offer)).is_dir();
    if !variants.iter().all(is_there) {
        build(cache, &archive, &root, &offer, progress)?;
    }
    for variant in variants {
        let pointer = pointer(cache, &variant.key());
        fs::write(&pointer, variant.entry(&offer)).map_err(|error| unwritable(&pointer, &error))?;
    }
    open(&cache.path().join(variant.entry(&offer)))
}

/// Forgets which source version was chosen and reads the package lists anew,
/// so that [`ensure`] takes the newest that the archive has.
pub fn update(cache: &Cache, progress: &Progress) -> Result<()> {
    let archive = Archive::open(cache)?;
    for suite in archive.suites() {
        if let Some(root) = archive.root(&suite, archive.host_architecture(), progress)? {
            root.update(progress)?;
        }
    }
    initramfs::update(&archive, progress)?;
    for variant in [KernelVariant::Plain, KernelVariant::Endings] {
        match fs::remove_file(pointer(cache, &variant.key())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The file that names the kernel chosen for a configuration: later runs use
/// it without asking the archive again.
fn pointer(cache: &Cache, key: &str) -> PathBuf {
    cache.path().join(format!("linux-for-{key}"))
}

/// The kernel that an earlier run chose and built.
pub fn ready(cache: &Cache, variant: KernelVariant) -> Option<Kernel> {
    open(&chosen(cache, variant)?).ok()
}

/// The folder of that kernel, if it is there; whether its files are is for [`open`] to say.
fn chosen(cache: &Cache, variant: KernelVariant) -> Option<PathBuf> {
    let entry = fs::read_to_string(pointer(cache, &variant.key())).ok()?;
    let folder = cache.path().join(entry);
    folder.is_dir().then_some(folder)
}

/// A finished kernel of the cache.
fn open(dir: &Path) -> Result<Kernel> {
    cache::check_files(dir, &["release", "Image", "vmlinux"])?;
    let release = fs::read_to_string(dir.join("release"))
        .with_context(|| format!("{} has no kernel", dir.display()))?;
    Ok(Kernel {
        image: dir.join("Image"),
        vmlinux: dir.join("vmlinux"),
        release: release.trim().to_owned(),
    })
}

/// Finds the source package to build from.
fn choose(archive: &Archive, progress: &Progress) -> Result<(Root, Offer)> {
    for suite in archive.suites() {
        let Some(root) = archive.root(&suite, archive.host_architecture(), progress)? else {
            continue;
        };
        let offers = root.offers(&["^linux-source-[0-9.]+$"])?;
        if let Some(offer) = best(&offers) {
            return Ok((root, offer.clone()));
        }
    }
    bail!(
        "Debian's archive has no linux-source of 7.3 or later: bring your own kernel with --kernel"
    )
}

/// The lowest series that is new enough, hence the one best tried, and of it
/// the version that apt names first, which is the newest.
fn best(offers: &[Offer]) -> Option<&Offer> {
    let series = |offer: &Offer| {
        let name = offer.package.strip_prefix("linux-source-")?;
        let mut numbers = name.split('.').map(str::parse::<u32>);
        let major = numbers.next()?.ok()?;
        Some((major, numbers.next()?.ok()?))
    };
    offers
        .iter()
        .filter(|offer| at_least(upstream(&offer.version), &LEAST))
        .filter(|offer| series(offer).is_some())
        .min_by_key(|offer| series(offer))
}

/// Fetches, unpacks, configures and builds both variants.
///
/// The second takes the objects of the first but for a few, so it costs a minute.
fn build(
    cache: &Cache,
    archive: &Archive,
    root: &Root,
    offer: &Offer,
    progress: &Progress,
) -> Result<()> {
    tools::demand(cache, &tools::kernel_tools(), progress)?;
    let name = format!("{}-{}", offer.package, offer.version);
    if !cache.path().join("build").join(&name).is_dir() {
        cache.demand_space(SPACE, "building the guest kernel")?;
    }
    let package = archive.fetch(root, offer, progress)?;
    let plain = KernelVariant::Plain.entry(offer);
    let is_plain_wanted = !cache.path().join(&plain).is_dir();
    let source = Source::of(cache, &name);
    let objects = source
        .path()
        .with_file_name(format!("{name}-{}", fingerprint(&[FRAGMENT])));
    if !source.will_do(is_plain_wanted) {
        // Objects are newer than any source, so make would keep those of another patch.
        source.remove()?;
        remove(&objects)?;
    }
    source.unpack(cache, &name, &package, progress)?;
    fs::create_dir_all(&objects).map_err(|error| unwritable(&objects, &error))?;
    let build = Build {
        source: source.path().to_owned(),
        objects: objects.clone(),
        flags: Flags::ours(),
    };
    configure(&build)?;
    if is_plain_wanted {
        build.make("build Linux", Some(OUR_LINES), progress)?;
        cache.entry(&plain, |dir| keep(&objects, dir))?;
    }
    source.patch()?;
    let what = "build Linux with a choice of endings";
    build.make(what, Some(OUR_LINES), progress)?;
    cache.entry(&KernelVariant::Endings.entry(offer), |dir| {
        keep(&objects, dir)
    })?;

    // Two gigabytes that no later run reads.
    remove(&objects)?;
    source.remove()
}

/// Copies what is wanted of a finished build to `dir`.
fn keep(objects: &Path, dir: &Path) -> Result<()> {
    for (from, to) in [
        ("arch/arm64/boot/Image", "Image"),
        ("vmlinux", "vmlinux"),
        (".config", "config"),
        ("include/config/kernel.release", "release"),
    ] {
        let from = objects.join(from);
        if !from.is_file() {
            bail!("the build of Linux left no {}", from.display());
        }
        let to = dir.join(to);
        fs::copy(from, &to).map_err(|error| unwritable(&to, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(package: &str, version: &str) -> Offer {
        Offer {
            package: package.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn lowest_series_that_is_new_enough_is_chosen() {
        let offers = [
            offer("linux-source-7.10", "7.10.1-1"),
            offer("linux-source-7.3", "7.3.9-1"),
            offer("linux-source-7.3", "7.3.4-1~bpo13+1"),
            offer("linux-source-7.2", "7.2.13-1"),
            offer("linux-source", "7.3.9-1"),
        ];
        assert_eq!(best(&offers), Some(&offers[1]));
        assert_eq!(best(&offers[..1]), Some(&offers[0]));
        assert_eq!(best(&offers[3..]), None);
    }

    #[test]
    fn finished_build_is_kept_whole_or_refused() {
        let base = std::env::temp_dir().join(format!("halligan-keep-{}", std::process::id()));
        remove(&base).unwrap();
        let (objects, dir) = (base.join("objects"), base.join("kept"));
        for path in ["arch/arm64/boot", "include/config"] {
            fs::create_dir_all(objects.join(path)).unwrap();
        }
        fs::create_dir_all(&dir).unwrap();
        for path in ["arch/arm64/boot/Image", "vmlinux", ".config"] {
            fs::write(objects.join(path), path).unwrap();
        }
        assert!(keep(&objects, &dir).is_err());
        fs::write(objects.join("include/config/kernel.release"), "7.3.4\n").unwrap();
        keep(&objects, &dir).unwrap();
        let kernel = open(&dir).unwrap();
        assert_eq!(kernel.release, "7.3.4");
        assert!(kernel.image.is_file() && kernel.vmlinux.is_file());
        remove(&base).unwrap();
    }
}
