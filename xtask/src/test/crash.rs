//! The hypervisor broken on purpose: each way ends in one whole crash report.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hv_bundle::GuestConfig;

use crate::crash;
use crate::ledger::Ledger;
use debian::paths;
use debian::tools;
use machine::build::{self, Program};
use machine::firmware::Firmware;
use machine::payload::{Capture, Payload};
use machine::qemu::{Event, Machine, Session};
use machine::workshop::Workshop;

/// `break=` word, the cause the report names, and words it must have.
const WAYS: [(&str, &str, &str); 4] = [
    ("panic", "panic", "asked to panic"),
    ("lock", "panic", "asked to panic with the console locked"),
    ("fault", "fault", "data abort"),
    ("stack", "stack-overflow", "EL2 stack overflow"),
];

/// How long a report may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The report is kept in memory, where the next boot and `crash show` find it.
const RECORD: &str = "crash/record-survives-a-reset";

/// Words of the command line that set nothing, and what each image says of them, once.
const WORDS: [(&str, Program, &str, &[&str]); 2] = [
    (
        "crash/words-that-nobody-knows",
        Program::Hypervisor,
        "brake=panic crash=rest watchdog=stop:0 wedge=1:spin brake=panic quiet",
        &[
            "`brake=panic`, `quiet`: not known and ignored; known are crash=halt|reset, stop=park|off, operator=full|read|off, trace=calls and watchdog=",
            "`crash=rest` is malformed; write crash=halt or crash=reset",
            "`watchdog=stop:0` is malformed; write watchdog=report, stop or off",
            "`wedge=1:spin` injects faults, which only the test image does; load hypervisor-fault-injection.img",
        ],
    ),
    (
        "crash/words-of-the-test-image",
        Program::FaultInjection,
        "wedge=99:spin break=pank probe=0 stop=halt",
        &[
            "`wedge=99:spin` names pCPU 99; there are pCPUs 0 to ",
            "`break=pank` is not understood; write break=WAY or break=WAY@N ",
            "`probe=0` is not understood; write probe=N:COUNT ",
            "`stop=halt` is malformed; write stop=park or stop=off",
        ],
    ),
];

/// Entered at another level than EL2: the level, and whether the machine has EL2.
const ASTRAY: [(&str, u32, bool); 3] = [
    ("crash/entered-at-el1", 1, false),
    ("crash/entered-at-el3", 3, true),
    ("crash/entered-at-el3-without-el2", 3, false),
];

/// The names of these tests.
pub fn names() -> impl Iterator<Item = String> {
    let ways = WAYS.iter().map(|(word, ..)| format!("crash/{word}"));
    let astray = ASTRAY.iter().map(|(name, ..)| (*name).to_owned());
    let words = WORDS.iter().map(|(name, ..)| (*name).to_owned());
    ways.chain([RECORD.to_owned()]).chain(astray).chain(words)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    ledger.check(RECORD, || survive(workshop).map(|()| String::new()));
    for (name, program, words, said) in WORDS {
        ledger.check(name, || obey(workshop, program, words, said));
    }
    for (name, level, el2) in ASTRAY {
        ledger.check(name, || enter(workshop, level, el2));
    }
    for ((word, cause, words), name) in WAYS.into_iter().zip(names()) {
        ledger.check(&name, || {
            judge(&report(workshop, word)?, cause, words)?;
            Ok(String::new())
        });
    }
}

/// MOV x0, #0x4000_0000; MOV x1, #0x4020_0000; BR x1 (DDI0487 C6.2): the devicetree where QEMU puts it for firmware,
/// and the hypervisor.
const FIRMWARE: [u32; 3] = [0xd2a8_0000, 0xd2a8_0401, 0xd61f_0020];

/// Enters the hypervisor at `level` and answers what it says to that.
fn enter(workshop: &Workshop, level: u32, el2: bool) -> Result<String> {
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.cpus = 1;
    machine.memory_mib = 256;
    machine.el2 = el2;
    if level == 3 {
        let firmware = workshop.output("entry.bin")?;
        let bytes: Vec<u8> = FIRMWARE.into_iter().flat_map(u32::to_le_bytes).collect();
        paths::write_if_new(&firmware, &bytes)?;
        let image = format!(
            "loader,file={},addr={:#x},force-raw=on",
            hypervisor.image.display(),
            machine::board::HYPERVISOR_PA
        );
        let bios = firmware.into_os_string();
        machine.extra = vec!["-machine".into(), "secure=on".into(), "-bios".into(), bios];
        machine.extra.extend(["-device".into(), image.into()]);
    }
    let mut session = machine.start(Some(LIMIT))?;
    let lines = lines_until(&mut session, "@hv-crash-end")?;
    let said = lines.iter().find(|line| line.starts_with("cannot start: "));
    let words = format!("entered at EL{level}, not at EL2; have ");
    ensure!(
        said.is_some_and(|said| said.contains(&words)),
        "it does not say {words:?}:\n{}",
        lines.join("\n")
    );
    Ok(String::new())
}

/// Boots `program` with `words` on its command line, each of which it must name once and then go on.
fn obey(workshop: &Workshop, program: Program, words: &str, said: &[&str]) -> Result<String> {
    let mut session = machine(workshop, program, words)?.start(Some(LIMIT))?;
    let lines = lines_until(&mut session, "@ready")?;
    for sentence in said {
        let times = lines.iter().filter(|line| line.contains(sentence)).count();
        ensure!(
            times == 1,
            "it says {times} times, and not once: {sentence}\n{}",
            lines.join("\n")
        );
    }
    Ok(String::new())
}

/// Breaks a hypervisor on two CPUs and returns what it says.
fn report(workshop: &Workshop, word: &str) -> Result<Vec<String>> {
    let machine = machine(workshop, Program::FaultInjection, &format!("break={word}"))?;
    let mut session = machine.start(Some(LIMIT))?;
    lines_until(&mut session, "@hv-crash-end")
}

/// Lets it crash and halt, and finds the record in memory; lets it crash and reset, and finds it in what the
/// next boot says, which goes on to run its guest.
fn survive(workshop: &Workshop) -> Result<()> {
    // A board's RAM is too large to be searched as a file again and again.
    if workshop.board.model().is_none() {
        let memory = workshop.output(&format!("crash-{}.ram", std::process::id()))?;
        let result = find_in_memory(workshop, &memory);
        // It lies below target in any case.
        let _ = fs::remove_file(&memory);
        result?;
    }
    let mut machine = machine(workshop, Program::FaultInjection, "break=panic crash=reset")?;
    machine.reboots = true;
    let mut session = machine.start(Some(LIMIT))?;
    let lines = lines_until(&mut session, "@vm-start")?;
    let printed = lines.iter().filter_map(|line| line.strip_prefix("| "));
    let printed: Vec<String> = printed.map(str::to_owned).collect();
    judge_record(&printed).with_context(|| lines.join("\n"))
}

fn find_in_memory(workshop: &Workshop, memory: &Path) -> Result<()> {
    let mut machine = machine(workshop, Program::FaultInjection, "break=panic")?;
    let backend = "memory-backend-file,id=ram,size=256M,share=on,mem-path=";
    let backend = format!("{backend}{}", memory.display());
    machine.extra = ["-object", &backend, "-machine", "memory-backend=ram"]
        .map(Into::into)
        .into();
    let mut session = machine.start(Some(LIMIT))?;
    lines_until(&mut session, "@hv-crash-end")?;
    // The record is made when all of it has been said.
    let started = Instant::now();
    loop {
        if let Some(lines) = crash::lines(&fs::read(memory)?) {
            return judge_record(&lines).context("in memory");
        }
        ensure!(started.elapsed() < LIMIT, "there is no record in memory");
    }
}

/// The hypervisor's lines up to the one that begins with `last`.
fn lines_until(session: &mut Session, last: &str) -> Result<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    loop {
        match session.next_event()? {
            Event::Line(line) => {
                let is_last = line.text.starts_with(last);
                lines.push(line.text);
                if is_last {
                    return Ok(lines);
                }
            }
            Event::Guest { .. } | Event::Complaint(_) => {}
            Event::Ended(_) | Event::TimedOut | Event::Left => {
                bail!("it did not come to {last:?}:\n{}", lines.join("\n"));
            }
        }
    }
}

/// That a record is whole.
fn judge_record(lines: &[String]) -> Result<()> {
    for words in [
        "@hv-crash pcpu=",
        "asked to panic",
        "@hv-pcpu pcpu=0 fate=stopper",
        "@hv-pcpu pcpu=1 fate=ipi",
        "@hv-crash-end",
    ] {
        ensure!(
            lines.iter().any(|line| line.contains(words)),
            "the record lacks {words:?}:\n{}",
            lines.join("\n")
        );
    }
    Ok(())
}

/// Two CPUs and a guest that lists its tests, below `program` with `words` on its command line.
fn machine(workshop: &Workshop, program: Program, words: &str) -> Result<Machine> {
    let hypervisor = build::build(workshop, program)?;
    let guest = build::build(workshop, Program::GuestTests)?;
    let bundle = workshop.output("crash.itb")?;
    Payload {
        kernel: &guest.image,
        initrd: None,
        flash: None,
        capture: Capture::default(),
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
    machine.append = words.to_owned();
    machine.board = workshop.board;
    machine.firmware = Firmware::of(workshop)?;
    Ok(machine)
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
