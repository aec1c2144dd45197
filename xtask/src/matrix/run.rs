//! Runs a row, as a process of its own, and keeps what it leaves.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use debian::progress::Step;
use debian::tools;
use lab::page;
use serde_json::Value;

use super::judge::Exit;

/// What the row says, on both streams.
const SAID: &str = "output.txt";
/// Its report: docs/report.md.
pub const REPORT: &str = "report.json";
/// What `kdump --keep` leaves. Of a row that is well only the log of the serial line stays.
const LEFT: &str = "run";
const SERIAL: &str = "serial.log";

/// How a row ended.
pub struct Ran {
    /// Its process.
    pub exit: Exit,
    /// How long that took.
    pub time: Duration,
    /// Its report, if it has written one.
    pub report: Option<Value>,
    /// All that it said.
    pub said: String,
}

/// Runs `cargo xtask kdump` with these words, and has its files in `folder`.
pub fn run(words: &[String], folder: &Path, step: &mut Step) -> Result<Ran> {
    let own = || format!("cannot write into {}", folder.display());
    fs::create_dir_all(folder).with_context(own)?;
    let said = File::create(folder.join(SAID)).with_context(own)?;
    // Not by our path: the file may be built anew while rows run, and all rows are to be of one program.
    let mut command = supervisor::command("/proc/self/exe");
    command.arg0("xtask").arg("kdump").args(words);
    command.arg("--report").arg(folder.join(REPORT));
    command.arg("--html").arg(folder.join(page::OF_JOB));
    command.arg("--keep").arg(folder.join(LEFT));
    if tools::is_install_forbidden() {
        command.arg("--no-install");
    }
    command.stdin(Stdio::null());
    command.stdout(said.try_clone().with_context(own)?);
    command.stderr(said);
    let started = Instant::now();
    let mut child = command.spawn().context("cannot start a row")?;
    let status = step.wait(&mut child, String::new)?;
    let time = started.elapsed();
    supervisor::settle();
    let said = fs::read(folder.join(SAID)).with_context(own)?;
    let report = fs::read(folder.join(REPORT)).ok();
    let report = report.and_then(|text| serde_json::from_slice(&text).ok());
    Ok(Ran {
        exit: exit(status),
        time,
        report,
        said: String::from_utf8_lossy(&said).into_owned(),
    })
}

fn exit(status: ExitStatus) -> Exit {
    match status.code() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.signal().unwrap_or_default()),
    }
}

/// Removes from the folder of a row that is well what is large.
pub fn tidy_up(folder: &Path) -> Result<()> {
    let left = folder.join(LEFT);
    let log = left.join(SERIAL);
    if log.is_file() {
        fs::rename(&log, folder.join(SERIAL))
            .with_context(|| format!("cannot move {}", log.display()))?;
    }
    if left.is_dir() {
        fs::remove_dir_all(&left).with_context(|| format!("cannot remove {}", left.display()))?;
    }
    Ok(())
}

/// The name of a row's folder: its number, by which it is found, and as much of its name as a file's name can have.
pub fn folder_name(number: usize, name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._=,-".contains(c);
    let plain = name.chars().map(|c| if is_plain(c) { c } else { '_' });
    let plain: String = plain.take(80).collect();
    format!("{number:03}-{plain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_name_that_files_can_have() {
        assert_eq!(
            folder_name(7, "nmi/append=a b/kernel=../x"),
            "007-nmi_append=a_b_kernel=.._x"
        );
        assert!(folder_name(1, &"é/".repeat(300)).len() < 100);
    }

    #[test]
    fn of_a_row_that_is_well_the_log_stays() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(LEFT);
        fs::create_dir(&left).unwrap();
        for name in [SERIAL, "vmcore"] {
            fs::write(left.join(name), name).unwrap();
        }
        tidy_up(folder.path()).unwrap();
        assert!(!left.exists());
        assert_eq!(fs::read(folder.path().join(SERIAL)).unwrap(), b"serial.log");
        tidy_up(folder.path()).unwrap();
    }
}
