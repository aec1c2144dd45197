//! When guests start, and what becomes of them when they end.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::ledger::Ledger;
use crate::test::operator::boot::{Boot, LIMIT};
use crate::test::operator::code::{COMPUTE, ECHO, RESET, SPIN};
use crate::test::own;
use machine::workshop::Workshop;

/// The names of these tests.
pub const NAMES: [&str; 4] = [
    "several/each-guest-starts-and-ends-as-its-file-says",
    "several/a-guest-takes-the-machine-off-with-it",
    "several/a-guest-that-has-crashed-is-stopped",
    "several/200-resets-beside-one-that-computes",
];

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [life, machine, crash, resets] = NAMES;
    ledger.check(life, || live(workshop).map(|()| String::new()));
    ledger.check(machine, || end_all(workshop).map(|()| String::new()));
    ledger.check(crash, || stop_crashed(workshop).map(|()| String::new()));
    ledger.check(resets, || reset_often(workshop).map(|()| String::new()));
}

/// Says by pvpanic that it has panicked.
const PANIC: [u32; 4] = [
    0xd2a1_6001, // mov x1, #0x0b000000
    0x5280_0020, // mov w0, #1
    0x3900_0020, // strb w0, [x1]
    0x1400_0000, // b .
];

/// Goes where there is no memory, and nor is there where that exception goes.
const FAULT: [u32; 2] = [
    0xd280_0001, // mov x1, #0
    0xd61f_0020, // br x1
];

/// Waits until the first guest has been loaded so many times, as the log has it.
fn wait_for_start(log: &Path, count: usize) -> Result<()> {
    let until = Instant::now() + LIMIT;
    loop {
        let stream = std::fs::read(log)?;
        let text = String::from_utf8_lossy(&stream);
        if text.matches("@vm-start vm=0 ").count() >= count {
            return Ok(());
        }
        ensure!(Instant::now() < until, "it is not loaded {count} times");
        std::thread::yield_now();
    }
}

fn live(workshop: &Workshop) -> Result<()> {
    let guests = [
        ("again", "on-off = \"restart\"", &ECHO[..]),
        ("manual", "start = \"manual\"\ncpus = 2", &SPIN),
        ("once", "on-reset = \"stop\"", &RESET),
    ];
    let log = workshop.output("several-policy.log")?;
    let arguments = ["--log", &*log.display().to_string()].map(str::to_owned);
    let arguments = arguments.each_ref().map(String::as_str);
    let mut boot = Boot::of_guests(workshop, &guests, (None, &arguments))?;
    boot.client()?;
    boot.wait_for("once", "off")?;
    boot.wait_for("manual", "off")?;
    let said = boot.ctl(&["status"])?;
    let expected = "the guest manual is off, with 2 vCPUs\n  vCPU 0   off\n  vCPU 1   off\n";
    ensure!(said.contains(expected), "{said}");
    // It is there again each time that it has switched itself off.
    let run = boot.run.as_mut().context("it has ended")?;
    let keyboard = run.stdin.as_mut().context("it has no input")?;
    // What a UART has received is gone with a reset.
    for (count, line) in (1..).zip(["one\n", "two\n", "three\n"]) {
        wait_for_start(&log, count)?;
        keyboard.write_all(line.as_bytes())?;
    }
    wait_for_start(&log, 4)?;
    let said = boot.ctl(&["--guest", "manual", "start"])?;
    ensure!(said == "the guest is started\n", "{said}");
    boot.wait_for("manual", "running")?;
    let error = |arguments: &[&str]| {
        let error = boot.ctl(arguments).err();
        error.map(|error| format!("{error:#}")).unwrap_or_default()
    };
    let said = error(&["--guest", "manual", "start"]);
    ensure!(said.contains("the guest is not off"), "{said}");
    let said = error(&["--guest", "once", "freeze"]);
    ensure!(
        said.contains("the guest is off; `cargo xtask ctl start`"),
        "{said}"
    );
    // What is ordered is done as it is said, and a guest that is off is started as often as somebody likes.
    for _ in 0..3 {
        boot.ctl(&["--guest", "again", "off"])?;
        boot.wait_for("again", "off")?;
        boot.ctl(&["--guest", "again", "start"])?;
        boot.wait_for("again", "running")?;
    }
    boot.ctl(&["--guest", "again", "off"])?;
    boot.wait_for("again", "off")?;
    // The last that runs.
    boot.ctl(&["--guest", "manual", "off"])?;
    let (output, errors, code) = boot.end()?;
    let both = || format!("{code:?}\n{output}\n{errors}");
    ensure!(code == Some(0), "{}", both());
    for line in ["one", "two", "three"] {
        let shown = format!("again  | {line}");
        ensure!(
            output.lines().any(|line| line.trim_end() == shown),
            "no {shown}: {}",
            both()
        );
    }
    for said in [
        "vm0: the guest has switched itself off, and is started again",
        "vm2: the guest has reset itself, and stays off",
    ] {
        ensure!(errors.contains(said), "{}", both());
    }
    Ok(())
}

fn end_all(workshop: &Workshop) -> Result<()> {
    let guests = [
        ("spin", "cpus = 2", &SPIN[..]),
        ("manual", "start = \"manual\"", &SPIN),
        ("main", "on-reset = \"machine-off\"", &RESET),
    ];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &[]))?;
    let (_, errors, code) = boot.end()?;
    let expected = "vm2: the guest has reset itself, and the machine goes off with it";
    ensure!(
        code == Some(0) && errors.contains(expected),
        "{code:?}\n{errors}"
    );
    Ok(())
}

fn stop_crashed(workshop: &Workshop) -> Result<()> {
    let keys = "on-crash = \"stop\"\npvpanic = true\n";
    let guests = [
        ("spin", "pvpanic = true", &SPIN[..]),
        ("panics", keys, &PANIC),
        ("faults", keys, &FAULT),
        ("left", "pvpanic = true", &PANIC),
    ];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &[]))?;
    boot.client()?;
    boot.wait_for("panics", "off")?;
    boot.wait_for("faults", "off")?;
    // Where nothing is said it stays as it is.
    boot.wait_for("left", "running")?;
    boot.wait_for("spin", "running")?;
    for guest in ["panics", "faults"] {
        boot.ctl(&["--guest", guest, "start"])?;
        boot.wait_for(guest, "off")?;
    }
    boot.ctl(&["--guest", "left", "off"])?;
    boot.ctl(&["off"])?;
    let (_, errors, code) = boot.end()?;
    ensure!(code == Some(3), "{code:?}\n{errors}");
    Ok(())
}

/// One resets itself without end, and the other computes, compares, and says whether all was right.
fn reset_often(workshop: &Workshop) -> Result<()> {
    let log = workshop.output("several-resets.log")?;
    // Of pointer authentication that guest has its part.
    let arguments = ["--log", &*log.display().to_string(), "--cpu", "max"].map(str::to_owned);
    let arguments = arguments.each_ref().map(String::as_str);
    let guests = [("resets", "", &RESET[..]), ("computes", "", &COMPUTE)];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &arguments))?;
    boot.client_of("computes")?;
    wait_for_start(&log, 200)?;
    let mut command = own::xtask()?;
    command.args(["ctl", "--control"]).arg(&boot.socket);
    command.args(["--guest", "computes", "console"]);
    let mut console = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let keyboard = console.stdin.as_mut().context("it has no input")?;
    keyboard.write_all(b"x")?;
    boot.wait_for("computes", "off")?;
    boot.ctl(&["--guest", "resets", "off"])?;
    let (output, errors, code) = boot.end()?;
    let shown = console.wait_with_output()?.stdout;
    let is_right = code == Some(0) && output.trim_end() == "computes | P" && shown == b"P";
    ensure!(is_right, "{code:?} {shown:?}\n{output}\n{errors}");
    Ok(())
}
