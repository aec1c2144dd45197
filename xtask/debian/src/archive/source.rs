//! Source packages: the upstream tarball of what Debian builds itself.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::answers::File;
use super::root::source_entry;
use super::{Archive, Root, apt};
use crate::progress::Progress;

/// The source of a package.
#[derive(Debug)]
pub struct Source {
    /// Upstream's tarball, as the archive signed it.
    pub tarball: PathBuf,
    /// Its version with what Debian adds, e.g. `2.12.1+dfsg`.
    pub version: String,
}

impl Archive {
    /// Fetches the upstream source of `package` in `suite`, unless the cache has it.
    pub fn source(&self, suite: &str, package: &str, progress: &Progress) -> Result<Source> {
        let dir = self.roots.join(format!("{suite}-source"));
        let sources = source_entry("deb-src", &self.mirror.uri, &[suite], self.keyring);
        let root = Root::make(&dir, &sources, suite, &self.host, None)?;
        let is_known = root.is_known() || root.update(progress)?;
        let absent = || format!("Debian's archive has no source of {package} in {suite}");
        let answer = if is_known {
            apt(
                supervisor::command("apt-get")
                    .arg("-c")
                    .arg(root.config())
                    .args(["-qq", "--print-uris", "source"])
                    .args(["--download-only", "--only-source", package]),
                "apt-get source",
            )
            .with_context(absent)?
        } else {
            String::new()
        };
        let file = File::parse_source(&answer).with_context(absent)?;
        // package_version.orig.tar.xz
        let version = file.name.split_once('_').map_or("", |(_, rest)| rest);
        let version = version.split(".orig.").next().unwrap_or(version).to_owned();
        let arguments = [
            "source",
            "--download-only",
            "--only-source",
            "--tar-only",
            package,
        ];
        let what = format!("the source of {package} {version}");
        let tarball = self.bring(&root, &arguments, &file, &what, progress)?;
        Ok(Source { tarball, version })
    }
}
