//! What came of a run, for people and as JSON.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::capture::Capture;
use crate::evidence::{GuestLog, HvRecords};
use crate::instant::Oracle;
use crate::ladder::Ladder;
use crate::plan::Plan;
use crate::restart::Restart;
use crate::stood::Stood;
use crate::verdict::Verdict;
use crate::watch::GuestRun;
use machine::ending::Ending;

/// What the vmcore gave.
#[derive(Debug, Serialize)]
pub struct Judged {
    /// How the dump is written.
    pub format: &'static str,
    /// Its size.
    pub bytes: u64,
    /// The release of the dumped kernel.
    pub release: String,
    /// The stop as it happened.
    pub ladder: Ladder,
    /// CPU by CPU.
    pub verdict: Verdict,
    /// The CPUs in the capture kernel, if it was to have all.
    pub capture: Option<Capture>,
}

/// All that came of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether all is as it must be.
    pub passed: bool,
    /// What is not, one sentence each.
    pub faults: Vec<String>,
    /// What was to be done.
    pub plan: Plan,
    /// Which of our images ran: the one that people deploy, or the one with fault injection.
    pub hypervisor: &'static str,
    /// Seconds that the machine ran.
    pub seconds: f64,
    /// What the vmcore gave, if the scenario has one and it could be read.
    pub dump: Option<Judged>,
    /// How the CPUs were stopped and came back, if the scenario restarts Linux.
    pub restart: Option<Restart>,
    /// The dump held against memory, if that was asked for and could be done.
    pub oracle: Option<Oracle>,
    /// What the guest said.
    pub story: GuestLog,
    /// What the hypervisor recorded.
    pub drain: HvRecords,
    /// Where each CPU stood when the time was over, if it was.
    pub stood: Option<Vec<Stood>>,
    /// How the machine ended.
    pub ending: &'static str,
    /// The guest's lines that matter.
    pub lines: Vec<String>,
    /// The last lines of the console, if it failed.
    pub console: Vec<String>,
    /// The QEMU command, if it failed.
    pub command: Option<String>,
    /// Where everything was left, if it failed.
    pub folder: Option<PathBuf>,
    /// Whether the hypervisor has crashed.
    #[serde(skip)]
    pub is_hypervisors: bool,
    /// What to type to see more, if it failed.
    pub next: Vec<String>,
}

impl Report {
    /// Puts it together; `judged` is what the vmcore gave, or why it gave nothing. A scenario without a dump that came to its end is
    /// judged by what was seen.
    pub fn of(plan: &Plan, seen: GuestRun, judged: Result<Option<Judged>>) -> Self {
        let (dump, mut faults) = match judged {
            Ok(Some(dump)) => {
                let mut faults = dump.verdict.faults();
                faults.extend(dump.capture.iter().flat_map(Capture::faults));
                (Some(dump), faults)
            }
            Ok(None) => (None, Vec::new()),
            Err(error) => (None, vec![format!("{error:#}")]),
        };
        let has_ended = faults.is_empty() && plan.scenario.restarts();
        let restart = has_ended.then(|| Restart::of(plan, &seen.story, &seen.drain));
        faults.extend(restart.iter().flat_map(Restart::faults));
        let passed = faults.is_empty();
        Self {
            passed,
            faults,
            plan: plan.clone(),
            hypervisor: plan.program().name(),
            seconds: seen.elapsed.as_secs_f64(),
            dump,
            restart,
            oracle: None,
            stood: seen.stood,
            story: seen.story,
            drain: seen.drain,
            ending: seen.ending.name(),
            lines: seen.lines,
            console: if passed && !plan.oracle {
                Vec::new()
            } else {
                seen.tail
            },
            command: None,
            folder: None,
            is_hypervisors: matches!(seen.ending, Ending::HypervisorCrash(_)),
            next: Vec::new(),
        }
    }

    /// Takes in what came of the question whether the dump is true, or why there is no answer.
    pub fn hear(&mut self, oracle: Result<Oracle>) {
        match oracle {
            Ok(oracle) => {
                self.faults.extend(oracle.failures());
                self.oracle = Some(oracle);
            }
            Err(error) => self.faults.push(format!("{error:#}")),
        }
        self.passed = self.faults.is_empty();
        if self.passed {
            self.console.clear();
        }
    }

    /// The report in one line.
    pub fn summary(&self) -> String {
        let time = format!("{:.0} s", self.seconds);
        match (self.faults.first(), self.rungs()) {
            (Some(fault), _) => format!("FAILED in {time}: {fault}"),
            (None, Some(rung)) => format!("PASSED in {time}, {rung}"),
            (None, None) => format!("PASSED in {time}"),
        }
    }

    /// How long the rungs behind the IPI's took, if CPUs were stopped.
    pub fn rungs(&self) -> Option<String> {
        let of_dump = self.dump.as_ref().map(|dump| &dump.ladder);
        let of_restart = || self.restart.as_ref()?.ladder.as_ref();
        let ladder = of_dump.or_else(of_restart)?;
        let rungs = [
            ("pseudo-NMI", ladder.pseudo_nmi_us),
            ("SDEI", ladder.sdei_us),
        ];
        let rungs = rungs.into_iter().filter_map(|(name, took)| {
            let ms = took? as f64 / 1000.0;
            Some(format!("{name} rung {ms:.1} ms"))
        });
        let rungs: Vec<String> = rungs.collect();
        Some(match rungs.is_empty() {
            true => "no SDEI rung".into(),
            false => rungs.join(", "),
        })
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        if let Some(dump) = &self.dump {
            lines.push("\nStop ladder".to_owned());
            lines.push(dump.ladder.to_string());
            lines.push(format!(
                "\nvmcore of Linux {} ({}, {:.1} MB)",
                dump.release,
                dump.format,
                dump.bytes as f64 / 1e6
            ));
            lines.push(dump.verdict.to_string());
            lines.extend(
                self.drain
                    .cpus_by
                    .iter()
                    .map(|by| format!("  {}", whose(by))),
            );
            if let Some(capture) = &dump.capture {
                lines.push("\nCPUs in the capture kernel".into());
                lines.push(capture.to_string());
            }
        }
        if let Some(restart) = &self.restart {
            lines.push(format!("\n{restart}"));
        }
        if let Some(oracle) = &self.oracle {
            lines.push(format!("\n{oracle}"));
        }
        if self.dump.is_none() {
            let seen = self.story.outside.iter();
            lines.extend(seen.map(|(cpu, seen)| format!("  CPU {cpu:<3} stands still: {seen}")));
        }
        if let Some(hotplug) = &self.story.hotplug {
            lines.push(format!("  CPUs went off and on: {hotplug}"));
        }
        // Of CPUs that go off and on there are thousands, of what they happened to do; the line above counts them.
        if self.story.hotplug.is_none() {
            let backtraces = self.story.backtraces.iter();
            lines.extend(
                backtraces.map(|(cpu, place)| format!("  CPU {cpu:<3} backtrace at {place}")),
            );
        }
        if self.plan.is_masked() {
            lines.push(format!(
                "\nThe image {}.img has run, which can mask a guest's CPUs; the one that people deploy cannot",
                self.hypervisor
            ));
        }
        lines.push(String::new());
        if self.passed {
            lines.push(format!("PASSED in {:.0} s", self.seconds));
            return lines.join("\n");
        }
        if self.dump.is_none() && self.restart.is_none() {
            lines.push("The last lines of the console:".into());
            lines.extend(self.console.iter().map(|line| format!("  | {line}")));
        }
        if let Some(stood) = &self.stood {
            lines.push("Where each CPU stood when the time was over:".into());
            lines.extend(stood.iter().map(|cpu| format!("  {cpu}")));
        }
        lines.extend(self.faults.iter().map(|fault| format!("FAILED: {fault}")));
        let command = self.command.iter();
        lines.extend(command.map(|command| format!("QEMU was: {command}")));
        if let Some(folder) = &self.folder {
            lines.push(format!("Everything is left in {}", folder.display()));
        }
        if !self.next.is_empty() {
            lines.push("To see more:".to_owned());
            lines.extend(self.next.iter().map(|command| format!("  {command}")));
        }
        lines.join("\n")
    }
}

/// Whose registers a dump has that the hypervisor made.
fn whose(by: &str) -> &'static str {
    match by {
        "linux" => "Registers are those of the CPUs that Linux has online",
        "panic" => "Linux has panicked: registers are those of the CPUs that are on for PSCI",
        _ => {
            "Linux's own word could not be read: registers are those of the CPUs that are on for PSCI"
        }
    }
}
