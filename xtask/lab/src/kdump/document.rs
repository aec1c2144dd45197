//! What runs came to, for programs: docs/report.md.

use serde::Serialize;
use serde_json::Value;

use super::report::Report;
use crate::build_id;
use crate::results::{About, Case, Outcome, SCHEMA};

/// The kernel that was dumped. What is not known is null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelId {
    /// Its release, as `uname -r` tells it.
    pub release: Option<String>,
    /// Its build id, in hexadecimal.
    pub build_id: Option<String>,
}

impl KernelId {
    /// That of an Image, and of the build id of its vmlinux.
    pub fn of(image: &[u8], build_id: Option<&[u8]>) -> Self {
        Self {
            release: build_id::release(image),
            build_id: build_id.map(build_id::hexadecimal),
        }
    }
}

/// All that came of one command.
#[derive(Debug, Serialize)]
pub struct Document {
    schema: u32,
    about: About,
    kernel: KernelId,
    passed: bool,
    runs: Vec<Value>,
}

impl Document {
    /// One without runs.
    pub const fn new(about: About, kernel: KernelId) -> Self {
        Self {
            schema: SCHEMA,
            about,
            kernel,
            passed: false,
            runs: Vec::new(),
        }
    }

    /// Takes in one more run.
    pub fn push(&mut self, report: &Report) -> serde_json::Result<()> {
        let is_first = self.runs.is_empty();
        self.passed = report.passed && (is_first || self.passed);
        self.runs.push(serde_json::to_value(report)?);
        Ok(())
    }

    /// The last run alone as one of `times` results.
    pub fn case(&self, report: &Report, times: u32) -> serde_json::Result<Case> {
        let scenario = serde_json::to_value(report.plan.scenario)?;
        let scenario = scenario.as_str().unwrap_or_default();
        let number = self.runs.len();
        let name = match times {
            1 => format!("kdump/{scenario}"),
            _ => format!("kdump/{scenario}/{number}"),
        };
        let own = Self {
            runs: self.runs.last().cloned().into_iter().collect(),
            passed: report.passed,
            about: self.about.clone(),
            kernel: self.kernel.clone(),
            schema: self.schema,
        };
        let details = report.faults.iter().flat_map(|fault| fault.lines());
        Ok(Case {
            name,
            outcome: match report.passed {
                true => Outcome::Passed,
                false => Outcome::Failed,
            },
            time: Some(std::time::Duration::from_secs_f64(report.seconds)),
            remark: report.rungs(),
            details: details.map(str::to_owned).collect(),
            report: Some(serde_json::to_value(own)?),
        })
    }
}
