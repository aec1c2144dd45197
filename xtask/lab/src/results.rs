//! What came of checks, for people and for programs, on standard output while they run.

mod about;
mod junit;
mod ktap;
mod paint;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

pub use about::{About, SCHEMA, version};
pub use paint::{Screen, has_colour, painted, screen};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people.
    #[default]
    Human,
    /// The kernel's test format (Linux, Documentation/dev-tools/ktap.rst).
    Ktap,
    /// One XML document, at the end.
    Junit,
    /// A JSON object in each line: docs/report.md.
    JsonLines,
}

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is as it must be.
    Passed,
    /// It is not.
    Failed,
    /// It does not apply here.
    Skipped,
}

/// One check.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took; nothing if it did not run.
    pub time: Option<Duration>,
    /// What is to be said of it, in one line, if anything is.
    pub remark: Option<String>,
    /// What is wrong, if it failed.
    pub details: Vec<String>,
    /// All that was found, for programs.
    pub report: Option<Value>,
}

impl Case {
    fn seconds(&self) -> Option<f64> {
        // Milliseconds are enough, and readable.
        let millis = self.time?.as_millis();
        Some(millis as f64 / 1000.0)
    }
}

/// How many checks had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Those that passed.
    pub passed: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those that did not apply.
    pub skipped: u32,
}

/// Results on their way to `out`, in one format.
pub struct Results<W: Write> {
    format: Format,
    /// Nothing where nobody asks for it.
    about: Option<About>,
    out: W,
    count: Count,
    /// Those of a document that is written at its end.
    held: Vec<Case>,
}

impl<W: Write> Results<W> {
    /// Begins them.
    pub fn begin(format: Format, about: About, out: W) -> io::Result<Self> {
        let mut results = Self::human(out);
        results.format = format;
        match format {
            Format::Human | Format::Junit => {}
            Format::Ktap => ktap::begin(&mut results.out, &about)?,
            Format::JsonLines => {
                let begin = json!({"event": "begin", "schema": SCHEMA, "about": about});
                results.line(&begin)?;
            }
        }
        results.about = Some(about);
        Ok(results)
    }

    /// Begins those for people.
    pub const fn human(out: W) -> Self {
        Self {
            format: Format::Human,
            about: None,
            out,
            count: Count {
                passed: 0,
                failed: 0,
                skipped: 0,
            },
            held: Vec::new(),
        }
    }

    /// In which format they are written.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// How many there are.
    pub const fn count(&self) -> Count {
        self.count
    }

    /// Writes what came of a check.
    pub fn case(&mut self, case: Case) -> io::Result<()> {
        let count = match case.outcome {
            Outcome::Passed => &mut self.count.passed,
            Outcome::Failed => &mut self.count.failed,
            Outcome::Skipped => &mut self.count.skipped,
        };
        *count += 1;
        let number = self.count.passed + self.count.failed + self.count.skipped;
        match self.format {
            Format::Human => human(&mut self.out, &case)?,
            Format::Ktap => ktap::case(&mut self.out, number, &case)?,
            Format::Junit => self.held.push(case),
            Format::JsonLines => {
                let result = json!({
                    "event": "result",
                    "name": case.name,
                    "outcome": case.outcome,
                    "seconds": case.seconds(),
                    "remark": case.remark,
                    "details": case.details,
                    "report": case.report,
                });
                self.line(&result)?;
            }
        }
        self.out.flush()
    }

    /// Writes a line of the story, such as one of the guest's console. A document that is written at its end has none.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        match self.format {
            Format::Human => writeln!(self.out, "  | {text}"),
            Format::Ktap => ktap::note(&mut self.out, text),
            Format::Junit => Ok(()),
            Format::JsonLines => self.line(&json!({"event": "console", "line": text})),
        }?;
        self.out.flush()
    }

    /// Ends them.
    pub fn end(mut self) -> io::Result<Count> {
        let Count {
            passed,
            failed,
            skipped,
        } = self.count;
        match self.format {
            Format::Human => {
                let style = paint::style(match failed {
                    0 => Outcome::Passed,
                    _ => Outcome::Failed,
                });
                writeln!(self.out, "{style}{passed} passed, {failed} failed{style:#}")?;
            }
            Format::Ktap => ktap::end(&mut self.out, self.count)?,
            Format::Junit => {
                junit::document(&mut self.out, self.about.as_ref(), self.count, &self.held)?;
            }
            Format::JsonLines => {
                let end =
                    json!({"event": "end", "passed": passed, "failed": failed, "skipped": skipped});
                self.line(&end)?;
            }
        }
        self.out.flush()?;
        Ok(self.count)
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value}")
    }
}

/// One line, and below it what is wrong.
fn human(out: &mut impl Write, case: &Case) -> io::Result<()> {
    let verdict = match case.outcome {
        Outcome::Passed => "ok",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "-",
    };
    let seconds = case.time.unwrap_or_default().as_secs_f64();
    let style = paint::style(case.outcome);
    write!(
        out,
        "{style}{verdict:6}{style:#} {seconds:6.1} s  {}",
        case.name
    )?;
    match &case.remark {
        Some(remark) => writeln!(out, ": {remark}")?,
        None => writeln!(out)?,
    }
    for detail in &case.details {
        writeln!(out, "        {detail}")?;
    }
    Ok(())
}
