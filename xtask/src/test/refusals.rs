//! Bundles that the hypervisor must refuse: each with one sentence that names the thing and the mend.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hv_bundle::{Guest, GuestConfig};

use crate::ledger::Ledger;
use debian::tools;
use machine::build::{self, Program};
use machine::ending::{Ending, Watch};
use machine::firmware::Firmware;
use machine::qemu::{Event, Machine};
use machine::workshop::Workshop;

/// What is wrong with the bundle.
#[derive(Clone, Copy)]
enum Wrong {
    /// It ends in the middle.
    Cut,
    /// A byte of the kernel is another.
    Altered,
    /// There is none.
    Absent,
    /// It is something else.
    Foreign,
    /// The guest wants more vCPUs than the machine has CPUs.
    Vcpus,
    /// The guest wants more memory than the machine has.
    Memory,
}

/// Name, what is wrong, and words that the sentence must have.
const CASES: [(&str, Wrong, &[&str]); 6] = [
    (
        "refusal/bundle-cut-short",
        Wrong::Cut,
        &["cut short", "copy it again"],
    ),
    (
        "refusal/bundle-altered",
        Wrong::Altered,
        &["altered", "hash"],
    ),
    ("refusal/no-bundle", Wrong::Absent, &["no guest", "bundle"]),
    ("refusal/no-fit-image", Wrong::Foreign, &["no FIT image"]),
    ("refusal/more-vcpus-than-cpus", Wrong::Vcpus, &["9"]),
    ("refusal/more-memory-than-ram", Wrong::Memory, &["memory"]),
];

/// The machine's CPUs and its RAM in MiB.
const CPUS: u32 = 2;
const MEMORY_MIB: u64 = 256;

/// How long the hypervisor may take to refuse.
const LIMIT: Duration = Duration::from_secs(120);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|(name, ..)| *name)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    for (name, wrong, words) in CASES {
        ledger.check(name, || {
            let sentence = refusal(workshop, wrong)?;
            for word in words {
                ensure!(
                    sentence.contains(word),
                    "it does not say `{word}`: {sentence}"
                );
            }
            let has = format!("has {};", workshop.board.cpus(CPUS));
            ensure!(
                !matches!(wrong, Wrong::Vcpus) || sentence.contains(&has),
                "it does not say that the machine {has} {sentence}"
            );
            Ok(sentence)
        });
    }
}

/// Boots with what is wrong, and answers the one sentence that the hypervisor says to it.
fn refusal(workshop: &Workshop, wrong: Wrong) -> Result<String> {
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let guest = build::build(workshop, Program::GuestTests)?;
    let path = workshop.output("refusal.itb")?;
    let bundle = bundle(&fs::read(&guest.image)?, wrong)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.cpus = CPUS;
    machine.memory_mib = MEMORY_MIB;
    machine.board = workshop.board;
    machine.firmware = Firmware::of(workshop)?;
    if let Some(bundle) = bundle {
        fs::write(&path, bundle).with_context(|| format!("cannot write {}", path.display()))?;
        machine.initrd = Some(path);
    }
    sentence(&machine).with_context(|| format!("QEMU was: {}", machine.command_line()))
}

/// What the hypervisor is given.
fn bundle(kernel: &[u8], wrong: Wrong) -> Result<Option<Vec<u8>>> {
    let config = match wrong {
        Wrong::Vcpus => GuestConfig {
            vcpus: 9,
            ..GuestConfig::default()
        },
        Wrong::Memory => GuestConfig {
            memory: 4 * (MEMORY_MIB << 20),
            ..GuestConfig::default()
        },
        Wrong::Cut | Wrong::Altered | Wrong::Absent | Wrong::Foreign => GuestConfig::default(),
    };
    let guest = Guest {
        config,
        kernel,
        ramdisk: None,
    };
    let mut bundle = hv_bundle::write(&[guest]).map_err(|error| anyhow::anyhow!("{error}"))?;
    match wrong {
        Wrong::Absent => return Ok(None),
        Wrong::Foreign => bundle = b"This is a text, not a bundle.\n".repeat(100),
        Wrong::Cut => bundle.truncate(bundle.len() / 2),
        Wrong::Altered => {
            // The kernel is by far the largest part, so the middle is inside it.
            let middle = bundle.len() / 2;
            bundle[middle] ^= 1;
        }
        Wrong::Vcpus | Wrong::Memory => {}
    }
    Ok(Some(bundle))
}

/// Boots `machine`, which must refuse to start, and answers what it says.
fn sentence(machine: &Machine) -> Result<String> {
    let mut session = machine.start(Some(LIMIT))?;
    let mut watch = Watch::default();
    let mut sentences = Vec::new();
    let timed_out = loop {
        match session.next_event()? {
            Event::Line(line) => {
                watch.follow(&line, &mut session)?;
                if let Some(sentence) = line.text.strip_prefix("cannot start: ") {
                    sentences.push(sentence.to_owned());
                }
            }
            Event::Guest(_) | Event::Complaint(_) => {}
            Event::Ended(_) | Event::Left => break false,
            Event::TimedOut => break true,
        }
    };
    let ending = watch.ending(timed_out);
    let tail = session.tail().join("\n");
    ensure!(
        matches!(ending, Ending::HypervisorCrash(_)),
        "it did not refuse, but {ending}:\n{tail}"
    );
    ensure!(sentences.len() == 1, "it did not say one sentence:\n{tail}");
    Ok(sentences.remove(0))
}
