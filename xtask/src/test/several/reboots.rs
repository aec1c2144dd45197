//! Linux guests that reboot, start themselves anew and dump, beside a guest that computes: its results, its timer and what it writes
//! are as if it were alone. The one that reboots finds on its mediated disk each time what it has written.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::linux::compute;
use super::{consoles, written};
use crate::ledger::Ledger;
use crate::test::own;
use lab::plan::create_disk;
use machine::workshop::Workshop;

/// The name of this test, which runs when it is named.
pub const NAME: &str = "several/linux-reboots-and-dumps-beside-one-that-computes";

/// How often the first reboots, if not ten times.
const REBOOTS: &str = "HALLIGAN_REBOOTS";
/// How often the second starts itself anew.
const KEXECS: usize = 3;

/// Runs it if it is named.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if ledger.names(NAME) {
        ledger.check(NAME, || reboot(workshop));
    }
}

fn reboot(workshop: &Workshop) -> Result<String> {
    let reboots: usize = match std::env::var(REBOOTS) {
        Ok(times) => times
            .parse()
            .with_context(|| format!("{REBOOTS}={times} is no number"))?,
        Err(_) => 10,
    };
    let disk = |name: &str| {
        let path = workshop.output(&format!("several-{name}.img"))?;
        // As new.
        let _ = fs::remove_file(&path);
        create_disk(&path, 1024)?;
        anyhow::Ok(path)
    };
    let linux = |name: &str, append: &str, disks: &str| {
        format!(
            "[[guest]]\nname = \"{name}\"\ncpus = 2\nmemory = \"512M\"\nappend = \"{append}\"\n{disks}"
        )
    };
    let disks = |name: &str| Ok::<_, anyhow::Error>(format!("disks = [{:?}]\n", disk(name)?));
    let limit = Duration::from_secs(600 + 60 * reboots as u64);
    let text = [
        format!("cpu = \"max\"\ntimeout = {}\n", limit.as_secs()),
        format!(
            "[[guest]]\nname = \"computes\"\nkernel = {:?}\nmemory = \"64M\"\n",
            compute(workshop)?
        ),
        linux(
            "reboots",
            &format!("lab.do=again lab.times={reboots}"),
            &disks("reboots")?,
        ),
        linux("kexecs", &format!("lab.do=kexec lab.times={KEXECS}"), ""),
        linux(
            "dumps",
            "crashkernel=192M lab.do=kdump lab.wedge=1 lab.maxcpus=1",
            &disks("dumps")?,
        ),
    ];
    let file = workshop.output("several-reboots.toml")?;
    fs::write(&file, text.concat())?;
    let log = workshop.output("several-reboots.log")?;
    let _ = fs::remove_file(&log);
    let started = Instant::now();
    let mut run = own::xtask()?
        .args(["run", "--guest"])
        .arg(&file)
        .arg("--log")
        .arg(&log)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(workshop.output("several-reboots.out")?)?)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    // Until all others are through, or something has ended before.
    while !(1..=3).all(|guest| says(&log, guest, "LAB: done") > 0) {
        let is_over = run.try_wait()?.is_some() || started.elapsed() > limit;
        if is_over || !computed(&log).is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(500));
    }
    let keyboard = run.stdin.as_mut().context("it has no input")?;
    // It may have ended.
    let _ = keyboard.write_all(b"x");
    let output = run.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let shown = || {
        let tail = |guest: usize| {
            let lines = consoles(&log).unwrap_or_default();
            let lines = lines.into_iter().nth(guest).unwrap_or_default();
            lines[lines.len().saturating_sub(20)..].join("\n")
        };
        format!(
            "{}\n{errors}\n{}",
            output.status,
            [0, 1, 2, 3].map(tail).join("\n--\n")
        )
    };
    ensure!(output.status.success(), "{}", shown());
    for guest in 1..=3 {
        ensure!(
            says(&log, guest, "LAB: done") == 1,
            "guest {guest}: {}",
            shown()
        );
        ensure!(
            says(&log, guest, "LAB: fail") == 0,
            "guest {guest}: {}",
            shown()
        );
    }
    let counts = [
        (
            "reboots",
            says(&log, 1, "LAB: rebooted times="),
            reboots + 1,
        ),
        ("kexecs", says(&log, 2, "LAB: left times="), KEXECS + 1),
        (
            "wedged",
            says(&log, 3, "SMP: retry stop with SDEI NMI for CPUs 1"),
            1,
        ),
        ("dumps", says(&log, 3, "LAB: dump done"), 1),
    ];
    for (what, count, expected) in counts {
        ensure!(
            count == expected,
            "{what}: {count}, not {expected}: {}",
            shown()
        );
    }
    // All that the guest that computes has ever written: that all was right.
    let computed = computed(&log);
    ensure!(
        computed == b"P",
        "it has written {computed:x?}: {}",
        shown()
    );
    Ok(format!(
        "{reboots} reboots, {} s",
        started.elapsed().as_secs()
    ))
}

/// All that the guest that computes has written.
fn computed(log: &Path) -> Vec<u8> {
    let written = written(log).unwrap_or_default();
    written.into_iter().next().unwrap_or_default()
}

/// How many lines of a guest's have `words`.
fn says(log: &Path, guest: usize, words: &str) -> usize {
    let lines = consoles(log).unwrap_or_default();
    let lines = lines.get(guest).into_iter().flatten();
    lines.filter(|line| line.contains(words)).count()
}
