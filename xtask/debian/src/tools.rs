//! The programs of the host that xtask needs, and how to get them.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::archive::{Archive, Root, at_least};
use crate::cache::Cache;
use crate::progress::Progress;

/// The oldest QEMU that everything is known to run on. Before 9.0 there is no raspi4b, and 7.2 hangs in Trusted Firmware-A.
pub const QEMU_LEAST: [u32; 2] = [10, 0];

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// What is run.
    pub program: &'static str,
    /// Where Debian has it.
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// The machine that everything runs on.
pub const QEMU: Tool = tool("qemu-system-aarch64", "qemu-system-arm");

/// QEMU's emulator of programs for arm64.
pub const QEMU_USER: Tool = tool("qemu-aarch64", "qemu-user");

/// What building the guest kernel takes, besides the compiler.
const KERNEL: [Tool; 10] = [
    tool("make", "make"),
    tool("gcc", "gcc"),
    tool("flex", "flex"),
    tool("bison", "bison"),
    tool("bc", "bc"),
    tool("perl", "perl"),
    tool("patch", "patch"),
    tool("tar", "tar"),
    tool("xz", "xz-utils"),
    tool("gzip", "gzip"),
];

/// GNU's linker for arm64, for a Rust that comes without one.
pub const GNU_LINKER: Tool = if cfg!(target_arch = "aarch64") {
    tool("ld", "binutils")
} else {
    tool("aarch64-linux-gnu-ld", "binutils-aarch64-linux-gnu")
};

/// The prefix of the compiler that builds arm64 kernels on this host.
pub const fn cross_prefix() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        ""
    } else {
        "aarch64-linux-gnu-"
    }
}

/// The compiler of what runs in arm64 guests.
pub const fn cross_gcc() -> Tool {
    if cfg!(target_arch = "aarch64") {
        tool("gcc", "gcc")
    } else {
        tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    }
}

/// Everything that building the guest kernel takes on this host.
pub fn kernel_tools() -> Vec<Tool> {
    let mut tools = KERNEL.to_vec();
    if !cross_prefix().is_empty() {
        tools.push(cross_gcc());
    }
    tools
}

/// Everything that building the firmware takes on this host.
pub fn firmware_tools() -> Vec<Tool> {
    vec![
        tool("make", "make"),
        tool("tar", "tar"),
        tool("xz", "xz-utils"),
        cross_gcc(),
    ]
}

/// Everything that any command needs.
pub fn all() -> Vec<Tool> {
    let mut tools = kernel_tools();
    tools.push(QEMU);
    tools
}

/// Finds a program as a shell would.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        let path = PathBuf::from(program);
        return is_program(&path).then_some(path);
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// QEMU for arm64, new enough; installed if it is not there and may be.
pub fn qemu(cache: &Cache, progress: &Progress) -> Result<PathBuf> {
    demand(cache, &[QEMU], progress)?;
    let path = find(QEMU.program).context("qemu-system-aarch64 is not in the PATH")?;
    demand_version(&path)?;
    Ok(path)
}

/// The version of the QEMU at `path`, which is new enough.
///
/// # Errors
///
/// If it is too old, with the mend.
pub fn demand_version(path: &Path) -> Result<String> {
    judge(path, &said_version(path)?, &newer_qemu())
}

/// The same of the emulator of programs: below that of 7.2 crash does not come to an end with its symbols.
///
/// # Errors
///
/// If it is too old, with the mend.
pub fn demand_user_version() -> Result<String> {
    let path = find(QEMU_USER.program).context("qemu-aarch64 is not in the PATH")?;
    judge(&path, &said_version(&path)?, &newer(QEMU_USER))
}

fn judge(path: &Path, said: &str, mend: &str) -> Result<String> {
    let (version, path) = (parse_version(path, said)?, path.display());
    let [major, minor] = QEMU_LEAST;
    ensure!(
        at_least(&version, &QEMU_LEAST),
        "{path} is QEMU {version}, which is too old: {major}.{minor} or later is needed; {mend}"
    );
    Ok(version)
}

/// Where a newer QEMU than the release's own comes from.
pub fn newer_qemu() -> String {
    newer(QEMU)
}

fn newer(tool: Tool) -> String {
    let system = std::fs::read_to_string("/etc/os-release");
    newer_than(&system.unwrap_or_default(), tool)
}

/// The same for the release that `/etc/os-release` has this text of. Debian 13 and later have it themselves.
fn newer_than(system: &str, tool: Tool) -> String {
    let release = system
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let (package, release) = (tool.package, release.unwrap_or("RELEASE"));
    let suite = format!("{release}-backports");
    format!("take it from {suite}, `sudo apt-get install -t {suite} {package}`")
}

/// The version that a QEMU says it has.
pub fn qemu_version(path: &Path) -> Result<String> {
    parse_version(path, &said_version(path)?)
}

fn said_version(path: &Path) -> Result<String> {
    let output = supervisor::command(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", path.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse_version(path: &Path, said: &str) -> Result<String> {
    let version = said
        .split_once("version ")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    let version =
        version.with_context(|| format!("{} does not say its version", path.display()))?;
    Ok(version.to_owned())
}

/// Whether nothing may be installed by this command.
static IS_FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// The setting for good: anything but nothing and 0.
const FORBIDDING: &str = "HALLIGAN_NO_INSTALL";

/// Has this command install nothing.
pub fn forbid_install() {
    IS_FORBIDDEN.store(true, Ordering::Relaxed);
}

/// Whether nothing may be installed, by this command or for good.
pub fn is_install_forbidden() -> bool {
    let said = env::var_os(FORBIDDING);
    IS_FORBIDDEN.load(Ordering::Relaxed) || forbids(said.as_deref())
}

/// Whether packages may be installed: by root, unless the user forbids it.
fn may_install() -> bool {
    rustix::process::geteuid().is_root() && !is_install_forbidden()
}

fn forbids(said: Option<&OsStr>) -> bool {
    said.is_some_and(|said| !said.is_empty() && said != "0")
}

/// Sees to it that `tools` are there: installs what is missing when run by
/// root who does not forbid it, else fails with the one command to run.
pub fn demand(cache: &Cache, tools: &[Tool], progress: &Progress) -> Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    if !may_install() {
        // All that later commands would ask for, so that root is asked once.
        let mut all = self::missing(&all());
        all.extend(missing.iter().copied());
        bail!(
            "{} not installed: run `{}`",
            names(&missing),
            install_command(&packages(&all))
        );
    }
    let packages = packages(&missing);
    let root = Archive::open(cache)
        .with_context(|| format!("{} not installed", names(&missing)))?
        .host_root(progress)?;
    install(&root, &packages, progress)?;
    let still = self::missing(tools);
    if !still.is_empty() {
        bail!(
            "{} not found, although installed: look at the PATH",
            names(&still)
        );
    }
    Ok(())
}

/// Those of `tools` that are not in the PATH.
pub fn missing(tools: &[Tool]) -> Vec<Tool> {
    let absent = tools.iter().filter(|tool| find(tool.program).is_none());
    absent.copied().collect()
}

/// The command that a user without root's rights asks root to run.
pub fn install_command(packages: &[&str]) -> String {
    format!(
        "sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

/// The packages of `tools`, each once. A cross compiler needs its C library's
/// headers for nothing here, a host compiler does.
pub fn packages(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    if packages.contains(&"gcc") {
        packages.push("libc6-dev");
    }
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn names(tools: &[Tool]) -> String {
    let names: Vec<&str> = tools.iter().map(|tool| tool.program).collect();
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

/// Installs packages through a private root: the machine's sources stay as
/// they are, and QEMU may come from the release's backports.
fn install(root: &Root, packages: &[&str], progress: &Progress) -> Result<()> {
    let mut step = progress.step(format!("install {}", packages.join(" ")));
    let is_qemu = |package: &&str| [QEMU.package, QEMU_USER.package].contains(package);
    let qemus: Vec<&str> = packages.iter().copied().filter(is_qemu).collect();
    let backports = !qemus.is_empty()
        && root
            .offers(&qemus)?
            .iter()
            .any(|offer| offer.version.contains("~bpo"));
    #[expect(
        clippy::disallowed_methods,
        reason = "packages that are half installed are worse than an apt-get that ends after us"
    )]
    let mut command = Command::new("apt-get");
    command.arg("-c").arg(root.config());
    if backports {
        command.args(["-t", &root.suite]);
    }
    let mut child = command
        .args(["-qq", "-y", "--no-install-recommends", "install"])
        .args(packages)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run apt-get")?;
    let mut complaints = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(pipe) = complaints.as_mut() {
            // What cannot be read cannot be shown; the status still counts.
            let _ = std::io::Read::read_to_string(pipe, &mut text);
        }
        text
    });
    let status = step.wait(&mut child, || "working".to_owned())?;
    let complaint = reader.join().unwrap_or_default();
    if !status.success() {
        bail!(
            "installing {}: {}",
            packages.join(" "),
            crate::archive::explain(&complaint)
        );
    }
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_forbids_unless_it_is_empty_or_0() {
        assert!(!forbids(None));
        for (said, is_forbidden) in [("", false), ("0", false), ("1", true), ("yes", true)] {
            assert_eq!(forbids(Some(OsStr::new(said))), is_forbidden, "{said}");
        }
    }

    #[test]
    fn who_may_not_install_is_told_the_command() {
        // Whoever runs this: nothing is installed.
        forbid_install();
        let root = env::temp_dir().join(format!("halligan-forbid-{}", std::process::id()));
        let cache = Cache::at(&root).unwrap();
        let absent = tool("no-such-program-anywhere", "no-such-package");
        let error = demand(&cache, &[absent], &Progress::new()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with(
                "no-such-program-anywhere is not installed: run `sudo apt-get install"
            ),
            "{error}"
        );
        assert!(error.contains("no-such-package"), "{error}");
        crate::cache::remove(&root).unwrap();
    }

    #[test]
    fn qemu_says_its_version() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright\n";
        let path = Path::new("/bin/qemu");
        assert_eq!(parse_version(path, text).unwrap(), "10.0.2");
        let error = parse_version(path, "nothing").unwrap_err();
        assert_eq!(error.to_string(), "/bin/qemu does not say its version");
    }

    fn judged(version: &str) -> Result<String> {
        let said =
            format!("QEMU emulator version {version} (Debian 1:{version}+dfsg)\nCopyright\n");
        judge(
            Path::new("/bin/qemu"),
            &said,
            "take a new one, `apt-get install -t`",
        )
    }

    #[test]
    fn an_old_qemu_is_refused_with_the_mend_in_one_sentence() {
        for version in ["7.2.22", "9.2.4", "8.0.0"] {
            let text = judged(version).unwrap_err().to_string();
            let begin =
                format!("/bin/qemu is QEMU {version}, which is too old: 10.0 or later is needed; ");
            assert!(text.starts_with(&begin), "{text}");
            assert!(
                text.ends_with("; take a new one, `apt-get install -t`"),
                "{text}"
            );
        }
        for version in ["10.0.2", "10.1.0-rc1", "11.0.0"] {
            assert_eq!(judged(version).unwrap(), version);
        }
    }

    #[test]
    fn a_newer_qemu_comes_from_the_backports_of_this_release() {
        let mend = newer_than("ID=debian\nVERSION_CODENAME=bookworm\n", QEMU);
        let command = "`sudo apt-get install -t bookworm-backports qemu-system-arm`";
        assert_eq!(mend, format!("take it from bookworm-backports, {command}"));
    }

    #[test]
    fn packages_are_named_once_and_a_host_compiler_brings_its_headers() {
        let tools = [
            tool("gcc", "gcc"),
            tool("xz", "xz-utils"),
            tool("unxz", "xz-utils"),
        ];
        assert_eq!(packages(&tools), ["gcc", "libc6-dev", "xz-utils"]);
        assert_eq!(names(&tools[..1]), "gcc is");
        let command = install_command(&packages(&tools));
        assert!(command.ends_with("gcc libc6-dev xz-utils"), "{command}");
    }

    #[test]
    fn program_is_found_in_the_path_and_a_directory_is_none() {
        assert!(find("sh").is_some());
        assert!(find("/").is_none());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
