//! Where everything fetched or built for the guest is kept between runs.
//!
//! An entry appears under its final name only when it is complete: it is made
//! in a neighbouring `.partial` directory and renamed. An interrupted run can
//! therefore leave work behind, but never a cache that lies.

mod clear;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Access, FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::progress::Progress;

pub use clear::{clear, size};

/// The folder of the locks.
const LOCKS: &str = "locks";

/// The cache directory of this user.
pub struct Cache {
    root: PathBuf,
}

/// Held while one process works on a part of the cache.
pub struct Lock {
    _file: fs::File,
}

impl Cache {
    /// Opens (and creates) `$HALLIGAN_CACHE`, else `$XDG_CACHE_HOME/halligan`,
    /// else `~/.cache/halligan`.
    pub fn open() -> Result<Self> {
        Self::at(&place_of_user()?)
    }

    /// The same for those who only look: nothing is created.
    pub fn look() -> Result<Self> {
        Self::look_at(&place_of_user()?)
    }

    fn look_at(root: &Path) -> Result<Self> {
        ensure!(
            root.is_dir() || !root.exists(),
            "the cache {} is a file; set HALLIGAN_CACHE to a directory",
            root.display()
        );
        Ok(Self {
            // What is not there has no canonical path.
            root: root.canonicalize().unwrap_or_else(|_| root.to_owned()),
        })
    }

    /// Opens the cache at `root`, which is created if need be.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(|error| unwritable(root, &error))?;
        let root = root
            .canonicalize()
            .with_context(|| format!("cannot open the cache {}", root.display()))?;
        check_writable(&root)?;
        Ok(Self { root })
    }

    /// The directory that holds it all.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A directory of the cache, created if need be.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).map_err(|error| unwritable(&path, &error))?;
        Ok(path)
    }

    /// The entry `name`: if it is not there, `make` fills an empty directory
    /// which then becomes the entry, whole or not at all.
    pub fn entry(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let entry = self.root.join(name);
        if entry.is_dir() {
            check_whole(&entry)?;
            return Ok(entry);
        }
        let partial = self.root.join(format!("{name}.partial"));
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(|error| unwritable(&partial, &error))?;
        make(&partial)?;
        fs::rename(&partial, &entry).map_err(|error| unwritable(&entry, &error))?;
        Ok(entry)
    }

    /// Waits until no other process works on the part `name`.
    pub fn lock(&self, name: &str, progress: &Progress) -> Result<Lock> {
        let path = self.dir(LOCKS)?.join(name);
        let file = fs::File::create(&path).map_err(|error| unwritable(&path, &error))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let what = format!("wait for another xtask that works on: {name}");
            let step = progress.step(what);
            flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("cannot lock {}", path.display()))?;
            step.done();
        }
        Ok(Lock { _file: file })
    }

    /// Fails, with the mend, unless `bytes` more can be written to the cache.
    pub fn demand_space(&self, bytes: u64, purpose: &str) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.root)
            .with_context(|| format!("cannot ask for the free space of {}", self.root.display()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < bytes {
            bail!(
                "{purpose} needs {} MB, but {} has only {} MB left: make room or set HALLIGAN_CACHE to another disk",
                bytes / 1_000_000,
                self.root.display(),
                free / 1_000_000
            );
        }
        Ok(())
    }
}

/// The cache's place, as the environment says.
fn place_of_user() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    place(
        variable("HALLIGAN_CACHE").map(PathBuf::from),
        variable("XDG_CACHE_HOME").map(PathBuf::from),
        variable("HOME").map(PathBuf::from),
    )
    .context("no place for the cache: set HALLIGAN_CACHE to a directory")
}

/// The cache's place, from the three variables that can say it. Our own may be relative to the current folder; the XDG
/// Base Directory Specification has a relative path ignored, and a home that is relative is nobody's.
fn place(own: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let xdg = xdg.filter(|dir| dir.is_absolute());
    let home = home.filter(|dir| dir.is_absolute());
    own.or_else(|| xdg.map(|dir| dir.join("halligan")))
        .or_else(|| home.map(|dir| dir.join(".cache/halligan")))
}

/// That files can be made in the directory `root`: even what is there already is locked while it is used.
fn check_writable(root: &Path) -> Result<()> {
    match rustix::fs::access(root, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(()),
        Err(error) => Err(unwritable(root, &error.into())),
    }
}

/// That the entry `dir` is not empty, as after a clean-up by hand.
fn check_whole(dir: &Path) -> Result<()> {
    let mut files = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    ensure!(
        files.next().is_some(),
        "the cache is damaged: {0} is empty; remove {0} and it is made again",
        dir.display()
    );
    Ok(())
}

/// That each of `names` is a file of `dir` and not empty.
pub fn check_files(dir: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = dir.join(name);
        let is_there = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() != 0);
        ensure!(
            is_there,
            "the cache is damaged: {} is missing or empty; remove {} and it is made again",
            path.display(),
            dir.display()
        );
    }
    Ok(())
}

/// Removes a directory tree that may not be there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What to tell a user when writing to `path` failed.
pub fn unwritable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => anyhow::anyhow!(
            "the disk is full at {}: make room or set HALLIGAN_CACHE to another disk",
            path.display()
        ),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => anyhow::anyhow!(
            "cannot write {}: set HALLIGAN_CACHE to a directory of yours",
            path.display()
        ),
        _ => anyhow::anyhow!("cannot write {}: {error}", path.display()),
    }
}

/// The first 16 hexadecimal digits of the SHA-256 of `parts`, each closed by a
/// zero byte so that no two lists of parts read alike.
pub fn fingerprint(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hexadecimal(&hash.finalize())[..16].to_owned()
}

/// The SHA-256 of `data` in hexadecimal.
pub fn digest(data: &[u8]) -> String {
    hexadecimal(&Sha256::digest(data))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn scratch(name: &str) -> Cache {
        let root = std::env::temp_dir().join(format!("halligan-{name}-{}", std::process::id()));
        remove(&root).unwrap();
        Cache::at(&root).unwrap()
    }

    #[test]
    fn own_variable_wins_over_xdg_and_home() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(place(path("/a"), path("/b"), path("/c")), path("/a"));
        assert_eq!(place(None, path("/b"), path("/c")), path("/b/halligan"));
        assert_eq!(place(None, None, path("/c")), path("/c/.cache/halligan"));
        assert_eq!(place(None, None, None), None);
    }

    #[test]
    fn relative_folders_of_others_are_ignored() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(
            place(None, path("b"), path("/c")),
            path("/c/.cache/halligan")
        );
        assert_eq!(place(None, path("./b"), path("c")), None);
        assert_eq!(place(path("a"), path("b"), None), path("a"));
    }

    #[test]
    fn who_looks_makes_nothing() {
        let root = std::env::temp_dir().join(format!("halligan-look-{}", std::process::id()));
        remove(&root).unwrap();
        let cache = Cache::look_at(&root).unwrap();
        assert!(crate::kernel::ready(&cache, crate::kernel::KernelVariant::Plain).is_none());
        // Without Debian's apt there is nothing to look at.
        let _ = crate::archive::Archive::look(&cache);
        let _ = crate::toolchain::Target::look(&cache);
        assert!(!root.exists(), "{} has been made", root.display());
        fs::write(&root, b"").unwrap();
        assert!(Cache::look_at(&root).is_err());
        fs::remove_file(&root).unwrap();
    }

    #[test]
    fn entry_that_fails_half_way_is_not_there_and_can_be_made_again() {
        let cache = scratch("entry");
        let failed = cache.entry("thing", |dir| {
            fs::write(dir.join("half"), "x")?;
            bail!("stopped")
        });
        assert!(failed.is_err());
        assert!(!cache.path().join("thing").exists());
        let made = cache
            .entry("thing", |dir| Ok(fs::write(dir.join("whole"), "y")?))
            .unwrap();
        assert!(made.join("whole").exists());
        assert!(!made.join("half").exists());
        remove(cache.path()).unwrap();
    }

    #[test]
    fn entry_that_is_there_is_not_made_again() {
        let cache = scratch("again");
        cache
            .entry("thing", |dir| Ok(fs::write(dir.join("a"), "a")?))
            .unwrap();
        cache.entry("thing", |_| bail!("made twice")).unwrap();
        remove(cache.path()).unwrap();
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_named_with_the_mend() {
        // No directory, in which nobody can make files, root neither.
        let error = check_writable(Path::new("/etc/os-release")).unwrap_err();
        assert!(error.to_string().contains("set HALLIGAN_CACHE"), "{error}");
        check_writable(&std::env::temp_dir()).unwrap();
    }

    #[test]
    fn an_entry_that_lost_its_files_is_named_with_the_mend() {
        let cache = scratch("stale");
        let dir = cache.entry("thing", |_| Ok(())).unwrap();
        let error = cache.entry("thing", |_| Ok(())).unwrap_err().to_string();
        assert!(
            error.contains("is empty; remove") && error.ends_with("made again"),
            "{error}"
        );
        fs::write(dir.join("Image"), "x").unwrap();
        fs::write(dir.join("vmlinux"), "").unwrap();
        cache.entry("thing", |_| Ok(())).unwrap();
        check_files(&dir, &["Image"]).unwrap();
        for name in ["vmlinux", "release"] {
            let error = check_files(&dir, &["Image", name]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{name} is missing or empty; remove ")),
                "{error}"
            );
        }
        remove(cache.path()).unwrap();
    }

    #[test]
    fn fingerprint_depends_on_where_parts_end() {
        assert_eq!(fingerprint(&["ab", "c"]).len(), 16);
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
    }

    #[test]
    fn too_little_space_is_said_in_megabytes() {
        let cache = scratch("space");
        let error = cache.demand_space(u64::MAX, "the test").unwrap_err();
        assert!(error.to_string().contains("HALLIGAN_CACHE"), "{error}");
        cache.demand_space(0, "the test").unwrap();
        remove(cache.path()).unwrap();
    }
}
