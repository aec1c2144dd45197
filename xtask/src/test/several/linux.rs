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
pub const NAMES: [&str; 10] = [
    "several/linux-dumps-beside-one-that-computes",
    "several/linux-is-reached-by-an-nmi-beside-one-that-computes",
    "several/linux-dumps-twice-at-once",
    "several/linux-dumps-twice-at-once-on-gicv2",
    "several/linux-dumps-four-at-once",
    "several/linux-dumps-four-at-once-on-gicv2",
    "several/linux-dumps-in-turn-beside-one-that-lives",
    "several/linux-dumps-in-turn-beside-three-that-live",
    "several/linux-dumps-in-turn-on-gicv2",
    "several/linux-on-a-pi-hands-the-card-over",
];

/// How often each that is named is done, if not once.
const REPEAT: &str = "HALLIGAN_REPEAT";

/// How long a run may take, with other work on the host.
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Runs those that are named.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let [
        dump,
        nmi,
        both,
        both_v2,
        four,
        four_v2,
        turn,
        turn_of_four,
        turn_v2,
        card,
    ] = NAMES;
    let mut named = |name: &str, run: &dyn Fn() -> Result<String>| {
        if ledger.names(name) {
            ledger.check(name, || often(run));
        }
    };
    named(dump, &|| beside(workshop, Scenario::Kdump, "2"));
    named(nmi, &|| beside(workshop, Scenario::Nmi, "0-3"));
    named(both_v2, &|| twice(workshop, Board::VirtGicv2));
    named(four, &|| four_times(workshop, Board::Virt));
    named(four_v2, &|| four_times(workshop, Board::VirtGicv2));
    named(turn, &|| in_turn(workshop, Board::Virt, 2));
    named(turn_of_four, &|| in_turn(workshop, Board::Virt, 4));
    named(turn_v2, &|| in_turn(workshop, Board::VirtGicv2, 2));
    named(card, &|| hand_over(&Workshop::open()?.on(Board::Raspi4b)));
    ledger.check(both, || often(|| twice(workshop, Board::Virt)));
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
fn four_times(workshop: &Workshop, board: Board) -> Result<String> {
    let plan = || plan(Scenario::Kdump, 2, "1", 0);
    let plans = [plan()?, plan()?, plan()?, plan()?];
    let mut mixed = Vec::new();
    let show = |_: u8, line: &str| {
        if line.matches("LAB: ").count() > 1 {
            mixed.push(line.to_owned());
        }
    };
    let reports = run_all(workshop, board, (&plans, &[]), 0, show)?;
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
    let reports = run_all(workshop, Board::Virt, (&plans, &beside), 0, show)?;
    ensure!(said.is_empty(), "the guest beside has said {said:?}");
    remark(&reports)
}

fn twice(workshop: &Workshop, board: Board) -> Result<String> {
    let plans = [
        plan(Scenario::Kdump, 4, "2", 0)?,
        plan(Scenario::Kdump, 4, "0-2", 3)?,
    ];
    remark(&run_all(workshop, board, (&plans, &[]), 0, |_, _| ())?)
}

/// On a board with one card: the guest that has it does the whole job, while one CPU of the other is wedged and the other panics, without
/// a kernel that would save anything. Then the other is the one that has the card.
fn hand_over(workshop: &Workshop) -> Result<String> {
    let file = workshop.output("several-panics.toml")?;
    let text = "[[guest]]\nname = \"panics\"\ncpus = 2\nmemory = \"512M\"\n\
                append = \"lab.do=kdump lab.capture=no lab.wedge=1\"\n";
    paths::write_if_new(&file, text.as_bytes())?;
    let beside = Beside::read(&file, workshop)?;
    let model = Board::Raspi4b.model().context("the board has a model")?;
    let plans = [Plan {
        model: model.to_owned(),
        ..plan(Scenario::Kdump, 2, "1", 0)?
    }];
    let mut all = Vec::new();
    for owner in 0..=1 {
        let mut said = Vec::new();
        let show = |vm: u8, line: &str| {
            if vm != owner {
                said.push(line.to_owned());
            }
        };
        let reports = run_all(workshop, Board::Raspi4b, (&plans, &beside), owner, show)
            .with_context(|| format!("guest {owner} has the card"))?;
        for words in [
            "LAB: wedged cpu=1",
            "Kernel panic - not syncing: sysrq triggered crash",
            "SMP: retry stop with SDEI NMI for CPUs 1",
        ] {
            let is_said = said.iter().any(|line| line.contains(words));
            ensure!(
                is_said,
                "guest {owner} has the card, and the other has not said {words}: {said:?}"
            );
        }
        let has_failed =
            |line: &&String| line.contains("failed to stop") || line.contains("LAB: fail");
        let failed = said.iter().find(has_failed);
        ensure!(
            failed.is_none(),
            "the guest without the card says {failed:?}"
        );
        all.push(remark(&reports)?);
    }
    Ok(all.join("; "))
}

/// Of so many guests that share eight CPUs each in its turn does the whole job, while all others live (`lab.do=life`): their CPUs go
/// off and on, all are sent event 0 and sampled, and their kernels have nothing to complain of.
fn in_turn(workshop: &Workshop, board: Board, guests: u8) -> Result<String> {
    let cpus = 8 / u32::from(guests);
    let file = workshop.output("several-lives.toml")?;
    // They are not through before the job is.
    let life = |number: u8| {
        format!(
            "[[guest]]\nname = \"life-{number}\"\ncpus = {cpus}\nmemory = \"512M\"\n\
             append = \"lab.do=life lab.minutes=600 lab.wedge=1\"\n"
        )
    };
    let text: String = (1..guests).map(life).collect();
    paths::write_if_new(&file, text.as_bytes())?;
    let beside = Beside::read(&file, workshop)?;
    let plans = [plan(Scenario::Kdump, cpus, "1", 0)?];
    let mut all = Vec::new();
    for turn in 0..guests {
        let mut lives = vec![Life::default(); usize::from(guests)];
        let show = |vm: u8, line: &str| {
            if let Some(life) = lives.get_mut(usize::from(vm)) {
                life.note(line);
            }
        };
        let reports = run_all(workshop, board, (&plans, &beside), turn, show)
            .with_context(|| format!("the turn of guest {turn}"))?;
        lives.remove(usize::from(turn));
        for life in &lives {
            let is_well = life.is_up && life.complaints.is_empty();
            ensure!(is_well, "in the turn of guest {turn} a life is {life:?}");
        }
        let rounds: Vec<_> = lives.iter().map(|life| life.rounds).collect();
        all.push(format!("{}, beside rounds {rounds:?}", remark(&reports)?));
    }
    Ok(all.join("; "))
}

/// What a guest has said that lives.
#[derive(Clone, Debug, Default)]
struct Life {
    /// It has come up with SDEI.
    is_up: bool,
    /// How often it has taken each CPU off and on.
    rounds: u32,
    /// What it or its kernel has found amiss.
    complaints: Vec<String>,
}

impl Life {
    fn note(&mut self, line: &str) {
        self.is_up |= line.contains("LAB: up ") && line.contains("sdei=yes");
        let is_bad = match line.split_once("LAB: round=") {
            Some((_, round)) => {
                self.rounds += 1;
                round.trim_end() != self.rounds.to_string()
            }
            None => line.contains("LAB: fail") || line.contains("Kernel panic"),
        };
        if is_bad || line.matches("LAB: ").count() > 1 {
            self.complaints.push(line.to_owned());
        }
    }
}

fn run_all(
    workshop: &Workshop,
    board: Board,
    (plans, beside): (&[Plan], &[Beside]),
    before: u8,
    show: impl FnMut(u8, &str),
) -> Result<Vec<Report>> {
    let together = Together {
        plans,
        beside,
        before,
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
