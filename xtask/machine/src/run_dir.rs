//! Folders for what one run writes: its bundle, its devicetree, its disk, its log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use debian::{cache, paths};
use rustix::fs::{FlockOperation, flock};
use supervisor::AtEnd;

/// A folder for one run, so that runs do not meet. Removed when dropped or when a signal ends us, unless kept.
pub struct RunDir {
    path: PathBuf,
    /// What removes it, and the lock by which others see that its run is alive.
    guard: Option<(AtEnd, File)>,
    /// The lock of a folder that the user named.
    _lock: Option<File>,
}

/// What the names of folders begin with that nobody asked to keep.
const PREFIX: &str = "run-";
/// A file in those that are to stay nevertheless, and in those that the user named.
const KEPT: &str = ".kept";

impl RunDir {
    /// `keep` if it is given, which then stays; else one in target/xtask that nobody else has.
    pub fn create(keep: Option<&Path>) -> Result<Self> {
        let Some(path) = keep else {
            return Self::below(&paths::output("runs")?);
        };
        make(path)?;
        let own = || format!("in the folder {}", path.display());
        let lock = File::open(path).with_context(own)?;
        ensure!(
            flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            "another command is writing into the folder {}; wait for it, or name another folder",
            path.display()
        );
        if is_empty(path).with_context(own)? {
            fs::write(path.join(KEPT), "").with_context(own)?;
        }
        Ok(Self {
            path: path.to_owned(),
            guard: None,
            _lock: Some(lock),
        })
    }

    /// That the folder which [`Self::create`] is to keep can be one for a run: what a run leaves has names of its own, and files of the
    /// user's that have the same would be lost.
    pub fn check(keep: Option<&Path>) -> Result<()> {
        let Some(path) = keep.filter(|path| path.exists()) else {
            return Ok(());
        };
        let shown = path.display();
        if !path.is_dir() {
            bail!(
                "{shown} is a file, not a folder; name a folder for --keep, which is made if there is none"
            );
        }
        let is_free = path.join(KEPT).exists()
            || is_empty(path).with_context(|| format!("cannot read the folder {shown}"))?;
        ensure!(
            is_free,
            "{shown} for --keep has files that no run has left; name another folder, which is made if there is none"
        );
        Ok(())
    }

    /// One in `parent` that nobody else has. Those that runs left which were killed are removed.
    fn below(parent: &Path) -> Result<Self> {
        make(parent)?;
        let own = || format!("in the folder {}", parent.display());
        // Until a new folder has its lock it looks like one that was left.
        let all = File::open(parent).with_context(own)?;
        flock(&all, FlockOperation::LockExclusive).with_context(own)?;
        remove_left(parent).with_context(own)?;
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = File::open(folder.path()).with_context(own)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).with_context(own)?;
        let path = folder.keep();
        let removed = path.clone();
        let guard = supervisor::at_end(move || {
            // What stays goes when the next run begins.
            let _ = fs::remove_dir_all(removed);
        });
        Ok(Self {
            path,
            guard: Some((guard, lock)),
            _lock: None,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where `name` is in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Lets it stay, and says where it is.
    pub fn keep(&mut self) -> &Path {
        if let Some((folder, _lock)) = self.guard.take() {
            // Without the mark it goes when the next run begins, and not before.
            let _ = fs::write(self.path.join(KEPT), "");
            folder.cancel();
        }
        &self.path
    }
}

fn is_empty(path: &Path) -> std::io::Result<bool> {
    Ok(fs::read_dir(path)?.next().is_none())
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Removes folders in `parent`, whose lock the caller has, that no run has locked: the kernel drops the lock of one
/// that is killed.
fn remove_left(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let path = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && entry.file_type()?.is_dir() && !path.join(KEPT).exists() {
            remove_unless_locked(&path);
        }
    }
    Ok(())
}

/// Removes the folder of a run that is over. One that cannot be opened or removed is on its way out, or lies below target, where
/// `cargo clean` gets it.
fn remove_unless_locked(path: &Path) {
    let Ok(folder) = File::open(path) else {
        return;
    };
    if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
        let _ = fs::remove_dir_all(path);
    }
}

/// Removes the folders in `parent` whose names are first in order, but for the last `kept` and those that a run has locked. Names that
/// begin with a date are in the order of dates.
pub fn remove_oldest(parent: &Path, kept: usize) -> Result<()> {
    if !parent.exists() {
        return Ok(());
    }
    let own = || format!("in the folder {}", parent.display());
    let all = File::open(parent).with_context(own)?;
    flock(&all, FlockOperation::LockExclusive).with_context(own)?;
    let entries = fs::read_dir(parent).with_context(own)?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut paths: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.iter().take(paths.len().saturating_sub(kept)) {
        remove_unless_locked(path);
    }
    Ok(())
}

/// Removes all folders in `parent` that no run has locked, those that were kept after a failure, too; answers how many bytes of
/// the disk that was.
pub fn remove_all(parent: &Path) -> Result<u64> {
    if !parent.exists() {
        return Ok(0);
    }
    let own = || format!("in the folder {}", parent.display());
    let all = File::open(parent).with_context(own)?;
    flock(&all, FlockOperation::LockExclusive).with_context(own)?;
    let before = cache::size(parent);
    for entry in fs::read_dir(parent).with_context(own)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_unless_locked(&entry.path());
        }
    }
    Ok(before.saturating_sub(cache::size(parent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_unless_it_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let folder = RunDir::below(parent.path()).unwrap();
        let path = folder.file("a");
        fs::write(&path, b"a").unwrap();
        let other = RunDir::below(parent.path()).unwrap();
        assert_ne!(other.file("a"), path);
        assert!(path.exists(), "a run that is alive keeps what it has");
        drop(folder);
        assert!(!path.exists());
        let mut folder = RunDir::below(parent.path()).unwrap();
        let path = folder.keep().to_owned();
        drop(folder);
        drop(RunDir::create(Some(&path)).unwrap());
        drop(RunDir::below(parent.path()).unwrap());
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_is_named_is_one_runs_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("kept");
        let first = RunDir::create(Some(&path)).unwrap();
        let error = RunDir::create(Some(&path)).err().unwrap().to_string();
        assert!(
            error.starts_with("another command is writing into the folder"),
            "{error}"
        );
        drop(first);
        drop(RunDir::create(Some(&path)).unwrap());
        assert!(path.exists());
        let file = parent.path().join("file");
        fs::write(&file, b"").unwrap();
        let error = RunDir::create(Some(&file)).err().unwrap().to_string();
        assert!(error.contains("cannot make the folder"), "{error}");
    }

    #[test]
    fn a_folder_with_files_of_the_users_is_not_for_a_run() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("kept");
        RunDir::check(None).unwrap();
        RunDir::check(Some(&path)).unwrap();
        fs::create_dir(&path).unwrap();
        RunDir::check(Some(&path)).unwrap();
        let run = RunDir::create(Some(&path)).unwrap();
        fs::write(run.file("disk.img"), "a dump").unwrap();
        drop(run);
        RunDir::check(Some(&path)).unwrap();
        let tree = parent.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("README"), "Linux").unwrap();
        let error = RunDir::check(Some(&tree)).unwrap_err().to_string();
        assert!(error.contains("files that no run has left"), "{error}");
        // What is no run's alone, such as what compare keeps, goes there and leaves no mark.
        drop(RunDir::create(Some(&tree)).unwrap());
        RunDir::check(Some(&tree)).unwrap_err();
    }

    #[test]
    fn what_was_kept_goes_when_it_is_asked_for_and_no_run_that_goes_on() {
        let parent = tempfile::tempdir().unwrap();
        let mut kept = RunDir::below(parent.path()).unwrap();
        fs::write(kept.file("disk.img"), vec![1; 9000]).unwrap();
        let path = kept.keep().to_owned();
        drop(kept);
        let alive = RunDir::below(parent.path()).unwrap();
        assert!(remove_all(parent.path()).unwrap() >= 9000);
        assert!(!path.exists() && alive.file("").exists());
        assert_eq!(remove_all(&parent.path().join("none")).unwrap(), 0);
    }

    #[test]
    fn of_folders_with_dates_the_newest_stay() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["2026-01-03", "2026-01-01", "2026-01-04", "2026-01-02"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let alive = RunDir::create(Some(&parent.path().join("2026-01-01"))).unwrap();
        remove_oldest(parent.path(), 2).unwrap();
        let names = fs::read_dir(parent.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["2026-01-01", "2026-01-03", "2026-01-04"]);
        drop(alive);
        remove_oldest(&parent.path().join("none"), 2).unwrap();
    }

    #[test]
    fn what_a_killed_run_left_goes_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let mut killed = RunDir::below(parent.path()).unwrap();
        let (folder, lock) = killed.guard.take().unwrap();
        folder.cancel();
        let left = killed.path.clone();
        fs::write(left.join("disk.img"), b"a").unwrap();
        let other = parent.path().join("other");
        fs::create_dir(&other).unwrap();
        drop(RunDir::below(parent.path()).unwrap());
        assert!(left.exists(), "its run still has the lock");
        flock(&lock, FlockOperation::Unlock).unwrap();
        drop(RunDir::below(parent.path()).unwrap());
        assert!(!left.exists());
        assert!(other.exists());
    }
}
