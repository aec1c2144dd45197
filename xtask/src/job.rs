//! A `kdump` job in a process of its own: what others judge or compare is what it reports.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, stderr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use clap::Parser;
use debian::tools;
use lab::document::Document;
use lab::kdump::Kdump;

/// So many of its last lines are kept, to find out what it complained of.
const KEPT: usize = 60;

/// What became of a job.
pub struct Done {
    /// What it reported; nothing if it did not come to that.
    pub document: Option<Document>,
    /// How its process ended.
    pub status: ExitStatus,
    /// What it complained of, if it did.
    pub complaint: Option<String>,
}

#[derive(Parser)]
#[command(name = "cargo xtask kdump", no_binary_name = true)]
struct Job {
    #[command(flatten)]
    _kdump: Kdump,
}

/// That `kdump` understands these options; what it does not is wrong usage.
///
/// # Errors
///
/// As clap says it.
pub fn check(options: &[OsString]) -> Result<(), clap::Error> {
    Job::try_parse_from(options).map(|_| ())
}

/// Runs it with these options and its report in `report`. What it says goes to standard error.
pub fn run(options: &[OsString], report: &Path) -> Result<Done> {
    let mut last = VecDeque::new();
    let mut command = own("kdump")?;
    command.args(options).arg("--report").arg(report);
    let status = follow(&mut command, |line| {
        eprintln!("{line}");
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(line);
    })?;
    let document = match report.is_file() {
        true => Some(Document::read(report)?),
        false => None,
    };
    Ok(Done {
        document,
        status,
        complaint: complaint(last.make_contiguous()),
    })
}

/// One of our own commands.
pub fn own(name: &str) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find xtask's own file")?;
    let mut command = supervisor::command(own);
    command.arg(name);
    if tools::is_install_forbidden() {
        command.arg("--no-install");
    }
    Ok(command)
}

/// Runs a command to its end: its standard output is our standard error, and each line of its standard error goes to `hear`.
pub fn follow(command: &mut Command, mut hear: impl FnMut(String)) -> Result<ExitStatus> {
    let said = stderr().as_fd().try_clone_to_owned();
    let said = said.context("there is no standard error")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(said)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run another xtask")?;
    let errors = child.stderr.take().context("it has no standard error")?;
    for line in BufReader::new(errors).split(b'\n') {
        let line = line.context("cannot read what another xtask says")?;
        hear(String::from_utf8_lossy(&line).into_owned());
    }
    child.wait().context("another xtask is lost")
}

/// The line that begins with `error:`, and the lines behind it, without that word.
fn complaint(lines: &[String]) -> Option<String> {
    let at = lines.iter().rposition(|line| line.starts_with("error: "))?;
    let all = lines.get(at..).unwrap_or_default().join("\n");
    Some(all.trim_start_matches("error: ").trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_complained_of_is_its_last_error_with_all_its_lines() {
        let lines = [
            "xtask: build",
            "error: the tree does not build:",
            "  smp.c:9: error: no",
            "",
        ];
        let lines = lines.map(str::to_owned);
        assert_eq!(
            complaint(&lines).as_deref(),
            Some("the tree does not build:\n  smp.c:9: error: no")
        );
        assert_eq!(complaint(&lines[..1]), None);
    }

    #[test]
    fn options_are_those_of_kdump() {
        let check = |words: &[&str]| check(&words.iter().map(OsString::from).collect::<Vec<_>>());
        check(&["--scenario", "nmi", "--cpus", "8"]).unwrap();
        let error = check(&["--scenario", "none"]).unwrap_err().to_string();
        assert!(error.contains("sysrq-l"), "{error}");
        let twice = check(&["--report", "a.json", "--report", "b.json"]);
        assert!(twice.unwrap_err().to_string().contains("multiple times"));
    }
}
