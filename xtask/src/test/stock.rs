//! Debian's own kernels, unchanged, as a user runs them: each boots to a shell, which is told to switch
//! the machine off.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use super::own;
use crate::ledger::Ledger;
use debian::archive::Archive;
use debian::cache::{remove, unwritable};
use debian::initramfs;
use machine::workshop::Workshop;

/// The suites whose kernels are taken, and the series that each has.
const SUITES: [(&str, &str, &str); 3] = [
    ("stock/debian-12", "bookworm", "6.1."),
    ("stock/debian-13", "trixie", "6.12."),
    ("stock/debian-13-backports", "trixie-backports", "7."),
];

/// The package that depends on the kernel that a Debian machine runs.
const PACKAGE: &str = "linux-image-arm64";

/// What a kernel's package takes while it is fetched and taken apart.
const SPACE: u64 = 400_000_000;

/// How long a kernel may take to its shell and back, in seconds, with other work on the host.
const TIMEOUT: &str = "900";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    SUITES.iter().map(|(name, ..)| *name)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let cases = SUITES.map(|(name, suite, series)| (name.to_owned(), (suite, series)));
    ledger.check_each(&cases, |_, (suite, series)| {
        let kernel = Stock::ensure(workshop, suite)?;
        ensure!(
            kernel.release.starts_with(series),
            "Debian {suite} has Linux {}, but is to have {series}x",
            kernel.release
        );
        use_shell(workshop, &kernel)?;
        Ok(kernel.release)
    });
}

/// A kernel as Debian ships it.
struct Stock {
    vmlinuz: PathBuf,
    /// What `uname -r` says.
    release: String,
}

impl Stock {
    /// Fetches the kernel of `suite`, unless the cache has one.
    fn ensure(workshop: &Workshop, suite: &str) -> Result<Self> {
        let cache = &workshop.cache;
        let _lock = cache.lock("stock-kernels", &workshop.progress)?;
        let entry = cache.entry(&format!("stock-{suite}"), |dir| fetch(workshop, suite, dir))?;
        Ok(Self {
            vmlinuz: entry.join("vmlinuz"),
            release: fs::read_to_string(entry.join("release"))?,
        })
    }
}

/// Takes the kernel out of its package, of which nothing else stays.
fn fetch(workshop: &Workshop, suite: &str, dir: &Path) -> Result<()> {
    let (cache, progress) = (&workshop.cache, &workshop.progress);
    cache.demand_space(SPACE, "fetching Debian's kernel")?;
    let archive = Archive::open(cache)?;
    let root = archive
        .root(suite, "arm64", progress)?
        .with_context(|| format!("the archive has no suite {suite}"))?;
    // Kernels come and go; an old list names one that is no longer there.
    root.update(progress)?;
    let names = root.depends(PACKAGE)?;
    let (image, release) = names
        .iter()
        .find_map(|name| Some((name, name.strip_prefix("linux-image-")?)))
        .with_context(|| format!("{PACKAGE} of {suite} names no kernel"))?;
    // Since Linux 7 the file itself is in a package of its own.
    let binary = format!("linux-binary-{release}");
    let package = if root.depends(image)?.contains(&binary) {
        &binary
    } else {
        image
    };
    let offers = root.offers(&[package])?;
    let offer = offers
        .first()
        .with_context(|| format!("{suite} has no package {package}"))?;
    let package = archive.fetch(&root, offer, progress)?;
    extract(&package, &dir.join("vmlinuz"))?;
    let path = dir.join("release");
    fs::write(&path, release).map_err(|error| unwritable(&path, &error))?;
    package.parent().map_or(Ok(()), remove)
}

/// Writes the kernel that is in a package to `to`; it lies in /boot or beside its modules.
fn extract(package: &Path, to: &Path) -> Result<()> {
    let file = fs::File::create(to).map_err(|error| unwritable(to, &error))?;
    let mut packed = supervisor::command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let stream = packed.stdout.take().context("dpkg-deb has no output")?;
    let status = supervisor::command("tar")
        .args(["-x", "-O", "-f", "-", "--wildcards", "*/vmlinuz*"])
        .stdin(stream)
        .stdout(file)
        .status()
        .context("cannot run tar")?;
    let packed = packed.wait()?;
    ensure!(
        status.success() && packed.success(),
        "{} has no vmlinuz",
        package.display()
    );
    Ok(())
}

/// Boots `kernel` with `run`, and uses its shell.
fn use_shell(workshop: &Workshop, kernel: &Stock) -> Result<()> {
    let initramfs = initramfs::ensure(&workshop.cache, None, &workshop.progress)?;
    let mut run = own::xtask()?
        .arg("run")
        .arg("--kernel")
        .arg(&kernel.vmlinuz)
        .arg("--initrd")
        .arg(initramfs)
        .args(["--append", "console=ttyAMA0 lab.do=shell"])
        .args(["--timeout", TIMEOUT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    let mut input = run.stdin.take().context("it has no input")?;
    let output = run.stdout.take().context("it has no output")?;
    let mut screen = Screen::of(output);
    let mut talk = || -> Result<()> {
        screen.wait_for(" # ")?;
        input.write_all(b"uname -r\n")?;
        screen.wait_for(&format!("\n{}\r\n", kernel.release))?;
        screen.wait_for(" # ")?;
        input.write_all(b"poweroff -f\n")?;
        Ok(())
    };
    let talked = talk();
    // It ends by itself: at the power-off, or when its time is over.
    let rest = screen.rest();
    let ended = run.wait_with_output()?;
    let errors = String::from_utf8_lossy(&ended.stderr);
    let both = format!("standard output:\n{rest}\nstandard error:\n{errors}");
    talked.with_context(|| both.clone())?;
    ensure!(
        ended.status.code() == Some(0),
        "its shell was told to power off, but: {}\n{both}",
        ended.status
    );
    Ok(())
}

/// What a guest has written.
pub(super) struct Screen {
    output: ChildStdout,
    text: String,
    /// How much of it has been looked at.
    seen: usize,
}

impl Screen {
    pub(super) const fn of(output: ChildStdout) -> Self {
        Self {
            output,
            text: String::new(),
            seen: 0,
        }
    }

    /// Reads on until `words` come, after those it waited for before.
    pub(super) fn wait_for(&mut self, words: &str) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let new = self.text.get(self.seen..).unwrap_or_default();
            if let Some(at) = new.find(words) {
                self.seen += at + words.len();
                return Ok(());
            }
            let count = self.output.read(&mut buffer)?;
            ensure!(count > 0, "{words:?} never came");
            self.text
                .push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    /// All that was written, once it ends.
    pub(super) fn rest(mut self) -> String {
        let mut rest = Vec::new();
        // An error is an end, too.
        let _ = self.output.read_to_end(&mut rest);
        self.text + &String::from_utf8_lossy(&rest)
    }
}
