//! What came of a matrix: the file `matrix.json` (docs/report.md), the table for people, and what to type next.

use std::fmt::Write;

use lab::page;
use lab::results::{About, SCHEMA};
use serde::Serialize;

use super::rows::LeftOut;

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is as it must be.
    Passed,
    /// It is not.
    Failed,
    /// It has not been run.
    NotRun,
}

/// A row, and what came of it. What is not known is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its number in the whole plan, from 1.
    pub number: usize,
    /// Its name.
    pub name: String,
    /// The command that does the same again.
    pub command: String,
    /// What became of it.
    pub outcome: Outcome,
    /// What each fault must have, if it must fail.
    pub fails_with: Option<String>,
    /// What is wrong; of a row that must fail what it failed with.
    pub faults: Vec<String>,
    /// How long it took, all in all.
    pub seconds: Option<f64>,
    /// The exit code of its process.
    pub exit_code: Option<i32>,
    /// How long the rung of SDEI took, in microseconds; of several runs the longest.
    pub sdei_us: Option<u64>,
    /// Where its files are, in the folder of this file.
    pub folder: Option<String>,
    /// Its report, there.
    pub report: Option<String>,
}

/// All of a matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The version of this.
    pub schema: u32,
    /// Who has done it. Machines are the rows'.
    pub about: About,
    /// The plan's file, `default`, or nothing if it was all on the command line.
    pub plan: Option<String>,
    /// Which rows of the plan these are, if not all.
    pub shard: Option<String>,
    /// Whether it went to its end.
    pub finished: bool,
    /// Whether no row has failed so far.
    pub passed: bool,
    /// Its rows.
    pub rows: Vec<Entry>,
    /// Combinations that are no rows.
    pub left_out: Vec<NoRow>,
}

/// A combination that is no row.
#[derive(Clone, Debug, Serialize)]
pub struct NoRow {
    /// The name that it would have.
    pub name: String,
    /// The reason.
    pub why: String,
}

impl From<&LeftOut> for NoRow {
    fn from(out: &LeftOut) -> Self {
        Self {
            name: out.name.clone(),
            why: out.why.clone(),
        }
    }
}

impl Entry {
    fn job(&self) -> page::Job<'_> {
        page::Job {
            name: &self.name,
            verdict: match self.outcome {
                Outcome::Passed if self.fails_with.is_some() => page::Verdict::FailedAsItMust,
                Outcome::Passed => page::Verdict::Passed,
                Outcome::Failed => page::Verdict::Failed,
                Outcome::NotRun => page::Verdict::NotRun,
            },
            seconds: self.seconds,
            sdei_us: self.sdei_us,
            faults: &self.faults,
            command: &self.command,
            folder: self.report.as_ref().and(self.folder.as_deref()),
        }
    }
}

impl Summary {
    /// Of rows that have not been run yet.
    pub fn new(about: About, rows: Vec<Entry>, left_out: &[LeftOut]) -> Self {
        Self {
            schema: SCHEMA,
            about,
            plan: None,
            shard: None,
            finished: false,
            passed: true,
            rows,
            left_out: left_out.iter().map(NoRow::from).collect(),
        }
    }

    /// Whether a row has failed.
    pub fn has_failed(&self) -> bool {
        let mut rows = self.rows.iter();
        rows.any(|row| row.outcome == Outcome::Failed)
    }

    /// A line for each row.
    pub fn table(&self) -> String {
        const HEAD: &str = "row";
        let widths = self.rows.iter().map(|row| row.name.chars().count());
        let width = widths.max().unwrap_or(0).max(HEAD.len());
        let mut text = format!("{HEAD:width$}  verdict     time  SDEI rung\n");
        for row in &self.rows {
            let verdict = match row.outcome {
                Outcome::Passed if row.fails_with.is_some() => "fails ok",
                Outcome::Passed => "passed",
                Outcome::Failed => "FAILED",
                Outcome::NotRun => "not run",
            };
            let time = row
                .seconds
                .map_or("-".to_owned(), |time| format!("{time:.0} s"));
            let rung = row
                .sdei_us
                .map_or("-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1000.0));
            let _ = writeln!(
                text,
                "{:width$}  {verdict:8}  {time:>6}  {rung:>9}",
                row.name
            );
        }
        text
    }

    /// The page of all rows, which leads to the page of each that has a report.
    pub fn page(&self) -> String {
        let jobs: Vec<page::Job<'_>> = self.rows.iter().map(Entry::job).collect();
        let of = self.plan.as_deref().unwrap_or("the command line");
        let shard = self.shard.as_ref();
        let shard = shard.map_or(String::new(), |shard| format!(", shard {shard}"));
        page::list(
            &format!("Matrix of {of}{shard}, {}", self.about.date),
            &jobs,
        )
    }

    /// The commands that do the failed rows again.
    pub fn again(&self) -> Vec<&str> {
        let failed = self
            .rows
            .iter()
            .filter(|row| row.outcome == Outcome::Failed);
        failed.map(|row| row.command.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, outcome: Outcome) -> Entry {
        let is_run = outcome != Outcome::NotRun;
        Entry {
            number: 1,
            name: name.into(),
            command: format!("cargo xtask kdump --scenario {name}"),
            outcome,
            fails_with: (name == "lost").then(|| "CPU 2".into()),
            faults: Vec::new(),
            seconds: is_run.then_some(21.4),
            exit_code: is_run.then_some(0),
            sdei_us: (name == "kdump").then_some(5741),
            folder: is_run.then(|| "001-x".into()),
            report: None,
        }
    }

    fn summary() -> Summary {
        let about = About {
            version: "0.1.0".into(),
            git: None,
            qemu: None,
            machine: None,
            el3: None,
            date: "2026-11-30T09:00:00Z".into(),
        };
        let rows = vec![
            entry("kdump", Outcome::Passed),
            entry("lost", Outcome::Passed),
            entry("hardlockup", Outcome::Failed),
            entry("nmi", Outcome::NotRun),
        ];
        let out = LeftOut {
            name: "nmi/wedge=2".into(),
            why: "all are wedged".into(),
        };
        Summary::new(about, rows, &[out])
    }

    #[test]
    fn people_get_a_table_and_the_commands_of_failures() {
        assert_eq!(
            summary().table(),
            "row         verdict     time  SDEI rung\n\
             kdump       passed      21 s     5.7 ms\n\
             lost        fails ok    21 s          -\n\
             hardlockup  FAILED      21 s          -\n\
             nmi         not run        -          -\n"
        );
        assert_eq!(
            summary().again(),
            ["cargo xtask kdump --scenario hardlockup"]
        );
        assert!(summary().has_failed());
    }

    #[test]
    fn the_file_is_as_the_schema_says() {
        let json = serde_json::to_value(summary()).unwrap();
        report_schema::check("matrix", &json).unwrap();
        let mut wrong = json.clone();
        wrong["rows"][0]["outcome"] = "skipped".into();
        assert!(report_schema::check("matrix", &wrong).is_err());
        let mut wrong = json;
        wrong["more"] = 1.into();
        assert!(report_schema::check("matrix", &wrong).is_err());
    }
}
