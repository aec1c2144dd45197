//! The guest kernel: Linux from Debian's source package, configured by
//! `guest-tests/linux/kernel.config` and built once per version and
//! configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::archive::{Archive, Offer, Root, at_least, unpack, upstream};
use crate::cache::{Cache, fingerprint, remove, unwritable};
use crate::progress::Progress;
use crate::{initramfs, tools};

pub mod kbuild;

use kbuild::{configure, make, run};

/// The configuration; everything else that can be left out is.
const FRAGMENT: &str = include_str!("../../guest-tests/linux/kernel.config");
/// The first Linux that stops CPUs through SDEI (CONFIG_ARM_SDEI_NMI).
const LEAST: [u32; 2] = [7, 3];
/// Source, objects and debug information together, with some room.
const SPACE: u64 = 3_500_000_000;
/// Large parts of the source that no arm64 build without modules reads.
const UNREAD: [&str; 5] = [
    "*/drivers/gpu/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/sound/*.[ch]",
    "*/tools/testing",
    "*/Documentation/translations",
];

/// Fetch and build the guest's kernel and initramfs, unless the cache has them.
///
/// Prints three paths: the Image, the vmlinux with symbols and debug information, and the initramfs.
/// Other commands do this by themselves when they need it. Interrupted, it goes on where it was.
#[derive(clap::Args)]
pub struct GuestKernel {
    /// Take the newest source that Debian's archive has now, rather than the one in the cache.
    #[arg(long)]
    update: bool,
}

impl GuestKernel {
    /// Fetches, builds and prints.
    pub fn execute(self) -> Result<ExitCode> {
        let progress = Progress::new();
        let cache = Cache::open()?;
        if self.update {
            update(&cache, &progress)?;
        }
        let kernel = ensure(&cache, &progress)?;
        let initramfs = initramfs::ensure(&cache, &kernel.image, &progress)?;
        for path in [&kernel.image, &kernel.vmlinux, &initramfs] {
            println!("{}", path.display());
        }
        Ok(ExitCode::SUCCESS)
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

/// Builds the guest kernel unless the cache has it.
pub fn ensure(cache: &Cache, progress: &Progress) -> Result<Kernel> {
    let _lock = cache.lock("kernel", progress)?;
    let key = fingerprint(&[FRAGMENT]);
    if let Some(kernel) = chosen(cache, &key) {
        return Ok(kernel);
    }
    let archive = Archive::open(cache)?;
    let (root, offer) = choose(&archive, progress)?;
    let entry = format!("linux-{}-{key}", upstream(&offer.version));
    if !cache.path().join(&entry).is_dir() {
        build(cache, &archive, &root, &offer, &entry, progress)?;
    }
    let pointer = pointer(cache, &key);
    fs::write(&pointer, &entry).map_err(|error| unwritable(&pointer, &error))?;
    open(&cache.path().join(entry))
}

/// Forgets which source version was chosen and reads the package lists anew,
/// so that [`ensure`] takes the newest that the archive has.
fn update(cache: &Cache, progress: &Progress) -> Result<()> {
    let archive = Archive::open(cache)?;
    for suite in archive.suites() {
        if let Some(root) = archive.root(&suite, archive.host_architecture(), progress)? {
            root.update(progress)?;
        }
    }
    initramfs::update(&archive, progress)?;
    match fs::remove_file(pointer(cache, &fingerprint(&[FRAGMENT]))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The file that names the kernel chosen for a configuration: later runs use
/// it without asking the archive again.
fn pointer(cache: &Cache, key: &str) -> PathBuf {
    cache.path().join(format!("linux-for-{key}"))
}

/// The kernel that an earlier run chose and built.
pub fn ready(cache: &Cache) -> Option<Kernel> {
    chosen(cache, &fingerprint(&[FRAGMENT]))
}

fn chosen(cache: &Cache, key: &str) -> Option<Kernel> {
    let entry = fs::read_to_string(pointer(cache, key)).ok()?;
    open(&cache.path().join(entry)).ok()
}

/// A finished kernel of the cache.
fn open(dir: &Path) -> Result<Kernel> {
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

/// Fetches, unpacks, configures and builds the cache's `entry`.
fn build(
    cache: &Cache,
    archive: &Archive,
    root: &Root,
    offer: &Offer,
    entry: &str,
    progress: &Progress,
) -> Result<()> {
    tools::demand(cache, &tools::kernel_tools(), progress)?;
    let name = format!("{}-{}", offer.package, offer.version);
    let source = cache.path().join("build").join(&name);
    if !source.is_dir() {
        cache.demand_space(SPACE, "building the guest kernel")?;
    }
    let package = archive.fetch(root, offer, progress)?;
    let source = cache.entry(&format!("build/{name}"), |dir| {
        unpack_source(&package, dir, progress)
    })?;
    let objects = source.with_file_name(format!("{name}-{}", fingerprint(&[FRAGMENT])));
    fs::create_dir_all(&objects).map_err(|error| unwritable(&objects, &error))?;
    configure(&source, &objects)?;
    make(&source, &objects, progress)?;

    cache.entry(entry, |dir| keep(&objects, dir))?;
    // Two gigabytes that no later run reads.
    remove(&objects)?;
    remove(&source)
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

/// Unpacks the source tree from Debian's package into `dir`.
fn unpack_source(package: &Path, dir: &Path, progress: &Progress) -> Result<()> {
    let mut step = progress.step("unpack the Linux source");
    let parts = dir.join("package");
    fs::create_dir_all(&parts).map_err(|error| unwritable(&parts, &error))?;
    unpack(package, &parts)?;
    let tarball = fs::read_dir(parts.join("usr/src"))
        .context("Debian's linux-source has no usr/src")?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(".tar."))
        .context("Debian's linux-source has no source archive")?;
    let mut tar = Command::new("tar");
    tar.arg("-x").arg("-f").arg(&tarball).arg("-C").arg(dir);
    tar.args(["--strip-components=1"]);
    for pattern in UNREAD {
        tar.arg(format!("--exclude={pattern}"));
    }
    run(&mut tar, &dir.join("unpack.log"), "tar", |child| {
        step.wait(child, || "unpacking".to_owned())
    })?;
    remove(&parts)?;
    step.done();
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
