//! Each of several guests is reached: what is typed goes to the one that it is for, and the operator looks at and acts on the one that
//! is named.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

use crate::ledger::Ledger;
use crate::test::operator::boot::{Boot, spin, vcpu};
use crate::test::operator::code::{ECHO, FILL, SPIN};
use crate::test::own;
use machine::control::Client;
use machine::workshop::Workshop;

/// The names of these tests.
pub const NAMES: [&str; 6] = [
    "several/keys-move-the-focus",
    "several/each-guest-has-a-console-beside",
    "several/a-guest-has-a-console-to-itself",
    "several/the-operator-reaches-the-guest-that-is-named",
    "several/a-lost-cpu-s-neighbour-listens-for-all",
    "several/an-own-stop-tells-of-every-vcpu-of-every-guest",
];

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [keys, consoles, own, operator, lost, stop] = NAMES;
    ledger.check(keys, || focus(workshop).map(|()| String::new()));
    ledger.check(consoles, || type_to_both(workshop).map(|()| String::new()));
    ledger.check(own, || divide(workshop).map(|()| String::new()));
    ledger.check(operator, || reach(workshop).map(|()| String::new()));
    ledger.check(lost, || take_over(workshop).map(|()| String::new()));
    ledger.check(stop, || stop_itself(workshop).map(|()| String::new()));
}

/// A terminal: the end of its user, and that of its programs.
fn terminal() -> Result<(File, OwnedFd)> {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&user)?;
    unlockpt(&user)?;
    let path = ptsname(&user, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let programs = open(&path, flags, Mode::empty())?;
    Ok((File::from(user), programs))
}

fn focus(workshop: &Workshop) -> Result<()> {
    let (mut user, programs) = terminal()?;
    let guests = [
        ("echo-one", "", &ECHO[..]),
        ("echo-two", "cpus = [3]", &ECHO),
    ];
    let mut boot = Boot::of_guests(workshop, &guests, (Some(programs), &[]))?;
    let mut screen = user.try_clone()?;
    let reader = std::thread::spawn(move || {
        let (mut all, mut bytes) = (Vec::new(), [0; 4096]);
        // The end of a terminal is an error.
        while let Ok(count @ 1..) = screen.read(&mut bytes) {
            all.extend(&bytes[..count]);
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    boot.client()?;
    user.write_all(b"\x01?\x011for the second\n\x01\tfor the first\n")?;
    let run = boot.run.take().context("it has ended")?;
    let ended = run.wait_with_output()?;
    drop(boot);
    let shown = reader.join().ok().context("nobody has read")?;
    let plain: String = shown
        .split("\x1b[")
        .map(|part| part.split_once('m').map_or(part, |(_, rest)| rest))
        .collect();
    for expected in [
        "Guests: 0 echo-one, 1 echo-two; what you type goes to echo-one",
        "xtask: what you type goes to echo-two (guest 1)",
        "xtask: what you type goes to echo-one (guest 0)",
        "echo-two | for the second",
        "echo-one | for the first",
    ] {
        ensure!(plain.contains(expected), "no {expected:?} in {shown:?}");
    }
    ensure!(ended.status.code() == Some(0), "{}\n{shown}", ended.status);
    Ok(())
}

/// Types a line at the console of a guest beside the run's terminal; what that shows when the guest has ended.
fn console(boot: &Boot, guest: &str, line: &str) -> Result<std::process::Child> {
    let mut command = own::xtask()?;
    command.args(["ctl", "--control"]).arg(&boot.socket);
    let mut console = command
        .args(["--guest", guest, "console"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    let mut keyboard = console.stdin.take().context("it has no input")?;
    keyboard.write_all(line.as_bytes())?;
    Ok(console)
}

fn type_to_both(workshop: &Workshop) -> Result<()> {
    let guests = [("echo-one", "", &ECHO[..]), ("echo-two", "", &ECHO)];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &[]))?;
    boot.client()?;
    // More than a UART, the hypervisor and one request hold.
    let text = |letter: char| letter.to_string().repeat(3000) + "\n";
    let (second, first) = (text('b'), text('a'));
    let shows = [
        console(&boot, "echo-two", &second)?,
        console(&boot, "0", &first)?,
    ];
    for (console, text) in shows.into_iter().zip([second, first]) {
        let shown = console.wait_with_output()?;
        ensure!(
            shown.status.success() && shown.stdout == text.as_bytes(),
            "{} of {} bytes, {}",
            shown.stdout.len(),
            text.len(),
            shown.status
        );
    }
    let (output, errors, code) = boot.end()?;
    ensure!(
        code == Some(0)
            && output.matches('a').count() == 3000
            && output.matches("b").count() == 3000,
        "{code:?}\n{output}\n{errors}"
    );
    Ok(())
}

/// One guest has the standard streams, one a file, and one a terminal.
fn divide(workshop: &Workshop) -> Result<()> {
    let guests = [
        ("echo-one", "", &ECHO[..]),
        ("echo-two", "", &ECHO),
        ("echo-three", "", &ECHO),
        ("echo-four", "", &ECHO),
    ];
    let file = workshop.output("several-console.txt")?;
    let to_file = format!("echo-two={}", file.display());
    let arguments = [
        "--console",
        "echo-one=stdio",
        "--console",
        &to_file,
        "--console",
        "3=pty",
    ];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &arguments))?;
    for guest in ["0", "1", "2", "3"] {
        boot.client_of(guest)?;
    }
    let run = boot.run.as_mut().context("it has ended")?;
    let mut errors = BufReader::new(run.stderr.take().context("it has no errors")?);
    let (mut before, path) = (String::new(), "xtask: the console of echo-four is ");
    while !before.contains(path) {
        ensure!(
            errors.read_line(&mut before)? > 0,
            "no terminal is named: {before}"
        );
    }
    let path = before
        .split_once(path)
        .map_or("", |(_, path)| path.trim_end());
    let mut terminal = File::options().read(true).write(true).open(path)?;
    terminal.write_all(b"on a terminal\n")?;
    let mut shown = vec![0; 14];
    terminal.read_exact(&mut shown)?;
    ensure!(shown == b"on a terminal\n", "{shown:?}");
    // They show what they show until the machine ends.
    let mut consoles = [
        console(&boot, "echo-two", "in a file\n")?,
        console(&boot, "echo-three", "on standard error\n")?,
    ];
    boot.wait_for("echo-two", "off")?;
    boot.wait_for("echo-three", "off")?;
    let run = boot.run.as_mut().context("it has ended")?;
    let mut keyboard = run.stdin.take().context("it has no input")?;
    keyboard.write_all(b"by itself\n")?;
    let mut rest = String::new();
    errors.read_to_string(&mut rest)?;
    for console in &mut consoles {
        console.wait()?;
    }
    let (output, _, code) = boot.end()?;
    ensure!(
        code == Some(0) && output == "by itself\n",
        "{code:?} {output:?}\n{rest}"
    );
    ensure!(
        std::fs::read(&file)? == b"in a file\n",
        "the file has something else"
    );
    let named = before + &rest;
    ensure!(named.contains("echo-three | on standard error"), "{named}");
    Ok(())
}

fn status(client: &mut Client) -> Result<Value> {
    client.execute("x-halligan-status", json!({}))
}

fn reach(workshop: &Workshop) -> Result<()> {
    let guests = [
        ("spin", "cpus = 2", &SPIN[..]),
        ("fill", "cpus = [4, 3, 2]", &FILL),
    ];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &[]))?;
    let mut first = boot.client()?;
    let mut second = boot.client_of("fill")?;
    let own = spin(&mut first)?;
    // Memory is each guest's own, at the same address.
    let pc = spin(&mut second)?;
    let code = pc - 4 * (FILL.len() as u64 - 1);
    let words =
        |code: &[u32]| -> Vec<u8> { code.iter().flat_map(|word| word.to_le_bytes()).collect() };
    ensure!(
        second.read(code, 4 * FILL.len())? == words(&FILL),
        "no kernel"
    );
    ensure!(first.read(own - 4, 8)? == words(&SPIN), "no kernel");
    let registers = second.execute("x-halligan-registers", json!({ "vcpu": 0 }))?;
    ensure!(vcpu(&registers, 0)["pc"] == pc, "{registers}");
    let error = second
        .execute("x-halligan-registers", json!({ "vcpu": 3 }))
        .err();
    let error = error.map(|error| error.to_string());
    ensure!(
        error.as_deref() == Some("there is no vCPU 3; there are 0 to 2"),
        "{error:?}"
    );

    // As its user does it.
    let said = boot.ctl(&["status"])?;
    let (spins, fills) = said
        .split_once("the guest fill is running, with 3 vCPUs\n")
        .context(said.clone())?;
    ensure!(
        spins.starts_with("the guest spin is running, with 2 vCPUs\n"),
        "{said}"
    );
    ensure!(
        fills.contains(&format!("vCPU 0   on    pc {pc:#018x}")) && fills.contains("vCPU 2   off"),
        "{said}"
    );
    let json: Value = serde_json::from_str(&boot.ctl(&["--json", "status"])?)?;
    ensure!(
        json["guests"][1]["name"] == "fill" && json["guests"][1]["vm"]["vcpus"] == 3,
        "{json}"
    );
    let said = boot.ctl(&["--guest", "1", "freeze"])?;
    ensure!(said.starts_with("the guest is paused"), "{said}");
    let states = |first: &mut Client, second: &mut Client| -> Result<[Value; 2]> {
        Ok([
            status(first)?["vm"]["state"].clone(),
            status(second)?["vm"]["state"].clone(),
        ])
    };
    let both = states(&mut first, &mut second)?;
    ensure!(both == [json!("running"), json!("paused")], "{both:?}");
    let said = boot.ctl(&["--guest", "fill", "bt", "0"])?;
    ensure!(said.contains(&format!("\n  {pc:#x}\n")), "{said}");
    boot.ctl(&["--guest", "fill", "thaw"])?;
    boot.ctl(&["--guest", "fill", "nmi", "--no-wait", "0"])?;
    let status_of_second = status(&mut second)?;
    ensure!(
        vcpu(&status_of_second, 0)["has_serror"] == true,
        "{status_of_second}"
    );
    ensure!(
        vcpu(&status(&mut first)?, 0)["has_serror"] == false,
        "the first has the SError"
    );
    let error = boot
        .ctl(&["--guest", "nobody", "status"])
        .err()
        .map(|error| format!("{error:#}"));
    let expected = "there is no guest `nobody`; there are spin (0) and fill (1)";
    ensure!(
        error.as_ref().is_some_and(|error| error.contains(expected)),
        "{error:?}"
    );
    // The second one's own socket, for programs that know nothing of guests.
    let mut path = boot.socket.clone().into_os_string();
    path.push("-fill");
    let told = status(&mut Client::connect(path.as_ref())?)?;
    ensure!(told["vm"]["vcpus"] == 3, "{told}");

    for _ in 0..3 {
        second.execute("system_reset", json!({}))?;
        let mut second = boot.client_of("fill")?;
        ensure!(spin(&mut second)? == pc, "it is elsewhere after a reset");
    }
    boot.ctl(&["--guest", "fill", "off"])?;
    ensure!(spin(&mut first)? == own, "the first is elsewhere");
    boot.ctl(&["off"])?;
    let (_, errors, code) = boot.end()?;
    let is_reset = errors.contains("vm1: guest reset (3)") && !errors.contains("vm0: guest reset");
    ensure!(code == Some(0) && is_reset, "{code:?}\n{errors}");
    Ok(())
}

/// The pCPU that listens is lost; the one that listens then is another guest's, and reaches both.
fn take_over(workshop: &Workshop) -> Result<()> {
    let guests = [("spin", "cpus = 1", &SPIN[..]), ("fill", "cpus = 1", &FILL)];
    let arguments = ["--fault-injection", "--hv-append", "wedge=0:spin"];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &arguments))?;
    let first = boot.status(|_| true)?;
    ensure!(first["missing"] == json!([0]), "{first}");
    let mut second = boot.client_of("fill")?;
    spin(&mut second)?;
    let typed = boot.ctl(&["--guest", "fill", "off"])?;
    ensure!(typed == "the guest is switched off\n", "{typed}");
    Ok(())
}

/// Has a mark in x19, and spins.
const fn marked(mark: u32) -> [u32; 2] {
    [
        0xd280_0013 | mark << 5, // mov x19, #mark
        0x1400_0000,             // b .
    ]
}

/// Has a mark in x19, waits until something is typed, and asks for the version of TRNG (DEN0098).
const ASKS: [u32; 8] = [
    marked(0x33)[0],
    0xd2a1_2001, // mov x1, #0x09000000
    0xb940_1822, // ldr w2, [x1, #0x18]
    0x3727_ffe2, // tbnz w2, #4, .-4
    0x5280_0a00, // mov w0, #0x50
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0
    0x1400_0000, // b .
];

/// The hypervisor panics in a call of the last guest's.
fn stop_itself(workshop: &Workshop) -> Result<()> {
    let guests = [
        ("one", "cpus = [4, 0]", &marked(0x11)[..]),
        ("two", "cpus = [1, 3]", &marked(0x22)),
        ("asks", "cpus = [2]", &ASKS),
    ];
    let arguments = ["--fault-injection", "--hv-append", "break=panic@2"];
    let mut boot = Boot::of_guests(workshop, &guests, (None, &arguments))?;
    for guest in ["one", "two"] {
        let mut client = boot.client_of(guest)?;
        spin(&mut client)?;
    }
    boot.client_of("asks")?;
    // It is gone before it has answered.
    let _ = console(&boot, "asks", "x")?.wait();
    let (_, errors, code) = boot.end()?;
    ensure!(code == Some(4), "{code:?}\n{errors}");
    let lines: Vec<&str> = errors.lines().collect();
    for (vm, mark) in [(0, "0x11"), (1, "0x22"), (2, "0x33")] {
        let (start, mark) = (format!("@hv-vcpu vm={vm} vcpu=0 "), format!(" x19={mark} "));
        let told = lines.iter().filter(|line| line.contains(&start));
        let is_told = told.clone().count() == 1 && told.clone().all(|line| line.contains(&mark));
        ensure!(is_told, "no {start}..{mark}\n{errors}");
    }
    for vm in [0, 1] {
        let off = format!("  vm{vm} vCPU 1 is off");
        ensure!(
            lines.iter().any(|line| line.ends_with(&off)),
            "no {off:?}\n{errors}"
        );
    }
    Ok(())
}
