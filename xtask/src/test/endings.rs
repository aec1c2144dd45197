//! `cargo xtask run` that ends before its guest does: neither QEMU nor a folder stays behind, and nobody is told.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use supervisor::Process;

use super::own;
use crate::ledger::Ledger;
use debian::paths;
use machine::workshop::Workshop;

/// How a run is ended.
#[derive(Clone, Copy)]
enum Cause {
    Signal(Signal),
    /// By `| head`.
    ClosedPipe,
}

const CASES: [(&str, Cause); 5] = [
    // First, as its folder goes with the next run.
    ("run/ended-by-kill", Cause::Signal(Signal::KILL)),
    ("run/ended-by-term", Cause::Signal(Signal::TERM)),
    ("run/ended-by-hup", Cause::Signal(Signal::HUP)),
    ("run/ended-by-int", Cause::Signal(Signal::INT)),
    ("run/ended-by-closed-pipe", Cause::ClosedPipe),
];

/// In the environment of all that one run starts.
const MARK: &str = "HALLIGAN_RUN_TEST";
/// Nothing takes so long.
const LIMIT: Duration = Duration::from_secs(30);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, _)| *name)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let mut left = None;
    for (name, cause) in CASES {
        ledger.check(name, || {
            end(workshop, name, cause, &mut left).map(|()| String::new())
        });
    }
}

/// Boots a guest that does nothing, and ends the run by `cause`. `left` is the folder of a run that was killed.
fn end(workshop: &Workshop, name: &str, cause: Cause, left: &mut Option<PathBuf>) -> Result<()> {
    let kernel = workshop.output("run-ended.bin")?;
    // DDI0487 C6.2.26: B with an offset of 0.
    paths::write_if_new(&kernel, &0x1400_0000_u32.to_le_bytes())?;
    let mark = format!("{}-{}", std::process::id(), name.replace('/', "-"));
    let (output, both) = io::pipe()?;
    let mut run = own::xtask()?
        .args(["run", "--cpus", "1", "--memory", "256M", "--kernel"])
        .arg(kernel)
        .env(MARK, &mark)
        .stdout(both.try_clone()?)
        .stderr(both)
        .spawn()
        .context("cannot run xtask")?;
    let mut output = BufReader::new(output);
    let mut line = String::new();
    while !line.contains("halligan 0.") {
        line.clear();
        ensure!(output.read_line(&mut line)? > 0, "the hypervisor is silent");
    }
    let folder = folder(&mark)?;
    ensure!(folder.exists(), "{} is not there", folder.display());
    if let Some(left) = left.take() {
        ensure!(!left.exists(), "{} stayed behind", left.display());
    }
    let mut output = Some(output);
    match cause {
        Cause::Signal(signal) => {
            let pid = Pid::from_raw(i32::try_from(run.id())?).context("it is no process")?;
            kill_process(pid, signal)?;
        }
        Cause::ClosedPipe => output = None,
    }
    let status = run.wait()?;
    let until = Instant::now() + LIMIT;
    for process in Process::all_with(MARK, &mark) {
        let line = process.command_line();
        let ended = process.ends_before(until);
        if !ended {
            process.signal(Signal::KILL);
        }
        ensure!(ended, "{:?} lives on", String::from_utf8_lossy(&line));
    }
    let mut rest = String::new();
    if let Some(output) = &mut output {
        output.read_to_string(&mut rest)?;
    }
    for told in ["xtask:", "qemu:", "error:"] {
        ensure!(!rest.contains(told), "it says:\n{rest}");
    }
    let expected = match cause {
        Cause::Signal(signal) => status.signal() == Some(signal.as_raw()),
        Cause::ClosedPipe => status.code() == Some(141),
    };
    ensure!(expected, "it ended otherwise: {status}");
    match cause {
        Cause::Signal(Signal::KILL) => *left = Some(folder),
        _ => ensure!(!folder.exists(), "{} stayed behind", folder.display()),
    }
    Ok(())
}

/// Where the files are of the run whose processes have `mark`, by what its QEMU was told.
fn folder(mark: &str) -> Result<PathBuf> {
    let processes = Process::all_with(MARK, mark);
    let lines = processes.iter().map(|process| process.command_line());
    let mut words = lines.flat_map(|line| {
        let line = String::from_utf8_lossy(&line).into_owned();
        line.split('\0').map(PathBuf::from).collect::<Vec<_>>()
    });
    let bundle = words.find(|word| word.ends_with("bundle.itb"));
    let bundle = bundle.context("no QEMU has a bundle")?;
    Ok(bundle.parent().context("it is in no folder")?.to_owned())
}
