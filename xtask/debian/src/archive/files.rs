//! Single files of packages, of which nothing else stays.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::{Archive, Offer, Root};
use crate::cache::{remove, unwritable};
use crate::progress::Progress;

impl Archive {
    /// The suite's packages for the guest, which has to be there.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn suite(&self, suite: &str, progress: &Progress) -> Result<Root> {
        self.root(suite, "arm64", progress)?
            .with_context(|| format!("the archive has no suite {suite}"))
    }

    /// Fetches the newest `package` of `root` and writes the file whose path fits each pattern to the path beside it. A pattern is a
    /// shell's, of the whole path from `./` on.
    ///
    /// # Errors
    ///
    /// If there is no such package, or no such file in it.
    pub fn take(
        &self,
        root: &Root,
        package: &str,
        files: &[(String, PathBuf)],
        progress: &Progress,
    ) -> Result<()> {
        let deb = self.fetch(root, &newest(root, package)?, progress)?;
        for (pattern, to) in files {
            extract(&deb, pattern, to)?;
        }
        deb.parent().map_or(Ok(()), remove)
    }
}

fn newest(root: &Root, package: &str) -> Result<Offer> {
    let offers = root.offers(&[package])?;
    let first = offers.into_iter().next();
    first.with_context(|| format!("{} has no package {package}", root.suite))
}

/// Writes the file of a package whose path fits `pattern` to `to`.
fn extract(package: &Path, pattern: &str, to: &Path) -> Result<()> {
    let file = File::create(to).map_err(|error| unwritable(to, &error))?;
    let mut packed = supervisor::command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let stream = packed.stdout.take().context("dpkg-deb has no output")?;
    let status = supervisor::command("tar")
        .args(["-x", "-O", "-f", "-", "--wildcards", pattern])
        .stdin(stream)
        .stdout(file)
        .status()
        .context("cannot run tar")?;
    let packed = packed.wait()?;
    ensure!(
        status.success() && packed.success(),
        "{} has no {pattern}",
        package.display()
    );
    Ok(())
}
