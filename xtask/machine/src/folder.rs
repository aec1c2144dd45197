//! Folders for what one run writes: its bundle, its devicetree, its disk, its log.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use debian::paths;

/// A folder for one run, so that runs do not meet. Removed when dropped, unless kept.
pub struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// `keep` if it is given, which then stays; else one in target/xtask that nobody else has.
    pub fn create(keep: Option<&Path>) -> Result<Self> {
        match keep {
            Some(path) => Self::make(path.to_owned(), true),
            None => Self::below(&paths::output("runs")?),
        }
    }

    /// One in `parent` that nobody else has.
    fn below(parent: &Path) -> Result<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        Self::make(parent.join(name), false)
    }

    fn make(path: PathBuf, keep: bool) -> Result<Self> {
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Self { path, keep })
    }

    /// Where `name` is in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Lets it stay, and says where it is.
    pub fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed lies below target, where `cargo clean` gets it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_unless_it_is_kept() {
        let parent = std::env::temp_dir().join(format!("xtask-folder-{}", std::process::id()));
        let folder = Folder::below(&parent).unwrap();
        let path = folder.file("a");
        fs::write(&path, b"a").unwrap();
        let other = Folder::below(&parent).unwrap();
        assert_ne!(other.file("a"), path);
        drop(folder);
        assert!(!path.exists());
        let mut folder = Folder::below(&parent).unwrap();
        let path = folder.keep().to_owned();
        drop(folder);
        drop(Folder::create(Some(&path)).unwrap());
        assert!(path.exists());
        fs::remove_dir_all(&parent).unwrap();
    }
}
