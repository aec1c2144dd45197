//! What a loader has left pending or active in a GICv3 keeps no interrupt from coming. A debugger puts it there, before the first
//! instruction.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{LIMIT, ask, connect, free_port, own, packet};
use crate::ledger::Ledger;
use machine::build::{self, Program};
use machine::workshop::Workshop;

const NAMES: [&str; 2] = [
    "run/a-timer-that-a-loader-left-active-interrupts",
    "run/a-console-that-a-loader-left-active-is-heard",
];

/// GICD and the first GICR of QEMU's `virt`, and in each what makes interrupts pending and active (IHI0069 12.9, 12.11).
const DISTRIBUTOR: u64 = 0x0800_0000;
const PRIVATE_FRAME: u64 = 0x080b_0000;
const ISPENDR: u64 = 0x200;
const ISACTIVER: u64 = 0x300;
/// SPIs in 32s.
const BLOCKS: u64 = 8;

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [timer, console] = NAMES;
    ledger.check(timer, || {
        try_with(workshop, "the_virtual_timer_interrupts", None).map(|()| String::new())
    });
    ledger.check(console, || {
        let test = "a_canary_in_every_line_of_memory_stays";
        try_with(workshop, test, Some("CANARIES")).map(|()| String::new())
    });
}

/// That the test passes; when it has said the word, something is typed to it.
fn try_with(workshop: &Workshop, test: &str, word: Option<&str>) -> Result<()> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let log = workshop.output("left-active.log")?;
    fs::write(&log, "")?;
    let port = free_port()?;
    let mut run = own::xtask()?
        .args(["run", "--cpus", "1", "--memory", "128M", "--timeout", "60"])
        .args(["--append", &format!("test={test} until-typed")])
        .arg(format!("--gdb={port}"))
        .arg("--kernel")
        .arg(&image)
        .arg("--log")
        .arg(&log)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    let left = leave(&mut run, port);
    if left.is_err() {
        run.kill()?;
    }
    let said = || fs::read(&log).map(|it| String::from_utf8_lossy(&it).into_owned());
    let until = Instant::now() + LIMIT;
    while let Some(word) = word
        && !said()?.contains(word)
        && run.try_wait()?.is_none()
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    if word.is_some() {
        let keyboard = run.stdin.as_mut().context("it has no input")?;
        // It may have ended.
        let _ = keyboard.write_all(b"x");
    }
    let ended = run.wait_with_output()?;
    let told = String::from_utf8_lossy(&ended.stderr);
    left.with_context(|| told.clone().into_owned())?;
    let said = said()?;
    ensure!(
        ended.status.success() && said.contains(&format!("PASS {test}")),
        "{}\n{said}\n{told}",
        ended.status
    );
    Ok(())
}

/// Makes all interrupts pending and active, and lets the machine run.
fn leave(run: &mut Child, port: u16) -> Result<()> {
    let mut debugger = connect(run, port, LIMIT)?;
    debugger.set_read_timeout(Some(LIMIT))?;
    let mut expect_ok = |order: &str| -> Result<()> {
        let answer = ask(&mut debugger, order)?;
        ensure!(answer == "OK", "{order}: {answer}");
        Ok(())
    };
    // Addresses are physical from here on.
    expect_ok("Qqemu.PhyMemMode:1")?;
    let shared = (1..=BLOCKS).map(|block| DISTRIBUTOR + 4 * block);
    for bank in shared.chain([PRIVATE_FRAME]) {
        for register in [ISPENDR, ISACTIVER] {
            expect_ok(&format!("M{:x},4:ffffffff", bank + register))?;
        }
    }
    debugger.write_all(packet("D").as_bytes())?;
    Ok(())
}
