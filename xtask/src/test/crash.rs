//! The hypervisor broken on purpose: each way ends in one whole crash report.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hv_bundle::GuestConfig;

use super::ledger::Ledger;
use crate::build::{self, Program};
use crate::payload::Payload;
use crate::qemu::{Happening, Machine};
use crate::tools;
use crate::workshop::Workshop;

/// `break=` word, the cause the report names, and words it must have.
const WAYS: [(&str, &str, &str); 4] = [
    ("panic", "panic", "asked to panic"),
    ("lock", "panic", "asked to panic with the console locked"),
    ("fault", "fault", "data abort"),
    ("stack", "stack-overflow", "EL2 stack overflow"),
];

/// How long a report may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = String> {
    WAYS.iter().map(|(word, ..)| format!("crash/{word}"))
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    for ((word, cause, words), name) in WAYS.into_iter().zip(names()) {
        if !ledger.wants(&name) {
            continue;
        }
        let started = Instant::now();
        match report(workshop, word).and_then(|lines| judge(&lines, cause, words)) {
            Ok(()) => ledger.passed(&name, started.elapsed(), ""),
            Err(error) => ledger.failed(&name, started.elapsed(), &format!("{error:#}")),
        }
    }
}

/// Breaks a hypervisor on two CPUs and returns what it says.
fn report(workshop: &Workshop, word: &str) -> Result<Vec<String>> {
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let guest = build::build(workshop, Program::GuestTests)?;
    let bundle = workshop.output("crash.itb")?;
    Payload {
        kernel: &guest.image,
        initrd: None,
        config: GuestConfig {
            bootargs: "list".into(),
            ..GuestConfig::default()
        },
    }
    .write(&bundle)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.cpus = 2;
    machine.memory_mib = 256;
    machine.initrd = Some(bundle);
    machine.append = format!("break={word}");
    machine.firmware = workshop.firmware()?;
    let mut session = machine.start(Some(LIMIT))?;
    let mut lines = Vec::new();
    loop {
        match session.next()? {
            Happening::Line(line) => {
                let ended = line.text.contains("@hv-crash-end");
                lines.push(line.text);
                if ended {
                    session.kill();
                    return Ok(lines);
                }
            }
            Happening::Guest(_) | Happening::Complaint(_) => {}
            Happening::Ended(_) | Happening::TimedOut | Happening::Left => return Ok(lines),
        }
    }
}

/// One report, whole, with its cause in words and a backtrace into our own text.
fn judge(lines: &[String], cause: &str, words: &str) -> Result<()> {
    let all = lines.join("\n");
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    ensure!(has("@ready"), "it did not get as far as to break:\n{all}");
    let begins = lines.iter().filter(|line| line.contains("@hv-crash pcpu="));
    ensure!(
        begins.count() == 1,
        "there is not exactly one report:\n{all}"
    );
    ensure!(
        has(&format!("cause={cause}")),
        "the cause is not {cause}:\n{all}"
    );
    ensure!(has(words), "it does not say {words:?}:\n{all}");
    ensure!(has("@hv-crash-end"), "the report has no end:\n{all}");
    let trace = lines.iter().filter(|line| line.starts_with("  0x8000"));
    ensure!(trace.count() >= 2, "there is no backtrace:\n{all}");
    Ok(())
}
