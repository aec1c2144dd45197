//! `cargo xtask stop-demo`: pCPUs stuck at EL2, a panic on another, and the report.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::report::Report;
use super::{Cause, Plan, StopRun, Wedges};
use lab::results::{About, Case, Format, Outcome, Results, painted, screen};
use lab::symbolize::Explainer;
use lab::symbols::Symbols;
use lab::usage;
use machine::board::Board;
use machine::el3::El3;
use machine::workshop::Workshop;

/// Make pCPUs deaf at EL2, panic on another, and show how the machine stopped.
///
/// The hypervisor rings its pCPUs, then signals those that do not answer through Trusted Firmware-A's
/// SDEI, and says of each what it was doing. Prints the report with the functions behind its addresses,
/// then how each pCPU was stopped. With --el3 none the stuck ones are lost, and named.
///
/// Exit codes: 0 all is as it must be, 1 something is not (which is named), 2 wrong usage.
#[derive(Args)]
pub struct StopDemo {
    /// Number of CPUs.
    #[arg(long, value_name = "N", default_value_t = 4)]
    cpus: u32,
    /// Which pCPUs get stuck, and where: in EL2 (spin), in a call of the guest (exit), there with
    /// the console locked (lock), in the first instruction of EL2's vector, in the last one before the
    /// guest goes on (eret), or in the guest.
    #[arg(long, value_name = "N:PLACE,...", default_value = "1:lock,2:vector")]
    wedge: Wedges,
    /// Why it stops.
    #[arg(long, value_enum, default_value = "panic")]
    cause: Cause,
    /// The pCPU that stops the others.
    #[arg(long, value_name = "N", default_value_t = 0)]
    stopper: u32,
    /// Switch off the pCPUs that have stopped, instead of parking them.
    #[arg(long)]
    off: bool,
    /// Which machine QEMU plays.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "virt")]
    machine: Board,
    /// What runs below the hypervisor, at EL3.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "tfa")]
    el3: El3,
    /// Count instructions: one per nanosecond of the times shown.
    #[arg(long)]
    icount: bool,
    /// Do it so many times, and stop at the first that goes wrong.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
          value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// How what comes of it is written to standard output: for people, or after each run as KTAP or JSON, or at the end as JUnit's XML:
    /// docs/report.md.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "human")]
    format: Format,
}

impl StopDemo {
    /// Does it and shows it.
    pub fn execute(self) -> Result<ExitCode> {
        let plan = Plan {
            el3: self.el3,
            cpus: self.cpus,
            wedges: self.wedge.0.clone(),
            cause: self.cause,
            stopper: self.stopper,
            icount: self.icount,
            off: self.off,
            ..Plan::default()
        };
        plan.check()
            .and_then(|()| self.machine.check(self.cpus, self.el3))
            .map_err(usage::wrong)?;
        let workshop = Workshop::open()?.on(self.machine);
        let about = About::now(self.machine, self.el3);
        let mut results = Results::begin(self.format, about.clone(), screen())?;
        let mut has_failed = false;
        for run in 1..=self.repeat {
            let step = workshop
                .progress
                .lazily("the machine runs until it has stopped");
            let started = Instant::now();
            let seen = plan.perform(&workshop, Duration::from_secs(self.timeout))?;
            drop(step);
            if self.format == Format::Human {
                has_failed = self.show(run, &plan, &seen)?;
            } else {
                let case = self.case(run, &plan, &seen, &about, started.elapsed())?;
                has_failed = case.outcome == Outcome::Failed;
                let mut explainer = Explainer::load(&seen.hypervisor.elf, None)?;
                for line in &seen.lines {
                    results.note(&explainer.explain(line))?;
                }
                results.case(case)?;
            }
            if has_failed {
                break;
            }
        }
        // People have read it all.
        if self.format != Format::Human {
            results.end()?;
        }
        Ok(match has_failed {
            false => ExitCode::SUCCESS,
            true => ExitCode::FAILURE,
        })
    }

    /// Shows people what came of a run; answers whether it has failed.
    fn show(&self, run: u32, plan: &Plan, seen: &StopRun) -> Result<bool> {
        let verdict = seen.judge(plan);
        if self.repeat == 1 {
            show(seen)?;
        }
        let line = match &verdict {
            Ok(remark) => format!("PASSED: stopped in {remark} ({run} of {})", self.repeat),
            Err(error) => format!("FAILED: {error:#}"),
        };
        write!(screen(), "{}", painted(&line))?;
        Ok(verdict.is_err())
    }

    /// What came of a run, as one of the results.
    fn case(
        &self,
        run: u32,
        plan: &Plan,
        seen: &StopRun,
        about: &About,
        time: Duration,
    ) -> Result<Case> {
        let symbols = Symbols::load(&seen.hypervisor.elf)?;
        let verdict = seen.check(plan);
        let fault = verdict.as_ref().err().map(|error| format!("{error:#}"));
        let cause = self.cause.to_possible_value();
        let cause = cause.as_ref().map_or("", PossibleValue::get_name);
        let describe = |pc| symbols.describe(pc);
        let report = Report::of(about, plan, seen, fault.clone(), describe);
        Ok(Case {
            name: match self.repeat {
                1 => format!("stop-demo/{cause}"),
                _ => format!("stop-demo/{cause}/{run}"),
            },
            outcome: match fault {
                None => Outcome::Passed,
                Some(_) => Outcome::Failed,
            },
            time: Some(time),
            remark: verdict.ok().map(|took| format!("stopped in {took}")),
            details: fault.into_iter().collect(),
            report: Some(serde_json::to_value(report)?),
        })
    }
}

fn show(seen: &StopRun) -> Result<()> {
    let symbols = Symbols::load(&seen.hypervisor.elf)?;
    let mut explainer = Explainer::load(&seen.hypervisor.elf, None)?;
    for line in &seen.lines {
        println!("  | {}", explainer.explain(line));
    }
    println!();
    for (pcpu, stopped) in &seen.pcpus {
        let fate = match stopped.fate.as_str() {
            "stopper" => "stopped the others",
            "ipi" => "SGI",
            "sdei" => "SDEI through EL3",
            "itself" => "parked by itself",
            "deaf" => "LOST: no answer to the SGI, and no SDEI",
            "refused" => "LOST: firmware refused to signal it",
            "lost" => "LOST: no answer to SDEI either",
            other => other,
        };
        let mut line = format!("  pCPU {pcpu:<3} {fate:18}");
        if let (Some(us), Some(level), Some(pc)) = (stopped.us, &stopped.level, stopped.pc) {
            let place = match level.as_str() {
                "guest" => format!("in the guest at {pc:#x}"),
                _ => format!("in EL2, {}", symbols.describe(pc)),
            };
            line += &format!(" after {:8.3} ms  {place}", us as f64 / 1000.0);
        }
        println!("{}", line.trim_end());
    }
    println!();
    Ok(())
}
