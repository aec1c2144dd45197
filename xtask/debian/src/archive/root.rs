//! A private apt root: configuration, package lists and what they offer.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::answers::{self, File, Offer};
use super::{apt, note_fetched};
use crate::cache::{Cache, unwritable};
use crate::progress::Progress;

/// A private apt root: one suite for one architecture.
pub struct Root {
    config: PathBuf,
    /// The suite, e.g. `trixie-backports`.
    pub suite: String,
    /// Debian's name of the architecture, e.g. `arm64`.
    pub architecture: String,
}

impl Root {
    /// Writes the directories and the configuration of a root at `dir` which
    /// reads `sources` and sees the installed packages of `status`, if any.
    pub(super) fn make(
        dir: &Path,
        sources: &str,
        suite: &str,
        architecture: &str,
        status: Option<&str>,
    ) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial", "sources"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(|error| unwritable(&path, &error))?;
        }
        let empty = dir.join("state/status");
        let status = status.map_or_else(|| empty.clone(), PathBuf::from);
        let config = dir.join("apt.conf");
        for (path, text) in [
            (empty, String::new()),
            (dir.join("sources/debian.sources"), sources.to_owned()),
            (config.clone(), configuration(dir, &status, architecture)),
        ] {
            if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                fs::write(&path, text).map_err(|error| unwritable(&path, &error))?;
            }
        }
        Ok(Self {
            config,
            suite: suite.to_owned(),
            architecture: architecture.to_owned(),
        })
    }

    /// Whether the package lists were fetched once.
    pub(super) fn is_known(&self) -> bool {
        self.stamp().exists()
    }

    fn stamp(&self) -> PathBuf {
        self.config.with_file_name("updated")
    }

    /// Asks apt for name, size and hash of a package's file, given as
    /// `package:architecture=version`.
    pub(super) fn locate(&self, wanted: &str) -> Result<File> {
        let answer = apt(
            supervisor::command("apt-get")
                .arg("-c")
                .arg(&self.config)
                .args(["-qq", "--print-uris", "download"])
                .arg(wanted),
            "apt-get download",
        )?;
        File::parse(&answer).with_context(|| format!("apt does not say where {wanted} is"))
    }

    /// The apt configuration file of this root.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Fetches the package lists. `false` if the archive has no such suite.
    pub fn update(&self, progress: &Progress) -> Result<bool> {
        // apt gives up at once if another apt is reading them.
        let dir = self
            .config
            .parent()
            .context("apt.conf is in no directory")?;
        let what = format!("the package list of {}", self.suite);
        let _lock = Cache::at(dir)?.lock(&what, progress)?;
        let step = progress.step(format!("read {what}"));
        let updated = apt(
            supervisor::command("apt-get")
                .arg("-c")
                .arg(&self.config)
                .args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]),
            "apt-get update",
        );
        match updated {
            Ok(answer) => note_fetched(answers::fetched(&answer)),
            Err(error) if answers::is_absent_suite(&format!("{error:#}")) => return Ok(false),
            Err(error) => return Err(error),
        }
        let stamp = self.stamp();
        fs::write(&stamp, "").map_err(|error| unwritable(&stamp, &error))?;
        step.done();
        Ok(true)
    }

    /// Every package and version that the suite has for the names given, as
    /// apt orders them. Names may be regular expressions (`^linux-source-`).
    pub fn offers(&self, names: &[&str]) -> Result<Vec<Offer>> {
        let mut packages = Vec::new();
        for name in names {
            if name.starts_with('^') {
                let found = apt(
                    supervisor::command("apt-cache")
                        .arg("-c")
                        .arg(&self.config)
                        .args(["search", "--names-only", name]),
                    "apt-cache search",
                )?;
                let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
                packages.extend(found.lines().filter_map(first));
            } else {
                packages.push((*name).to_owned());
            }
        }
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let answer = apt(
            supervisor::command("apt-cache")
                .arg("-c")
                .arg(&self.config)
                .arg("madison")
                .args(packages),
            "apt-cache madison",
        )?;
        Ok(Offer::parse_all(&answer))
    }
    /// The names of what `package` depends on, alternatives included.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let answer = apt(
            supervisor::command("apt-cache")
                .arg("-c")
                .arg(&self.config)
                .args(["depends", "--important", package]),
            "apt-cache depends",
        )?;
        Ok(answers::dependencies(&answer))
    }
}

/// One entry of an apt sources file, of type `deb` or `deb-src`.
pub(super) fn source_entry(kind: &str, uri: &str, suites: &[&str], keyring: &str) -> String {
    format!(
        "Types: {kind}\nURIs: {uri}\nSuites: {}\nComponents: main\nSigned-By: {keyring}\n",
        suites.join(" ")
    )
}

/// The configuration of an apt root at `dir`. The machine's own configuration
/// is read before it, for the sake of a proxy; its hooks are not wanted.
fn configuration(dir: &Path, status: &Path, architecture: &str) -> String {
    let dir = dir.display();
    format!(
        r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Dir::Cache::pkgcache;
#clear Dir::Cache::srcpkgcache;
#clear APT::Architectures;
Dir::State "{dir}/state";
Dir::State::status "{}";
Dir::Cache "{dir}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{dir}/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Default-Release "";
APT::Sandbox::User "";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-hidpi::DefaultEnabled "false";
Acquire::http::Timeout "30";
"#,
        status.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_verifies_signatures_and_stays_out_of_the_machines_apt() {
        let text = configuration(
            Path::new("/c/apt/x"),
            Path::new("/c/apt/x/state/status"),
            "arm64",
        );
        for needed in [
            "Dir::State \"/c/apt/x/state\";",
            "Dir::Cache \"/c/apt/x/cache\";",
            "Dir::Etc::sourcelist \"/dev/null\";",
            "Acquire::AllowInsecureRepositories \"false\";",
        ] {
            assert!(text.contains(needed), "{needed}");
        }
        let entry = source_entry("deb", "http://mirror/debian", &["sid"], "/k.gpg");
        assert!(entry.contains("Signed-By: /k.gpg"));
        assert!(!entry.contains("Trusted"));
    }
}
