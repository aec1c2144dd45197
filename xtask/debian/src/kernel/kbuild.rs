//! Linux's own build system, run on an unpacked source tree.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use super::FRAGMENT;
use crate::cache::unwritable;
use crate::progress::Progress;
use crate::tools;

/// What a build prints, in lines; only for the display.
const BUILD_LINES: usize = 1300;

/// The build system, with everything of the machine kept out of its output.
fn kbuild(source: &Path, objects: &Path) -> Command {
    let mut make = supervisor::command("make");
    make.arg("-C")
        .arg(source)
        .arg(format!("O={}", objects.display()))
        .arg("ARCH=arm64")
        .arg(format!("CROSS_COMPILE={}", tools::cross_prefix()))
        .env("KBUILD_BUILD_USER", "halligan")
        .env("KBUILD_BUILD_HOST", "halligan")
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        // cargo's own jobserver is not for make.
        .env_remove("MAKEFLAGS")
        .env_remove("CARGO_MAKEFLAGS")
        .env("LC_ALL", "C");
    make
}

/// Makes the configuration and sees that it has all that the fragment asks.
pub fn configure(source: &Path, objects: &Path) -> Result<()> {
    let fragment = objects.join("fragment");
    let config = objects.join(".config");
    if config.exists() && fs::read_to_string(&fragment).ok().as_deref() == Some(FRAGMENT) {
        // A build that was interrupted goes on with the same file.
        return Ok(());
    }
    fs::write(&fragment, FRAGMENT).map_err(|error| unwritable(&fragment, &error))?;
    let mut make = kbuild(source, objects);
    make.arg("allnoconfig").env("KCONFIG_ALLCONFIG", &fragment);
    let configured = run(
        &mut make,
        &objects.join("configure.log"),
        "make allnoconfig",
        Child::wait,
    )
    .and_then(|()| {
        let text = fs::read_to_string(&config).context("make allnoconfig wrote nothing")?;
        let absent = absent(FRAGMENT, &text);
        if !absent.is_empty() {
            bail!("this Linux cannot be configured with {}", absent.join(" "));
        }
        Ok(())
    });
    if configured.is_err() {
        // So that the next run configures again.
        fs::remove_file(&fragment)?;
    }
    configured
}

/// The lines of the fragment that the configuration lacks.
fn absent<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let wanted = fragment.lines().filter(|line| line.starts_with("CONFIG_"));
    wanted
        .filter(|line| !config.lines().any(|has| has == *line))
        .collect()
}

/// Builds Image and vmlinux; what an interrupted run has done is kept.
pub fn make(source: &Path, objects: &Path, what: &str, progress: &Progress) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut step = progress.step(format!("{what} with {jobs} jobs"));
    let log = objects.join("build.log");
    let mut make = kbuild(source, objects);
    make.arg(format!("-j{jobs}")).args(["Image", "vmlinux"]);
    let mut lines = Lines::of(&log);
    run(&mut make, &log, "make Image", |child| {
        step.wait(child, || {
            let done = (lines.count() * 100 / BUILD_LINES).min(99);
            format!("about {done} %")
        })
    })?;
    step.done();
    Ok(())
}

/// Counts the lines of a file that grows.
struct Lines {
    path: PathBuf,
    at: u64,
    lines: usize,
}

impl Lines {
    fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            at: 0,
            lines: 0,
        }
    }

    fn count(&mut self) -> usize {
        let mut new = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.at)).is_ok()
            && let Ok(read) = file.read_to_end(&mut new)
        {
            self.at += read as u64;
            self.lines += new.iter().filter(|byte| **byte == b'\n').count();
        }
        self.lines
    }
}

/// Runs a command with its output at the end of `log`, waiting by `wait`.
pub fn run(
    command: &mut Command,
    log: &Path,
    what: &str,
    wait: impl FnOnce(&mut Child) -> std::io::Result<ExitStatus>,
) -> Result<()> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.map_err(|error| unwritable(log, &error))?;
    let start = file.metadata()?.len();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if wait(&mut child)?.success() {
        return Ok(());
    }
    let mut output = File::open(log)?;
    output.seek(SeekFrom::Start(start))?;
    let lines: Vec<String> = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .collect();
    if lines
        .iter()
        .any(|line| line.contains("No space left on device"))
    {
        bail!("{what}: the disk is full: make room or set HALLIGAN_CACHE to another disk");
    }
    let error = lines.iter().find(|line| line.contains("rror:"));
    bail!(
        "{what} failed: {}; all of its output is in {}",
        error.or(lines.last()).map_or("no output", String::as_str),
        log.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_kconfig_dropped_are_named() {
        let fragment = "# a comment\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_N=128\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=1280\n";
        assert_eq!(absent(fragment, config), ["CONFIG_B=y", "CONFIG_N=128"]);
    }

    #[test]
    fn fragment_asks_for_what_the_project_is_about() {
        for option in [
            "ARM_SDEI_NMI",
            "KEXEC_FILE",
            "PROC_VMCORE",
            "LKDTM",
            "ARM64_VA_BITS_48",
        ] {
            let line = format!("CONFIG_{option}=y");
            assert!(FRAGMENT.lines().any(|has| has == line), "{line}");
        }
    }

    #[test]
    fn failed_command_names_its_error_and_its_log() {
        let log = std::env::temp_dir().join(format!("halligan-run-{}", std::process::id()));
        let mut command = supervisor::command("sh");
        command.args(["-c", "echo x.c:1: error: no; echo last; exit 1"]);
        let error = run(&mut command, &log, "make", Child::wait)
            .unwrap_err()
            .to_string();
        assert!(error.contains("x.c:1: error: no"), "{error}");
        assert!(error.contains(&*log.to_string_lossy()), "{error}");
        fs::remove_file(log).unwrap();
    }
}
