//! What an operator sees of a Linux all of whose CPUs are wedged.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::drgn::Drgn;
use super::super::own;
use super::super::screen::Screen;
use super::{Run, TIMEOUT};
use crate::ledger::Ledger;
use debian::tools::{self, Tool};
use lab::kdump::Lab;
use lab::verdict::WEDGE_FUNCTION;
use lab::vmcore::Vmcore;
use machine::control::{self, Client};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const BACKTRACES: &str = "linux/operator/bt";
const DRGN: &str = "linux/operator/drgn";
const GDB: &str = "linux/operator/gdb";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [BACKTRACES, DRGN, GDB].into_iter()
}

/// What is run for them; without a debugger that cannot be had.
pub fn runs<'a>(workshop: &'a Workshop, lab: &'a Lab, ledger: &mut Ledger) -> Vec<Run<'a>> {
    let mut runs: Vec<Run<'a>> = vec![(BACKTRACES.to_owned(), Box::new(|| backtraces(lab)))];
    if ledger.wants(DRGN) {
        match Drgn::ensure(workshop) {
            Ok(drgn) => runs.push((DRGN.to_owned(), Box::new(move || open(&drgn, lab)))),
            Err(error) => ledger.skipped(DRGN, &format!("drgn cannot be had: {error:#}")),
        }
    }
    if ledger.wants(GDB) {
        match tools::demand(&workshop.cache, &[MULTIARCH], &workshop.progress) {
            Ok(()) => runs.push((GDB.to_owned(), Box::new(|| attach(lab)))),
            Err(error) => ledger.skipped(GDB, &format!("gdb cannot be had: {error:#}")),
        }
    }
    runs
}

/// drgn opens a guest that does nothing for itself any more.
fn open(drgn: &Drgn, lab: &Lab) -> Result<String> {
    let mut guest = Wedged::start()?;
    guest.wait()?;
    let said = drgn.check_live(&guest.socket, lab.vmlinux()?, 4)?;
    let dumped = dump(&guest, "all")?;
    let kernels = dump(&guest, "kernel")?;
    for cpu in 0..4 {
        drgn.check(&dumped, lab.vmlinux()?, cpu)?;
        drgn.check(&kernels, lab.vmlinux()?, cpu)?;
    }
    let (all, less) = (dumped.metadata()?.len(), kernels.metadata()?.len());
    ensure!(less < all / 4 * 3, "of {all} bytes {less} are the kernel's");
    Ok(format!("{said}, and the stacks of 4 CPUs in a dump"))
}

/// A dump of these pages of a guest, which is in its folder.
pub(super) fn dump(guest: &Wedged, pages: &str) -> Result<PathBuf> {
    let path = guest.folder.file(&format!("core-{pages}"));
    let text = path.to_str().context("its name is no text")?;
    guest.ctl(&["dump", "--pages", pages, text])?;
    Ok(path)
}

/// That a dump has of each of four CPUs what the hypervisor says of it.
fn check_dump(guest: &Wedged, client: &mut Client) -> Result<()> {
    let core = Vmcore::read(&File::open(dump(guest, "all")?)?)?;
    ensure!(core.notes.len() == 4 && core.release().is_ok(), "{core:?}");
    for (cpu, note) in (0..).zip(&core.notes) {
        ensure!(note.pid == cpu + 1, "CPU {cpu}: {note:?}");
        let told = client.execute("x-halligan-registers", json!({ "vcpu": cpu }))?;
        let vcpu = &told["vcpus"][0];
        // In the loop that it is in, pc alone changes; its stack and what it counts by do not.
        for (name, value) in note.registers.named() {
            let expected = match &*name {
                "pc" | "pstate" => continue,
                "sp" => &vcpu["registers"]["sp_el1"],
                name => &vcpu["registers"][name],
            };
            ensure!(
                *expected == value,
                "CPU {cpu}: {name} is {value:#x}: {told}"
            );
        }
        let pc = vcpu["pc"].as_u64().unwrap_or_default();
        ensure!(
            pc.abs_diff(note.registers.pc) < LOOP,
            "CPU {cpu}: {note:?} {told}"
        );
    }
    Ok(())
}

/// That gdb finds all four CPUs of a dump where they are wedged.
fn debug_dump(guest: &Wedged, lab: &Lab) -> Result<()> {
    let path = dump(guest, "all")?;
    let moved = Vmcore::read(&File::open(&path)?)?.kaslr_offset()?;
    let vmlinux = lab.vmlinux()?.display();
    let mut gdb = supervisor::command(MULTIARCH.program);
    gdb.args(["-nx", "-batch"]);
    for order in [
        &format!("add-symbol-file {vmlinux} -o {moved:#x}"),
        &format!("core-file {}", path.display()),
        "thread apply all bt",
    ] {
        gdb.args(["-ex", order]);
    }
    let output = gdb
        .stdin(Stdio::null())
        .output()
        .context("cannot run gdb")?;
    let said = String::from_utf8_lossy(&output.stdout);
    for name in [WEDGE_FUNCTION, "lkdtm_do_action", "el0t_64_sync"] {
        let times = said
            .lines()
            .filter(|line| line.contains(&format!(" {name} (")));
        ensure!(
            times.count() == 4,
            "gdb on a dump finds not four of {name}: {said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// A gdb that knows arm64.
const MULTIARCH: Tool = Tool {
    program: "gdb-multiarch",
    package: "gdb-multiarch",
};

/// A server for gdb, which ends with this; it would end, too, if nobody read what it says.
struct Server {
    server: Child,
    said: Option<BufReader<ChildStdout>>,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Server {
    fn start(guest: &Wedged) -> Result<Self> {
        let mut command = own::xtask()?;
        command.args(["ctl", "--control"]).arg(&guest.socket);
        let mut server = Self {
            server: command
                .args(["gdb", "0"])
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot run xtask")?,
            said: None,
            port: 0,
        };
        let said = server.server.stdout.take().context("it has no output")?;
        let said = server.said.insert(BufReader::new(said));
        let mut line = String::new();
        said.read_line(&mut line)?;
        let port = line.trim_end().trim_end_matches('\'').rsplit_once(':');
        let port = port.with_context(|| format!("it says no port: {line}"))?.1;
        server.port = port.parse().with_context(|| line.clone())?;
        Ok(server)
    }
}

/// gdb sees the vCPUs as threads, and where they are; the guest goes on when it has gone, and stops and goes on as it says.
fn attach(lab: &Lab) -> Result<String> {
    let mut guest = Wedged::start()?;
    let mut client = guest.wait()?;
    debug_dump(&guest, lab)?;
    let server = Server::start(&guest)?;
    let address = format!("127.0.0.1:{}", server.port);
    let mut gdb = supervisor::command(MULTIARCH.program);
    gdb.args(["-nx", "-batch"]).arg(lab.vmlinux()?);
    for order in [
        "set remotetimeout 120",
        &format!("target remote {address}"),
        "info threads",
        "thread 3",
        "bt",
        "detach",
    ] {
        gdb.args(["-ex", order]);
    }
    let output = gdb
        .stdin(Stdio::null())
        .output()
        .context("cannot run gdb")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let threads = (1..=4).all(|n| said.contains(&format!("Thread {n} (vCPU {}", n - 1)));
    let stack = ["lkdtm_HARDLOCKUP", "lkdtm_do_action", "el0t_64_sync"];
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && threads && stack.iter().all(|name| said.contains(name)),
        "gdb: {}\n{said}\n{errors}",
        output.status
    );
    let mut running = || -> Result<bool> {
        let status = client.execute("query-status", json!({}))?;
        Ok(status["running"] == true)
    };
    ensure!(running()?, "the guest stands still after gdb has gone");

    // As gdb's commands continue, Ctrl-C and detach.
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    ensure!(ask(&mut stream, "?")?.starts_with("T05thread:1;"));
    ensure!(!running()?, "it runs while gdb looks");
    ensure!(ask(&mut stream, "M0,1:00")? == "E01", "memory is written");
    stream.write_all(b"$c#63")?;
    let until = Instant::now() + TIMEOUT;
    while !running()? {
        ensure!(Instant::now() < until, "it does not continue");
    }
    stream.write_all(b"\x03")?;
    ensure!(answer(&mut stream)?.starts_with("T02thread:"));
    ensure!(!running()?, "it runs on after Ctrl-C");
    ensure!(ask(&mut stream, "D")? == "OK");
    ensure!(running()?, "it stands still after D");

    // One that hangs up leaves it running, too.
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    ask(&mut stream, "?")?;
    drop(stream);
    let until = Instant::now() + TIMEOUT;
    while !running()? {
        ensure!(
            Instant::now() < until,
            "it stands still after gdb has hung up"
        );
    }
    // Its port is taken.
    let taken = guest.ctl(&["gdb", &server.port.to_string()]).err();
    let taken = taken.map(|error| error.to_string()).unwrap_or_default();
    let expected = format!("port {} is in use; choose another", server.port);
    ensure!(taken.contains(&expected), "{taken}");
    Ok("4 threads".to_owned())
}

/// Sends a packet of `text`, and answers that of the one that comes.
fn ask(stream: &mut TcpStream, text: &str) -> Result<String> {
    let sum = text.bytes().fold(0, u8::wrapping_add);
    stream.write_all(format!("${text}#{sum:02x}").as_bytes())?;
    answer(stream)
}

/// The text of the packet that comes.
fn answer(stream: &mut TcpStream) -> Result<String> {
    let mut answer = Vec::new();
    let mut byte = [0];
    while !(answer.len() > 3 && answer[answer.len() - 3] == b'#') {
        ensure!(stream.read(&mut byte)? == 1, "it hangs up");
        ensure!(byte != *b"-", "it finds a packet damaged");
        answer.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let text = text.split_once('$').context("no packet")?.1;
    Ok(text[..text.len() - 3].to_owned())
}

/// PSTATE.I, as an SPSR has it.
const MASKED: u64 = 1 << 7;
/// LKDTM's loop is shorter, in bytes.
const LOOP: u64 = 64;

/// A Linux whose four CPUs are wedged, or about to be.
pub(super) struct Wedged {
    run: Child,
    socket: std::path::PathBuf,
    screen: Screen,
    folder: RunDir,
}

impl Drop for Wedged {
    fn drop(&mut self) {
        // It ends what it has started.
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

impl Wedged {
    pub(super) fn start() -> Result<Self> {
        let folder = RunDir::create(None)?;
        let socket = folder.file(control::NAME);
        let words = "crashkernel=192M lab.do=nmi lab.wedge=0,1,2,3 lab.panic=0 lab.maxcpus=1";
        let mut command = own::xtask()?;
        command
            .args(["run", "--cpus", "4", "--memory", "512M"])
            .arg(format!("--timeout={}", TIMEOUT.as_secs()))
            .arg(format!("--append={words}"))
            .arg("--control")
            .arg(&socket)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut run = command.spawn().context("cannot run xtask")?;
        let output = run.stdout.take().context("it has no output")?;
        Ok(Self {
            run,
            socket,
            screen: Screen::of(output),
            folder,
        })
    }

    /// Waits until all stand in one loop with interrupts masked. Linux has them do so for a moment while it boots, too, when it
    /// patches itself, and so nobody looks before the last is about to be wedged.
    pub(super) fn wait(&mut self) -> Result<Client> {
        self.screen.wait_for("LAB: last cpu=")?;
        let until = Instant::now() + TIMEOUT;
        loop {
            ensure!(Instant::now() < until, "its CPUs are never wedged");
            ensure!(self.run.try_wait()?.is_none(), "the run has ended");
            if let Ok(mut client) = Client::connect(&self.socket)
                && let Ok(status) = client.execute("x-halligan-status", json!({}))
                && are_wedged(&status)
            {
                return Ok(client);
            }
            std::thread::yield_now();
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = own::xtask()?;
        command.args(["ctl", "--control"]).arg(&self.socket);
        own::succeed(command.args(arguments))
    }
}

fn are_wedged(status: &Value) -> bool {
    let vcpus = status["vcpus"].as_array().cloned().unwrap_or_default();
    let wedged = |vcpu: &Value| {
        let pstate = vcpu["pstate"].as_u64()?;
        (vcpu["state"] == "on" && pstate & MASKED != 0).then_some(vcpu["pc"].as_u64()?)
    };
    let places: Vec<u64> = vcpus.iter().filter_map(wedged).collect();
    let (first, last) = (places.iter().min(), places.iter().max());
    places.len() == 4
        && first
            .zip(last)
            .is_some_and(|(first, last)| last - first < LOOP)
}

/// Each wedged CPU is named where it is, and who called it, without vmlinux and with it; the guest is as before.
fn backtraces(lab: &Lab) -> Result<String> {
    let mut guest = Wedged::start()?;
    let mut client = guest.wait()?;
    let told: Value = serde_json::from_str(&guest.ctl(&["--json", "bt", "all"])?)?;
    ensure!(told["consistent"] == true, "{told}");
    check_dump(&guest, &mut client)?;
    for vcpu in 0..4 {
        let own = &told["vcpus"][vcpu];
        let frames = own["frames"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = frames
            .iter()
            .filter_map(|frame| frame["symbol"].as_str())
            .collect();
        ensure!(
            names.first() == Some(&WEDGE_FUNCTION)
                && names.get(1) == Some(&"lkdtm_do_action")
                && names.last() == Some(&"el0t_64_sync")
                && own["end"].is_null(),
            "vCPU {vcpu}: {own}"
        );
    }
    let vmlinux = lab.vmlinux()?.display().to_string();
    let said = guest.ctl(&["bt", "2", "--vmlinux", &vmlinux])?;
    // What is inlined into the wedge has its line in a header.
    let has_place =
        |line: &str| line.contains("lkdtm_do_action+") && line.contains("lkdtm/core.c:");
    ensure!(said.lines().any(has_place), "{said}");
    // By a virtual address, the vectors; and what is not mapped says so.
    let registers = client.execute("x-halligan-registers", json!({ "vcpu": 2 }))?;
    // The hypervisor follows frame records by itself, for the record before an NMI: callers of what has no record of its own.
    let frames = told["vcpus"][2]["frames"].as_array().cloned();
    let frames = frames.unwrap_or_default().into_iter();
    let frames: Vec<Value> = frames.map(|frame| frame["address"].clone()).collect();
    let callers = registers["vcpus"][0]["callers"].as_array().cloned();
    let callers = callers.unwrap_or_default();
    ensure!(
        callers.len() > 5 && callers[..5].iter().all(|caller| frames.contains(caller)),
        "{registers}, and not as {frames:?}"
    );
    let vbar = registers["vcpus"][0]["registers"]["vbar_el1"].as_u64();
    let vbar = format!("{:#x}", vbar.context("it has no VBAR_EL1")?);
    let shown = guest.ctl(&["--json", "read", "--vcpu", "2", &vbar, "4"])?;
    ensure!(shown.contains("\"data\""), "{shown}");
    let error = guest.ctl(&["read", "--vcpu", "2", "0xffffffffffff0000", "4"]);
    let error = error
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure!(
        error.contains("is not mapped: its entry of level"),
        "{error}"
    );
    // One that the operator has paused stays so.
    guest.ctl(&["freeze"])?;
    guest.ctl(&["bt", "1"])?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["running"] == false, "{status}");
    guest.ctl(&["thaw"])?;
    guest.ctl(&["bt", "1"])?;
    let status = client.execute("query-status", json!({}))?;
    ensure!(status["running"] == true, "{status}");
    Ok(format!("each of 4 in {WEDGE_FUNCTION}"))
}
