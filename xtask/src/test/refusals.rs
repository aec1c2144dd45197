//! Bundles and devicetrees that the hypervisor must refuse: each with one sentence that names the thing and the mend.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hv_bundle::{Guest, GuestConfig};

use crate::ledger::Ledger;
use debian::tools;
use machine::board::Board;
use machine::build::{self, Program};
use machine::crafted;
use machine::el3::El3;
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

/// A devicetree that says where something cannot be: name, node, property, its cells, and words that the sentence must
/// have. On QEMU's `virt`; all such cases are host tests (`hypervisor/bundle/tests/places.rs`), and these show that what is
/// refused there is refused before it is mapped.
type Tree = (
    &'static str,
    &'static str,
    &'static str,
    &'static [u32],
    [&'static str; 2],
);

const TREES: [Tree; 5] = [
    (
        "refusal/devicetree/initrd-outside-ram",
        "/chosen",
        "linux,initrd-start",
        &[0, 0x1000],
        [
            "/chosen linux,initrd-start at 0x1000",
            "out of the machine's RAM",
        ],
    ),
    (
        "refusal/devicetree/device-above-512-gib",
        "/pl031@9010000",
        "reg",
        &[0x8000, 0, 0, 0x1000],
        ["/pl031@9010000 at 0x800000000000", "does not map"],
    ),
    (
        "refusal/devicetree/device-in-el2s-memory",
        "/virtio_mmio@a000000",
        "reg",
        &[0, 0x4fe0_0000, 0, 0x200],
        ["/virtio_mmio@a000000 at 0x4fe00000", "where RAM is"],
    ),
    (
        "refusal/devicetree/no-distributor",
        "/intc@8000000",
        "reg",
        &[
            0x80,
            0x0800_0000,
            0,
            0x1_0000,
            0,
            0x080a_0000,
            0,
            0x00f6_0000,
        ],
        [
            "the interrupt controller's distributor at 0x8008000000",
            "does not map",
        ],
    ),
    (
        "refusal/devicetree/console-above-512-gib",
        "/serial@8000000000",
        "reg",
        &[0x80, 0, 0, 0x1000],
        ["/serial@8000000000 at 0x8000000000", "does not map"],
    ),
];

/// A devicetree with so many nodes besides QEMU's, and what is said to it: what has no room in the memory that there is before
/// anything is found must not end in a heap without room. QEMU blanks parts out, so that it is copied.
const MANY: [(&str, usize, &str); 2] = [
    (
        "refusal/devicetree/2000-nodes-are-read",
        2000,
        "there is no guest",
    ),
    (
        "refusal/devicetree/4000-nodes",
        4000,
        "with parts blanked out, than 128 KiB",
    ),
];

/// The machine's CPUs and its RAM in MiB.
const CPUS: u32 = 2;
const MEMORY_MIB: u64 = 256;

/// How long the hypervisor may take to refuse.
const LIMIT: Duration = Duration::from_secs(120);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    let trees = TREES.iter().map(|(name, ..)| *name);
    let many = MANY.iter().map(|(name, ..)| *name);
    let cases = CASES.iter().map(|(name, ..)| *name);
    cases.chain(trees).chain(many)
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
    if workshop.board != Board::Virt || workshop.el3 != El3::None {
        return;
    }
    for (name, count, word) in MANY {
        ledger.check(name, || {
            let sentence = nodes_refusal(workshop, count)?;
            ensure!(
                sentence.contains(word),
                "it does not say `{word}`: {sentence}"
            );
            Ok(sentence)
        });
    }
    for tree in TREES {
        ledger.check(tree.0, || {
            let sentence = tree_refusal(workshop, tree)?;
            for word in tree.4 {
                ensure!(
                    sentence.contains(word),
                    "it does not say `{word}`: {sentence}"
                );
            }
            Ok(sentence)
        });
    }
}

/// What the hypervisor says to so many nodes and no bundle.
fn nodes_refusal(workshop: &Workshop, count: usize) -> Result<String> {
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.cpus = CPUS;
    machine.memory_mib = MEMORY_MIB;
    let paths: Vec<String> = (0..count).map(|index| format!("/node{index}")).collect();
    let disabled = |path| -> crafted::Edit<'_> { (path, "status", b"disabled\0".to_vec()) };
    let edits: Vec<_> = paths.iter().map(|path| disabled(&**path)).collect();
    let file = workshop.output(&format!("refusal-{count}-nodes.dtb"))?;
    crafted::devicetree(&machine, &file, &edits)?;
    machine.extra = vec!["-dtb".into(), file.into()];
    sentence(&machine).with_context(|| format!("QEMU was: {}", machine.command_line()))
}

/// Boots with a devicetree that is wrong, and answers the one sentence that the hypervisor says to it.
fn tree_refusal(workshop: &Workshop, (name, node, property, cells, _): Tree) -> Result<String> {
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.cpus = CPUS;
    machine.memory_mib = MEMORY_MIB;
    let bytes = |cells: &[u32]| cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
    let mut edits = vec![
        // QEMU says itself where an initrd is, but only if it has loaded one.
        ("/chosen", "linux,initrd-start", bytes(&[0, 0x4800_0000])),
        ("/chosen", "linux,initrd-end", bytes(&[0, 0x4880_0000])),
        (node, property, bytes(cells)),
    ];
    if node.starts_with("/serial@") {
        let path = [node.as_bytes(), b"\0"].concat();
        edits.push((node, "compatible", b"arm,pl011\0".to_vec()));
        edits.push((node, "interrupts", bytes(&[0, 40, 4])));
        edits.push(("/chosen", "stdout-path", path));
    }
    let file = workshop.output(&format!("{}.dtb", name.replace('/', "-")))?;
    crafted::devicetree(&machine, &file, &edits)?;
    machine.extra = vec!["-dtb".into(), file.into()];
    sentence(&machine).with_context(|| format!("QEMU was: {}", machine.command_line()))
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
        flash: None,
        capture: hv_bundle::Capture::default(),
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
            Event::Guest { .. } | Event::Complaint(_) => {}
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
