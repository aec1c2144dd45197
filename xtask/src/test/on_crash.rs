//! `cargo xtask run --on-crash`: what can be looked at when the hypervisor has crashed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::own;
use crate::ledger::Ledger;
use machine::build::{self, Program};
use machine::workshop::Workshop;

const NAMES: [&str; 2] = [
    "run/on-crash-dump-leaves-the-record",
    "run/on-crash-hold-lets-a-debugger-look",
];

/// Nothing takes so long.
const LIMIT: Duration = Duration::from_secs(60);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [record, debugger] = NAMES;
    ledger.check(record, || dump(workshop).map(|()| String::new()));
    ledger.check(debugger, || hold(workshop).map(|()| String::new()));
}

/// A run whose hypervisor panics.
fn crashing(workshop: &Workshop, on_crash: &str) -> Result<Command> {
    let guest = build::build(workshop, Program::GuestTests)?;
    let mut command = own::xtask()?;
    command
        .args(["run", "--cpus", "2", "--memory", "256M", "--timeout", "60"])
        .args(["--fault-injection", "--hv-append", "break=panic"])
        .args(["--append", "list", "--on-crash", on_crash, "--kernel"])
        .arg(guest.image);
    Ok(command)
}

fn dump(workshop: &Workshop) -> Result<()> {
    let ended = crashing(workshop, "dump")?.output()?;
    let told = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.code() == Some(4), "{}\n{told}", ended.status);
    ensure!(
        told.contains("backtrace:") && !told.contains("(cargo xtask symbolize)"),
        "it says how its functions would be named:\n{told}"
    );
    let line = told.lines().find_map(|line| {
        let command = line.strip_prefix("xtask: `cargo xtask ")?;
        command
            .split('`')
            .next()
            .filter(|it| it.starts_with("crash "))
    });
    let words: Vec<&str> = line
        .with_context(|| told.clone().into_owned())?
        .split(' ')
        .collect();
    let record = own::succeed(own::xtask()?.args(&words))?;
    let file = Path::new(words.get(2).context("it names no file")?);
    let folder = file.parent().context("it is in no folder")?;
    fs::remove_dir_all(folder)?;
    for part in ["asked to panic", "fault_injection", "@hv-crash-end"] {
        ensure!(record.contains(part), "{part:?} is missing:\n{record}");
    }
    Ok(())
}

fn hold(workshop: &Workshop) -> Result<()> {
    let mut run = crashing(workshop, "hold")?
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let errors = run.stderr.take().context("it is piped")?;
    let seen = look(BufReader::new(errors));
    run.kill()?;
    run.wait()?;
    seen
}

/// Attaches to the machine that `told` says is held.
fn look(told: impl BufRead) -> Result<()> {
    let mut all = String::new();
    for line in told.lines() {
        let line = line?;
        all.push_str(&line);
        all.push('\n');
        let Some((_, rest)) = line.split_once("QEMU is held: `target remote ") else {
            continue;
        };
        let place = rest.split('`').next().unwrap_or_default();
        let mut debugger = TcpStream::connect(place)?;
        debugger.set_read_timeout(Some(LIMIT))?;
        // The packet of gdb's remote protocol that asks why the machine stands still, and the answer: signal 5.
        debugger.write_all(b"+$?#3f")?;
        let mut answer = [0; 5];
        debugger.read_exact(&mut answer)?;
        ensure!(&answer == b"+$T05", "{}", String::from_utf8_lossy(&answer));
        return Ok(());
    }
    anyhow::bail!("QEMU is not held:\n{all}")
}
