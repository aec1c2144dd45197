//! `cargo xtask ctl` over a board's serial line, which `monitor` has open.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::emulated::Emulated;
use super::monitor::wait_until_open;
use crate::test::operator::code::{self, SPIN};
use crate::test::own;
use machine::build::{self, Program};
use machine::control::{self, Client};
use machine::qemu::Machine;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Its name in the ledger.
pub const NAME: &str = "bringup/control";

/// How long the board may take to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A guest that does nothing but spin, on such a `machine`: it is looked at, paused and ended.
pub fn check(workshop: &Workshop, machine: &Machine) -> Result<String> {
    let folder = RunDir::create(None)?;
    let bundle = code::bundle(&folder, &SPIN)?;
    let mut machine = machine.clone();
    machine.kernel = build::build(workshop, Program::Hypervisor)?.image;
    machine.initrd = Some(bundle);
    machine.firmware = machine.firmware.map(|firmware| firmware.within(&folder));
    // What a board says to nobody is lost: it starts when somebody is there.
    machine.extra = vec!["-S".into()];
    machine.write_files()?;
    let mut board = Emulated::start(&machine)?;
    let socket = folder.file(control::NAME);
    let mut monitor = own::xtask()?
        .arg("monitor")
        .arg("--port")
        .arg(&board.path)
        .arg("--control")
        .arg(&socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run xtask")?;
    let mut keys = monitor.stdin.take().context("it has no input")?;
    let looked = wait_until_open(monitor.id(), &board.path)
        .and_then(|()| board.tell("cont"))
        .and_then(|()| look(&socket));
    // Ctrl-A X, unless it has gone already.
    let _ = keys.write_all(b"\x01x");
    let shown = monitor
        .wait_with_output()
        .context("cannot wait for xtask")?;
    let told = looked?;
    let text = String::from_utf8_lossy(&shown.stdout);
    ensure!(
        text.contains("hv: ") && !text.contains("@answer"),
        "whoever watches is shown what others ask:\n{text}"
    );
    ensure!(shown.status.success(), "{}", shown.status);
    Ok(told)
}

fn look(socket: &std::path::Path) -> Result<String> {
    let ctl = |arguments: &[&str]| {
        let mut command = own::xtask()?;
        own::succeed(
            command
                .args(["ctl", "--control"])
                .arg(socket)
                .args(arguments),
        )
    };
    let pc = where_it_spins(socket)?;
    let said = ctl(&["freeze"])?;
    ensure!(said.starts_with("the guest is paused"), "{said}");
    let said = ctl(&["bt", "0"])?;
    ensure!(said.contains(&format!("\n  {pc:#x}\n")), "{said}");
    ctl(&["thaw"])?;
    let began = Instant::now();
    let status = ctl(&["status"])?;
    ensure!(
        status.starts_with("the guest is running, with 4 vCPUs"),
        "{status}"
    );
    Ok(format!("{} ms for a status", began.elapsed().as_millis()))
}

/// Where vCPU 0 is once it has come from the guest's first instruction to the one that it stays at.
fn where_it_spins(socket: &std::path::Path) -> Result<u64> {
    let until = Instant::now() + LIMIT;
    loop {
        let pc = first_status(socket)?;
        let code = Client::connect(socket)?.read(pc, 4)?;
        if code == SPIN[1].to_le_bytes() {
            return Ok(pc);
        }
        ensure!(Instant::now() < until, "it spins in {code:x?}");
    }
}

/// Where vCPU 0 is as soon as it is on and the hypervisor answers.
pub fn first_status(socket: &std::path::Path) -> Result<u64> {
    let until = Instant::now() + LIMIT;
    loop {
        ensure!(Instant::now() < until, "nobody answers over the line");
        if let Ok(mut client) = Client::connect(socket)
            && let Ok(status) = client.execute("x-halligan-status", json!({}))
            && let Some(pc) = status["vcpus"][0]["pc"].as_u64()
        {
            return Ok(pc);
        }
        std::thread::yield_now();
    }
}
