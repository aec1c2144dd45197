//! `cargo xtask compare`: the same job of two kernels, side by side.

mod calls;
mod rule;
mod shown;
mod side;
mod story;
mod summary;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use debian::paths;
use lab::document::Document;
use lab::kdump::remove_old;
use lab::usage;
use machine::build::{self, Program};
use machine::guest::firmware;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;
use serde::Serialize;

use crate::job;
use calls::Call;
use rule::{Difference, Weight};
use side::{REPORT, Side};
use summary::Summary;

/// Compare two kernels by the same `kdump` job, or two results that were kept.
///
/// A and B are each a result (what `kdump --report` wrote, or a folder with report.json), an Image, a source tree of Linux,
/// stock:debian-13 and its like, or ours. What is no result is run first, with the kdump options behind `--`, such as
/// `cargo xtask compare old/Image ~/linux --repeat 5 -- --wedge 1-3`.
///
/// Side by side come the times of the stop ladder, each CPU, the pages if there was --oracle, what is wrong, and lines of the
/// console that one has and the other has not.
///
/// B is worse if it fails where A passes, a CPU is missing or not stopped, fewer registers are as recorded, more pages are bad, a
/// rung of the ladder is gone or a new one is needed. Times are another on each run, and alone make nothing worse unless --slower
/// is given.
///
/// With `--firmware` twice, a guest is booted with each firmware, and the calls that it makes and their answers are compared; behind
/// `--` are options of run then.
///
/// Exit codes: 0 B is no worse, or the calls are the same, 1 it is, or they are not, 2 wrong usage, or there is nothing to compare.
#[derive(Args)]
pub struct Compare {
    /// What B is held against: a result, an Image, a tree, stock:RELEASE, or ours.
    #[arg(value_name = "A", required_unless_present = "firmware")]
    a: Option<String>,
    /// What is judged.
    #[arg(value_name = "B", required_unless_present = "firmware")]
    b: Option<String>,
    /// Compare the calls that a guest makes of this firmware and another, and their answers; twice: docs/firmware.md.
    #[arg(long, value_name = "NAME", value_parser = firmware, conflicts_with_all = ["a", "repeat", "slower", "keep"])]
    firmware: Vec<String>,
    /// The guest that makes them [default: guest-tests/client-example].
    #[arg(long, value_name = "PATH", requires = "firmware", conflicts_with = "a")]
    kernel: Option<PathBuf>,
    /// Do each job so many times; one that fails is the last.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// B is worse, too, if the median of a rung takes more than so many percent longer. Take a high --repeat and an idle host.
    #[arg(long, value_name = "PERCENT")]
    slower: Option<u32>,
    /// How it is written to standard output.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "human")]
    format: Format,
    /// Leave what the jobs report in this folder, as a/report.json and b/report.json, to be compared again.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Options of kdump, of both jobs; with --firmware, of run.
    #[arg(last = true, value_name = "OPTIONS")]
    job: Vec<OsString>,
}

/// How a comparison is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Human,
    /// One JSON object: docs/report.md.
    Json,
}

/// Options of kdump that name a file or a folder of one job, or say how it is told of.
const OURS: [&str; 4] = ["--report", "--format", "--keep", "--html"];

/// The version of what docs/report.md has of a comparison.
const SCHEMA: u32 = 1;

/// Two results, side by side.
#[derive(Debug, Serialize)]
pub struct Comparison {
    schema: u32,
    a: Summary,
    b: Summary,
    /// What is different, but for the console.
    differences: Vec<Difference>,
    /// What is different on the console; null if one of the reports does not say.
    story: Option<story::Differences>,
    worse: bool,
}

impl Compare {
    /// Compares. That there is nothing to compare is no verdict on B, and has an exit code of its own.
    pub fn execute(self) -> Result<ExitCode> {
        let is_bad = match self.firmware.is_empty() {
            true => self.results(),
            false => self.calls(),
        };
        let is_bad = is_bad.map_err(usage::wrong)?;
        Ok(ExitCode::from(u8::from(is_bad)))
    }

    /// Compares two results; answers whether B is worse.
    fn results(&self) -> Result<bool> {
        let names = self.a.as_deref().zip(self.b.as_deref());
        let (first, second) = names.context("name A and B")?;
        // What is there is read, and what is asked for understood, before anything is built.
        let a = self.wanted(first).context("A")?;
        let b = self.wanted(second).context("B")?;
        let has_job = [&a, &b].iter().any(|it| matches!(it, Wanted::Job(_)));
        ensure!(
            has_job || self.job.is_empty() && self.repeat.is_none() && self.keep.is_none(),
            "A and B are results, and no job is done; leave out --repeat, --keep and what is behind --"
        );
        let folder = RunDir::create(self.keep.as_deref())?;
        let (a, b) = (a.document("A", &folder)?, b.document("B", &folder)?);
        let comparison = Comparison::of((first, &a), (second, &b), self.slower)?;
        match self.format {
            Format::Human => print!("{comparison}"),
            Format::Json => println!("{}", serde_json::to_string_pretty(&comparison)?),
        }
        Ok(comparison.worse)
    }

    /// What is to be had of the side that `word` names.
    fn wanted(&self, word: &str) -> Result<Wanted> {
        let side = Side::named(word)?;
        let Some(mut options) = side.options() else {
            return Ok(Wanted::Kept(side.read()?));
        };
        options.extend(self.job.iter().cloned());
        if let Some(repeat) = self.repeat {
            options.extend(["--repeat".into(), repeat.to_string().into()]);
        }
        job::check(&options).map_err(|error| {
            let said = error.to_string();
            anyhow!("{}", said.trim_start_matches("error: ").trim_end())
        })?;
        // kdump takes each of these once.
        let ours = OURS.iter().flat_map(|option| [option, "human"]);
        let all: Vec<OsString> = options
            .iter()
            .cloned()
            .chain(ours.map(Into::into))
            .collect();
        ensure!(
            job::check(&all).is_ok(),
            "what stands behind -- is for both jobs, and {} are not; leave them out: --keep DIR before the -- keeps what both report",
            OURS.join(", ")
        );
        Ok(Wanted::Job(options))
    }

    /// Compares the calls of a guest; answers whether they are different.
    fn calls(&self) -> Result<bool> {
        let [first, second] = &self.firmware[..] else {
            bail!("two firmwares are compared; give --firmware twice");
        };
        let kernel = match &self.kernel {
            Some(path) => {
                paths::check_input(path, "--kernel")?;
                path.clone()
            }
            None => build::build(&Workshop::open()?, Program::ClientExample)?.image,
        };
        let traced = |firmware: &str| traced(&kernel, firmware, &self.job);
        let comparison = calls::Comparison::of([first, second], &traced(first)?, &traced(second)?);
        match self.format {
            Format::Human => print!("{comparison}"),
            Format::Json => println!("{}", serde_json::to_string_pretty(&comparison)?),
        }
        Ok(!comparison.same)
    }
}

/// What is to be had of one of the two.
enum Wanted {
    /// It is there.
    Kept(Document),
    /// A job with these options of kdump gives it.
    Job(Vec<OsString>),
}

impl Wanted {
    /// What is there, or what the job reports, which is left in `folder`.
    fn document(self, which: &str, folder: &RunDir) -> Result<Document> {
        let options = match self {
            Self::Kept(document) => return Ok(document),
            Self::Job(options) => options,
        };
        let own = folder.file(&which.to_lowercase());
        fs::create_dir_all(&own)
            .with_context(|| format!("cannot make the folder {}", own.display()))?;
        let report = own.join(REPORT);
        remove_old(&report)?;
        eprintln!("xtask: the job of {which}");
        let done = job::run(&options, &report)?;
        done.document.with_context(|| {
            let ended = format!("kdump: {}", done.status);
            let why = done.complaint.unwrap_or(ended);
            format!("the job of {which} gave no result: {why}")
        })
    }
}

/// A guest whose calls are compared is given so many seconds, unless the user says another number.
const TIMEOUT_SECONDS: &str = "300";

/// The calls that the guest `kernel` makes of `firmware`.
fn traced(kernel: &Path, firmware: &str, options: &[OsString]) -> Result<Vec<Call>> {
    eprintln!("xtask: the guest with firmware {firmware}");
    let mut command = job::own("run")?;
    command
        .args(["--trace=json-lines", "--firmware", firmware, "--kernel"])
        .arg(kernel);
    let mut words = options.iter().map(|option| option.to_string_lossy());
    if !words.any(|word| word.starts_with("--timeout")) {
        command.args(["--timeout", TIMEOUT_SECONDS]);
    }
    command.args(options);
    let mut calls = Vec::new();
    let status = job::follow(&mut command, |line| match Call::of(&line) {
        Some(call) => calls.push(call),
        None => eprintln!("{line}"),
    })?;
    let calls: Vec<Call> = calls.into_iter().collect::<Result<_>>()?;
    // How a guest ends that meets a fault of its firmware is its affair; that it could not be started is not.
    ensure!(
        !calls.is_empty() && !matches!(status.code(), None | Some(1 | 2)),
        "the guest with firmware {firmware} made no call that could be seen: {status}"
    );
    // `cargo xtask run --help` has what they mean.
    ensure!(
        !matches!(status.code(), Some(4 | 6)),
        "with firmware {firmware} the hypervisor or QEMU did not come to the guest's end, so that calls are missing: {status}"
    );
    Ok(calls)
}

impl Comparison {
    /// Compares two documents, by the names that the user gave them.
    ///
    /// # Errors
    ///
    /// If they are of two jobs.
    fn of(
        (name, a): (&str, &Document),
        (other, b): (&str, &Document),
        slower: Option<u32>,
    ) -> Result<Self> {
        rule::check_same_job(a, b)?;
        let mut differences = rule::conditions(a, b);
        let (story, a, b) = (
            story::differences(a, b),
            Summary::of(name, a),
            Summary::of(other, b),
        );
        differences.extend(rule::differences(&a, &b, slower));
        Ok(Self {
            schema: SCHEMA,
            worse: differences.iter().any(|it| it.weight == Weight::Worse),
            a,
            b,
            differences,
            story,
        })
    }
}
