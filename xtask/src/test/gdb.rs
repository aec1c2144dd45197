//! `cargo xtask run --gdb`: a debugger of this host gets in, and nobody else; and it runs nothing on the host.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::own;
use crate::ledger::Ledger;
use debian::paths;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const NAMES: [&str; 2] = [
    "run/gdb-is-for-this-host-alone",
    "run/gdb-on-a-busy-port-is-a-sentence",
];

/// Nothing takes so long.
const LIMIT: Duration = Duration::from_secs(60);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter()
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [alone, busy] = NAMES;
    ledger.check(alone, || reach(workshop).map(|()| String::new()));
    ledger.check(busy, || collide(workshop).map(|()| String::new()));
}

/// A run that waits for a debugger on `port`.
fn start(workshop: &Workshop, port: u16) -> Result<Child> {
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
    // One that is free, as long as nobody takes it in between.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    let mut run = start(workshop, port)?;
    let seen = debug(&mut run, port);
    run.kill()?;
    let ended = run.wait_with_output()?;
    seen.with_context(|| String::from_utf8_lossy(&ended.stderr).into_owned())
}

fn debug(run: &mut Child, port: u16) -> Result<()> {
    let until = Instant::now() + LIMIT;
    let mut debugger = loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(debugger) => break debugger,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(run.try_wait()?.is_none(), "it has ended");
        ensure!(Instant::now() < until, "nobody listens");
        std::thread::yield_now();
    };
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
    // The packets of gdb's remote protocol: `$text#sum`.
    let text = format!("qRcmd,{order}");
    let sum = text.bytes().fold(0u8, u8::wrapping_add);
    debugger.write_all(format!("+${text}#{sum:02x}").as_bytes())?;
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

fn collide(workshop: &Workshop) -> Result<()> {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = taken.local_addr()?.port();
    let ended = start(workshop, port)?.wait_with_output()?;
    let told = String::from_utf8_lossy(&ended.stderr);
    let expected = format!("error: port {port} is in use; choose another with --gdb=PORT\n");
    ensure!(
        ended.status.code() == Some(1) && told == expected,
        "{}\n{told}",
        ended.status
    );
    Ok(())
}
