//! `cargo xtask run` that ends before its guest does: neither QEMU nor a folder stays behind, and nobody is told.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
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

/// A run that has the terminal, and is asked to end.
const TERMINAL: &str = "run/ended-by-term-puts-the-terminal-back";

/// In the environment of all that one run starts.
const MARK: &str = "HALLIGAN_RUN_TEST";
/// Nothing takes so long.
const LIMIT: Duration = Duration::from_secs(30);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, _)| *name).chain([TERMINAL])
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let mut left = None;
    for (name, cause) in CASES {
        ledger.check(name, || {
            end(workshop, name, cause, &mut left).map(|()| String::new())
        });
    }
    ledger.check(TERMINAL, || put_back(workshop).map(|()| String::new()));
}

/// One CPU that branches to itself.
fn boot(workshop: &Workshop) -> Result<Command> {
    let kernel = workshop.output("run-ended.bin")?;
    // DDI0487 C6.2.26: B with an offset of 0.
    paths::write_if_new(&kernel, &0x1400_0000_u32.to_le_bytes())?;
    let mut command = own::xtask()?;
    command
        .args(["run", "--cpus", "1", "--memory", "256M", "--kernel"])
        .arg(kernel);
    Ok(command)
}

/// Waits until the hypervisor says something.
fn wait_for_boot(output: &mut impl BufRead) -> Result<()> {
    let mut line = String::new();
    while !line.contains("halligan 0.") {
        line.clear();
        ensure!(output.read_line(&mut line)? > 0, "the hypervisor is silent");
    }
    Ok(())
}

fn process(run: &Child) -> Result<Pid> {
    Pid::from_raw(i32::try_from(run.id())?).context("it is no process")
}

fn put_back(workshop: &Workshop) -> Result<()> {
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&screen)?;
    unlockpt(&screen)?;
    let name = ptsname(&screen, Vec::new())?;
    let keyboard = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits().cast_signed())
        .open(name.to_str()?)?;
    let has_lines = || -> Result<bool> {
        let modes = tcgetattr(&screen)?.local_modes;
        Ok(modes.contains(LocalModes::ICANON | LocalModes::ECHO))
    };
    let mut run = boot(workshop)?
        .stdin(keyboard)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let errors = run.stderr.take().context("it is piped")?;
    // Held: nobody would read what it says otherwise.
    let mut errors = BufReader::new(errors);
    wait_for_boot(&mut errors)?;
    ensure!(!has_lines()?, "the guest does not have the terminal");
    kill_process(process(&run)?, Signal::TERM)?;
    run.wait()?;
    ensure!(has_lines()?, "the terminal stays as the guest had it");
    Ok(())
}

/// Boots a guest that does nothing, and ends the run by `cause`. `left` is the folder of a run that was killed.
fn end(workshop: &Workshop, name: &str, cause: Cause, left: &mut Option<PathBuf>) -> Result<()> {
    let mark = format!("{}-{}", std::process::id(), name.replace('/', "-"));
    let (output, both) = io::pipe()?;
    let mut run = boot(workshop)?
        .env(MARK, &mark)
        .stdout(both.try_clone()?)
        .stderr(both)
        .spawn()
        .context("cannot run xtask")?;
    let mut output = BufReader::new(output);
    wait_for_boot(&mut output)?;
    let folder = folder(&mark)?;
    ensure!(folder.exists(), "{} is not there", folder.display());
    if let Some(left) = left.take() {
        ensure!(!left.exists(), "{} stayed behind", left.display());
    }
    let mut output = Some(output);
    match cause {
        Cause::Signal(signal) => {
            kill_process(process(&run)?, signal)?;
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
