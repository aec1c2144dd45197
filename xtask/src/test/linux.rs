//! Linux end to end: dumps that must be whole, and one that must not be.

mod assisted;
mod cases;
mod crash_utility;
mod firmware;
mod gwdt;
mod hibernate;
mod host_pauses;
mod life;
mod nmi;
mod online;
mod operator;
mod oracle;
mod pages;
mod pvpanic;
mod scenarios;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::drgn::Drgn;
use super::own;
use crate::ledger::Ledger;
use debian::kernel::KernelVariant;
use lab::evidence::GuestLog;
use lab::kdump::{Lab, Report, Request, System};
use lab::plan::{Fate, Plan, Scenario};
use machine::board::Board;
use machine::console::GuestLines;
use machine::el3::El3;
use machine::qemu::Event;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

use cases::{CASES, Case, USUAL};

/// The usual case, for the machine with a GICv2.
const GICV2: Case = Case {
    name: "linux/gicv2/one-of-4",
    ..USUAL
};

/// No CPU is left there to do anything.
const GICV2_NMI: Case = Case {
    name: "linux/gicv2/nmi-all-of-4",
    scenario: Scenario::Nmi,
    wedge: "0-3",
    icount: true,
    ..USUAL
};

/// The name of the run with SDEI off, whose dump must lack the wedged CPU.
const CONTROL: &str = "linux/kdump/without-sdei-fails";

/// The command itself, which does its shortest scenario twice in a row.
const REPEAT: &str = "linux/repeat";

/// The guest reboots, and comes up again each time.
const REBOOT: &str = "linux/reboot";

/// The dump of the first case, opened by a debugger that is not ours.
const DEBUGGER: &str = "linux/drgn";

/// How long a run may take, with other work on the host.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    let cases = CASES.iter().map(|case| case.name);
    cases
        .chain([
            CONTROL,
            DEBUGGER,
            GICV2.name,
            GICV2_NMI.name,
            nmi::BY_EVENT,
            REBOOT,
            REPEAT,
        ])
        .chain(assisted::names())
        .chain(crash_utility::names())
        .chain(firmware::names())
        .chain(gwdt::names())
        .chain(life::names())
        .chain(hibernate::names())
        .chain(online::names())
        .chain(operator::names())
        .chain(oracle::names())
        .chain(pages::names())
        .chain(pvpanic::names())
        .chain(scenarios::names())
}

/// A test and what it runs.
type Run<'a> = (String, Box<dyn Fn() -> Result<String> + Sync + 'a>);

/// Runs them, side by side, as none keeps all CPUs of the host busy all the time; the one that takes CPUs off and on
/// does so for so many minutes.
pub fn run(workshop: &Workshop, ledger: &mut Ledger, minutes: u32) {
    nmi::run(workshop, ledger);
    pages::run_matrix(workshop, ledger);
    oracle::run_matrix(workshop, ledger);
    if !names().any(|name| ledger.wants(name)) {
        return;
    }
    let Some(lab) = prepare(workshop, KernelVariant::Plain, ledger) else {
        return;
    };
    open_dump(workshop, &lab, ledger);
    let gicv2 = lab.clone().on(Board::VirtGicv2);
    let fits = |case: &&Case| workshop.board.cpus(case.cpus) == case.cpus;
    let (plain, patched): (Vec<&Case>, Vec<&Case>) = CASES[1..]
        .iter()
        .filter(fits)
        .partition(|case| matches!(case.fate, None | Some(Fate::Park)));
    let mut runs: Vec<Run<'_>> = life::runs(workshop, &lab, minutes, ledger);
    runs.extend(
        plain
            .into_iter()
            .map(|plain| case_run(workshop, &lab, plain)),
    );
    // What is below the hypervisor elsewhere is made for that machine.
    if workshop.board == Board::Virt && workshop.el3 == El3::None {
        runs.push(case_run(workshop, &gicv2, &GICV2));
        runs.push(case_run(workshop, &gicv2, &GICV2_NMI));
    }
    runs.push((
        nmi::BY_EVENT.into(),
        Box::new(|| nmi::by_event(&lab, workshop.board)),
    ));
    runs.push((REBOOT.into(), Box::new(|| reboot(&lab))));
    runs.extend(hibernate::runs(workshop, &lab));
    runs.extend(operator::runs(workshop, &lab, ledger));
    runs.extend(assisted::runs(workshop, &lab, ledger));
    runs.extend(crash_utility::runs(workshop, &lab, ledger));
    runs.extend(oracle::runs(workshop, &lab, ledger));
    runs.extend(pages::runs(workshop, &lab, ledger));
    runs.extend(scenarios::runs(workshop, &lab, ledger));
    // A Raspberry Pi 4 has no room for it that our kernel's command lines know of.
    if workshop.board != Board::Raspi4b {
        runs.extend(online::runs(workshop));
        runs.extend(pvpanic::runs(workshop));
        runs.extend(gwdt::runs(workshop, ledger));
    }
    runs.push((REPEAT.into(), Box::new(repeat)));
    runs.push((CONTROL.into(), Box::new(|| without_sdei(&lab))));
    check_each(ledger, &runs);
    let is_patched_wanted = patched.iter().any(|case| ledger.wants(case.name))
        || firmware::names().any(|name| ledger.wants(name));
    if is_patched_wanted && let Some(lab) = prepare(workshop, KernelVariant::Endings, ledger) {
        let mut runs: Vec<Run<'_>> = firmware::runs(workshop, &lab).collect();
        runs.extend(
            patched
                .into_iter()
                .map(|patched| case_run(workshop, &lab, patched)),
        );
        check_each(ledger, &runs);
    }
}

fn case_run<'a>(workshop: &'a Workshop, lab: &'a Lab, case: &'a Case) -> Run<'a> {
    let run = move || Ok(remark(&run_case(workshop, lab, case, None)?));
    (case.name.to_owned(), Box::new(run))
}

fn check_each(ledger: &mut Ledger, runs: &[Run<'_>]) {
    ledger.check_each(runs, |_, run| run());
}

/// The first case with SDEI off.
fn without_sdei(lab: &Lab) -> Result<String> {
    let plan = Plan {
        sdei: false,
        ..CASES[0].plan()?
    };
    control(&run_plan(lab, plan, None)?)
}

/// Builds the hypervisor and the guest; what keeps it from that is a failure.
fn prepare(workshop: &Workshop, variant: KernelVariant, ledger: &mut Ledger) -> Option<Lab> {
    let started = Instant::now();
    match Lab::prepare(workshop, &System::Ours(variant)) {
        Ok(lab) => Some(lab),
        Err(error) => {
            ledger.failed("linux/prepare", started.elapsed(), &format!("{error:#}"));
            None
        }
    }
}

/// Runs the first case, and opens its dump with drgn if drgn can be had.
fn open_dump(workshop: &Workshop, lab: &Lab, ledger: &mut Ledger) {
    let case = &CASES[0];
    if !ledger.wants(case.name) && !ledger.wants(DEBUGGER) {
        return;
    }
    let started = Instant::now();
    let step = workshop.progress.lazily(case.name);
    let folder = workshop.output("runs").map(|runs| runs.join("drgn"));
    let run = folder.and_then(|folder| {
        let report = run_case(workshop, lab, case, Some(&folder))?;
        Ok((folder, report))
    });
    drop(step);
    let (folder, report) = match run {
        Ok(run) => run,
        Err(error) => {
            ledger.failed(case.name, started.elapsed(), &format!("{error:#}"));
            return;
        }
    };
    ledger.passed(case.name, started.elapsed(), &remark(&report));
    if ledger.wants(DEBUGGER) {
        match Drgn::ensure(workshop) {
            Ok(drgn) => ledger.check(DEBUGGER, || {
                let vmcore = folder.join("vmcore");
                let vmlinux = lab.vmlinux()?;
                let mut found = Vec::new();
                for cpu in report.plan.wedge.iter() {
                    found.push(drgn.check(&vmcore, vmlinux, cpu)?);
                }
                found.push(drgn.check_slabs(&vmcore, vmlinux)?);
                Ok(found.join("; "))
            }),
            Err(error) => ledger.skipped(DEBUGGER, &format!("drgn cannot be had: {error:#}")),
        }
    }
    // What stays is below target, and the next run writes over it.
    let _ = std::fs::remove_dir_all(&folder);
}

fn run_case(workshop: &Workshop, lab: &Lab, case: &Case, keep: Option<&Path>) -> Result<Report> {
    let report = run_plan(lab, case.plan()?, keep)?;
    ensure!(report.passed, "{}", report.text());
    demand_hardening(workshop.board, case, &report.story)?;
    Ok(report)
}

/// That the kernel of this run was hardened as it is to be, unless the board has a CPU model of its own.
fn demand_hardening(board: Board, case: &Case, story: &GuestLog) -> Result<()> {
    if board.model().is_some() {
        return Ok(());
    }
    let is_absent = |name: &&&str| !story.hardening.iter().any(|has| has == *name);
    let absent: Vec<_> = case.hardening().iter().filter(is_absent).collect();
    ensure!(
        absent.is_empty(),
        "on {} the kernel should have {absent:?}, but has only {:?}",
        case.model,
        story.hardening
    );
    Ok(())
}

/// What stands behind a case that passed.
fn remark(report: &Report) -> String {
    let story = &report.story;
    let parts = [
        report.rungs(),
        story.registers.clone(),
        Some(story.hardening.join(" ")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Lets the guest reboot at once, some times over; each time it must find SDEI as at first.
fn reboot(lab: &Lab) -> Result<String> {
    const TIMES: u64 = 3;
    let folder = RunDir::create(None)?;
    let plan = CASES[0].plan()?;
    let machine = lab.machine(&plan, "console=ttyAMA0 lab.do=reboot", &folder)?;
    let mut session = machine.start(Some(TIMEOUT))?;
    let mut lines = GuestLines::default();
    let (mut resets, mut boots) = (0, 0);
    while boots <= TIMES {
        match session.next_event()? {
            Event::Guest { bytes, .. } => {
                let up = |line: &&String| line.contains("LAB: up") && line.contains("sdei=yes");
                boots += lines.push(&bytes).iter().filter(up).count() as u64;
            }
            Event::Line(line) => {
                let record = line.record().transpose()?;
                resets += u64::from(record.is_some_and(|record| record.name == "vm-reset"));
            }
            Event::Complaint(_) => {}
            Event::Ended(_) | Event::TimedOut | Event::Left => bail!(
                "it came up {boots} times with SDEI, after {resets} resets\n{}\nQEMU was: {}",
                session.tail().join("\n"),
                machine.command_line()
            ),
        }
    }
    ensure!(
        resets == TIMES,
        "it came up {boots} times, but was reset {resets} times"
    );
    Ok(format!("{boots} boots"))
}

/// Has `kdump` do something twice in a row, as its user does.
fn repeat() -> Result<String> {
    let output = own::xtask()?
        .args(["kdump", "--cpus", "2", "--scenario", "sysrq-l"])
        .args(["--repeat", "2"])
        .arg(format!("--timeout={}", TIMEOUT.as_secs()))
        .output()
        .context("cannot run xtask")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let passed = |line: &&&str| line.starts_with("run ") && line.contains(": PASSED in ");
    ensure!(
        output.status.success()
            && lines.iter().filter(passed).count() == 2
            && lines.last() == Some(&"2 of 2 passed"),
        "{}, it said\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::new())
}

fn run_plan(lab: &Lab, plan: Plan, keep: Option<&Path>) -> Result<Report> {
    plan.check()?;
    let request = Request {
        plan,
        timeout: TIMEOUT,
        keep,
    };
    lab.run(&request, |_| ())
}

/// The run without SDEI must fail for one reason alone: the wedged CPUs are missing.
fn control(report: &Report) -> Result<String> {
    let Some(dump) = &report.dump else {
        bail!(
            "it failed for another reason than a missing CPU\n{}",
            report.text()
        );
    };
    ensure!(
        !report.passed,
        "it passed, so the check proves nothing\n{}",
        report.text()
    );
    ensure!(
        dump.verdict.missing == report.plan.wedge,
        "CPUs {} should be missing, but {} are\n{}",
        report.plan.wedge,
        dump.verdict.missing,
        report.text()
    );
    if let Some(folder) = &report.folder {
        // It failed as it had to: nothing is to be looked at.
        std::fs::remove_dir_all(folder)?;
    }
    Ok(format!(
        "CPU {} is missing, as it must be",
        dump.verdict.missing
    ))
}
