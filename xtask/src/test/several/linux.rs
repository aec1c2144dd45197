//! Linux among several guests: each is wedged, panics and dumps, and the others go on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::ledger::Ledger;
use crate::test::operator::code::COMPUTE;
use debian::kernel::KernelVariant;
use debian::paths;
use lab::kdump::{Beside, Lab, Report, System, Together};
use lab::plan::{Plan, Scenario};
use machine::board::Board;
use machine::workshop::Workshop;

/// The names of these tests. All but the third run when they are named.
pub const NAMES: [&str; 5] = [
    "several/linux-dumps-beside-one-that-computes",
    "several/linux-is-reached-by-an-nmi-beside-one-that-computes",
    "several/linux-dumps-twice-at-once",
    "several/linux-dumps-twice-at-once-on-gicv2",
    "several/linux-dumps-four-at-once",
];

/// How often the last is done, if not once.
const REPEAT: &str = "HALLIGAN_REPEAT";

/// How long a run may take, with other work on the host.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Runs those that are named.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [dump, nmi, both, gicv2, four] = NAMES;
    let all = |board| move || twice(workshop, board);
    if ledger.names(dump) {
        ledger.check(dump, || beside(workshop, Scenario::Kdump, "2"));
    }
    if ledger.names(nmi) {
        ledger.check(nmi, || beside(workshop, Scenario::Nmi, "0-3"));
    }
    ledger.check(both, all(Board::Virt));
    if ledger.names(gicv2) {
        ledger.check(gicv2, all(Board::VirtGicv2));
    }
    if ledger.names(four) {
        ledger.check(four, || often(|| four_times(workshop)));
    }
}

/// Does `run` as often as [`REPEAT`] says: what the last has said, with how long each took.
fn often(run: impl Fn() -> Result<String>) -> Result<String> {
    let times = match std::env::var(REPEAT) {
        Ok(times) => times
            .parse()
            .with_context(|| format!("{REPEAT}={times} is no number"))?,
        Err(_) => 1,
    };
    let mut took = Vec::new();
    let mut said = String::new();
    for number in 1..=times {
        let started = Instant::now();
        said = run().with_context(|| format!("run {number} of {times}"))?;
        took.push(format!("{} s", started.elapsed().as_secs()));
    }
    Ok(format!("{said}; {}", took.join(", ")))
}

/// Four guests of two CPUs each.
fn four_times(workshop: &Workshop) -> Result<String> {
    let plan = || plan(Scenario::Kdump, 2, "1", 0);
    let plans = [plan()?, plan()?, plan()?, plan()?];
    let mut mixed = Vec::new();
    let show = |_: u8, line: &str| {
        if line.matches("LAB: ").count() > 1 {
            mixed.push(line.to_owned());
        }
    };
    let reports = run_all(workshop, Board::Virt, (&plans, &[]), show)?;
    ensure!(mixed.is_empty(), "lines are mixed: {mixed:?}");
    remark(&reports)
}

fn plan(scenario: Scenario, cpus: u32, wedge: &str, panic: u32) -> Result<Plan> {
    Ok(Plan {
        // The guest that computes signs pointers.
        model: "max".to_owned(),
        wedge: wedge.parse().map_err(anyhow::Error::msg)?,
        panic,
        ..Plan::new(scenario, cpus)
    })
}

fn lab(workshop: &Workshop, board: Board) -> Result<Lab> {
    let lab = Lab::prepare(workshop, &System::Ours(KernelVariant::Plain))?;
    Ok(lab.on(board))
}

/// A guest that computes, and ends as soon as something is not as it is to be.
pub fn compute(workshop: &Workshop) -> Result<PathBuf> {
    let kernel = workshop.output("operator-compute.bin")?;
    let bytes: Vec<u8> = COMPUTE.iter().flat_map(|word| word.to_le_bytes()).collect();
    paths::write_if_new(&kernel, &bytes)?;
    Ok(kernel)
}

/// A guest file with that guest alone.
fn computes(workshop: &Workshop) -> Result<PathBuf> {
    let kernel = compute(workshop)?;
    let file = workshop.output("several-computes.toml")?;
    let kernel = kernel.display();
    let text = format!("[[guest]]\nname = \"computes\"\nkernel = \"{kernel}\"\nmemory = \"64M\"\n");
    paths::write_if_new(&file, text.as_bytes())?;
    Ok(file)
}

fn beside(workshop: &Workshop, scenario: Scenario, wedge: &str) -> Result<String> {
    let plans = [plan(scenario, 4, wedge, 0)?];
    let beside = Beside::read(&computes(workshop)?, workshop)?;
    let mut said = Vec::new();
    let show = |vm: u8, line: &str| {
        if vm != 0 {
            said.push(line.to_owned());
        }
    };
    let reports = run_all(workshop, Board::Virt, (&plans, &beside), show)?;
    ensure!(said.is_empty(), "the guest beside has said {said:?}");
    remark(&reports)
}

fn twice(workshop: &Workshop, board: Board) -> Result<String> {
    let plans = [
        plan(Scenario::Kdump, 4, "2", 0)?,
        plan(Scenario::Kdump, 4, "0-2", 3)?,
    ];
    remark(&run_all(workshop, board, (&plans, &[]), |_, _| ())?)
}

fn run_all(
    workshop: &Workshop,
    board: Board,
    (plans, beside): (&[Plan], &[Beside]),
    show: impl FnMut(u8, &str),
) -> Result<Vec<Report>> {
    let together = Together {
        plans,
        beside,
        timeout: TIMEOUT,
        keep: None,
    };
    let reports = lab(workshop, board)?.run_together(&together, show)?;
    for (number, report) in reports.iter().enumerate() {
        ensure!(report.passed, "guest {number}: {}", report.text());
    }
    Ok(reports)
}

fn remark(reports: &[Report]) -> Result<String> {
    let release = |report: &Report| {
        let dump = report.dump.as_ref().context("there is no dump")?;
        Ok(format!(
            "{:.1} MB of Linux {}",
            dump.bytes as f64 / 1e6,
            dump.release
        ))
    };
    let all: Result<Vec<String>> = reports.iter().map(release).collect();
    Ok(all?.join("; "))
}
