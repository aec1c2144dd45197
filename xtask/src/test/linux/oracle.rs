//! `kdump --oracle`: the dump of a Linux that has crashed, held against its memory at the instant when the crash kernel began.

mod matrix;
mod running_device;

use anyhow::{Context, Result, ensure};
use introspection::oracle::Who;

use super::cases::CASES;
use super::{Run, control, remark, run_plan};
use crate::ledger::Ledger;
use debian::kernel::KernelVariant;
use lab::instant::PLACE;
use lab::kdump::{Lab, Report, System};
use lab::plan::{Plan, Scenario};
use machine::board::Board;
use machine::el3::El3;
use machine::workshop::Workshop;

pub use matrix::run as run_matrix;

const TRUE: &str = "linux/oracle/one-of-4";
/// A CPU that is wedged and that nobody stops writes while the dump is saved.
const UNSTOPPED: &str = "linux/oracle/one-that-is-not-stopped";
/// All CPUs are wedged, and a capture kernel beside the guest saves the dump. Run when it is named.
const ASSISTED: &str = "linux/oracle/assisted";
/// The same on a Raspberry Pi 4, whose dump is on its SD card.
const ASSISTED_ON_PI: &str = "linux/oracle/assisted-on-a-pi";
/// All CPUs are wedged, and the guest's memory is saved as it is then; by an NMI it dumps itself. Run when it is named.
const BOTH: &str = "linux/oracle/one-wedge-both-ways";

/// Where it is.
const LOOP: &str = "lkdtm_HARDLOCKUP+";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [
        TRUE,
        UNSTOPPED,
        ASSISTED,
        ASSISTED_ON_PI,
        BOTH,
        running_device::NAME,
    ]
    .into_iter()
}

/// Them, on the usual machine.
pub fn runs<'a>(workshop: &'a Workshop, lab: &'a Lab, ledger: &Ledger) -> Vec<Run<'a>> {
    if workshop.board != Board::Virt || workshop.el3 != El3::None {
        return Vec::new();
    }
    let mut runs: Vec<Run<'a>> = vec![
        (TRUE.to_owned(), Box::new(move || is_true(lab))),
        (UNSTOPPED.to_owned(), Box::new(move || unstopped(lab))),
    ];
    if ledger.names(ASSISTED) {
        let run = move || assisted(lab, all_wedged(Scenario::Assisted));
        runs.push((ASSISTED.to_owned(), Box::new(run)));
    }
    if ledger.names(ASSISTED_ON_PI) {
        runs.push((ASSISTED_ON_PI.to_owned(), Box::new(assisted_on_pi)));
    }
    if ledger.names(BOTH) {
        runs.push((BOTH.to_owned(), Box::new(move || both_ways(lab))));
    }
    if ledger.names(running_device::NAME) {
        let run = move || running_device::find(workshop);
        runs.push((running_device::NAME.to_owned(), Box::new(run)));
    }
    runs
}

/// Each register is as the hypervisor saw it, and each page of the dump is what memory was then.
fn assisted(lab: &Lab, plan: Plan) -> Result<String> {
    let report = run_plan(lab, plan, None)?;
    ensure!(report.passed, "{}", report.text());
    judged(&report)
}

fn assisted_on_pi() -> Result<String> {
    let workshop = Workshop::open()?.on(Board::Raspi4b);
    let lab = Lab::prepare(&workshop, &System::Ours(KernelVariant::Plain))?;
    let model = workshop.board.model().context("the board has a CPU")?;
    let plan = Plan {
        model: model.to_owned(),
        ..all_wedged(Scenario::Assisted)
    };
    assisted(&lab, plan)
}

/// The guest's own dump has what memory was when all were wedged, but for what the guest has written on its way: its log at least.
fn both_ways(lab: &Lab) -> Result<String> {
    let report = run_plan(lab, all_wedged(Scenario::Nmi), None)?;
    ensure!(report.passed, "{}", report.text());
    let _writers = judged(&report)?;
    let wedged = report.oracle.as_ref();
    let wedged = wedged.and_then(|oracle| oracle.wedged.as_ref());
    let wedged = wedged.with_context(|| report.text())?;
    let different = &wedged.different;
    ensure!(
        different.pages > 0
            && different.by_nobody == 0
            && different.first.len() as u64 == different.pages
            && wedged.missing.pages == 0,
        "{wedged}"
    );
    Ok(format!(
        "{} pages are equal, and the guest has written to {}",
        wedged.equal(),
        different.pages
    ))
}

fn all_wedged(scenario: Scenario) -> Plan {
    const CPUS: u32 = 4;
    Plan {
        oracle: true,
        wedge: (0..CPUS).collect(),
        ..Plan::new(scenario, CPUS)
    }
}

fn plan() -> Result<Plan> {
    Ok(Plan {
        oracle: true,
        ..CASES[0].plan()?
    })
}

fn is_true(lab: &Lab) -> Result<String> {
    let report = run_plan(lab, plan()?, None)?;
    ensure!(report.passed, "{}", report.text());
    let pages = judged(&report)?;
    Ok(format!("{}, {pages}", remark(&report)))
}

/// The CPU is missing in the dump, and is named as the one that has touched the evidence, where it did: below its stack pointer, with what it had
/// written before.
fn unstopped(lab: &Lab) -> Result<String> {
    let plan = Plan {
        sdei: false,
        writes: true,
        ..plan()?
    };
    let report = run_plan(lab, plan, None)?;
    let pages = judged(&report)?;
    let wedged = |who: &Who| match who {
        Who::Vcpu { vcpu, symbol, .. } => {
            report.plan.wedge.contains(*vcpu)
                && symbol.as_ref().is_some_and(|name| name.starts_with(LOOP))
        }
        Who::Hypervisor { .. } | Who::Guest => false,
    };
    let writers = report.oracle.iter().flat_map(|oracle| &oracle.writers);
    let by_it = writers.filter(|writer| wedged(&writer.who)).count();
    ensure!(
        by_it == 1,
        "the wedged CPU is named {by_it} times\n{}",
        report.text()
    );
    Ok(format!("{}, {pages}", control(&report)?))
}

/// That the crash kernel began where its memory is, on the CPU that has panicked, and that the dump is true.
fn judged(report: &Report) -> Result<String> {
    let oracle = report.oracle.as_ref();
    let oracle = oracle.with_context(|| report.text())?;
    let is_first = match oracle.instant {
        // Of several CPUs that a detector may find wedged one panics.
        Some(instant) => instant.pc == PLACE && Some(instant.vcpu) == report.story.panicked,
        None => report.plan.scenario == Scenario::Assisted,
    };
    ensure!(is_first, "{:x?}", oracle.instant);
    ensure!(oracle.report.is_true(), "{}", report.text());
    let (pages, writers) = (oracle.report.equal(), oracle.writers.len());
    Ok(format!("{pages} pages are equal, {writers} writers"))
}
