//! The matrix of the NMI: how many CPUs, on which machine, and where they are when all are wedged. Run when its rows are named:
//! `cargo xtask test nmi/`, and with `--machine raspi4b`.

use std::fs::File;

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::Verb;

use super::cases::{Case, USUAL};
use super::{Run, TIMEOUT, remark, run_plan};
use crate::ledger::Ledger;
use debian::kernel::KernelVariant;
use lab::evidence::GuestLog;
use lab::kdump::{Lab, System};
use lab::place::Place;
use lab::plan::{Plan, Scenario};
use machine::board::Board;
use machine::build::Program;
use machine::console::GuestLines;
use machine::el3::El3;
use machine::operator::{Operator, VcpuAnswer};
use machine::qemu::Event;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// The first rung helps: the kernel has registered the event.
pub const BY_EVENT: &str = "linux/nmi/by-event";

/// What all names begin with.
const PREFIX: &str = "nmi/";
const NUMBERS: [u32; 4] = [1, 2, 4, 8];
const PLACES: [Place; 4] = [Place::El1, Place::El0, Place::Interrupt, Place::Stack];

/// A row of it.
#[derive(Clone, Copy)]
struct Row {
    board: Board,
    /// In a handler of SDEI, if it says nothing.
    place: Option<Place>,
    cpus: u32,
}

impl Row {
    fn name(self) -> String {
        let place = self.place.map_or("sdei-handler", Place::name);
        let (board, cpus) = (self.board.name(), self.cpus);
        format!("{PREFIX}{board}/{place}/all-of-{cpus}")
    }

    fn plan(self) -> Result<Plan> {
        let all = format!("0-{}", self.cpus - 1);
        let wedge = if self.cpus == 1 { "0".to_owned() } else { all };
        let plan = Case {
            scenario: Scenario::Nmi,
            cpus: self.cpus,
            // What other work there is on the host changes nothing of what Linux waits for. Where we look at it while it stands
            // still, its clock would leap.
            icount: self.place != Some(Place::El0),
            ..USUAL
        }
        .plan()?;
        Ok(Plan {
            wedge: wedge.parse().map_err(anyhow::Error::msg)?,
            place: self.place.unwrap_or_default(),
            model: self.board.model().map_or(plan.model, str::to_owned),
            ..plan
        })
    }
}

/// All rows of the machines that go with `board`.
fn rows(board: Board) -> impl Iterator<Item = Row> {
    let boards = match board {
        Board::Raspi4b => vec![Board::Raspi4b],
        Board::VirtGicv2 => vec![Board::VirtGicv2],
        Board::Virt => vec![Board::Virt, Board::VirtGicv2],
    };
    let places = PLACES.into_iter().map(Some).chain([None]);
    boards.into_iter().flat_map(move |board| {
        places.clone().flat_map(move |place| {
            let numbers = NUMBERS.into_iter().filter(move |&cpus| {
                // Whoever is in a handler has been stopped by another.
                cpus <= board.most_cpus() && (place.is_some() || cpus > 1)
            });
            numbers.map(move |cpus| Row { board, place, cpus })
        })
    })
}

/// Runs those that are named.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if !ledger.names(PREFIX) || workshop.el3 != El3::None {
        return;
    }
    let prepare = |program| {
        let system = System::Ours(KernelVariant::Plain);
        Lab::prepare_with(workshop, &system, program)
    };
    let labs =
        prepare(Program::Hypervisor).and_then(|lab| Ok((lab, prepare(Program::FaultInjection)?)));
    let (lab, masking) = match labs {
        Ok(labs) => labs,
        Err(error) => {
            let failed = "nmi/prepare";
            ledger.check(failed, || Err(error));
            return;
        }
    };
    let runs: Vec<Run<'_>> = rows(workshop.board)
        .map(|row| {
            let lab = match row.place {
                Some(Place::El0) => &masking,
                _ => &lab,
            };
            let lab = lab.clone().on(row.board);
            let run = move || match row.place {
                Some(_) => dump_by_nmi(&lab, row),
                None => wait(&lab, row),
            };
            (row.name(), Box::new(run) as Box<dyn Fn() -> _ + Sync>)
        })
        .collect();
    ledger.check_each(&runs, |_, run| run());
}

/// One takes the NMI, and the dump is complete.
fn dump_by_nmi(lab: &Lab, row: Row) -> Result<String> {
    let report = run_plan(lab, row.plan()?, None)?;
    ensure!(report.passed, "{}", report.text());
    Ok(remark(&report))
}

/// All CPUs are wedged, and the NMI raises an event that the kernel has registered: it panics by that, and the dump is complete.
pub fn by_event(lab: &Lab, board: Board) -> Result<String> {
    let row = Row {
        board,
        place: Some(Place::El1),
        cpus: 4,
    };
    let plan = Plan {
        by_event: true,
        ..row.plan()?
    };
    let report = run_plan(lab, plan, None)?;
    ensure!(report.passed, "{}", report.text());
    Ok(remark(&report))
}

/// PSTATE.A.
const MASKS_SERROR: u64 = 1 << 8;

/// So long the SError waits in vain.
const WAITS_MS: u32 = 5000;

/// A kernel without one that saves a dump has panicked, and stopped all other CPUs, which were wedged, by SDEI: each is in its handler
/// for ever, where an SError waits. That is the answer, and nothing becomes of it.
fn wait(lab: &Lab, row: Row) -> Result<String> {
    let mut folder = RunDir::create(None)?;
    let last = row.cpus - 1;
    let plan = Plan {
        scenario: Scenario::Kdump,
        wedge: (1..row.cpus).collect(),
        panic: 0,
        // Nothing becomes of it, however long it has.
        nmi_limit_ms: Some(WAITS_MS),
        ..row.plan()?
    };
    let bootargs = format!("{} lab.capture=no", plan.bootargs());
    let machine = lab.machine(&plan, &bootargs, &folder)?;
    let mut session = machine.start(Some(TIMEOUT))?;
    session.log_to(File::create(folder.file("serial.log"))?);
    let operator = Operator::new(session.take_input().context("QEMU has no input")?, false);
    let (mut lines, mut story) = (GuestLines::default(), GuestLog::default());
    let mut asked = None;
    let target = u8::try_from(last)?;
    let result = loop {
        match session.next_event()? {
            Event::Guest { bytes, .. } => {
                for line in lines.push(&bytes) {
                    story.note(&line);
                    if line.contains("end Kernel panic") && asked.is_none() {
                        let (operator, leave) = (operator.clone(), session.leave());
                        asked = Some(std::thread::spawn(move || {
                            let told = ask(&operator, target);
                            leave.leave();
                            told
                        }));
                    }
                }
            }
            Event::Line(line) => operator.hear(&line),
            Event::Complaint(_) => {}
            Event::Left => break Ok(()),
            Event::Ended(_) | Event::TimedOut => {
                break Err(anyhow::anyhow!(
                    "it did not panic\n{}\nQEMU was: {}",
                    session.tail().join("\n"),
                    machine.command_line()
                ));
            }
        }
    };
    operator.end();
    let told = asked.map(|asked| asked.join().unwrap_or_else(|_| bail!("the asker panicked")));
    let judged = result.and_then(|()| {
        let told = told.context("nobody was asked")??;
        let expected = format!(
            "NMI on vCPU {last}: the SError waits: PSTATE.A is set; NMI on vCPU {last}: nothing has helped"
        );
        ensure!(told == expected, "it came to: {told}");
        ensure!(
            story.wedged == plan.wedge && story.retried == plan.wedge && story.failed.is_empty(),
            "not all were wedged and stopped by SDEI: {story:?}"
        );
        Ok(told)
    });
    judged.with_context(|| format!("the log is in {}", folder.keep().display()))
}

/// What an NMI on `target`, which is in its handler, comes to.
fn ask(operator: &Operator, target: u8) -> Result<String> {
    let status = operator.ask(Verb::Status, 0)?;
    let in_handler = |vcpu: &VcpuAnswer| vcpu.pstate.is_some_and(|it| it & MASKS_SERROR != 0);
    let others = status.vcpus.iter().filter(|(vcpu, _)| **vcpu != 0);
    for (vcpu, answer) in others {
        ensure!(
            in_handler(answer),
            "vCPU {vcpu} is in no handler: {answer:?}"
        );
    }
    let known = operator.known_rungs();
    operator.ask(Verb::Nmi, target)?;
    loop {
        let (rungs, is_over) = operator.rungs(known);
        if rungs.iter().any(|rung| rung.is_last()) {
            let said: Vec<String> = rungs.iter().map(ToString::to_string).collect();
            return Ok(said.join("; "));
        }
        ensure!(!is_over, "the machine has ended");
    }
}
