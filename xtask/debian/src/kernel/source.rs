//! Linux's source tree: unpacked from Debian's package, then patched in place, as moving it would have
//! all of it compiled again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::kbuild::run;
use crate::archive::unpack;
use crate::cache::{Cache, remove, unwritable};
use crate::progress::Progress;

/// What is applied to it for [`KernelVariant::Endings`](super::KernelVariant::Endings).
pub const PATCH: &str = include_str!("../../../../guest-tests/linux/sdei-ending.patch");

/// Large parts of the source that no arm64 build without modules reads.
const UNREAD: [&str; 5] = [
    "*/drivers/gpu/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/sound/*.[ch]",
    "*/tools/testing",
    "*/Documentation/translations",
];

/// A source tree.
pub struct Source {
    path: PathBuf,
}

impl Source {
    /// The tree `build/NAME` of the cache; it may not be there yet.
    pub fn of(cache: &Cache, name: &str) -> Self {
        Self {
            path: cache.path().join("build").join(name),
        }
    }

    /// Whether what an interrupted run has left here can be built on: an unpatched tree, or one that
    /// is wholly patched if none `must_be_plain`.
    pub fn will_do(&self, must_be_plain: bool) -> bool {
        match self.patched() {
            Patched::No => true,
            Patched::Whole => !must_be_plain,
            Patched::InPart => false,
        }
    }

    /// Unpacks it from `package`, unless it is there.
    pub fn unpack(
        &self,
        cache: &Cache,
        name: &str,
        package: &Path,
        progress: &Progress,
    ) -> Result<()> {
        cache.entry(&format!("build/{name}"), |dir| {
            unpack_into(package, dir, progress)
        })?;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Applies [`PATCH`], unless it is.
    pub fn patch(&self) -> Result<()> {
        if self.patched() == Patched::Whole {
            return Ok(());
        }
        let marker = self.marker();
        let mark = |text| fs::write(&marker, text).map_err(|error| unwritable(&marker, &error));
        mark("")?;
        let mut child = supervisor::command("patch")
            .args(["--strip=1", "--batch", "--forward", "--directory"])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run patch")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(PATCH.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "guest-tests/linux/sdei-ending.patch does not fit this Linux: {}",
                String::from_utf8_lossy(&output.stdout).trim()
            );
        }
        mark(PATCH)
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        remove(&self.path)
    }

    /// The file that says how far patching has come: empty when it begins, and the patch at its end.
    fn marker(&self) -> PathBuf {
        self.path.join(".halligan-patch")
    }

    fn patched(&self) -> Patched {
        match fs::read_to_string(self.marker()) {
            Ok(text) if text == PATCH => Patched::Whole,
            Ok(_) => Patched::InPart,
            Err(_) => Patched::No,
        }
    }
}

/// How far a tree is patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patched {
    No,
    /// Or by another patch.
    InPart,
    Whole,
}

/// Unpacks the source tree from Debian's package into `dir`.
pub fn unpack_into(package: &Path, dir: &Path, progress: &Progress) -> Result<()> {
    let mut step = progress.step("unpack the Linux source");
    let parts = dir.join("package");
    fs::create_dir_all(&parts).map_err(|error| unwritable(&parts, &error))?;
    unpack(package, &parts)?;
    let mut tar = supervisor::command("tar");
    tar.arg("-x").arg("-f").arg(tarball(&parts)?);
    tar.arg("-C").arg(dir);
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

/// The source's archive in the unpacked package `parts`.
pub fn tarball(parts: &Path) -> Result<PathBuf> {
    fs::read_dir(parts.join("usr/src"))
        .context("Debian's linux-source has no usr/src")?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(".tar."))
        .context("Debian's linux-source has no source archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree_that_the_patch_does_not_fit_will_not_do() {
        let path = std::env::temp_dir().join(format!("halligan-source-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let source = Source { path };
        assert!(source.will_do(true));
        let error = source.patch().unwrap_err().to_string();
        assert!(error.contains("sdei-ending.patch"), "{error}");
        assert!(!source.will_do(false));
        fs::write(source.marker(), PATCH).unwrap();
        assert!(source.will_do(false) && !source.will_do(true));
        source.remove().unwrap();
    }
}
