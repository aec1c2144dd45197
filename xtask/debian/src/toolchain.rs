//! The bare-metal target: `core` and `alloc` for it, and a linker.
//!
//! If the compiler has the target's libraries they are used. Else they are
//! built from the compiler's own sources: those of its sysroot, or Debian's
//! package of exactly its version, put beside links to the real sysroot in a
//! shadow sysroot. The user's toolchain is never changed.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

pub mod prebuilt;

use crate::archive::{Archive, upstream};
use crate::cache::{Cache, fingerprint};
use crate::paths;
use crate::progress::Progress;
use crate::tools::{self, find};

/// The target that hypervisor and test guests are built for.
pub const TRIPLE: &str = "aarch64-unknown-none-softfloat";

/// Debian's packages of the library sources; both can have a given version.
const SOURCE_PACKAGES: [&str; 2] = ["rust-src", "rust-web-src"];

/// A way to build for [`TRIPLE`] that works on this machine.
#[derive(Debug, Clone)]
pub struct Target {
    library: Library,
    linker: Linker,
    rustc: String,
    /// Folders of this machine, which would otherwise be in the image with every panic's location.
    folders: Vec<PathBuf>,
}

/// Where `core` and `alloc` come from.
#[derive(Debug, Clone)]
enum Library {
    /// The compiler has them.
    Installed,
    /// Built from the sources in the compiler's sysroot.
    Sysroot,
    /// Built from sources in a shadow sysroot of the cache.
    Shadow(PathBuf),
}

/// What links.
#[derive(Debug, Clone)]
enum Linker {
    /// The compiler's own rust-lld.
    Own,
    /// LLVM's ld.lld, reachable as `rust-lld` in the directory that is named first.
    Lld(PathBuf, PathBuf),
    /// GNU ld.
    Gnu(PathBuf),
}

/// The compiler of this machine.
struct Compiler {
    /// What to run.
    program: PathBuf,
    /// Its version, e.g. `1.95.0`.
    release: String,
    /// The machine it runs on, e.g. `x86_64-unknown-linux-gnu`.
    host: String,
    /// The commit, for nightly versions of the same number.
    commit: String,
    sysroot: PathBuf,
}

impl Target {
    /// Finds or makes what the target needs.
    pub fn prepare(cache: &Cache, progress: &Progress) -> Result<Self> {
        let compiler = Compiler::find()?;
        let library = match Library::find(cache, &compiler)? {
            Some(library) => library,
            None => Library::Shadow(shadow(cache, &compiler, progress)?),
        };
        if choose_linker(cache, &compiler).is_none() {
            tools::demand(cache, &[tools::GNU_LINKER], progress)?;
        }
        let linker = choose_linker(cache, &compiler).context("no linker was found")?;
        linker.prepare(cache)?;
        Ok(Self::new(library, linker, compiler))
    }

    /// Finds the target without making anything; the inner error says what
    /// [`Target::prepare`] would do first.
    pub fn look(cache: &Cache) -> Result<Result<Self, String>> {
        let compiler = Compiler::find()?;
        let library = Library::find(cache, &compiler)?;
        let linker = choose_linker(cache, &compiler);
        Ok(match (library, linker) {
            (Some(library), Some(linker)) => Ok(Self::new(library, linker, compiler)),
            (None, _) => Err(format!(
                "rustc {} has no {TRIPLE}: Debian's rust-src of that version will be fetched",
                compiler.release
            )),
            (_, None) => Err(format!(
                "no linker: {} will be used",
                tools::GNU_LINKER.package
            )),
        })
    }

    fn new(library: Library, linker: Linker, compiler: Compiler) -> Self {
        let mut folders = registries();
        folders.push(paths::root().to_owned());
        let sources = |sysroot: &Path| sysroot.join("lib/rustlib/src/rust");
        match &library {
            Library::Installed => {}
            Library::Sysroot => folders.push(sources(&compiler.sysroot)),
            Library::Shadow(root) => folders.push(sources(&root.join("sysroot"))),
        }
        Self {
            library,
            linker,
            rustc: compiler.release,
            folders,
        }
    }

    /// Folders that a build reads and its results must not name.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// A cargo that builds for the target; add the subcommand and the rest.
    pub fn cargo(&self) -> Command {
        let mut cargo = supervisor::command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.env("CARGO_BUILD_TARGET", TRIPLE);
        if !matches!(self.library, Library::Installed) {
            // Variables, not -Z flags: `cargo clippy` drops the flags.
            cargo
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_UNSTABLE_BUILD_STD", "core,alloc,compiler_builtins")
                .env("CARGO_UNSTABLE_BUILD_STD_FEATURES", "compiler-builtins-mem")
                .env("CARGO_FUTURE_INCOMPAT_REPORT_FREQUENCY", "never");
        }
        if let Library::Shadow(root) = &self.library {
            // RUSTC serves cargo, SYSROOT the clippy driver.
            cargo
                .env("RUSTC", root.join("rustc"))
                .env("SYSROOT", root.join("sysroot"));
        }
        let rename = |folder: &PathBuf| format!("--remap-path-prefix={}=", folder.display());
        let mut flags: Vec<String> = self.folders.iter().map(rename).collect();
        match &self.linker {
            Linker::Own => {}
            Linker::Lld(dir, _) => {
                cargo.env("PATH", prepended(dir, env::var_os("PATH")));
            }
            Linker::Gnu(path) => {
                cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER", path);
                flags.push("-Clinker-flavor=ld".to_owned());
            }
        }
        // Cargo joins them with those of .cargo/config.toml, which an environment variable would replace.
        let flags = serde_json::json!(flags);
        cargo.args(["--config", &format!("target.{TRIPLE}.rustflags={flags}")]);
        cargo
    }

    /// What was chosen, in one line.
    pub fn describe(&self) -> String {
        let library = match &self.library {
            Library::Installed => "the compiler's libraries for it".to_owned(),
            Library::Sysroot => "libraries built from the sysroot's sources".to_owned(),
            Library::Shadow(root) => format!("libraries built from sources in {}", root.display()),
        };
        let linker = match &self.linker {
            Linker::Own => "rust-lld".to_owned(),
            Linker::Lld(..) => "ld.lld".to_owned(),
            Linker::Gnu(path) => path.display().to_string(),
        };
        format!(
            "{TRIPLE} with rustc {}, {library}, linked by {linker}",
            self.rustc
        )
    }
}

impl Library {
    /// What is there already.
    fn find(cache: &Cache, compiler: &Compiler) -> Result<Option<Self>> {
        if compiler.has_target()? {
            return Ok(Some(Self::Installed));
        }
        if has_sources(&compiler.sysroot) {
            return Ok(Some(Self::Sysroot));
        }
        let shadow = cache.path().join(compiler.entry());
        Ok(shadow.is_dir().then_some(Self::Shadow(shadow)))
    }
}

impl Compiler {
    /// The cache's entry for this compiler's sources.
    fn entry(&self) -> String {
        let sysroot = self.sysroot.to_string_lossy();
        let key = fingerprint(&[&self.release, &self.commit, &sysroot]);
        format!("rust-{}-{key}", self.release)
    }

    fn find() -> Result<Self> {
        let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = ask(&program, &["-vV"])?;
        let field = |name: &str| {
            let line = version.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
                .with_context(|| format!("rustc -vV says nothing of {name}"))
        };
        let sysroot = PathBuf::from(ask(&program, &["--print", "sysroot"])?.trim());
        // Past rustup's proxy, so that the wrapper runs this very compiler.
        let direct = sysroot.join("bin/rustc");
        Ok(Self {
            release: field("release:")?,
            host: field("host:")?,
            commit: field("commit-hash:").unwrap_or_default(),
            program: if direct.exists() {
                direct
            } else {
                find(&program.to_string_lossy()).context("rustc is not in the PATH")?
            },
            sysroot,
        })
    }

    /// Whether the target's libraries are there, not only their directory.
    fn has_target(&self) -> Result<bool> {
        let dir = ask(
            self.program.as_os_str(),
            &["--print", "target-libdir", "--target", TRIPLE],
        )?;
        let Ok(entries) = fs::read_dir(dir.trim()) else {
            return Ok(false);
        };
        let mut names = entries.flatten().map(|entry| entry.file_name());
        Ok(names.any(|name| name.to_string_lossy().starts_with("libcore-")))
    }
}

/// Runs the compiler and returns what it prints.
fn ask(program: &std::ffi::OsStr, args: &[&str]) -> Result<String> {
    let output = supervisor::command(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} {}: {}",
            program.to_string_lossy(),
            args.join(" "),
            complaint.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where cargo unpacks the crates it has fetched, a folder for each registry.
fn registries() -> Vec<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let Some(sources) = home.and_then(|home| fs::read_dir(home.join("registry/src")).ok()) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = sources.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot
        .join("lib/rustlib/src/rust/library/Cargo.lock")
        .exists()
}

/// Makes the shadow sysroot of `compiler`: `DIR/sysroot` and `DIR/rustc`.
fn shadow(cache: &Cache, compiler: &Compiler, progress: &Progress) -> Result<PathBuf> {
    let name = compiler.entry();
    let _lock = cache.lock("rust", progress)?;
    cache.entry(&name, |dir| {
        let package = fetch_sources(cache, compiler, progress)?;
        let step = progress.step("unpack the Rust library sources");
        crate::archive::unpack(&package, &dir.join("package"))?;
        let library = library_in(&dir.join("package"), &compiler.release)?;
        // Links within the entry are relative: the directory is renamed.
        let up = Path::new("../../../../..").join(library.strip_prefix(dir)?);
        make_sysroot(&compiler.sysroot, &dir.join("sysroot"), &up)?;
        let sysroot = cache.path().join(&name).join("sysroot");
        write_wrapper(&dir.join("rustc"), &compiler.program, &sysroot)?;
        step.done();
        Ok(())
    })
}

/// Fetches Debian's package of the library sources of this very compiler.
fn fetch_sources(cache: &Cache, compiler: &Compiler, progress: &Progress) -> Result<PathBuf> {
    let remedy = format!(
        "no library sources for rustc {} were found in Debian's archive: run `rustup target add {TRIPLE}`, or install Debian's rust-src for its rustc",
        compiler.release
    );
    let archive = Archive::open(cache).with_context(|| remedy.clone())?;
    for suite in archive.suites() {
        let Some(root) = archive.root(&suite, archive.host_architecture(), progress)? else {
            continue;
        };
        for offer in root.offers(&SOURCE_PACKAGES)? {
            if upstream(&offer.version) == compiler.release {
                return archive.fetch(&root, &offer, progress);
            }
        }
    }
    bail!(remedy)
}

/// The library sources in an unpacked package of `release`.
fn library_in(package: &Path, release: &str) -> Result<PathBuf> {
    let candidates = [
        format!("usr/src/rustc-{release}/library"),
        format!("usr/src/rustc-web-{release}/library"),
        "usr/lib/rustlib/src/rust/library".to_owned(),
    ];
    let mut paths = candidates.iter().map(|path| package.join(path));
    paths
        .find(|path| path.join("Cargo.lock").exists())
        .with_context(|| format!("Debian's rust-src {release} has no library directory"))
}

/// Makes `shadow` look like `real`, with the library sources at `library`.
fn make_sysroot(real: &Path, shadow: &Path, library: &Path) -> Result<()> {
    let sources = shadow.join("lib/rustlib/src/rust");
    fs::create_dir_all(&sources)?;
    symlink(library, sources.join("library"))?;
    link_parts(real, shadow, "src")
}

/// Links everything in `real`'s lib/rustlib but `own` into that of `shadow`, which is there.
fn link_parts(real: &Path, shadow: &Path, own: &str) -> Result<()> {
    let parts = real.join("lib/rustlib");
    let entries = fs::read_dir(&parts)
        .with_context(|| format!("the compiler's sysroot has no {}", parts.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name() != own {
            symlink(
                entry.path(),
                shadow.join("lib/rustlib").join(entry.file_name()),
            )?;
        }
    }
    Ok(())
}

/// Makes `path` a `program`, which is a compiler, with this sysroot.
fn write_wrapper(path: &Path, program: &Path, sysroot: &Path) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nexec '{}' --sysroot '{}' \"$@\"\n",
        program.display(),
        sysroot.display()
    );
    fs::write(path, script)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Chooses the linker: the compiler's, LLVM's, GNU's.
fn choose_linker(cache: &Cache, compiler: &Compiler) -> Option<Linker> {
    let own = compiler
        .sysroot
        .join("lib/rustlib")
        .join(&compiler.host)
        .join("bin/rust-lld");
    if own.exists() || find("rust-lld").is_some() {
        return Some(Linker::Own);
    }
    if let Some(lld) = find("ld.lld") {
        return Some(Linker::Lld(cache.path().join(LINKER), lld));
    }
    find(tools::GNU_LINKER.program).map(Linker::Gnu)
}

/// The part of the cache where LLVM's linker has the name by which rustc calls it.
const LINKER: &str = "linker";

impl Linker {
    /// Makes what it needs in the cache.
    fn prepare(&self, cache: &Cache) -> Result<()> {
        let Self::Lld(_, lld) = self else {
            return Ok(());
        };
        let link = cache.dir(LINKER)?.join("rust-lld");
        if fs::read_link(&link).ok().as_ref() != Some(lld) {
            let _ = fs::remove_file(&link);
            symlink(lld, &link).with_context(|| format!("cannot make {}", link.display()))?;
        }
        Ok(())
    }
}

/// `dir` before the directories of `path`.
fn prepended(dir: &Path, path: Option<OsString>) -> OsString {
    let mut joined = dir.as_os_str().to_owned();
    if let Some(path) = path {
        joined.push(":");
        joined.push(path);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shadow_sysroot_shares_everything_but_the_sources() {
        let base = env::temp_dir().join(format!("halligan-shadow-{}", std::process::id()));
        crate::cache::remove(&base).unwrap();
        let real = base.join("real");
        fs::create_dir_all(real.join("lib/rustlib/host/lib")).unwrap();
        fs::create_dir_all(real.join("lib/rustlib/src/rust/old")).unwrap();
        let library = base.join("package/library");
        fs::create_dir_all(&library).unwrap();
        fs::write(library.join("Cargo.lock"), "").unwrap();
        let shadow = base.join("sysroot");
        make_sysroot(&real, &shadow, Path::new("../../../../../package/library")).unwrap();
        assert!(has_sources(&shadow));
        assert!(!has_sources(&real));
        assert!(shadow.join("lib/rustlib/host/lib").is_dir());
        assert!(!shadow.join("lib/rustlib/src/rust/old").exists());
        crate::cache::remove(&base).unwrap();
    }

    #[test]
    fn linker_directory_comes_first() {
        let joined = prepended(Path::new("/x"), Some("/bin:/usr/bin".into()));
        assert_eq!(joined, "/x:/bin:/usr/bin");
        assert_eq!(prepended(Path::new("/x"), None), "/x");
    }
}
