//! `cargo xtask run --gdb`: a debugger of this host gets in, and nobody else; and it runs nothing on the host. `kdump --gdb`: a job that a
//! debugger has let go comes to the same end as one without.

mod loader;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::own;
use crate::ledger::Ledger;
use debian::paths;
use machine::build::{self, Program};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const NAMES: [&str; 2] = [
    "run/gdb-is-for-this-host-alone",
    "run/gdb-on-a-busy-port-is-a-sentence",
];

/// A whole job, so it is run only when it is named.
const JOB: &str = "kdump/gdb-lets-the-job-run";

/// Nothing takes so long.
const LIMIT: Duration = Duration::from_secs(60);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain([JOB]).chain(loader::names())
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [alone, busy] = NAMES;
    ledger.check(alone, || reach(workshop).map(|()| String::new()));
    ledger.check(busy, || collide(workshop).map(|()| String::new()));
    loader::run(workshop, ledger);
    if ledger.names(JOB) {
        ledger.check(JOB, job);
    }
}

/// A port that is free, as long as nobody takes it in between.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// A run that waits for a debugger on `port`.
fn start(workshop: &Workshop, port: u16) -> Result<Child> {
    // Before the time that it may take begins: where nothing is built yet, that takes longer.
    build::build(workshop, Program::Hypervisor)?;
    let kernel = workshop.output("run-gdb.bin")?;
    // DDI0487 C6.2.26: B with an offset of 0.
    paths::write_if_new(&kernel, &0x1400_0000_u32.to_le_bytes())?;
    own::xtask()?
        .args(["run", "--cpus", "1", "--memory", "256M", "--timeout", "60"])
        .arg("--kernel")
        .arg(kernel)
        .arg(format!("--gdb={port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run xtask")
}

fn reach(workshop: &Workshop) -> Result<()> {
    let port = free_port()?;
    let mut run = start(workshop, port)?;
    let seen = debug(&mut run, port);
    run.kill()?;
    let ended = run.wait_with_output()?;
    seen.with_context(|| String::from_utf8_lossy(&ended.stderr).into_owned())
}

/// Connects to what `run` has listening within `limit`.
fn connect(run: &mut Child, port: u16, limit: Duration) -> Result<TcpStream> {
    let until = Instant::now() + limit;
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(debugger) => return Ok(debugger),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(run.try_wait()?.is_none(), "it has ended");
        ensure!(Instant::now() < until, "nobody listens");
        std::thread::yield_now();
    }
}

/// A packet of gdb's remote protocol, `$text#sum`, with which what was read before is acknowledged.
fn packet(text: &str) -> String {
    let sum = text.bytes().fold(0u8, u8::wrapping_add);
    format!("+${text}#{sum:02x}")
}

fn debug(run: &mut Child, port: u16) -> Result<()> {
    let mut debugger = connect(run, port, LIMIT)?;
    // Another address of this host, as good as one of a network.
    let elsewhere = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port));
    ensure!(elsewhere.is_err(), "it listens on all addresses");
    let folder = RunDir::create(None)?;
    let made = folder.file("made");
    let answer = ask_monitor(&mut debugger, &made)?;
    ensure!(
        answer.contains("fork") && !made.exists(),
        "a debugger may run commands on the host; it is told: {answer}"
    );
    Ok(())
}

/// Has QEMU's monitor make the file `made` by a command of the host, as gdb's command `monitor` would; what it says.
fn ask_monitor(debugger: &mut TcpStream, made: &Path) -> Result<String> {
    debugger.set_read_timeout(Some(LIMIT))?;
    let order = format!("migrate \"exec:touch {}\"", made.display());
    let order: String = order.bytes().map(|byte| format!("{byte:02x}")).collect();
    debugger.write_all(packet(&format!("qRcmd,{order}")).as_bytes())?;
    let mut answer = Vec::new();
    // What the monitor prints comes in packets that begin with O, then OK.
    while !answer.ends_with(b"#9a") {
        let mut bytes = [0; 256];
        let count = debugger.read(&mut bytes)?;
        if count == 0 {
            bail!("it hangs up");
        }
        answer.extend(&bytes[..count]);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let printed = answer.split('$').filter_map(|packet| {
        let digits = packet.strip_prefix('O')?.split('#').next()?.as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        digits
            .chunks(2)
            .map(byte)
            .collect::<Option<Vec<u8>>>()
            .map(|text| String::from_utf8_lossy(&text).into_owned())
    });
    Ok(printed.collect())
}

/// The main job, which a debugger finds before its first instruction and lets go.
fn job() -> Result<String> {
    // What it needs may have to be built first, and the host may be busy.
    const PREPARED: Duration = Duration::from_secs(1800);
    let port = free_port()?;
    let mut run = own::xtask()?
        .args(["kdump", "--timeout", "900", &format!("--gdb={port}")])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    let stopped = let_go(&mut run, port, PREPARED);
    if stopped.is_err() {
        run.kill()?;
    }
    // The debugger stays until the machine is gone.
    let ended = run.wait_with_output()?;
    let said = String::from_utf8_lossy(&ended.stdout);
    let (debugger, pc) = stopped.with_context(|| said.clone().into_owned())?;
    drop(debugger);
    for part in ["34 of 34 registers as recorded", "\nPASSED in "] {
        ensure!(
            ended.status.success() && said.contains(part),
            "{}: it does not say `{part}`:\n{said}",
            ended.status
        );
    }
    Ok(format!("let go at {pc:#x}"))
}

/// Connects, and has all CPUs run on from where they stand; where that was.
fn let_go(run: &mut Child, port: u16, limit: Duration) -> Result<(TcpStream, u64)> {
    let mut debugger = connect(run, port, limit)?;
    debugger.set_read_timeout(Some(LIMIT))?;
    let stopped = ask(&mut debugger, "?")?;
    ensure!(
        stopped.starts_with(['S', 'T']),
        "the machine does not stand still: {stopped}"
    );
    // Register 32 is the pc, in the order of its bytes in memory.
    let digits = ask(&mut debugger, "p20")?;
    let pc = u64::from_str_radix(&digits, 16)
        .with_context(|| format!("it has no pc: {digits}"))?
        .swap_bytes();
    // Without an answer until it stops again.
    debugger.write_all(packet("c").as_bytes())?;
    Ok((debugger, pc))
}

/// The answer to a packet.
fn ask(debugger: &mut TcpStream, text: &str) -> Result<String> {
    debugger.write_all(packet(text).as_bytes())?;
    let mut said = Vec::new();
    loop {
        let mut byte = [0];
        ensure!(debugger.read(&mut byte)? == 1, "it hangs up");
        said.push(byte[0]);
        let text = String::from_utf8_lossy(&said);
        // Two digits of a sum stand behind it.
        if let Some((_, answer)) = text.split_once('$')
            && let Some((answer, sum)) = answer.split_once('#')
            && sum.len() == 2
        {
            return Ok(answer.to_owned());
        }
    }
}

fn collide(workshop: &Workshop) -> Result<()> {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = taken.local_addr()?.port();
    let ended = start(workshop, port)?.wait_with_output()?;
    let told = String::from_utf8_lossy(&ended.stderr);
    let expected = format!("error: port {port} is in use; choose another with --gdb=PORT\n");
    // Nothing else is said: nothing was built for it.
    ensure!(
        ended.status.code() == Some(1) && told == expected,
        "{}\n{told}",
        ended.status
    );
    Ok(())
}
