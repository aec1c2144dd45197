//! A guest whose rings change while they are read, beside one that has a canary in every line of its memory.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{consoles, guest};
use crate::ledger::Ledger;
use crate::test::own;
use debian::paths::write_if_new;
use machine::build::{self, Program};
use machine::workshop::Workshop;

/// The names of these tests.
pub const NAMES: [&str; 2] = [
    "several/rings-that-change-reach-nobody",
    "several/rings-that-change-reach-nobody-on-gicv2",
];

/// How the canaries of `guest-tests/src/tests/canary.rs` end, in bytes.
const CANARY: [u8; 4] = 0xca9a_2b1d_u32.to_le_bytes();
/// How long it may take, with other work on the host.
const LIMIT: Duration = Duration::from_secs(500);

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    for (name, board) in NAMES.into_iter().zip(["virt", "virt-gicv2"]) {
        ledger.check(name, || attack(workshop, board));
    }
}

fn attack(workshop: &Workshop, board: &str) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let disk = workshop.output("several-rings.img")?;
    fs::write(&disk, vec![0x33; 1 << 20])?;
    let table = |name: &str, cpus: &str, words: &str| {
        guest(name, &image, cpus).replace("test=shared", words)
    };
    let canary = "test=a_canary_in_every_line_of_memory_stays until-typed";
    let rings = "mediated test=rings_that_change_while_they_are_read_reach_nothing_else";
    let canary = table("canary", "1", canary).replace("256M", "64M");
    let rings = table("rings", "2", rings);
    let text = format!(
        "timeout = 540\n{canary}{rings}disks = [\"{}\"]\n",
        disk.display()
    );
    let file = workshop.output("several-rings.toml")?;
    write_if_new(&file, text.as_bytes())?;
    let log = workshop.output("several-rings.log")?;
    let _ = fs::remove_file(&log);
    let mut run = own::xtask()?
        .args(["run", "--machine", board, "--guest"])
        .arg(&file)
        .arg("--log")
        .arg(&log)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    let until = Instant::now() + LIMIT;
    let has_said = |vm: usize, word: &str| {
        let lines = consoles(&log).unwrap_or_default();
        let mut lines = lines.get(vm).into_iter().flatten();
        lines.any(|line| line.starts_with(word))
    };
    // The canaries are looked at once more when the other is done.
    while !(has_said(0, "CANARIES") && has_said(1, "DONE")) {
        if run.try_wait()?.is_some() || Instant::now() > until {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let keyboard = run.stdin.as_mut().context("it has no input")?;
    // It may have ended.
    let _ = keyboard.write_all(b"x");
    let output = run.wait_with_output()?;
    let said = || {
        let [said, errors] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        format!("standard output:\n{said}\nstandard error:\n{errors}")
    };
    ensure!(output.status.success(), "{}\n{}", output.status, said());
    ensure!(
        has_said(0, "PASS a_canary") && has_said(1, "PASS rings"),
        "{}",
        said()
    );
    let bytes = fs::read(&disk)?;
    let mut words = bytes.windows(CANARY.len());
    ensure!(
        !words.any(|word| word == CANARY),
        "what was in the other guest's memory is in {}",
        disk.display()
    );
    Ok(String::new())
}
