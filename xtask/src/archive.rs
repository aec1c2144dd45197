//! Debian's archive, read through private apt roots.
//!
//! The mirror is the one that the machine's own apt uses. Each suite gets a
//! root of its own in the cache, so neither root's rights nor a change to the
//! machine's apt are needed; apt itself checks every signature and hash
//! against Debian's keyring.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, unwritable};
use crate::progress::Progress;

mod answers;
mod version;

use answers::File;
pub use answers::{Mirror, Offer, explain};
pub use version::{at_least, upstream};

/// Where Debian installs the keys of its archive.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// The suites that may carry something newer than the machine's own release.
const LATER_SUITES: [&str; 4] = ["trixie-backports", "trixie", "forky", "sid"];

/// The archive that this machine's apt is configured for.
pub struct Archive {
    mirror: Mirror,
    keyring: &'static str,
    roots: PathBuf,
    packages: PathBuf,
    host: String,
}

/// A private apt root: one suite for one architecture.
pub struct Root {
    config: PathBuf,
    /// The suite, e.g. `trixie-backports`.
    pub suite: String,
    /// Debian's name of the architecture, e.g. `arm64`.
    pub architecture: String,
}

impl Archive {
    /// Finds the machine's mirror and its keys.
    pub fn open(cache: &Cache) -> Result<Self> {
        let mirror = find_mirror()?;
        let keyring = KEYRINGS
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("Debian's archive keys are missing: apt-get install debian-archive-keyring")?;
        let host = apt(
            Command::new("dpkg").arg("--print-architecture"),
            "dpkg --print-architecture",
        )?;
        Ok(Self {
            mirror,
            keyring,
            roots: cache.dir("apt")?,
            packages: cache.dir("packages")?,
            host: host.trim().to_owned(),
        })
    }

    /// Debian's name of the architecture that xtask runs on.
    pub fn host_architecture(&self) -> &str {
        &self.host
    }

    /// Name of the machine's release, e.g. `bookworm`.
    pub fn release(&self) -> &str {
        &self.mirror.release
    }

    /// The suites worth asking, small lists first: backports before releases,
    /// the machine's own before later ones. Some may not exist.
    pub fn suites(&self) -> Vec<String> {
        let own = &self.mirror.release;
        let mut suites = vec![
            format!("{own}-backports"),
            format!("{own}-security"),
            own.clone(),
        ];
        for suite in LATER_SUITES {
            if !suites.iter().any(|known| known == suite) {
                suites.push(suite.to_owned());
            }
        }
        suites
    }

    /// The private root for `suite`; its package lists are fetched once.
    /// `None` if the archive has no such suite.
    pub fn root(
        &self,
        suite: &str,
        architecture: &str,
        progress: &Progress,
    ) -> Result<Option<Root>> {
        let Some(uri) = self.mirror.uri_of(suite) else {
            return Ok(None);
        };
        let source = source_entry(uri, &[suite], self.keyring);
        let config = self.make_root(
            &format!("{suite}-{architecture}"),
            &source,
            architecture,
            None,
        )?;
        let root = Root {
            config,
            suite: suite.to_owned(),
            architecture: architecture.to_owned(),
        };
        let known = root.config.with_file_name("updated").exists();
        Ok((known || root.update(progress)?).then_some(root))
    }

    /// An apt root which sees the machine's installed packages, its release and
    /// the release's backports: what `apt-get install` needs. Returns its
    /// configuration file.
    pub fn host_root(&self, progress: &Progress) -> Result<Root> {
        let own = &self.mirror.release;
        let mut sources = String::new();
        for suite in [
            own.clone(),
            format!("{own}-updates"),
            format!("{own}-backports"),
        ] {
            sources += &source_entry(&self.mirror.uri, &[&suite], self.keyring);
            sources.push('\n');
        }
        if let Some(uri) = &self.mirror.security {
            sources += &source_entry(uri, &[&format!("{own}-security")], self.keyring);
        }
        let status = Some("/var/lib/dpkg/status");
        let root = Root {
            config: self.make_root("host", &sources, &self.host, status)?,
            suite: format!("{own}-backports"),
            architecture: self.host.clone(),
        };
        // What is installed next must fit what the mirror has now.
        if !root.update(progress)? {
            bail!("the mirror of this machine's apt has no release {own}");
        }
        Ok(root)
    }

    /// Fetches the file of `offer` unless the cache has it.
    pub fn fetch(&self, root: &Root, offer: &Offer, progress: &Progress) -> Result<PathBuf> {
        let wanted = format!("{}:{}={}", offer.package, root.architecture, offer.version);
        let file = locate(root, &wanted)?;
        let dir = self.packages.join(&file.sha256[..16]);
        let path = dir.join(&file.name);
        if path.exists() {
            return Ok(path);
        }
        let partial = self
            .packages
            .join(format!("{}.partial", &file.sha256[..16]));
        fs::create_dir_all(&partial).map_err(|error| unwritable(&partial, &error))?;
        let mut step = progress.step(format!("fetch {} {}", offer.package, offer.version));
        let mut child = Command::new("apt-get")
            .arg("-c")
            .arg(&root.config)
            .args(["-qq", "download", &wanted])
            .current_dir(&partial)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run apt-get")?;
        let arriving = partial.join(&file.name);
        step.wait(&mut child, || {
            let here = fs::metadata(&arriving).map_or(0, |data| data.len());
            format!(
                "{} of {} MB",
                here / 1_000_000,
                file.bytes.div_ceil(1_000_000)
            )
        })?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("fetching {}: {}", file.name, answers::explain(&complaint));
        }
        // apt has compared the hash; the rename says that it came to that.
        fs::rename(&partial, &dir).map_err(|error| unwritable(&dir, &error))?;
        step.done();
        Ok(path)
    }

    /// Writes the directories and the configuration of an apt root.
    fn make_root(
        &self,
        name: &str,
        sources: &str,
        architecture: &str,
        status: Option<&str>,
    ) -> Result<PathBuf> {
        let dir = self.roots.join(name);
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
            (config.clone(), configuration(&dir, &status, architecture)),
        ] {
            if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                fs::write(&path, text).map_err(|error| unwritable(&path, &error))?;
            }
        }
        Ok(config)
    }
}

impl Root {
    /// The apt configuration file of this root.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Fetches the package lists. `false` if the archive has no such suite.
    pub fn update(&self, progress: &Progress) -> Result<bool> {
        let step = progress.step(format!("read the package list of {}", self.suite));
        let updated = apt(
            Command::new("apt-get").arg("-c").arg(&self.config).args([
                "-q",
                "-o",
                "APT::Update::Error-Mode=any",
                "update",
            ]),
            "apt-get update",
        );
        match updated {
            Ok(_) => {}
            Err(error) if answers::is_absent_suite(&format!("{error:#}")) => return Ok(false),
            Err(error) => return Err(error),
        }
        let stamp = self.config.with_file_name("updated");
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
                    Command::new("apt-cache").arg("-c").arg(&self.config).args([
                        "search",
                        "--names-only",
                        name,
                    ]),
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
            Command::new("apt-cache")
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
            Command::new("apt-cache").arg("-c").arg(&self.config).args([
                "depends",
                "--important",
                package,
            ]),
            "apt-cache depends",
        )?;
        Ok(answers::dependencies(&answer))
    }
}

/// The Debian mirror among the sources of this machine's apt.
fn find_mirror() -> Result<Mirror> {
    let targets = apt(
        Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)|$(LABEL)|$(ORIGIN)|$(CODENAME)",
            "Created-By: Packages",
        ]),
        "apt-get indextargets",
    )?;
    if let Some(mirror) = Mirror::from_targets(&targets) {
        return Ok(mirror);
    }
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if let (Some("debian"), Some(release)) = (
        answers::field(&system, "ID"),
        answers::field(&system, "VERSION_CODENAME"),
    ) {
        let uris = apt(
            Command::new("apt-get").args(["update", "--print-uris"]),
            "apt-get update --print-uris",
        )?;
        if let Some(mirror) = Mirror::from_uris(&uris, release) {
            return Ok(mirror);
        }
    }
    let name = answers::field(&system, "PRETTY_NAME").unwrap_or("this system");
    bail!(
        "apt on {name} has no Debian archive, from which the guest is made: use a Debian machine, or bring your own guest with --kernel and --initrd"
    )
}

/// Unpacks a package's files below `dir`; nothing of it is run.
pub fn unpack(deb: &Path, dir: &Path) -> Result<()> {
    apt(
        Command::new("dpkg-deb").arg("--extract").arg(deb).arg(dir),
        &format!("unpacking {}", deb.display()),
    )?;
    Ok(())
}

/// Asks apt for name, size and hash of a package's file.
fn locate(root: &Root, wanted: &str) -> Result<File> {
    let answer = apt(
        Command::new("apt-get").arg("-c").arg(&root.config).args([
            "-qq",
            "--print-uris",
            "download",
            wanted,
        ]),
        "apt-get download",
    )?;
    File::parse(&answer).with_context(|| format!("apt does not say where {wanted} is"))
}

/// One entry of an apt sources file.
fn source_entry(uri: &str, suites: &[&str], keyring: &str) -> String {
    format!(
        "Types: deb\nURIs: {uri}\nSuites: {}\nComponents: main\nSigned-By: {keyring}\n",
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

/// Runs one of Debian's tools and returns what it prints.
fn apt(command: &mut Command, what: &str) -> Result<String> {
    let output = match command.env("LC_ALL", "C").stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "{} is not there: this takes packages from Debian's archive and needs a Debian machine",
            command.get_program().to_string_lossy()
        ),
        Err(error) => return Err(error).with_context(|| what.to_owned()),
    };
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}", answers::explain(&complaint));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
        let entry = source_entry("http://mirror/debian", &["sid"], "/k.gpg");
        assert!(entry.contains("Signed-By: /k.gpg"));
        assert!(!entry.contains("Trusted"));
    }
}
