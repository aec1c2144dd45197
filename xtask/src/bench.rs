//! `cargo xtask bench`: what the hypervisor costs a whole operating system, in instructions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::run;
use debian::paths::{self, output, write_if_new};
use debian::progress::Progress;
use lab::usage;
use machine::board::Board;
use machine::build::Program;
use machine::console::GuestLines;
use machine::ending::{Ending, Watch};
use machine::guest::Options;
use machine::qemu::{Event, Machine, Session};
use machine::run_dir::RunDir;

mod disk;
mod dump;
mod oracle;

/// Count the instructions of EL2 and of the guest while Linux does jobs, or reads a disk.
///
/// Boots our Linux with 4 CPUs in QEMU with -icount shift=0,sleep=off and a plugin that counts, has it do each job of
/// guest-tests/linux/workload.c, and prints what EL2 executed over what the guest did, kernel and idle CPUs included. The
/// same hypervisor and kernel give the same counts, whatever else the host does. docs/performance.md has the figures.
///
/// `disk` has it read a disk of QEMU's that is ready at once, 128 KiB each, one after the other and 32 at a time: as a guest that is
/// trusted with it, and as one for which it is mediated, which has to read at least 0.8 times as much for each instruction.
///
/// `oracle` has a guest jump into the memory of its crash kernel and store, with `crashkernel` in its guest file and without: what each page
/// of RAM adds, and each page that is written to.
///
/// `dump` wedges all CPUs of a Linux, and has it dumped by its own crash kernel after an NMI, and by a capture kernel that the hypervisor
/// starts.
///
/// Exit codes: 0 all jobs were done, and a mediated disk is good enough; 1 not, 2 wrong usage.
#[derive(Args)]
pub struct Bench {
    /// What to count.
    #[arg(value_enum)]
    what: What,
    /// Which machine QEMU plays; there are no jobs for raspi4b.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "virt")]
    machine: Board,
    /// CPU model as QEMU names it [default: neoverse-n1].
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// Write the counts into this file, too.
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Give up after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 900,
          value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Jobs of Linux.
    Linux,
    /// Reads of a virtio disk.
    Disk,
    /// What `crashkernel` of a guest file adds.
    Oracle,
    /// Dumps of a guest whose CPUs are all wedged.
    Dump,
}

/// The plugin's source.
const PLUGIN: &str = include_str!("bench/counts.c");
/// Where EL2's code is: `hypervisor/src/memory.rs`, `HV_BASE` and more than the image has. Linux puts nothing of a program
/// there: programs are below, libraries and stacks far above.
const EL2: [u64; 2] = [1 << 47, (1 << 47) + (2 << 20)];
/// Jobs pin themselves to CPUs 0 to 3.
const CPUS: u32 = 4;

/// What is between two marks: of the plugin, and of the jobs in `guest-tests/linux/workload.c`.
struct Job {
    marks: [u64; 2],
    name: &'static str,
    /// The most that EL2 may execute in a hundred instructions of the guest, if there is a goal.
    goal: Option<f64>,
}

const JOBS: [Job; 6] = [
    job(
        [0xff, 0x00],
        "boot, from the MMU on to init's first job",
        None,
    ),
    job([0x00, 0x01], "CPU loop", None),
    job([0x10, 0x11], "vfork and exec, 100 times", None),
    job([0x20, 0x21], "nanosleep of 100 us, 500 times", Some(2.0)),
    job([0x30, 0x31], "pipe across CPUs, 1000 times", Some(5.0)),
    job(
        [0x40, 0x41],
        "membarrier to 3 busy CPUs, 500 times",
        Some(22.0),
    ),
];

const fn job(marks: [u64; 2], name: &'static str, goal: Option<f64>) -> Job {
    Job { marks, name, goal }
}

/// What a job cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Cost {
    job: &'static str,
    /// Instructions of EL2.
    el2: u64,
    /// Instructions of the guest, kernel and programs on all CPUs.
    guest: u64,
    /// The first over the second, in percent.
    percent: f64,
    goal: Option<f64>,
}

impl Bench {
    /// Counts and prints.
    pub fn execute(self) -> Result<ExitCode> {
        self.check().map_err(usage::wrong)?;
        match self.what {
            What::Linux => self.linux(),
            What::Disk => disk::compare(&self),
            What::Dump => dump::compare(&self),
            What::Oracle => oracle::count(&self).map(|()| ExitCode::SUCCESS),
        }
    }

    /// That it can be counted there, and written.
    fn check(&self) -> Result<()> {
        ensure!(
            self.machine.model().is_none(),
            "the jobs are for virt and virt-gicv2; choose one of them with --machine"
        );
        match &self.json {
            Some(path) => paths::check_output(path, "--json"),
            None => Ok(()),
        }
    }

    fn linux(self) -> Result<ExitCode> {
        let folder = RunDir::create(None)?;
        let options = Options {
            append: Some("lab.do=bench".to_owned()),
            cpus: Some(CPUS.into()),
            cpu: self.cpu.clone(),
            machine: Some(self.machine),
            ..Options::default()
        };
        let costs = costs(&self.count(&options, &folder)?, &JOBS)?;
        print!("{}", table(&costs));
        self.write_json(&costs)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Has the guest of `options` do its jobs. The plugin's lines.
    fn count(&self, options: &Options, folder: &RunDir) -> Result<String> {
        let mut machine = run::machine(options, false, Program::Hypervisor, folder)?.machine;
        let counts = folder.file("counts");
        let step = Progress::new().lazily("Linux does its jobs");
        let limit = Duration::from_secs(self.timeout);
        let lines = boot_counted(&mut machine, &counts, None, limit)?;
        step.done();
        if !lines.iter().any(|line| line == "LAB: done") {
            bail!(
                "the jobs were not done:\n{}\nQEMU was: {}",
                lines.join("\n"),
                machine.command_line()
            );
        }
        fs::read_to_string(&counts).context("the plugin has written no counts")
    }

    fn write_json(&self, costs: &impl Serialize) -> Result<()> {
        if let Some(path) = &self.json {
            fs::write(path, serde_json::to_string_pretty(costs)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The plugin, compiled by the machine's own compiler, which Rust needs, too.
fn plugin() -> Result<PathBuf> {
    let source = output("counts.c")?;
    write_if_new(&source, PLUGIN.as_bytes())?;
    let path = output("counts.so")?;
    let compiled = supervisor::command("cc")
        .args([
            "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
        ])
        .arg(&path)
        .arg(&source)
        .stdin(Stdio::null())
        .output()
        .context("cannot run cc")?;
    ensure!(
        compiled.status.success(),
        "cc does not compile xtask/src/bench/counts.c: {}",
        String::from_utf8_lossy(&compiled.stderr).trim()
    );
    Ok(path)
}

/// Runs the machine to its end, and has the plugin write to `counts` what was counted, of that CPU if it is one: the guests' lines.
pub fn boot_counted(
    machine: &mut Machine,
    counts: &Path,
    cpu: Option<u32>,
    limit: Duration,
) -> Result<Vec<String>> {
    counted(machine, counts, cpu)?;
    boot(machine, limit)
}

/// Has the plugin count in that machine.
fn counted(machine: &mut Machine, counts: &Path, cpu: Option<u32>) -> Result<()> {
    let [begin, end] = EL2;
    let mut value = format!(
        "file={},out={},el2={begin:#x},end={end:#x}",
        plugin()?.display(),
        counts.display()
    );
    if let Some(cpu) = cpu {
        value += &format!(",cpu={cpu}");
    }
    // Of one CPU only with a thread each, as counts.c has it.
    machine.icount = cpu.is_none();
    machine.extra.extend(["-plugin".into(), value.into()]);
    Ok(())
}

/// Runs the machine to its end; the guest's lines.
fn boot(machine: &Machine, limit: Duration) -> Result<Vec<String>> {
    let mut session: Session = machine.start(Some(limit))?;
    let mut guest = GuestLines::default();
    let (mut watch, mut lines) = (Watch::default(), Vec::new());
    let ending = loop {
        match session.next_event()? {
            Event::Guest { bytes, .. } => lines.extend(guest.push(&bytes)),
            Event::Line(line) => watch.follow(&line, &mut session)?,
            Event::Complaint(text) => lines.push(format!("qemu: {text}")),
            Event::Ended(status) => {
                if !status.success() {
                    lines.push(format!("QEMU failed: {status}"));
                }
                break watch.ending(false);
            }
            Event::Left => break watch.ending(false),
            Event::TimedOut => break watch.ending(true),
        }
    };
    if ending != Ending::PowerOff {
        lines.push(ending.to_string());
    }
    Ok(lines)
}

/// What each job cost, of the plugin's lines.
fn costs(text: &str, jobs: &[Job]) -> Result<Vec<Cost>> {
    let mut marks = Vec::new();
    for line in text.lines() {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let Ok([mark, el2, guest]) = numbers.as_deref() else {
            bail!("the plugin wrote `{line}`");
        };
        marks.push((*mark, *el2, *guest));
    }
    let of = |number| {
        let mut found = marks.iter().filter(|(mark, ..)| *mark == number);
        match (found.next(), found.next()) {
            (Some(mark), None) => Ok(mark),
            _ => bail!("mark {number:#x} is not there once, but {marks:x?} are"),
        }
    };
    let cost = |job: &Job| {
        let [begin, end] = job.marks;
        let (begin, end) = (of(begin)?, of(end)?);
        let (el2, guest) = (end.1 - begin.1, end.2 - begin.2);
        Ok(Cost {
            job: job.name,
            el2,
            guest,
            percent: 100.0 * el2 as f64 / guest as f64,
            goal: job.goal,
        })
    };
    jobs.iter().map(cost).collect()
}

fn table(costs: &[Cost]) -> String {
    let mut text = format!(
        "{:42}{:>14}{:>14}{:>10}{:>8}\n",
        "", "EL2", "guest", "percent", "goal"
    );
    for cost in costs {
        let goal = cost.goal.map(|goal| format!("{goal}")).unwrap_or_default();
        text += &format!(
            "{:42}{:>14}{:>14}{:>10.3}{goal:>8}\n",
            cost.job, cost.el2, cost.guest, cost.percent
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "255 5 0\n0 10 100\n1 12 1100\n16 20 2000\n17 30 3000\n32 30 3000\n33 50 4000\n\
        48 50 4000\n49 150 5000\n64 150 5000\n65 370 6000\n";

    #[test]
    fn a_job_costs_what_is_between_its_marks() {
        let costs = costs(WHOLE, &JOBS).unwrap();
        let counts: Vec<_> = costs.iter().map(|cost| (cost.el2, cost.guest)).collect();
        assert_eq!(
            counts,
            [
                (5, 100),
                (2, 1000),
                (10, 1000),
                (20, 1000),
                (100, 1000),
                (220, 1000)
            ]
        );
        assert!((costs[5].percent - 22.0).abs() < 1e-9);
        assert!(table(&costs).contains("22.000      22\n"));
    }

    #[test]
    fn a_mark_that_is_missing_or_twice_is_an_error() {
        assert!(costs(&WHOLE.replace("65 370 6000\n", ""), &JOBS).is_err());
        assert!(costs(&format!("{WHOLE}65 370 6000\n"), &JOBS).is_err());
        assert!(costs("0 10", &JOBS).is_err());
    }
}
