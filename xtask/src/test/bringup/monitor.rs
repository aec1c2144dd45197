//! `cargo xtask monitor`, while the hypervisor of a board panics.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::emulated::Emulated;
use crate::offer::offered;
use crate::test::own;
use machine::build::{self, Program};
use machine::payload::{Capture, Payload};
use machine::qemu::Machine;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Its name in the ledger.
pub const NAME: &str = "bringup/monitor";

/// The last line of a report, and what stands in its backtrace.
const LAST: &str = "@hv-crash-end";
const FUNCTION: &str = "break_now";

/// How long the terminal may take to open the line.
const OPENED: Duration = Duration::from_secs(30);
/// How long the hypervisor may take to end.
const SHOWN: Duration = Duration::from_secs(60);

/// Has the hypervisor panic on such a `machine`; its backtrace has to have functions.
pub fn check(workshop: &Workshop, machine: &Machine) -> Result<String> {
    let folder = RunDir::create(None)?;
    let bundle = folder.file("monitor.itb");
    Payload {
        kernel: &build::build(workshop, Program::GuestTests)?.image,
        initrd: None,
        flash: None,
        capture: Capture::default(),
        config: offered("list"),
    }
    .write(&bundle)?;
    let mut machine = machine.clone();
    let hypervisor = build::build(workshop, Program::FaultInjection)?;
    machine.kernel = hypervisor.image;
    machine.initrd = Some(bundle);
    machine.append = "break=panic".into();
    machine.firmware = machine.firmware.map(|firmware| firmware.within(&folder));
    // What a board says to nobody is lost: it starts when somebody is there.
    machine.extra = vec!["-S".into()];
    machine.write_files()?;
    let mut board = Emulated::start(&machine)?;
    let mut monitor = own::xtask()?
        .arg("monitor")
        .arg("--port")
        .arg(&board.path)
        .arg("--elf")
        .arg(&hypervisor.elf)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run xtask")?;
    let mut keys = monitor.stdin.take().context("it has no input")?;
    let shown = monitor.stdout.take().context("it has no output")?;
    let watched = wait_until_open(monitor.id(), &board.path)
        .and_then(|()| board.tell("cont"))
        .and_then(|()| lines_until(shown, LAST));
    // Ctrl-A X, unless it has gone already.
    let _ = keys.write_all(b"\x01x");
    let left = monitor.wait().context("cannot wait for xtask")?;
    let lines = watched?;
    ensure!(left.success(), "it does not leave as it should: {left}");
    let explained = |line: &String| line.starts_with("hv: ") && line.contains(FUNCTION);
    ensure!(
        lines.iter().any(explained),
        "no line names {FUNCTION}:\n{}",
        lines.join("\n")
    );
    Ok(String::new())
}

/// Waits until the process has `path` open.
pub fn wait_until_open(process: u32, path: &Path) -> Result<()> {
    let folder = format!("/proc/{process}/fd");
    let end = Instant::now() + OPENED;
    while Instant::now() < end {
        let files = std::fs::read_dir(&folder).context("it has ended")?;
        let mut links = files.flatten().map(|file| std::fs::read_link(file.path()));
        if links.any(|link| link.is_ok_and(|link| link == path)) {
            return Ok(());
        }
        std::thread::yield_now();
    }
    bail!("it has not opened {}", path.display())
}

/// What is shown up to the line that has `last` in it.
fn lines_until(shown: impl Read + Send + 'static, last: &str) -> Result<Vec<String>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(shown).lines().map_while(Result::ok) {
            // The receiver goes once it has seen enough.
            let _ = sender.send(line);
        }
    });
    let end = Instant::now() + SHOWN;
    let mut lines = Vec::new();
    while let Ok(line) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
        let is_last = line.contains(last);
        lines.push(line);
        if is_last {
            return Ok(lines);
        }
    }
    bail!("it does not show `{last}`, only:\n{}", lines.join("\n"))
}
