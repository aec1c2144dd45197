//! The end of a cache.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, flock};

use super::{Cache, LOCKS};

/// What the entries of a cache are called, or begin with.
const OURS: [&str; 19] = [
    "apt",
    "build",
    "crash-",
    "drgn-",
    "firmware-",
    "guest-programs-",
    "initramfs-",
    "kunit-",
    "linker",
    "linux-",
    LOCKS,
    "packages",
    "raspi4b-",
    "rust-",
    "stock-kernel-",
    "trees",
    "u-boot-",
    "witness-",
    "workload-",
];

/// Removes all that is in `cache`, and answers how many bytes of the disk that was. A folder that has anything else in it is left
/// alone, and so is one that somebody works with.
pub fn clear(cache: &Cache) -> Result<u64> {
    let root = cache.path();
    if !root.exists() {
        return Ok(0);
    }
    let about = || format!("in the cache {}", root.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(root).with_context(about)? {
        let entry = entry.with_context(about)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(
            is_ours(&name),
            "{} has something that is not ours, {name}; nothing is removed: take out what you want to keep, or remove the folder by hand",
            root.display()
        );
        entries.push(entry.path());
    }
    // Held to the end, so that nobody begins to work meanwhile.
    let _locks = hold(&root.join(LOCKS))?;
    let mut freed = 0;
    for path in entries {
        freed += size(&path);
        let is_folder = path.symlink_metadata().is_ok_and(|entry| entry.is_dir());
        let removed = match is_folder {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(freed)
}

fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".partial").unwrap_or(name);
    OURS.iter().any(|own| match own.ends_with('-') {
        true => name.starts_with(own),
        false => name == *own,
    })
}

/// All locks that there are.
fn hold(locks: &Path) -> Result<Vec<File>> {
    let mut held = Vec::new();
    for entry in fs::read_dir(locks).into_iter().flatten().flatten() {
        let file = File::open(entry.path())
            .with_context(|| format!("cannot open {}", entry.path().display()))?;
        ensure!(
            flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
            "another xtask works on: {}; wait for it, and do this again",
            entry.file_name().to_string_lossy()
        );
        held.push(file);
    }
    Ok(held)
}

/// How many bytes of the disk `path` takes, with all in it.
pub fn size(path: &Path) -> u64 {
    /// What stat counts blocks in (POSIX, sys/stat.h; Linux).
    const BLOCK: u64 = 512;
    let Ok(data) = path.symlink_metadata() else {
        return 0;
    };
    let within = match data.is_dir() {
        true => {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| size(&entry.path())).sum()
        }
        false => 0,
    };
    data.blocks() * BLOCK + within
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::remove;
    use crate::cache::tests::scratch;
    use crate::progress::Progress;

    #[test]
    fn a_cache_goes_with_all_that_is_ours() {
        let cache = scratch("clear");
        for name in ["linux-7.3.4-0123", "build", "trees", "kunit-1.partial"] {
            let dir = cache.dir(name).unwrap();
            fs::write(dir.join("file"), vec![1; 9000]).unwrap();
        }
        fs::write(cache.path().join("linux-for-0123"), "linux-7.3.4-0123").unwrap();
        drop(cache.lock("kernel", &Progress::new()).unwrap());
        assert!(clear(&cache).unwrap() >= 4 * 9000);
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        assert_eq!(clear(&cache).unwrap(), 0);
        remove(cache.path()).unwrap();
        assert_eq!(clear(&cache).unwrap(), 0);
    }

    #[test]
    fn a_folder_with_anything_else_is_left_alone() {
        let cache = scratch("clear-other");
        cache.dir("build").unwrap();
        fs::write(cache.path().join("letter.txt"), "dear").unwrap();
        let error = clear(&cache).unwrap_err().to_string();
        assert!(
            error.contains("not ours, letter.txt; nothing is removed"),
            "{error}"
        );
        assert!(cache.path().join("build").exists());
        remove(cache.path()).unwrap();
    }

    #[test]
    fn a_cache_that_somebody_works_with_is_left_alone() {
        let cache = scratch("clear-locked");
        cache.dir("build").unwrap();
        let lock = cache.lock("kernel", &Progress::new()).unwrap();
        let error = clear(&cache).unwrap_err().to_string();
        assert!(
            error.starts_with("another xtask works on: kernel; wait"),
            "{error}"
        );
        assert!(cache.path().join("build").exists());
        drop(lock);
        clear(&cache).unwrap();
        remove(cache.path()).unwrap();
    }
}
