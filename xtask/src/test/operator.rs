//! `cargo xtask ctl`: guests that do nothing for themselves are reached from outside.

pub mod boot;
mod capture;
mod clock;
pub mod code;
mod dump;
mod gwdt;
mod instant;
mod line;
mod often;
mod watchdog;

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use self::boot::{Boot, LIMIT, spin, vcpu};
use self::code::{ECHO, EVENT, FILL, SPIN, takes_serror};
use super::own;
use crate::ledger::Ledger;
use debian::paths;
use machine::control::Client;
use machine::workshop::Workshop;

/// What comes of a test: something worth a remark, or nothing.
pub type Check = fn(&Workshop) -> Result<String>;

/// Each by its name.
const TESTS: [(&str, Check); 21] = [
    (
        "operator/looks-at-a-guest-that-spins-pauses-resets-and-ends-it",
        |workshop| quietly(look_and_end(workshop)),
    ),
    (
        "operator/nmi-enters-a-guest-that-masks-interrupts",
        |workshop| quietly(interrupt(workshop)),
    ),
    ("operator/who-may-only-look", |workshop| {
        quietly(refuse(workshop))
    }),
    (
        "operator/raises-an-event-in-a-guest-that-masks-everything",
        |workshop| quietly(raise(workshop)),
    ),
    (
        "operator/freezes-and-thaws-a-guest-that-computes",
        often::compute,
    ),
    (
        "operator/is-heard-where-the-pcpu-that-listens-is-lost",
        |workshop| quietly(lose(workshop)),
    ),
    ("operator/reads-a-guest-s-memory-and-no-other", |workshop| {
        quietly(read_memory(workshop))
    }),
    (
        "operator/what-is-typed-comes-through-a-full-uart",
        |workshop| quietly(echo(workshop)),
    ),
    ("operator/a-second-console", |workshop| {
        quietly(share(workshop))
    }),
    ("operator/a-flood-of-output", often::answer_through_a_flood),
    ("operator/two-clients-at-once", often::serve_two),
    ("operator/half-a-request-and-damaged-ones", |workshop| {
        line::abuse(workshop, 4096)
    }),
    (
        "operator/a-watchdog-freezes-resets-and-ends-a-guest",
        |workshop| quietly(watchdog::freeze_reset_and_end(workshop)),
    ),
    ("operator/an-nmi-goes-from-rung-to-rung", |workshop| {
        quietly(watchdog::climb(workshop))
    }),
    ("operator/a-clock-that-is-held-stands-still", clock::hold),
    ("operator/dump-has-all-of-a-guest", dump::whole),
    ("operator/dump-of-each-of-several-guests", |workshop| {
        quietly(dump::each(workshop))
    }),
    ("operator/dump-of-a-guest-that-runs-on", |workshop| {
        quietly(dump::running(workshop))
    }),
    ("operator/a-watchdog-of-the-guest-s-own", |workshop| {
        quietly(gwdt::bark(workshop))
    }),
    ("operator/the-instant-of-a-crash-kernel", instant::find),
    ("operator/who-writes-after-that-instant", instant::name),
];

/// The same many times over; run when they are named.
const SOAKS: [(&str, Check); 4] = [
    ("operator/10000-pauses", |workshop| {
        often::pause(workshop, 10_000)
    }),
    ("operator/1000-registers-and-backtraces", |workshop| {
        often::look_often(workshop, 1000)
    }),
    ("operator/a-request-of-a-megabyte", |workshop| {
        line::abuse(workshop, 1_000_000)
    }),
    ("operator/a-request-of-ten-megabytes", |workshop| {
        line::abuse(workshop, 10_000_000)
    }),
];

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    TESTS
        .iter()
        .chain(&capture::TESTS)
        .chain(&SOAKS)
        .map(|(name, _)| *name)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    for (name, check) in TESTS.into_iter().chain(capture::TESTS) {
        ledger.check(name, || check(workshop));
    }
    for (name, check) in SOAKS {
        if ledger.names(name) {
            ledger.check(name, || check(workshop));
        }
    }
}

/// Without a remark.
fn quietly(done: Result<()>) -> Result<String> {
    done.map(|()| String::new())
}

fn look_and_end(workshop: &Workshop) -> Result<()> {
    let mut boot = Boot::start(workshop, "spin", &SPIN, &[])?;
    let mut client = boot.client()?;
    let status = client.execute("x-halligan-status", json!({}))?;
    let (first, second) = (vcpu(&status, 0), vcpu(&status, 1));
    let pc = first["pc"].as_u64().context("it has no pc")?;
    let pstate = first["pstate"].as_u64().unwrap_or_default();
    ensure!(
        pstate & 0x3c0 == 0x3c0 && second["state"] == "off",
        "{status}"
    );
    let registers = client.execute("x-halligan-registers", json!({ "vcpu": 0 }))?;
    let named = &vcpu(&registers, 0)["registers"];
    for name in [
        "x30",
        "sp_el0",
        "sp_el1",
        "elr_el1",
        "spsr_el1",
        "esr_el1",
        "far_el1",
        "vbar_el1",
        "ttbr0_el1",
        "ttbr1_el1",
        "tcr_el1",
        "tpidr_el0",
        "tpidrro_el0",
        "tpidr_el1",
    ] {
        ensure!(named[name].is_u64(), "no {name}: {registers}");
    }
    let sctlr = &named["sctlr_el1"];
    ensure!(
        sctlr == 0x30c5_0838,
        "SCTLR_EL1 is not as out of reset: {registers}"
    );
    let error = client.execute("x-halligan-registers", json!({ "vcpu": 2 }));
    let error = error.err().map(|error| error.to_string());
    ensure!(
        error.as_deref() == Some("there is no vCPU 2; there are 0 to 1"),
        "{error:?}"
    );

    // As its user does it.
    let said = boot.ctl(&["freeze"])?;
    ensure!(said.starts_with("the guest is paused"), "{said}");
    let said = boot.ctl(&["status"])?;
    let expected = format!("vCPU 0   on    pc {pc:#018x} at EL1, DAIF masked");
    ensure!(
        said.starts_with("the guest is paused, with 2 vCPUs\n") && said.contains(&expected),
        "{said}"
    );
    boot.ctl(&["thaw"])?;
    // It is no Linux, and its addresses stay numbers.
    let said = boot.ctl(&["bt"])?;
    let pc_alone = format!("\n  {pc:#x}\nvCPU 1   off\n");
    ensure!(
        said.starts_with("addresses stay numbers: no vCPU runs at EL1 with its MMU on")
            && said.ends_with(&pc_alone),
        "{said}"
    );
    speak_hmp(&mut client, pc)?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["running"] == true, "{status}");
    for _ in 0..3 {
        client.execute("system_reset", json!({}))?;
        boot.client()?;
    }
    boot.ctl(&["off"])?;
    let (_, errors, code) = boot.end()?;
    ensure!(
        code == Some(0)
            && errors.contains("guest reset (3)")
            && !errors.contains("guest reset (4)"),
        "{code:?}\n{errors}"
    );
    Ok(())
}

/// The human monitor's forms that are understood, and one that would start a program.
fn speak_hmp(client: &mut Client, pc: u64) -> Result<()> {
    let mut speak =
        |line: &str| client.execute("human-monitor-command", json!({ "command-line": line }));
    let shown = speak(&format!("xp /1xw {pc:#x}"))?;
    let expected = format!("{pc:016x}: 0x{:08x}\r\n", SPIN[1]);
    ensure!(shown == expected, "{shown}");
    let shown = speak("xp /8xb 0x9000000")?;
    let is_refused = |text: &str| text.starts_with("0000000009000000: Cannot access memory");
    ensure!(shown.as_str().is_some_and(is_refused), "{shown}");
    let shown = speak("info registers")?;
    let has_pc = |text: &str| text.contains(&format!(" PC={pc:016x}"));
    ensure!(shown.as_str().is_some_and(has_pc), "{shown}");
    let shown = speak("info mtree -f")?;
    let has_ram =
        |text: &str| text.contains("  0000000040000000-") && text.contains("(prio 0, ram)");
    ensure!(shown.as_str().is_some_and(has_ram), "{shown}");
    for line in ["gpa2hva 0x40000000", "migrate \"exec:true\"", "quit"] {
        ensure!(speak(line).is_err(), "{line} is done");
    }
    Ok(())
}

fn interrupt(workshop: &Workshop) -> Result<()> {
    let mut boot = Boot::start(workshop, "serror", &takes_serror(), &[])?;
    boot.client()?;
    // PSTATE.A is clear once it waits.
    let until = Instant::now() + LIMIT;
    while !boot.ctl(&["status"])?.contains("DIF masked") || boot.ctl(&["status"])?.contains("DAIF")
    {
        ensure!(Instant::now() < until, "it never waits");
    }
    // It ends the machine in the handler.
    let said = boot.ctl(&["nmi"])?;
    let begins = said.starts_with("vCPU 0 takes an SError\nthe ");
    ensure!(begins && said.lines().count() == 2, "{said}");
    let (output, errors, code) = boot.end()?;
    ensure!(
        code == Some(0) && output == "GLH",
        "{code:?} {output:?}\n{errors}"
    );
    Ok(())
}

fn raise(workshop: &Workshop) -> Result<()> {
    let events = workshop.output("operator-events.toml")?;
    let text = "events = [{ number = 256, scope = \"private\", priority = \"critical\" }]\n";
    paths::write_if_new(&events, text.as_bytes())?;
    let events = events.to_str().context("no UTF-8")?.to_owned();
    let mut boot = Boot::start(workshop, "event", &EVENT, &["--guest", &events])?;
    let mut client = boot.client()?;
    spin(&mut client)?;
    for (event, vcpu, expected) in [
        (
            0x101,
            0,
            "the guest's configuration has no SDEI event 0x101",
        ),
        (0, 0, "the guest's configuration has no SDEI event 0x0"),
        (0x100, 2, "there is no vCPU 2; there are 0 to 1"),
        (0x100, 1, "vCPU 1 is off, and takes no event"),
    ] {
        let arguments = json!({ "event": event, "vcpu": vcpu });
        let error = client.execute("x-halligan-raise", arguments).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        ensure!(error.starts_with(expected), "{error}");
    }
    let said = boot.ctl(&["raise", "0x100"])?;
    ensure!(said.starts_with("event 0x100 is raised"), "{said}");
    let (output, errors, code) = boot.end()?;
    ensure!(
        code == Some(0) && output == "E",
        "{code:?} {output:?}\n{errors}"
    );
    Ok(())
}

fn lose(workshop: &Workshop) -> Result<()> {
    let arguments = ["--fault-injection", "--hv-append", "wedge=0:spin"];
    let mut boot = Boot::start(workshop, "spin", &SPIN, &arguments)?;
    let status = boot.status(|_| true)?;
    // The neighbour listens, and says what its own vCPU does.
    ensure!(
        status["missing"] == json!([0]) && vcpu(&status, 1)["state"] == "off",
        "{status}"
    );
    let said = boot.ctl(&["status"])?;
    ensure!(said.contains("vCPU 0   does not answer"), "{said}");
    Ok(())
}

fn refuse(workshop: &Workshop) -> Result<()> {
    let mut boot = Boot::start(workshop, "spin", &SPIN, &["--hv-append", "operator=read"])?;
    let mut client = boot.client()?;
    for command in ["inject-nmi", "stop", "cont", "system_reset", "quit"] {
        let error = client.execute(command, json!({})).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        ensure!(error.contains("operator=read"), "{command}: {error}");
    }
    let said = boot.ctl(&["bt", "0"])?;
    ensure!(said.contains("the guest runs on meanwhile"), "{said}");
    boot.client()?;
    // Of the bundle and the command line the one that allows less counts.
    let mut boot = Boot::start(
        workshop,
        "spin",
        &SPIN,
        &["--operator", "read", "--hv-append", "operator=full"],
    )?;
    let error = boot.client()?.execute("stop", json!({})).err();
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains("operator=read"), "sealed: {error}");
    Ok(())
}

/// Where QEMU's `virt` has RAM, and so much of it the guest gets at most.
const RAM: u64 = 0x4000_0000;
const RAM_SIZE: u64 = 256 << 20;

fn read_memory(workshop: &Workshop) -> Result<()> {
    let mut boot = Boot::start(workshop, "fill", &FILL, &["--hv-append", "operator=read"])?;
    let mut client = boot.client()?;
    // Where it spins is the last of its instructions.
    let code = spin(&mut client)? - 4 * (FILL.len() as u64 - 1);
    let kernel: Vec<u8> = FILL.iter().flat_map(|word| word.to_le_bytes()).collect();
    ensure!(client.read(code, kernel.len())? == kernel, "no kernel");
    let filled = code + 0x1000;
    let expected: Vec<u8> = (0..512)
        .flat_map(|n| (filled + 8 * n).to_le_bytes())
        .collect();
    ensure!(client.read(filled, 4096)? == expected, "not as filled");
    ensure!(
        client.read(filled + 3, 4000)? == expected[3..4003],
        "not as filled from an odd address on"
    );

    // The end of RAM, below which are pages of the hypervisor's; its devices; what is nobody's.
    let refused = |client: &mut Client, ipa: u64, length: usize| {
        let error = client.read(ipa, length).err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        text.starts_with("the guest has no RAM at")
    };
    for ipa in [
        0,
        0x0800_0000,
        0x0900_0000,
        0x0a00_0000,
        RAM + RAM_SIZE,
        u64::MAX,
    ] {
        ensure!(refused(&mut client, ipa, 1), "{ipa:#x} is read");
    }
    // Some of RAM is the hypervisor's, and the guest has one range of all that is not, at most a few.
    let own = (0..RAM_SIZE >> 21).map(|n| RAM + (n << 21));
    let own: Vec<u64> = own.filter(|&ipa| refused(&mut client, ipa, 1)).collect();
    ensure!(
        !own.is_empty() && own.len() < 16,
        "the guest lacks {} blocks of RAM",
        own.len()
    );
    for ipa in own {
        ensure!(refused(&mut client, ipa - 1, 2), "across {ipa:#x}");
    }
    let file = boot.folder.file("memory");
    let shown = boot.ctl(&["read", &format!("{filled:#x}"), "32"])?;
    ensure!(
        shown.starts_with(&format!("{filled:016x}  ")) && shown.lines().count() == 2,
        "{shown}"
    );
    let address = format!("{filled:#x}");
    boot.ctl(&[
        "read",
        &address,
        "0x1000",
        "--out",
        file.to_str().context("no UTF-8")?,
    ])?;
    ensure!(std::fs::read(&file)? == expected, "--out");
    Ok(())
}

fn echo(workshop: &Workshop) -> Result<()> {
    let text: String = (0..4000u32)
        .map(|n| char::from(b'!' + (n % 90) as u8))
        .chain(['\n'])
        .collect();
    let mut boot = Boot::start(workshop, "echo", &ECHO, &[])?;
    let mut client = boot.client()?;
    client.execute("stop", json!({}))?;
    let run = boot.run.as_mut().context("it has ended")?;
    let mut keyboard = run.stdin.take().context("it has no input")?;
    let sent = text.clone();
    let typist =
        std::thread::spawn(move || std::io::Write::write_all(&mut keyboard, sent.as_bytes()));
    // More has been typed than UART and hypervisor hold, and the operator is answered.
    for _ in 0..3 {
        let status = client.execute("x-halligan-status", json!({}))?;
        ensure!(vcpu(&status, 0)["state"] == "on", "{status}");
    }
    client.execute("cont", json!({}))?;
    let (output, errors, code) = boot.end()?;
    let _ = typist.join();
    ensure!(
        code == Some(0) && output == text,
        "{code:?}, {} of {} bytes\n{errors}",
        output.len(),
        text.len()
    );
    Ok(())
}

/// What the guest writes is in both consoles, and what is typed in the second reaches it.
fn share(workshop: &Workshop) -> Result<()> {
    let mut boot = Boot::start(workshop, "echo", &ECHO, &[])?;
    boot.client()?;
    let mut command = own::xtask()?;
    command.args(["ctl", "--control"]).arg(&boot.socket);
    let mut second = command
        .arg("console")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    let mut keyboard = second.stdin.take().context("it has no input")?;
    std::io::Write::write_all(&mut keyboard, b"to the guest\n")?;
    let shown = second.wait_with_output()?;
    let (output, errors, code) = boot.end()?;
    ensure!(
        shown.status.success() && shown.stdout == b"to the guest\n",
        "{shown:?}"
    );
    ensure!(
        code == Some(0) && output == "to the guest\n",
        "{code:?} {output:?}\n{errors}"
    );
    Ok(())
}
