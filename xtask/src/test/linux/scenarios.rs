//! What else can become of Linux and its wedged CPUs: restarts, panics at the wrong time or place, CPUs that go off, sleep; and the stop
//! ladder with pseudo-NMIs, which has a rung more.

use anyhow::{Context, Result, bail, ensure};

use super::cases::USUAL;
use super::{Run, run_plan};
use crate::ledger::Ledger;
use lab::kdump::{Lab, Report};
use lab::ladder::Stopped;
use lab::place::Place;
use lab::plan::{Plan, Scenario};
use machine::board::Board;
use machine::workshop::Workshop;

/// What all names begin with that are run when they are named.
const PREFIX: &str = "scenario/";

/// What must come of a run.
#[derive(Clone, Copy)]
enum Must {
    /// All is as it must be.
    Pass,
    /// It fails, and says this.
    Fail(&'static str),
    /// All is as it must be, and every wedged CPU was stopped by a pseudo-NMI.
    ByPseudoNmi,
    /// The same, by SDEI, after pseudo-NMIs in vain.
    BySdei,
}

/// A row.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    scenario: Scenario,
    place: Place,
    /// Whether Linux masks interrupts by their priority.
    pseudo_nmi: bool,
    sdei: bool,
    must: Must,
}

/// What most of them have.
const ROW: Row = Row {
    name: "",
    scenario: Scenario::Kdump,
    place: Place::El1,
    pseudo_nmi: false,
    sdei: true,
    must: Must::Pass,
};

/// What a run without SDEI says of a CPU that takes no event 0.
const NO_EVENT: &str = "took no event 0";

/// All of them; the suite has those whose names do not begin with [`PREFIX`].
const ROWS: [Row; 18] = [
    Row {
        name: "linux/pseudo-nmi/by-priority",
        pseudo_nmi: true,
        must: Must::ByPseudoNmi,
        ..ROW
    },
    Row {
        name: "scenario/two-panics",
        scenario: Scenario::TwoPanics,
        ..ROW
    },
    Row {
        name: "scenario/reboot",
        scenario: Scenario::Reboot,
        ..ROW
    },
    Row {
        name: "scenario/pseudo-nmi/in-an-interrupt",
        pseudo_nmi: true,
        // Its handler has PSTATE.I set.
        place: Place::Interrupt,
        must: Must::BySdei,
        ..ROW
    },
    Row {
        name: "scenario/pseudo-nmi/without-sdei",
        pseudo_nmi: true,
        sdei: false,
        must: Must::ByPseudoNmi,
        ..ROW
    },
    Row {
        name: "scenario/pseudo-nmi/reboot",
        scenario: Scenario::Reboot,
        pseudo_nmi: true,
        ..ROW
    },
    Row {
        name: "scenario/post-notifiers",
        scenario: Scenario::PostNotifiers,
        ..ROW
    },
    Row {
        name: "scenario/panic-in-handler",
        scenario: Scenario::PanicInHandler,
        ..ROW
    },
    Row {
        name: "scenario/nested-panic",
        scenario: Scenario::NestedPanic,
        ..ROW
    },
    Row {
        name: "scenario/kexec",
        scenario: Scenario::Kexec,
        ..ROW
    },
    Row {
        name: "scenario/hotplug",
        scenario: Scenario::Hotplug,
        ..ROW
    },
    Row {
        name: "scenario/suspend",
        scenario: Scenario::Suspend,
        ..ROW
    },
    Row {
        name: "scenario/in-an-interrupt",
        place: Place::Interrupt,
        ..ROW
    },
    Row {
        name: "scenario/in-an-interrupt/hardlockup",
        scenario: Scenario::Hardlockup,
        place: Place::Interrupt,
        ..ROW
    },
    Row {
        name: "scenario/without-sdei/reboot",
        scenario: Scenario::Reboot,
        sdei: false,
        must: Must::Fail("CPU 2 was not stopped, as the guest itself reports"),
        ..ROW
    },
    Row {
        name: "scenario/without-sdei/two-panics",
        scenario: Scenario::TwoPanics,
        sdei: false,
        must: Must::Fail("CPU 2 was not stopped, as the guest itself reports"),
        ..ROW
    },
    Row {
        name: "scenario/without-sdei/kexec",
        scenario: Scenario::Kexec,
        sdei: false,
        must: Must::Fail(NO_EVENT),
        ..ROW
    },
    Row {
        name: "scenario/without-sdei/suspend",
        scenario: Scenario::Suspend,
        sdei: false,
        must: Must::Fail(NO_EVENT),
        ..ROW
    },
];

impl Row {
    fn plan(self) -> Result<Plan> {
        let nobody = matches!(
            self.scenario,
            Scenario::Kexec | Scenario::Hotplug | Scenario::Suspend
        );
        let plan = USUAL.plan()?;
        Ok(Plan {
            scenario: self.scenario,
            wedge: if nobody {
                Default::default()
            } else {
                plan.wedge
            },
            place: self.place,
            pseudo_nmi: self.pseudo_nmi,
            sdei: self.sdei,
            // A pseudo-NMI has 10 ms, a CPU that goes off 100, and two panics are to meet: other work on the host changes nothing.
            icount: self.pseudo_nmi
                || matches!(self.scenario, Scenario::TwoPanics | Scenario::Hotplug),
            ..plan
        })
    }
}

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// Those of the suite, and those that are named.
pub fn runs<'a>(
    workshop: &'a Workshop,
    lab: &'a Lab,
    ledger: &Ledger,
) -> impl Iterator<Item = Run<'a>> + use<'a> {
    let is_virt = workshop.board == Board::Virt;
    let names_them = ledger.names(PREFIX);
    let rows = ROWS.iter().filter(move |row| {
        let fits = is_virt || !row.pseudo_nmi && row.scenario != Scenario::Suspend;
        fits && (names_them || !row.name.starts_with(PREFIX))
    });
    rows.map(move |&row| {
        let run = move || judge(row, &run_plan(lab, row.plan()?, None)?);
        (row.name.to_owned(), Box::new(run) as Box<_>)
    })
}

fn judge(row: Row, report: &Report) -> Result<String> {
    if let Must::Fail(said) = row.must {
        return judge_failure(report, said);
    }
    ensure!(report.passed, "{}", report.text());
    let by = |wanted: fn(&Stopped) -> bool| -> Result<()> {
        let dump = report.dump.as_ref().context("there is no dump")?;
        let wedged = report.plan.wedge.iter();
        for cpu in wedged {
            let how = dump.ladder.stopped.get(cpu as usize);
            ensure!(
                how.is_some_and(wanted) && dump.ladder.pseudo_nmi_us.is_some(),
                "CPU {cpu} was stopped by another rung: {how:?}\n{}",
                report.text()
            );
        }
        Ok(())
    };
    match row.must {
        Must::ByPseudoNmi => by(|how| matches!(how, Stopped::PseudoNmi { .. }))?,
        Must::BySdei => by(|how| matches!(how, Stopped::Sdei { .. }))?,
        Must::Pass | Must::Fail(_) => {}
    }
    let remark = report.rungs().or_else(|| report.story.hotplug.clone());
    Ok(remark.unwrap_or_default())
}

/// A run that must fail, and for this reason.
fn judge_failure(report: &Report, said: &str) -> Result<String> {
    if report.passed {
        bail!("it passed, so the check proves nothing\n{}", report.text());
    }
    ensure!(
        report.faults.iter().any(|fault| fault.contains(said)),
        "it failed for another reason than: {said}\n{}",
        report.text()
    );
    if let Some(folder) = &report.folder {
        // It failed as it had to: nothing is to be looked at.
        std::fs::remove_dir_all(folder)?;
    }
    Ok(format!("fails, as it must: {}", report.faults[0]))
}
