//! Where what comes of runs is told: to people or to programs on standard output, and in a file.

use std::cell::RefCell;
use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::Path;

use anyhow::{Context, Result};

use super::document::{Document, KernelId};
use super::report::Report;
use crate::document;
use crate::page;
use crate::results::{About, Format, Results, Screen, painted, screen};

/// Removes the report of an earlier job, which would be taken for that of one which ends without a verdict. What is no plain file, such
/// as a pipe, stays.
pub fn remove_old(report: &Path) -> Result<()> {
    match fs::symlink_metadata(report).is_ok_and(|file| file.is_file()) {
        true => {
            fs::remove_file(report).with_context(|| format!("cannot remove {}", report.display()))
        }
        false => Ok(()),
    }
}

/// Takes what comes of each run.
pub struct Told {
    results: RefCell<Results<Screen>>,
    document: RefCell<Document>,
    format: Format,
    times: u32,
}

impl Told {
    /// Begins, for so many runs of that kernel.
    pub fn begin(format: Format, about: About, kernel: KernelId, times: u32) -> Result<Self> {
        let results = Results::begin(format, about.clone(), screen())?;
        Ok(Self {
            results: RefCell::new(results),
            document: RefCell::new(Document::new(about, kernel)),
            format,
            times,
        })
    }

    /// Takes a line of the guest's console.
    pub fn note(&self, line: &str) {
        // Who reads it may have had enough; what comes of the run still matters.
        let _ = self.results.borrow_mut().note(line);
    }

    /// Takes what came of a run, which the file `path` is to have, too, and the page `html`.
    pub fn run(&self, report: &Report, path: Option<&Path>, html: Option<&Path>) -> Result<()> {
        let mut document = self.document.borrow_mut();
        document.push(report)?;
        if self.format != Format::Human {
            let case = document.case(report, self.times)?;
            self.results.borrow_mut().case(case)?;
        } else if self.times == 1 || !report.passed {
            write!(screen(), "{}", painted(&report.text()))?;
        }
        if let Some(path) = path {
            let json = serde_json::to_string_pretty(&*document)?;
            fs::write(path, json)
                .with_context(|| format!("cannot write the report {}", path.display()))?;
        }
        if let Some(path) = html {
            let read = document::Document::of(serde_json::to_value(&*document)?)?;
            fs::write(path, page::report(&read))
                .with_context(|| format!("cannot write the page {}", path.display()))?;
        }
        Ok(())
    }

    /// Where the lines of a series go.
    pub fn series(&self) -> Box<dyn Write> {
        match self.format {
            Format::Human => Box::new(stdout()),
            Format::Ktap | Format::Junit | Format::JsonLines => Box::new(stderr()),
        }
    }

    /// Ends. People have read it all.
    pub fn end(self) -> Result<()> {
        if self.format != Format::Human {
            self.results.into_inner().end()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_report_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (report, link) = (folder.path().join("r.json"), folder.path().join("link"));
        remove_old(&report).unwrap();
        fs::write(&report, "passed").unwrap();
        std::os::unix::fs::symlink(&report, &link).unwrap();
        remove_old(&link).unwrap();
        remove_old(folder.path()).unwrap();
        assert!(link.exists());
        remove_old(&report).unwrap();
        assert!(!report.exists());
    }
}
