//! Debian's archive, read through private apt roots.
//!
//! The mirror is the one that the machine's own apt uses. Each suite gets a
//! root of its own in the cache, so neither root's rights nor a change to the
//! machine's apt are needed; apt itself checks every signature and hash
//! against Debian's keyring.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, unwritable};
use crate::progress::Progress;

mod answers;
mod files;
mod root;
mod source;
mod version;

use answers::File;
pub use answers::{Mirror, Offer, explain};
pub use root::Root;
use root::source_entry;
pub use version::{at_least, upstream};

/// Where Debian installs the keys of its archive.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// The suites that may carry something newer than the machine's own release.
const LATER_SUITES: [&str; 4] = ["trixie-backports", "trixie", "forky", "sid"];

/// Parts of the cache: the private apt roots, and the packages that came through them.
const ROOTS: &str = "apt";
const PACKAGES: &str = "packages";

/// Bytes of packages and their lists that this run has fetched and not said yet.
static FETCHED: AtomicU64 = AtomicU64::new(0);

fn note_fetched(bytes: u64) {
    FETCHED.fetch_add(bytes, Ordering::Relaxed);
}

/// Says how much has been fetched since this was said last, if anything.
pub fn say_fetched(progress: &Progress) {
    let bytes = FETCHED.swap(0, Ordering::Relaxed);
    if bytes > 0 {
        let megabytes = bytes as f64 / 1e6;
        progress.say(&format!("fetched {megabytes:.1} MB from Debian's archive"));
    }
}

/// The archive that this machine's apt is configured for.
pub struct Archive {
    mirror: Mirror,
    keyring: &'static str,
    roots: PathBuf,
    packages: PathBuf,
    host: String,
}

impl Archive {
    /// Finds the machine's mirror and its keys.
    pub fn open(cache: &Cache) -> Result<Self> {
        let archive = Self::look(cache)?;
        cache.dir(ROOTS)?;
        cache.dir(PACKAGES)?;
        Ok(archive)
    }

    /// The same for those who only look: nothing is made in the cache.
    pub fn look(cache: &Cache) -> Result<Self> {
        let mirror = find_mirror()?;
        let keyring = KEYRINGS
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("Debian's archive keys are missing: apt-get install debian-archive-keyring")?;
        let host = apt(
            supervisor::command("dpkg").arg("--print-architecture"),
            "dpkg --print-architecture",
        )?;
        Ok(Self {
            mirror,
            keyring,
            roots: cache.path().join(ROOTS),
            packages: cache.path().join(PACKAGES),
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
        let dir = self.roots.join(format!("{suite}-{architecture}"));
        let source = source_entry("deb", uri, &[suite], self.keyring);
        let root = Root::make(&dir, &source, suite, architecture, None)?;
        Ok((root.is_known() || root.update(progress)?).then_some(root))
    }

    /// The same for a `component` of the suite that is not Debian's main.
    pub fn root_of(
        &self,
        suite: &str,
        component: &str,
        architecture: &str,
        progress: &Progress,
    ) -> Result<Option<Root>> {
        let Some(uri) = self.mirror.uri_of(suite) else {
            return Ok(None);
        };
        let dir = self
            .roots
            .join(format!("{suite}-{component}-{architecture}"));
        let source = source_entry("deb", uri, &[suite], self.keyring);
        let source = source.replace("Components: main\n", &format!("Components: {component}\n"));
        let root = Root::make(&dir, &source, suite, architecture, None)?;
        Ok((root.is_known() || root.update(progress)?).then_some(root))
    }

    /// An apt root which sees the machine's installed packages, its release and
    /// the release's backports: what `apt-get install` needs. Its lists are
    /// fetched anew, as what is installed must fit what the mirror has now.
    pub fn host_root(&self, progress: &Progress) -> Result<Root> {
        let own = &self.mirror.release;
        let backports = format!("{own}-backports");
        let mut suites = vec![own.clone()];
        // A release in the making has no updates and no backports.
        if self.root(&backports, &self.host, progress)?.is_some() {
            suites.extend([format!("{own}-updates"), backports.clone()]);
        }
        let suites: Vec<&str> = suites.iter().map(String::as_str).collect();
        let mut sources = source_entry("deb", &self.mirror.uri, &suites, self.keyring);
        if let Some(uri) = &self.mirror.security {
            sources.push('\n');
            sources += &source_entry("deb", uri, &[&format!("{own}-security")], self.keyring);
        }
        let dir = self.roots.join("host");
        let status = Some("/var/lib/dpkg/status");
        let root = Root::make(&dir, &sources, &backports, &self.host, status)?;
        if !root.update(progress)? {
            bail!("the mirror of this machine's apt has no release {own}");
        }
        Ok(root)
    }

    /// Fetches the file of `offer` unless the cache has it.
    pub fn fetch(&self, root: &Root, offer: &Offer, progress: &Progress) -> Result<PathBuf> {
        let wanted = format!("{}:{}={}", offer.package, root.architecture, offer.version);
        let file = root.locate(&wanted)?;
        let what = format!("{} {}", offer.package, offer.version);
        self.bring(root, &["download", &wanted], &file, &what, progress)
    }

    /// The path of `file`, which apt-get brings with these arguments unless the cache has it.
    fn bring(
        &self,
        root: &Root,
        arguments: &[&str],
        file: &File,
        what: &str,
        progress: &Progress,
    ) -> Result<PathBuf> {
        let dir = self.packages.join(&file.sha256[..16]);
        let path = dir.join(&file.name);
        if path.exists() {
            return Ok(path);
        }
        let partial = self
            .packages
            .join(format!("{}.partial", &file.sha256[..16]));
        fs::create_dir_all(&partial).map_err(|error| unwritable(&partial, &error))?;
        let mut step = progress.step(format!("fetch {what}"));
        let mut child = supervisor::command("apt-get")
            .arg("-c")
            .arg(root.config())
            .arg("-qq")
            .args(arguments)
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
        note_fetched(file.bytes);
        step.done();
        Ok(path)
    }
}

/// The Debian mirror among the sources of this machine's apt.
fn find_mirror() -> Result<Mirror> {
    let targets = apt(
        supervisor::command("apt-get").args([
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
            supervisor::command("apt-get").args(["update", "--print-uris"]),
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
        supervisor::command("dpkg-deb")
            .arg("--extract")
            .arg(deb)
            .arg(dir),
        &format!("unpacking {}", deb.display()),
    )?;
    Ok(())
}

/// Runs one of Debian's tools and returns what it prints.
fn apt(command: &mut Command, what: &str) -> Result<String> {
    let _step = Progress::new().lazily(what);
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
