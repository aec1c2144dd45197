//! `kdump --oracle` with each scenario, ending and firmware. Run when its rows are named: `cargo xtask test oracle-matrix/`.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use hv_abi::firmware::Fault;

use super::super::cases::USUAL;
use super::super::{Run, prepare, remark, run_plan};
use super::{all_wedged, judged};
use crate::ledger::Ledger;
use debian::kernel::KernelVariant;
use lab::kdump::{Lab, System};
use lab::place::Place;
use lab::plan::{Fate, Plan, Scenario};
use machine::board::Board;
use machine::build::Program;
use machine::el3::El3;
use machine::workshop::Workshop;

/// What all names begin with.
const PREFIX: &str = "oracle-matrix/";
/// Firmware with which the wedged CPU is missing in the dump, whose pages are true all the same.
const LOSING: [&str; 3] = ["absent", "register-refused", "signal-lost=1"];

/// One of them.
struct Row {
    name: String,
    plan: Plan,
    board: Board,
}

impl Row {
    fn new(name: &str, plan: Plan) -> Self {
        Self {
            name: format!("{PREFIX}{name}"),
            plan,
            board: Board::Virt,
        }
    }

    /// Whether no CPU may be missing.
    fn is_whole(&self) -> bool {
        !LOSING.contains(&self.plan.firmware.as_str())
    }
}

fn rows() -> Result<Vec<Row>> {
    let usual = Plan {
        oracle: true,
        ..USUAL.plan()?
    };
    let mut rows = Vec::new();
    for scenario in Scenario::value_variants() {
        let name = format!("scenario/{}", named(scenario));
        let wedge = match scenario {
            Scenario::Panic => Default::default(),
            _ => usual.wedge.clone(),
        };
        let plan = Plan {
            scenario: *scenario,
            wedge,
            ..usual.clone()
        };
        match scenario {
            Scenario::Nmi => {
                for &place in Place::value_variants() {
                    let name = format!("{name}/{}", place.name());
                    let plan = all_wedged(*scenario);
                    rows.push(Row::new(&name, Plan { place, ..plan }));
                }
            }
            _ if plan.wedges_all() => rows.push(Row::new(&name, all_wedged(*scenario))),
            _ if scenario.dumps() => rows.push(Row::new(&name, plan)),
            _ => {}
        }
    }
    rows.push(Row {
        board: Board::VirtGicv2,
        ..Row::new("gicv2", usual.clone())
    });
    let reclaim = true;
    let plan = usual.clone();
    rows.push(Row::new("reclaim", Plan { reclaim, ..plan }));
    for fate in Fate::value_variants() {
        let name = format!("ending/{}", fate.name());
        let (fate, plan) = (Some(*fate), usual.clone());
        rows.push(Row::new(&name, Plan { fate, ..plan }));
    }
    let faults = Fault::ALL.iter().map(|(_, name)| *name);
    let others = [
        "signal-lost=1",
        "signal-delayed=1000",
        "tfa-2.12",
        "tfa-2.13",
    ];
    for firmware in faults.chain(others) {
        let name = format!("firmware/{firmware}");
        let (firmware, plan) = (firmware.to_owned(), usual.clone());
        rows.push(Row::new(&name, Plan { firmware, ..plan }));
    }
    Ok(rows)
}

fn named(scenario: &Scenario) -> String {
    let value = scenario.to_possible_value();
    value.map_or(String::new(), |value| value.get_name().to_owned())
}

/// Runs those that are named.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if !ledger.names(PREFIX) || workshop.board != Board::Virt || workshop.el3 != El3::None {
        return;
    }
    let Ok(rows) = rows() else {
        return;
    };
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| ledger.wants(&row.name))
        .collect();
    for variant in [KernelVariant::Plain, KernelVariant::Endings] {
        let of_variant = |row: &&Row| row.plan.kernel_variant() == variant;
        let rows: Vec<&Row> = rows.iter().filter(of_variant).collect();
        if rows.is_empty() {
            continue;
        }
        let Some(lab) = prepare(workshop, variant, ledger) else {
            return;
        };
        let runs: Vec<Run<'_>> = rows
            .into_iter()
            .map(|row| {
                let lab = &lab;
                let run = move || one(workshop, lab, row);
                (row.name.clone(), Box::new(run) as Box<_>)
            })
            .collect();
        ledger.check_each(&runs, |_, run| run());
    }
}

/// The dump is true, and no CPU is missing but where firmware loses it.
fn one(workshop: &Workshop, lab: &Lab, row: &Row) -> Result<String> {
    let test_image;
    let lab = match row.plan.program() {
        Program::FaultInjection => {
            let system = System::Ours(row.plan.kernel_variant());
            test_image = Lab::prepare_with(workshop, &system, Program::FaultInjection)?;
            &test_image
        }
        _ => lab,
    };
    let report = run_plan(&lab.clone().on(row.board), row.plan.clone(), None)?;
    ensure!(
        report.passed == row.is_whole() && report.oracle.is_some(),
        "{}",
        report.text()
    );
    let pages = judged(&report)?;
    if let Some(folder) = &report.folder {
        // It failed as it had to: nothing is to be looked at.
        std::fs::remove_dir_all(folder)?;
    }
    Ok(format!("{}, {pages}", remark(&report)))
}
