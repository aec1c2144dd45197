//! Flat binaries get what QEMU gives them without a hypervisor: the program `guest-tests/flat` says what it has got.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::ledger::Ledger;
use crate::run;
use machine::board::Board;
use machine::build::{self, Program};
use machine::el3::El3;
use machine::ending::{Ending, Watch};
use machine::guest::Options;
use machine::qemu::{Event, Machine};
use machine::raspi4b;
use machine::report::Report;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// A boot on bare QEMU and one under the hypervisor: RAM in MiB, and bytes of the kernel, if it is padded, and the initrd.
type Sizes = (&'static str, u64, Option<u64>, Option<u64>);

/// QEMU has an initrd at half of RAM, at 128 MiB, and behind a large kernel.
const SIZES: [Sizes; 4] = [
    ("run/flat/128-mib", 128, None, None),
    ("run/flat/256-mib-and-an-initrd", 256, None, Some(5_255_225)),
    ("run/flat/384-mib-and-a-small-initrd", 384, None, Some(100)),
    (
        "run/flat/a-kernel-larger-than-128-mib",
        512,
        Some((129 << 20) + 1),
        Some(4097),
    ),
];

/// Addresses for the devicetree, and what is said of them: nothing if it can be there.
const WANTED: [(&str, u64, &str); 4] = [
    ("run/flat/dtb-at", 0x4100_0008, ""),
    (
        "run/flat/dtb-at-outside-ram",
        0x7000_0000,
        "dtb-at 0x70000000, for a devicetree of ",
    ),
    (
        "run/flat/dtb-at-over-the-kernel",
        0x4008_0008,
        " KiB, is over the kernel; choose another address",
    ),
    (
        "run/flat/dtb-at-over-the-initrd",
        0x4400_0008,
        " KiB, is over the initrd; choose another address",
    ),
];

const PI: &str = "run/flat/raspi4b";
const U_BOOT: &str = "run/flat/raspi4b-u-boot";

/// How long a boot may take, with other work on the host.
const LIMIT: Duration = Duration::from_secs(240);

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    let sizes = SIZES.iter().map(|(name, ..)| *name);
    let wanted = WANTED.iter().map(|(name, ..)| *name);
    sizes.chain(wanted).chain([PI, U_BOOT])
}

/// Runs them, the one that fetches a package of Debian's only if it is not to be quick.
pub fn run(workshop: &Workshop, ledger: &mut Ledger, is_quick: bool) {
    if workshop.board != Board::Virt || workshop.el3 != El3::None {
        return;
    }
    for sizes in SIZES {
        ledger.check(sizes.0, || compare(workshop, sizes));
    }
    for (name, at, refusal) in WANTED {
        ledger.check(name, || move_devicetree(workshop, at, refusal));
    }
    on_board(PI, workshop, ledger, on_a_pi);
    if !is_quick {
        on_board(U_BOOT, workshop, ledger, u_boot);
    }
}

/// Runs a test of a Raspberry Pi 4, if QEMU knows one.
pub(super) fn on_board(
    name: &str,
    workshop: &Workshop,
    ledger: &mut Ledger,
    check: impl FnOnce(&Workshop) -> Result<String>,
) {
    if !ledger.wants(name) {
        return;
    }
    match debian::tools::qemu(&workshop.cache, &workshop.progress) {
        Ok(qemu) if !raspi4b::is_known(&qemu).unwrap_or(true) => {
            ledger.skipped(name, "this QEMU does not know raspi4b");
        }
        _ => ledger.check(name, || check(workshop)),
    }
}

/// What came of a boot.
pub(super) struct Booted {
    /// What the guest has written.
    pub(super) console: String,
    pub(super) ending: Ending,
    /// The hypervisor's own lines.
    pub(super) lines: Vec<String>,
    /// Bytes that the hypervisor keeps for itself: its home and its copy of the bundle.
    ours: u64,
}

/// Boots what `options` describe, on bare QEMU if `bare`.
pub(super) fn boot(options: &Options, bare: bool) -> Result<Booted> {
    let folder = RunDir::create(None)?;
    let machine = run::machine(options, bare, Program::Hypervisor, &folder)?.machine;
    let bundle = folder.file("bundle.itb");
    let kept = fs::metadata(bundle).map_or(0, |bundle| bundle.len().next_multiple_of(4096));
    let mut booted = listen(&machine, |_| false)?;
    // `halligan 0.1.0 at 0x4fe00000, 2048 KiB`
    let mut homes = booted.lines.iter().filter_map(|line| {
        let (_, size) = line.strip_prefix("halligan ")?.rsplit_once(", ")?;
        size.strip_suffix(" KiB")?.parse::<u64>().ok()
    });
    booted.ours = homes.next().map_or(0, |kib| kept + (kib << 10));
    Ok(booted)
}

/// Collects what `machine` says until it ends, or until `is_enough` of its guest's console.
fn listen(machine: &Machine, is_enough: impl Fn(&str) -> bool) -> Result<Booted> {
    let mut session = machine.start(Some(LIMIT))?;
    let mut watch = Watch::default();
    let (mut console, mut lines) = (Vec::new(), Vec::new());
    let timed_out = loop {
        match session.next_event()? {
            Event::Guest { bytes, .. } => {
                console.extend(bytes);
                if is_enough(&String::from_utf8_lossy(&console)) {
                    break false;
                }
            }
            Event::Line(line) => {
                watch.follow(&line, &mut session)?;
                lines.push(line.text);
            }
            Event::Complaint(_) => {}
            Event::Ended(_) | Event::Left => break false,
            Event::TimedOut => break true,
        }
    };
    Ok(Booted {
        console: String::from_utf8_lossy(&console).into_owned(),
        ending: watch.ending(timed_out),
        lines,
        ours: 0,
    })
}

impl Booted {
    fn report(&self) -> Result<Report> {
        Report::parse(&self.console).with_context(|| {
            let Self { console, lines, .. } = self;
            format!("{}\n{console}\n{}", self.ending, lines.join("\n"))
        })
    }
}

/// The program, padded to `size` if it is given.
fn program(workshop: &Workshop, size: Option<u64>) -> Result<PathBuf> {
    let image = build::build(workshop, Program::Flat)?.image;
    let Some(size) = size else {
        return Ok(image);
    };
    let padded = workshop.output("flat-padded.bin")?;
    fs::copy(image, &padded)?;
    fs::File::options()
        .write(true)
        .open(&padded)?
        .set_len(size)?;
    Ok(padded)
}

fn compare(workshop: &Workshop, (_, memory, kernel, initrd): Sizes) -> Result<String> {
    let mut options = Options {
        kernel: Some(program(workshop, kernel)?),
        cpus: Some(1.into()),
        memory: Some(format!("{memory}M")),
        ..Options::default()
    };
    if let Some(size) = initrd {
        options.initrd = Some(ramdisk(workshop, size)?);
    }
    let booted = boot(&options, false)?;
    let (bare, own) = (boot(&options, true)?.report()?, booted.report()?);
    let differences = bare.differences(&own);
    ensure!(differences.is_empty(), "{differences}");
    for name in ["at", "el", "daif", "x0", "x30", "sp", "sctlr_el1", "nzcv"] {
        let _there = own.fact(name)?;
    }
    ensure!(
        bare.initrd == own.initrd && own.initrd.is_some() == initrd.is_some(),
        "the initrd is at {:x?}, with us at {:x?}",
        bare.initrd,
        own.initrd
    );
    for report in [&bare, &own] {
        let (ram, described) = (&report.ram, &report.described);
        ensure!(
            ram == described,
            "there is memory at {ram:x?}, the devicetree says {described:x?}"
        );
    }
    let size = |report: &Report| -> u64 {
        let sizes = report.ram.iter().map(|range| range.end - range.start);
        sizes.sum()
    };
    let (all, has) = (size(&bare), size(&own));
    ensure!(
        all == memory << 20 && booted.ours != 0 && all - has == booted.ours,
        "of {all} bytes {} are the hypervisor's, the guest has {has}",
        booted.ours
    );
    // Nothing of what the guest boots with is where it has no memory.
    let dtb = own.fact("x0")?;
    let is_there = |from: u64, to: u64| {
        let mut ranges = own.ram.iter();
        ranges.any(|range| range.start <= from && to <= range.end)
    };
    let initrd = own.initrd.clone().unwrap_or(dtb..dtb);
    ensure!(
        is_there(dtb, dtb + own.dtb_size) && is_there(initrd.start, initrd.end),
        "{own:x?}"
    );
    Ok(format!("the devicetree is at {dtb:#x}"))
}

fn ramdisk(workshop: &Workshop, size: u64) -> Result<PathBuf> {
    let path = workshop.output("flat-initrd.bin")?;
    fs::write(&path, vec![0x55; usize::try_from(size)?])?;
    Ok(path)
}

fn move_devicetree(workshop: &Workshop, at: u64, refusal: &str) -> Result<String> {
    let options = Options {
        kernel: Some(program(workshop, None)?),
        initrd: Some(ramdisk(workshop, 100)?),
        cpus: Some(1.into()),
        memory: Some("128M".into()),
        dtb_at: Some(at),
        ..Options::default()
    };
    let booted = boot(&options, false)?;
    if refusal.is_empty() {
        let report = booted.report()?;
        let found = report.fact("x0")?;
        ensure!(found == at, "the devicetree is at {found:#x}");
        ensure!(report.initrd == Some(0x4400_0000..0x4400_0064));
        return Ok(String::new());
    }
    let mut lines = booted.lines.iter();
    let said = lines.find_map(|line| line.strip_prefix("cannot start: "));
    let said = said.with_context(|| format!("it was not refused, but {}", booted.ending))?;
    ensure!(
        said.contains(refusal),
        "it does not say `{refusal}`: {said}"
    );
    Ok(said.to_owned())
}

/// A Raspberry Pi 4: the first page of RAM is reserved, and RAM is in two banks.
fn on_a_pi(workshop: &Workshop) -> Result<String> {
    let options = Options {
        kernel: Some(program(workshop, None)?),
        machine: Some(Board::Raspi4b),
        ..Options::default()
    };
    let booted = boot(&options, false)?;
    let report = booted.report()?;
    for (name, expected) in [("at", 0x8_0000), ("linked", 0x8_0000), ("absolute", 1)] {
        let found = report.fact(name)?;
        ensure!(found == expected, "{name} is {found:#x}, not {expected:#x}");
    }
    let dtb = report.fact("x0")?;
    ensure!(dtb == 128 << 20, "the devicetree is at {dtb:#x}");
    let end = (2 << 30) - booted.ours;
    let ram = [0x1000..0x3c00_0000, 0x4000_0000..end];
    ensure!(
        booted.ours != 0 && report.ram == ram && report.described == ram,
        "there is memory at {:x?}, the devicetree says {:x?}, {:#x} bytes are the hypervisor's",
        report.ram,
        report.described,
        booted.ours
    );
    let [low, high] = ram.map(|range| (range.end - range.start) >> 10);
    let all = low + high;
    let told =
        format!("{all} KiB of memory: {low} KiB at 0x1000 and {high} KiB at 0x40000000, SDEI on");
    ensure!(
        booted.lines.iter().any(|line| line.ends_with(&told)),
        "the log does not say `{told}`:\n{}",
        booted.lines.join("\n")
    );
    Ok(String::new())
}

/// Debian's U-Boot for the board writes the same as without the hypervisor, up to its prompt, but for what [`alike`] leaves
/// out.
fn u_boot(workshop: &Workshop) -> Result<String> {
    let options = Options {
        kernel: Some(raspi4b::u_boot(workshop)?),
        machine: Some(Board::Raspi4b),
        ..Options::default()
    };
    let written = |bare| -> Result<Vec<String>> {
        let folder = RunDir::create(None)?;
        let machine = run::machine(&options, bare, Program::Hypervisor, &folder)?.machine;
        let booted = listen(&machine, |console| console.ends_with(PROMPT))?;
        ensure!(
            booted.console.ends_with(PROMPT),
            "U-Boot does not reach its prompt ({}):\n{}",
            booted.ending,
            booted.console
        );
        Ok(booted.console.lines().map(alike).collect())
    };
    let (bare, own) = (written(true)?, written(false)?);
    ensure!(
        bare == own,
        "without the hypervisor:\n{}\nwith it:\n{}",
        bare.join("\n"),
        own.join("\n")
    );
    Ok(format!("{} lines", own.len()))
}

/// A line of U-Boot's without what cannot be the same: how many devices its devicetree has, of which a guest has fewer, and
/// that there is a second bank of RAM, which QEMU drops from the devicetree that it hands over itself.
fn alike(line: &str) -> String {
    if let Some((bank, _)) = line.split_once(" (effective ")
        && line.starts_with("DRAM:")
    {
        return bank.to_owned();
    }
    match line.split_once(" uclasses, ") {
        Some((counts, rest)) if counts.starts_with("Core: ") => format!("Core: {rest}"),
        _ => line.trim_end().to_owned(),
    }
}

/// What U-Boot's shell says when it waits.
const PROMPT: &str = "\nU-Boot> ";

#[cfg(test)]
mod tests {
    use super::alike;

    #[test]
    fn what_the_devicetree_makes_different_is_left_out_and_no_more() {
        for (one, other) in [
            ("DRAM:  960 MiB", "DRAM:  960 MiB (effective 1.9 GiB)"),
            (
                "Core:  169 devices, 14 uclasses, devicetree: board",
                "Core:  162 devices, 11 uclasses, devicetree: board",
            ),
        ] {
            assert_eq!(alike(one), alike(other));
        }
        for (one, other) in [
            ("DRAM:  960 MiB", "DRAM:  959 MiB (effective 1.9 GiB)"),
            (
                "Core:  169 devices, 14 uclasses, devicetree: board",
                "Core:  169 devices, 14 uclasses, devicetree: separate",
            ),
            ("Net:   No ethernet found.", "Net:   eth0"),
        ] {
            assert_ne!(alike(one), alike(other));
        }
    }
}
