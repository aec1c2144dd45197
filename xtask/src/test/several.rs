//! Several guests on one machine, as a user starts them: each passes every test that it passes alone, while the other does.

mod costs;
mod lines;
mod linux;
mod nets;
mod policy;
mod reached;
mod reboots;
mod rings;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::own;
use crate::ledger::Ledger;
use crate::offer;
use hv_abi::sdei::{Definition, Priority, Scope};
use machine::build::{self, Program};
use machine::console::{GuestLines, Part, Splitter};
use machine::workshop::Workshop;

/// The same suite in two guests at once, on CPUs that are not the machine's first in one of them.
const SUITES: &str = "several/suites-side-by-side";
/// What a plan cannot give is said before the machine starts.
const TAKEN: &str = "several/what-two-want-is-named";

/// A pCPU that never leaves a guest costs that guest, and no other.
const LOST: &str = "several/lost-cpu-costs-its-guest-alone";

/// Where RAM begins at address 0.
const PI: &str = "several/on-a-pi";

/// A guest that does anything at all beside one that passes every test.
const HOSTILE: &str = "several/hostile-neighbour-harms-nobody";

/// Two guests with a mediated disk each, in one page of transports, one of which makes its queues up.
const DISKS: &str = "several/mediated-disks-keep-to-their-guests";

/// Two Linux guests that copy on mediated disks, when it is named: it takes half a minute, and our kernel.
const LINUX: &str = "several/linux-copies-on-mediated-disks";

/// A virtio device that cannot be kept within its guest's memory is refused.
const REFUSED: &str = "several/devices-that-cannot-be-mediated-are-named";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    let own = [SUITES, TAKEN, LOST, PI, HOSTILE, DISKS, REFUSED, LINUX].into_iter();
    own.chain(reached::NAMES)
        .chain(policy::NAMES)
        .chain(rings::NAMES)
        .chain(costs::NAMES)
        .chain(lines::NAMES)
        .chain([nets::NAME, reboots::NAME])
        .chain(linux::NAMES)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    ledger.check(SUITES, || suites(workshop));
    ledger.check(TAKEN, || taken(workshop));
    ledger.check(LOST, || lost(workshop));
    ledger.check(PI, || pi(workshop));
    ledger.check(HOSTILE, || hostile(workshop));
    ledger.check(DISKS, || disks(workshop));
    ledger.check(REFUSED, || refused(workshop));
    if ledger.names("several/linux") {
        ledger.check(LINUX, || linux(workshop));
    }
    reached::run(workshop, ledger);
    policy::run(workshop, ledger);
    rings::run(workshop, ledger);
    costs::run(workshop, ledger);
    lines::run(workshop, ledger);
    nets::run(workshop, ledger);
    reboots::run(workshop, ledger);
    linux::run(workshop, ledger);
}

/// A guest of these CPUs that runs all tests that share a boot.
fn guest(name: &str, kernel: &str, cpus: &str) -> String {
    let events: Vec<String> = offer::offered("").events.iter().map(event).collect();
    let events = events.join(", ");
    format!(
        "[[guest]]\nname = \"{name}\"\nkernel = \"{kernel}\"\ncpus = {cpus}\nmemory = \"256M\"\n\
         append = \"test=shared\"\ndebug-calls = true\nevents = [{events}]\n"
    )
}

fn event(event: &Definition) -> String {
    let scope = match event.scope {
        Scope::Private => "private",
        Scope::Shared => "shared",
    };
    let priority = match event.priority {
        Priority::Normal => "normal",
        Priority::Critical => "critical",
    };
    let number = event.number;
    format!("{{ number = {number}, scope = \"{scope}\", priority = \"{priority}\" }}")
}

/// Starts the guests of `tables` by a guest file, with more options: the exit code, standard output and standard error.
fn start(
    workshop: &Workshop,
    tables: &[String],
    options: &[&str],
) -> Result<(Option<i32>, String, String)> {
    let path = workshop.output("several.toml")?;
    let text = format!("timeout = 540\n{}", tables.concat());
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let output = own::xtask()?
        .args(["run", "--guest"])
        .arg(&path)
        .args(options)
        .output()
        .context("cannot run xtask")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    ))
}

fn suites(workshop: &Workshop) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let tables = [
        guest("one", &image, "[5, 1, 2, 7]"),
        guest("two", &image, "4"),
    ];
    let counts = pass(workshop, &tables, &["one", "two"], &[])?;
    // What a machine with one guest has, but for what few tests skip.
    let passed = counts.iter().map(|(passed, _)| *passed);
    ensure!(passed.min() > Some(200), "only {counts:?} passed");
    let all: Vec<usize> = counts
        .iter()
        .map(|(passed, skipped)| passed + skipped)
        .collect();
    ensure!(all[0] == all[1], "{counts:?} passed and were skipped");
    Ok(format!("{counts:?}"))
}

fn pi(workshop: &Workshop) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let one_test = |table: String| table.replace("test=shared", "test=psci_version_is_1_3");
    let tables = [guest("one", &image, "2"), guest("two", &image, "2")].map(one_test);
    let counts = pass(
        workshop,
        &tables,
        &["one", "two"],
        &["--machine", "raspi4b"],
    )?;
    ensure!(counts == [(1, 0); 2], "{counts:?} passed and were skipped");
    Ok(format!("{counts:?}"))
}

fn hostile(workshop: &Workshop) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let assault = "test=random_steps_of_every_kind_harm_nobody_else";
    let neighbour = guest("two", &image, "4").replace("test=shared", assault);
    let tables = [guest("one", &image, "4"), neighbour];
    let counts = pass(workshop, &tables, &["one", "two"], &[])?;
    ensure!(
        counts[0].0 > 200 && counts[1] == (1, 0),
        "only {counts:?} passed"
    );
    Ok(format!("{counts:?}"))
}

fn disks(workshop: &Workshop) -> Result<String> {
    const SANE: [&str; 2] = [
        "a_virtio_disk_reads_and_writes",
        "a_virtio_disk_interrupts_unless_it_is_told_not_to",
    ];
    const HOSTILE: [&str; 3] = [
        "a_mediated_disk_offers_only_what_can_be_checked",
        "a_queue_that_is_made_up_reaches_nothing_but_the_guests_memory",
        "chains_that_make_no_sense_stop_the_disk_and_nothing_else",
    ];
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let mut disks = Vec::new();
    let mut table = |name: &str, tests: &[&str]| -> Result<String> {
        let disk = workshop.output(&format!("mediated-{name}.img"))?;
        fs::write(&disk, vec![0x33; 1 << 20])?;
        let tests: Vec<_> = tests.iter().map(|test| format!("test={test}")).collect();
        let words = format!("mediated {}", tests.join(" "));
        let guest = guest(name, &image, "1").replace("test=shared", &words);
        let table = format!("{guest}disks = [\"{}\"]\n", disk.display());
        disks.push(disk);
        Ok(table)
    };
    // Each after what the other does.
    let tables = [
        table("one", &[&HOSTILE[..], &SANE].concat())?,
        table("two", &[&SANE[..], &SANE, &SANE].concat())?,
    ];
    let counts = pass(workshop, &tables, &["one", "two"], &[])?;
    ensure!(counts == [(5, 0), (6, 0)], "only {counts:?} passed");
    for disk in disks {
        let bytes = fs::read(&disk)?;
        // What nobody has written is as it was, and the sane tests have written sectors 0 to 63.
        let (written, rest) = bytes.split_at(64 * 512);
        ensure!(rest.iter().all(|&byte| byte == 0x33), "{}", disk.display());
        for (sector, bytes) in (1u64..).zip(written.chunks(512)) {
            let first = bytes.first_chunk().map(|word| u64::from_le_bytes(*word));
            ensure!(
                first == Some(sector),
                "{}, {sector}: {first:x?}",
                disk.display()
            );
        }
    }
    Ok(format!("{counts:?}"))
}

fn linux(workshop: &Workshop) -> Result<String> {
    const HALF: usize = 16 << 20;
    let mut tables = Vec::new();
    let mut disks = Vec::new();
    for (number, name) in ["one", "two"].into_iter().enumerate() {
        let disk = workshop.output(&format!("mediated-linux-{name}.img"))?;
        // Each word is another, and others than on the other disk.
        let words = (0u64..).map(|word| (word * 2 + number as u64 + 1).to_le_bytes());
        let half: Vec<u8> = words.take(HALF / 8).flatten().collect();
        let mut whole = half.clone();
        whole.resize(2 * HALF, 0);
        fs::write(&disk, whole)?;
        tables.push(format!(
            "[[guest]]\nname = \"{name}\"\ncpus = 2\nappend = \"lab.do=copy\"\ndisks = [\"{}\"]\n",
            disk.display()
        ));
        disks.push((disk, half));
    }
    let (code, said, errors) = start(workshop, &tables, &[])?;
    let both = || format!("standard output:\n{said}\nstandard error:\n{errors}");
    ensure!(code == Some(0), "the exit code is {code:?}\n{}", both());
    for ((disk, half), name) in disks.iter().zip(["one", "two"]) {
        let done = format!("{name} | LAB: done");
        let is_done = said.lines().any(|line| line.trim_end() == done);
        ensure!(is_done, "{name} is not done\n{}", both());
        let bytes = fs::read(disk)?;
        let is_copied = bytes[..HALF] == half[..] && bytes[HALF..] == half[..];
        ensure!(
            is_copied,
            "{} is not what it should be\n{}",
            disk.display(),
            both()
        );
    }
    Ok(String::new())
}

fn refused(workshop: &Workshop) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let modern = "\"-global\", \"virtio-mmio.force-legacy=false\", ";
    let balloon = "\"-device\", \"virtio-balloon-device,bus=virtio-mmio-bus.3\"";
    let random = "\"-device\", \"virtio-rng-device,bus=virtio-mmio-bus.3\"";
    let place = "cannot start: the guest one, devices: /virtio_mmio@a000600, of virtio type";
    for (arguments, expected) in [
        (
            format!("{modern}{balloon}"),
            "5, can be told to reach all memory; network, block, console, entropy, 9P and socket devices cannot; say trusted = true",
        ),
        (
            random.to_owned(),
            "4, is a legacy transport, whose device cannot be kept within the guest's memory; start QEMU with -global virtio-mmio.force-legacy=false,",
        ),
        (
            modern.trim_end_matches(", ").to_owned(),
            "0, is a transport without a device",
        ),
    ] {
        let table = guest("one", &image, "1");
        let machine = format!("qemu-args = [{arguments}]\n");
        let tables = [machine, format!("{table}devices = [\"virtio:3\"]\n")];
        let (code, said, errors) = start(workshop, &tables, &[])?;
        let expected = format!("{place} {expected}");
        ensure!(
            code == Some(4) && errors.contains(&expected) && said.is_empty(),
            "no `{expected}`: the exit code is {code:?}\n{said}\n{errors}"
        );
    }
    Ok(String::new())
}

/// Starts the guests, of these names: how many tests each has passed and skipped. None may fail.
fn pass(
    workshop: &Workshop,
    tables: &[String],
    names: &[&str],
    more: &[&str],
) -> Result<Vec<(usize, usize)>> {
    let log = workshop.output("several.log")?;
    let path = log.display().to_string();
    let options = [&["--log", &path], more].concat();
    let (code, said, errors) = start(workshop, tables, &options)?;
    let both = || format!("standard output:\n{said}\nstandard error:\n{errors}");
    ensure!(code == Some(0), "the exit code is {code:?}\n{}", both());
    let consoles = consoles(&log)?;
    let mut counts = Vec::new();
    for (name, lines) in names.iter().zip(&consoles) {
        let shown = format!("{name} | DONE");
        let is_shown = said.lines().any(|line| line.trim_end() == shown);
        ensure!(is_shown, "the screen has no `{shown}`\n{}", both());
        let count = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
        ensure!(count("DONE") == 1, "{name} is not done\n{}", both());
        let failed = lines.iter().find(|line| line.starts_with("FAIL "));
        ensure!(
            failed.is_none(),
            "{name}: {}\n{errors}",
            failed.map_or("", String::as_str)
        );
        counts.push((count("PASS "), count("SKIP ")));
    }
    Ok(counts)
}

/// The lines of each guest's console, by number, in the serial stream that `log` has.
fn consoles(log: &Path) -> Result<Vec<Vec<String>>> {
    let written = written(log)?;
    let lines = |bytes: &Vec<u8>| GuestLines::default().push(bytes);
    Ok(written.iter().map(lines).collect())
}

/// The same as it was written.
fn written(log: &Path) -> Result<Vec<Vec<u8>>> {
    let stream = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut all: Vec<Vec<u8>> = Vec::new();
    for part in Splitter::default().push(&stream) {
        if let Part::Guest { vm, bytes } = part {
            let vm = usize::from(vm);
            if all.len() <= vm {
                all.resize(vm + 1, Vec::new());
            }
            all[vm].extend(bytes);
        }
    }
    Ok(all)
}

fn taken(workshop: &Workshop) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let pair = |cpus: [&str; 2], more: [&str; 2]| -> [String; 2] {
        ["one", "two"].map(|name| {
            let place = usize::from(name == "two");
            guest(name, &image, cpus[place]) + more[place]
        })
    };
    let rtc = "devices = [\"rtc\"]\n";
    let cases = [
        (
            pair(["[0, 1]", "[1]"], ["", ""]),
            "the guest two, cpus: 1 is no CPU of the machine, or somebody has it already; list others",
        ),
        (
            pair(["1", "1"], [rtc, rtc]),
            "the guest two, devices: rtc is no device that a guest can have, or somebody has it already",
        ),
    ];
    for (tables, sentence) in cases {
        for board in ["virt", "virt-gicv2", "raspi4b"] {
            // The Pi has no clock that a guest could want.
            if board == "raspi4b" && sentence.contains("rtc") {
                continue;
            }
            let (code, said, errors) = start(workshop, &tables, &["--machine", board])?;
            let expected = format!("error: the hypervisor would not start: {sentence}");
            ensure!(
                code == Some(1) && errors.contains(&expected) && !errors.contains("entered at EL2"),
                "on {board} the exit code is {code:?}\n{said}\n{errors}"
            );
        }
    }
    Ok(String::new())
}

fn lost(workshop: &Workshop) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let image = image.display().to_string();
    let one_test = |table: String| table.replace("test=shared", "test=psci_version_is_1_3");
    let tables = [
        guest("one", &image, "2"),
        one_test(guest("two", &image, "2")),
    ];
    let options = ["--fault-injection", "--hv-append", "wedge=3:spin"];
    let (code, said, errors) = start(workshop, &tables, &options)?;
    let both = || format!("standard output:\n{said}\nstandard error:\n{errors}");
    ensure!(code == Some(4), "the exit code is {code:?}\n{}", both());
    for name in ["one", "two"] {
        let done = format!("{name} | DONE");
        let is_done = said.lines().any(|line| line.trim_end() == done);
        ensure!(is_done, "{name} is not done\n{}", both());
    }
    ensure!(!said.contains("| FAIL "), "a test failed\n{}", both());
    let given_up = "the guest vm1 is given up: a CPU never leaves it; others go on";
    let verdict = "the hypervisor crashed (a CPU never left the guest vm1)";
    ensure!(
        errors.contains(given_up) && errors.contains(verdict),
        "it is not said that vm1 is given up\n{}",
        both()
    );
    let named = errors.contains("@hv-stuck pcpu=3 ");
    ensure!(named, "the CPU is not named\n{}", both());
    Ok(String::new())
}
