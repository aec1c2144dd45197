//! `kdump --oracle`: the dump of a Linux that has crashed, held against its memory at the instant when the crash kernel began.

use anyhow::{Context, Result, ensure};
use introspection::oracle::Who;

use super::cases::CASES;
use super::{Run, control, remark, run_plan};
use lab::instant::PLACE;
use lab::kdump::{Lab, Report};
use lab::plan::Plan;
use machine::board::Board;
use machine::el3::El3;
use machine::workshop::Workshop;

const TRUE: &str = "linux/oracle/one-of-4";
/// A CPU that is wedged and that nobody stops writes while the dump is saved.
const UNSTOPPED: &str = "linux/oracle/one-that-is-not-stopped";

/// Where it is.
const LOOP: &str = "lkdtm_HARDLOCKUP+";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [TRUE, UNSTOPPED].into_iter()
}

/// Them, on the usual machine.
pub fn runs<'a>(workshop: &Workshop, lab: &'a Lab) -> Vec<Run<'a>> {
    if workshop.board != Board::Virt || workshop.el3 != El3::None {
        return Vec::new();
    }
    vec![
        (TRUE.to_owned(), Box::new(move || is_true(lab))),
        (UNSTOPPED.to_owned(), Box::new(move || unstopped(lab))),
    ]
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
        Who::Hypervisor { .. } => false,
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
    ensure!(
        oracle.instant.pc == PLACE && oracle.instant.vcpu == report.plan.panic,
        "{:x?}",
        oracle.instant
    );
    ensure!(oracle.report.is_true(), "{}", report.text());
    Ok(format!("{} writers", oracle.writers.len()))
}
