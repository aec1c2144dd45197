//! The guests with networks that docs/guests.md shows: one is reached from the host, the other reaches it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::consoles;
use crate::ledger::Ledger;
use crate::test::own;
use debian::initramfs::{self, Guest};
use debian::stock::{self, Release};
use machine::workshop::Workshop;

/// The name of this test, which runs when it is named: it needs a kernel of Debian's.
pub const NAME: &str = "several/linux-speaks-on-mediated-nets";

/// What is sent to the guest and is to come back.
const SIZE: usize = 4 << 20;
/// How long it may take, with other work on the host.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs it if it is named.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if ledger.names(NAME) {
        ledger.check(NAME, || speak(workshop));
    }
}

/// The tables of the page's example, of guests that boot Debian's kernel.
fn tables(workshop: &Workshop, [inner, outer]: [u16; 2]) -> Result<String> {
    let page = include_str!("../../../../docs/guests.md");
    let mut examples = page.split("```toml\n").skip(1);
    let example = examples.find(|it| it.contains("nets = ["));
    let example = example.and_then(|it| it.split("```").next());
    let example = example.context("docs/guests.md has no example with nets")?;
    let kernel = stock::ensure(&workshop.cache, Release::Debian12, &workshop.progress)?;
    let guest = Guest::Shipped {
        image: &kernel.vmlinuz,
        modules: &kernel.modules,
        suite: kernel.suite,
    };
    let initrd = initramfs::ensure(&workshop.cache, guest, &workshop.progress)?;
    let disk = workshop.output("several-nets.img")?;
    fs::write(&disk, vec![0; 1 << 20])?;
    let text = example
        .replace("root.img", &disk.display().to_string())
        .replace("127.0.0.1:2222", &format!("127.0.0.1:{inner}"));
    let mut tables = text.split("[[guest]]\n");
    ensure!(tables.next() == Some(""), "the example begins otherwise");
    let jobs = [String::new(), format!(" lab.port={outer}")];
    let said = tables.zip(jobs).map(|(table, more)| {
        format!(
            "[[guest]]\nkernel = {:?}\ninitrd = {initrd:?}\nappend = \"console=ttyAMA0 lab.do=net{more}\"\n{table}",
            kernel.vmlinuz
        )
    });
    Ok(said.collect())
}

fn speak(workshop: &Workshop) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let outer = listener.local_addr()?.port();
    // Free now, and QEMU's soon.
    let inner = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let text = format!("timeout = 300\n{}", tables(workshop, [inner, outer])?);
    let file = workshop.output("several-nets.toml")?;
    fs::write(&file, text)?;
    let log = workshop.output("several-nets.log")?;
    let _ = fs::remove_file(&log);
    // Answers the guest that asks, with what it says.
    let answer = thread::spawn(move || -> Result<u64> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(std::io::copy(&mut stream.try_clone()?, &mut stream)?)
    });
    let mut run = own::xtask()?
        .args(["run", "--guest"])
        .arg(&file)
        .arg("--log")
        .arg(&log)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    let until = Instant::now() + LIMIT;
    let mut is_heard = true;
    while !has_said(&log, 0, "LAB: listens") {
        is_heard = run.try_wait()?.is_none() && Instant::now() < until;
        if !is_heard {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let echoed = if is_heard { ask(inner) } else { Ok(()) };
    let output = run.wait_with_output()?;
    let said = || {
        let [said, errors] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        format!("standard output:\n{said}\nstandard error:\n{errors}")
    };
    echoed.with_context(said)?;
    ensure!(output.status.success(), "{}\n{}", output.status, said());
    for guest in [0, 1] {
        ensure!(has_said(&log, guest, "LAB: done"), "{}", said());
    }
    let answered = answer.join().ok().context("nobody was answered")??;
    ensure!(answered == SIZE as u64, "{answered} bytes were answered");
    Ok(format!("{SIZE} bytes there and back in each direction"))
}

fn has_said(log: &Path, guest: usize, line: &str) -> bool {
    let lines = consoles(log).unwrap_or_default();
    let mut lines = lines.get(guest).into_iter().flatten();
    lines.any(|said| said.trim_end().ends_with(line))
}

/// Sends the guest something, which it is to send back.
fn ask(port: u16) -> Result<()> {
    let sent: Vec<u8> = (0..SIZE as u32 / 4).flat_map(u32::to_le_bytes).collect();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut writer = stream.try_clone()?;
    let bytes = sent.clone();
    let written = thread::spawn(move || -> Result<()> {
        writer.write_all(&bytes)?;
        writer.shutdown(std::net::Shutdown::Write)?;
        Ok(())
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    written.join().ok().context("nothing was sent")??;
    ensure!(back == sent, "{} other bytes came back", back.len());
    Ok(())
}
