//! `cargo xtask matrix`: many jobs of `cargo xtask kdump`, made of axes.

mod choice;
mod file;
mod judge;
mod kernels;
mod options;
mod plan;
mod rows;
mod run;
mod summary;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use debian::paths;
use debian::progress::Progress;
use lab::kdump::quote;
use lab::results::{About, Case, Format, Outcome as CaseOutcome, Results, Screen, screen};
use lab::usage;
use machine::run_dir::{self, RunDir};
use serde_json::Value as Json;

use choice::Shard;
use judge::{Exit, Judgement, judge};
use kernels::ByKdump;
use options::{Options, Value};
use plan::{Axes, Plan};
use rows::{LeftOut, Row, Rows};
use summary::{Entry, Outcome, Summary};

/// The plan without a file and without axes.
const DEFAULT_PLAN: &str = include_str!("matrix/default.toml");
/// Its name on the command line.
const DEFAULT: &str = "default";
/// How many folders of results stay that nobody has named.
const KEPT: usize = 10;

/// Run many jobs of `cargo xtask kdump`, and say what came of each.
///
/// A row of a matrix is one such job, with the options of `cargo xtask kdump --help`. Rows are made of axes, each an option and its
/// values, by a file (docs/matrix.md), by --axis, or by both: then --axis replaces that option of the file. Without either it is the
/// default matrix, about half an hour on two cores. Combinations that cannot be are left out, and --list says why.
///
/// Each row runs alone, as a process of its own. What it leaves is in a folder of its own, beside matrix.json, which has all
/// verdicts; of each row that fails the command is said that does the same again.
///
/// Exit codes: 0 all rows are as they must be, 1 one is not, 2 wrong usage.
#[derive(Args)]
pub struct Matrix {
    /// The plan: a file, or `default`, which is built in [default: default, unless there is an --axis].
    #[arg(value_name = "FILE.toml")]
    plan: Option<PathBuf>,
    /// An option of kdump and its values, separated by commas, or by semicolons if values have commas; repeatable.
    ///
    /// Such as scenario=kdump,hardlockup, kernel=ours,stock:debian-13,tree:DIR, or 'wedge=0;1,3'. The value `default` leaves the
    /// option out.
    #[arg(long = "axis", value_name = "NAME=VALUE,...", value_parser = read_axis)]
    axes: Vec<(String, Vec<Value>)>,
    /// Run only rows that have this in their name; repeatable, for rows that have one of several.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Run one part of several, such as 1/4: the parts together have every row once, and the same rows each time.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Print the rows and the commands they are, and what is left out and why; run nothing.
    #[arg(long)]
    list: bool,
    /// Run no more rows once one has failed.
    #[arg(long)]
    fail_fast: bool,
    /// Refused.
    #[arg(long = "retries", hide = true, num_args = 0..=1, default_missing_value = "1", value_parser = refuse_retries)]
    _retries: Option<String>,
    /// Leave the results in this folder, which must be empty or not there [default: one by the date below target/xtask/matrix, where
    /// the last 10 stay].
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// How what comes of rows is written to standard output: for people, or while they run as KTAP or JSON, or at the end as JUnit's
    /// XML: docs/report.md.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "human")]
    format: Format,
}

fn read_axis(text: &str) -> Result<(String, Vec<Value>), String> {
    plan::axis(&Options::of_kdump(), text)
}

fn refuse_retries(_: &str) -> Result<String, String> {
    Err("a row that passes when it is tried again has a fault that a retry hides: it is left as failed here. To see whether it \
         fails again, run its command with --repeat"
        .to_owned())
}

/// What is to be done.
struct Chosen {
    rows: Vec<(usize, Row)>,
    left_out: Vec<LeftOut>,
}

impl Matrix {
    /// Runs the rows, or lists them.
    pub fn execute(self) -> Result<ExitCode> {
        let options = Options::of_kdump();
        let chosen = self.chosen(&options).map_err(usage::wrong)?;
        if self.list {
            print!("{}", listing(&chosen));
            return Ok(ExitCode::SUCCESS);
        }
        let folder = self.folder()?;
        let summary = self.run(&options, &chosen, folder.path())?;
        Ok(match summary.passed {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    fn chosen(&self, options: &Options) -> Result<Chosen> {
        let over = merged(&self.axes);
        let name = self.plan_name();
        let Rows { rows, left_out } = match &name {
            None => rows::rows(options, &Plan::of_axes(over), &Vec::new(), |words| {
                options.look(words)
            })?,
            Some(name) => {
                let plan = read(options, name).with_context(|| format!("in the plan {name}"))?;
                rows::rows(options, &plan, &over, |words| options.look(words))
                    .with_context(|| format!("in the plan {name}"))?
            }
        };
        let rows = choice::choose(&rows, &self.only, self.shard)?;
        ensure!(
            !rows.is_empty(),
            "this shard has no row: there are fewer rows than shards"
        );
        kernels::check(&rows)?;
        if let Some(keep) = &self.keep {
            let is_free =
                fs::read_dir(keep).map_or(!keep.exists(), |mut files| files.next().is_none());
            ensure!(
                is_free,
                "{} for --keep is not empty; name another folder, or remove it",
                keep.display()
            );
        }
        Ok(Chosen { rows, left_out })
    }

    /// The file of the plan, unless all is on the command line.
    fn plan_name(&self) -> Option<String> {
        match &self.plan {
            Some(path) => Some(path.to_string_lossy().into_owned()),
            None if self.axes.is_empty() => Some(DEFAULT.to_owned()),
            None => None,
        }
    }

    /// Where the results go; no other command writes there meanwhile.
    fn folder(&self) -> Result<RunDir> {
        if let Some(keep) = &self.keep {
            return RunDir::create(Some(keep));
        }
        let parent = paths::output("matrix")?;
        let date = About::now_on_several().date.replace(':', "-");
        let mut names = (1..).map(|number| match number {
            1 => parent.join(&date),
            _ => parent.join(format!("{date}-{number}")),
        });
        let own = || format!("in the folder {}", parent.display());
        fs::create_dir_all(&parent).with_context(own)?;
        // Another matrix may begin in the same second.
        let path = loop {
            let path = names.next().context("no name is left")?;
            match fs::create_dir(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(own),
            }
        };
        let folder = RunDir::create(Some(&path))?;
        run_dir::remove_oldest(&parent, KEPT)?;
        Ok(folder)
    }

    fn run(&self, options: &Options, chosen: &Chosen, folder: &Path) -> Result<Summary> {
        let progress = Progress::new();
        let about = About::now_on_several();
        let rows = chosen.rows.iter().map(|(number, row)| entry(*number, row));
        let mut summary = Summary::new(about.clone(), rows.collect(), &chosen.left_out);
        summary.plan = self.plan_name();
        summary.shard = self.shard.map(|shard| shard.to_string());
        write(&summary, folder)?;
        let mut results = Results::begin(self.format, about, screen())?;
        progress.say(&format!(
            "{} rows; their results go to {}",
            chosen.rows.len(),
            folder.display()
        ));
        if !chosen.left_out.is_empty() {
            let count = chosen.left_out.len();
            progress.say(&format!(
                "{count} combinations are left out; --list says which, and why"
            ));
        }
        let maker = ByKdump { options, folder };
        let ready = kernels::make(&maker, &chosen.rows, |error| {
            supervisor::settle();
            progress.say(error);
        });
        for (at, words) in ready.into_iter().enumerate() {
            if self.fail_fast && summary.has_failed() {
                results.case(not_run(&summary.rows[at]))?;
                continue;
            }
            let what = format!(
                "{} of {}, {}",
                at + 1,
                summary.rows.len(),
                summary.rows[at].name
            );
            let report = row(&mut summary.rows[at], words, folder, progress.lazily(what))?;
            summary.passed = !summary.has_failed();
            write(&summary, folder)?;
            results.case(case(&summary.rows[at], report, folder))?;
        }
        summary.finished = true;
        write(&summary, folder)?;
        finish(results, &summary, folder)?;
        Ok(summary)
    }
}

/// Runs a row by `words`, unless there is a reason why it cannot; its report.
fn row(
    entry: &mut Entry,
    words: Result<Vec<String>, String>,
    folder: &Path,
    mut step: debian::progress::Step,
) -> Result<Option<Json>> {
    let words = match words {
        Ok(words) => words,
        Err(why) => {
            entry.outcome = Outcome::Failed;
            entry.faults = vec![why];
            return Ok(None);
        }
    };
    entry.command = command(&words);
    let name = run::folder_name(entry.number, &entry.name);
    let own = folder.join(&name);
    let ran = run::run(&words, &own, &mut step)?;
    drop(step);
    let fails_with = entry.fails_with.as_deref();
    let Judgement {
        is_well,
        faults,
        sdei_us,
    } = judge(ran.exit, ran.report.as_ref(), &ran.said, fails_with);
    if is_well {
        run::tidy_up(&own)?;
    }
    entry.outcome = match is_well {
        true => Outcome::Passed,
        false => Outcome::Failed,
    };
    entry.faults = faults;
    entry.sdei_us = sdei_us;
    // Milliseconds are enough, and readable.
    entry.seconds = Some(ran.time.as_millis() as f64 / 1000.0);
    entry.exit_code = match ran.exit {
        Exit::Code(code) => Some(code),
        Exit::Signal(_) => None,
    };
    entry.report = ran
        .report
        .as_ref()
        .map(|_| format!("{name}/{}", run::REPORT));
    entry.folder = Some(name);
    Ok(ran.report)
}

/// The plan of a file, or the one that is built in.
fn read(options: &Options, name: &str) -> Result<Plan> {
    if name == DEFAULT {
        return file::parse(options, DEFAULT_PLAN, Path::new(""));
    }
    let path = Path::new(name);
    paths::check_kind(path, "the plan")?;
    let text = fs::read_to_string(path).context("cannot read it")?;
    file::parse(options, &text, path.parent().unwrap_or(Path::new("")))
}

/// Axes of which those of one name are one.
fn merged(axes: &Axes) -> Axes {
    let mut all = Axes::new();
    for (name, values) in axes {
        let known = all.iter_mut().find(|(other, _)| other == name);
        let Some((_, known)) = known else {
            all.push((name.clone(), values.clone()));
            continue;
        };
        for value in values {
            if !known.contains(value) {
                known.push(value.clone());
            }
        }
    }
    all
}

fn command(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("cargo xtask kdump {}", words.join(" "))
        .trim_end()
        .to_owned()
}

fn entry(number: usize, row: &Row) -> Entry {
    Entry {
        number,
        name: row.name.clone(),
        command: command(&row.words),
        outcome: Outcome::NotRun,
        fails_with: row.fails_with.clone(),
        faults: Vec::new(),
        seconds: None,
        exit_code: None,
        sdei_us: None,
        folder: None,
        report: None,
    }
}

/// What a result says of a row.
fn case(entry: &Entry, report: Option<Json>, folder: &Path) -> Case {
    let is_well = entry.outcome == Outcome::Passed;
    let rung = entry
        .sdei_us
        .map(|us| format!("SDEI rung {:.1} ms", us as f64 / 1000.0));
    let remark = match entry.faults.first().filter(|_| is_well) {
        Some(fault) => Some(format!("fails as it must: {fault}")),
        None => rung,
    };
    let mut details = Vec::new();
    if !is_well {
        details.extend(
            entry
                .faults
                .iter()
                .flat_map(|fault| fault.lines())
                .map(str::to_owned),
        );
        details.push(format!("again: {}", entry.command));
        let own = entry.folder.as_ref();
        details.extend(own.map(|own| format!("all of it: {}", folder.join(own).display())));
    }
    Case {
        name: entry.name.clone(),
        outcome: match is_well {
            true => CaseOutcome::Passed,
            false => CaseOutcome::Failed,
        },
        time: entry.seconds.map(std::time::Duration::from_secs_f64),
        remark,
        details,
        report,
    }
}

fn not_run(entry: &Entry) -> Case {
    Case {
        name: entry.name.clone(),
        outcome: CaseOutcome::Skipped,
        time: None,
        remark: Some("not run: a row has failed before".to_owned()),
        details: Vec::new(),
        report: None,
    }
}

/// For a browser, beside matrix.json.
const PAGE: &str = "index.html";

fn write(summary: &Summary, folder: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(summary)?;
    paths::write_if_new(&folder.join("matrix.json"), json.as_bytes())?;
    paths::write_if_new(&folder.join(PAGE), summary.page().as_bytes())
}

/// Says all of it once more, to people in one table.
fn finish(results: Results<Screen>, summary: &Summary, folder: &Path) -> Result<()> {
    if results.format() == Format::Human {
        println!("\n{}", summary.table());
        let again = summary.again();
        if !again.is_empty() {
            println!("To run again what has failed:");
            again.iter().for_each(|command| println!("  {command}"));
            println!();
        }
        println!("All of it is in {}", folder.join(PAGE).display());
    }
    results.end()?;
    Ok(())
}

/// The rows and their commands, and what is none.
fn listing(chosen: &Chosen) -> String {
    let widths = chosen.rows.iter().map(|(_, row)| row.name.chars().count());
    let width = widths.max().unwrap_or(0);
    let rows = chosen.rows.iter().map(|(_, row)| {
        let must = row.fails_with.as_ref();
        let must = must.map_or(String::new(), |text| format!("  # must fail with: {text}"));
        format!("{:width$}  {}{must}\n", row.name, command(&row.words))
    });
    let left_out = chosen.left_out.iter();
    let left_out = left_out.map(|out| format!("left out: {}: {}\n", out.name, out.why));
    rows.chain(left_out).collect()
}

#[cfg(test)]
mod tests;
