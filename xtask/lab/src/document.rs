//! The document that `kdump --report` writes, read back: docs/report.md.
//!
//! What a newer halligan has added is passed over, and what an older one did not write yet is absent.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::results::SCHEMA;

/// All that came of one command.
#[derive(Clone, Debug, Deserialize)]
pub struct Document {
    /// Who found it, with what, and when.
    pub about: About,
    /// The kernel that was dumped.
    pub kernel: Kernel,
    /// Whether every run passed.
    pub passed: bool,
    /// All runs, at least one.
    pub runs: Vec<Run>,
}

/// What a report says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct About {
    /// Our version.
    pub version: String,
    /// Our commit.
    pub git: Option<String>,
    /// QEMU's version.
    pub qemu: Option<String>,
    /// The machine.
    pub machine: String,
    /// What ran at EL3.
    pub el3: String,
    /// When it began, in UTC.
    pub date: String,
}

/// What is known of a kernel.
#[derive(Clone, Debug, Deserialize)]
pub struct Kernel {
    /// Its release.
    pub release: Option<String>,
    /// Its build id, in hexadecimal.
    pub build_id: Option<String>,
}

/// One run.
#[derive(Clone, Debug, Deserialize)]
pub struct Run {
    /// Whether all was as it must be.
    pub passed: bool,
    /// What was not, one sentence each.
    pub faults: Vec<String>,
    /// What was to be done.
    pub plan: Plan,
    /// Seconds that the machine ran.
    pub seconds: f64,
    /// What the vmcore gave.
    pub dump: Option<Dump>,
    /// What became of a Linux that came up again.
    pub restart: Option<Restart>,
    /// The dump held against memory.
    pub oracle: Option<Oracle>,
    /// Where each CPU stood when the time was over, if it was.
    #[serde(default)]
    pub stood: Option<Vec<Stood>>,
    /// What the guest said.
    pub story: Story,
    /// How the machine ended.
    pub ending: Option<String>,
    /// The guest's lines that matter; nothing if the report is of before they were kept.
    pub lines: Option<Vec<String>>,
    /// The last lines of the console, if it failed.
    #[serde(default)]
    pub console: Vec<String>,
    /// QEMU's command, if it failed.
    pub command: Option<String>,
    /// Where everything was left, if it failed.
    pub folder: Option<String>,
    /// Commands that show more, if it failed.
    #[serde(default)]
    pub next: Vec<String>,
}

/// What was to be done.
#[derive(Clone, Debug, Deserialize)]
pub struct Plan {
    /// What was done to the guest.
    pub scenario: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// CPUs that were to be wedged.
    pub wedge: Vec<u32>,
    /// All else, by the names of docs/report.schema.json.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// What the vmcore gave.
#[derive(Clone, Debug, Deserialize)]
pub struct Dump {
    /// How it is written.
    pub format: String,
    /// Its size.
    pub bytes: u64,
    /// The release of the dumped kernel.
    pub release: String,
    /// The stop as it happened.
    pub ladder: Ladder,
    /// CPU by CPU.
    pub verdict: Verdict,
}

/// What became of a Linux that came up again.
#[derive(Clone, Debug, Deserialize)]
pub struct Restart {
    /// The stop as it happened, if one CPU stopped the others.
    pub ladder: Option<Ladder>,
}

/// Where a CPU stood.
#[derive(Clone, Debug, Deserialize)]
pub struct Stood {
    /// Its number.
    pub cpu: u32,
    /// `on`, `idle`, `off` or `lost`; nothing if its pCPU did not answer.
    pub state: Option<String>,
    /// Where it was, if it was on.
    pub pc: Option<String>,
    /// The function that is, of a kernel whose symbols are known.
    pub place: Option<String>,
}

/// The stop ladder.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Map<String, Value>")]
pub struct Ladder {
    /// The rungs, lowest first.
    pub rungs: Vec<Rung>,
    /// How each CPU came to stand still, by CPU number.
    pub stopped: Vec<Stopped>,
}

/// A rung of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Its name as in [`Stopped::how`], such as `sdei`.
    pub name: String,
    /// Microseconds that it took; nothing if it was not climbed, or not measured.
    pub us: Option<u64>,
}

/// How a CPU came to stand still.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Value")]
pub struct Stopped {
    /// The name of a rung, or `panicked`, `restarted`, `itself`, `not` or `below`.
    pub how: String,
    /// So many microseconds after its rung began.
    pub after_us: Option<u64>,
}

/// The verdict on a dump.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// CPU by CPU.
    pub cpus: Vec<Cpu>,
}

/// What became of a CPU.
#[derive(Clone, Debug, Deserialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// Whether it was wedged.
    pub wedged: bool,
    /// How it was stopped.
    pub stopped: Stopped,
    /// Where it stood, by the vmcore.
    pub stood_in: Option<String>,
    /// Its registers, by the vmcore.
    pub registers: Option<BTreeMap<String, String>>,
    /// What the hypervisor saw of it before the NMI.
    pub outside: Option<Outside>,
    /// How many registers are as recorded; nothing if they were not compared.
    pub equal: Option<u64>,
    /// What is wrong.
    #[serde(default)]
    pub faults: Vec<String>,
}

/// What was seen of a CPU from outside.
#[derive(Clone, Debug, Deserialize)]
pub struct Outside {
    /// The functions it was in, innermost first.
    #[serde(default)]
    pub frames: Vec<String>,
}

/// A dump, held against memory.
#[derive(Clone, Debug, Deserialize)]
pub struct Oracle {
    /// Page by page.
    pub report: Pages,
}

/// What was found page by page.
#[derive(Clone, Debug, Deserialize)]
pub struct Pages {
    /// All pages, by class.
    pub classes: Vec<Class>,
    /// Those that the dump has otherwise.
    pub different: Bad,
    /// Those that it must have, and lacks.
    pub missing: Bad,
}

/// A class of pages.
#[derive(Clone, Debug, Deserialize)]
pub struct Class {
    /// Such as `absent and excludable`.
    pub class: String,
    /// Why the dump need not have them.
    pub reason: Option<String>,
    /// How many.
    pub pages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Pages that are not as they must be.
#[derive(Clone, Debug, Deserialize)]
pub struct Bad {
    /// How many.
    pub pages: u64,
    /// The first of them.
    #[serde(default)]
    pub first: Vec<BadPage>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
pub struct BadPage {
    /// Its physical address.
    pub address: u64,
    /// What it belongs to.
    pub belongs: String,
    /// Who wrote to it after the instant.
    #[serde(default)]
    pub written_by: Vec<String>,
}

/// What the guest said.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Story {
    /// Whether our init came up, with which a scenario starts.
    #[serde(default)]
    pub is_up: bool,
    /// Why it panicked.
    pub panic: Option<String>,
    /// CPUs whose backtrace the kernel printed, and where each stood.
    #[serde(default)]
    pub backtraces: Vec<(u32, String)>,
}

impl Document {
    /// The one in the file at `path`.
    ///
    /// # Errors
    ///
    /// If it is none, or none that can be read here, with the mend.
    pub fn read(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", named()))?;
        Self::parse(&text).with_context(named)
    }

    /// That of a file's text.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(_) if text.trim_start().starts_with("{\"event\":") => bail!(
                "this is what --format json-lines writes; a result that can be read is what --report FILE.json writes"
            ),
            Err(error) => {
                bail!("this is no JSON ({error}); a result is what kdump --report FILE.json writes")
            }
        };
        Self::of(value)
    }

    /// That of a JSON value.
    pub fn of(value: Value) -> Result<Self> {
        let Some(schema) = value.get("schema").and_then(Value::as_u64) else {
            bail!(
                "this is no report of halligan's: it has no schema; kdump --report FILE.json writes one"
            );
        };
        if schema != u64::from(SCHEMA) {
            let git = value.pointer("/about/git").and_then(Value::as_str);
            bail!(
                "its schema is {schema}, and this halligan reads {SCHEMA}; write it anew with kdump --report, or read it with the halligan that wrote it ({})",
                git.unwrap_or("which it does not say")
            );
        }
        let document: Self = serde_json::from_value(value)
            .context("it has schema 1 but not what docs/report.schema.json says; write it anew with kdump --report")?;
        ensure!(
            !document.runs.is_empty(),
            "it has no run; write it anew with kdump --report"
        );
        Ok(document)
    }
}

impl Run {
    /// How Linux stopped its CPUs, for a dump or for a restart.
    pub fn ladder(&self) -> Option<&Ladder> {
        let of_restart = self.restart.as_ref().and_then(|it| it.ladder.as_ref());
        self.dump.as_ref().map(|dump| &dump.ladder).or(of_restart)
    }

    /// How a CPU's registers came out, if the vmcore gave anything.
    pub fn cpus(&self) -> &[Cpu] {
        self.dump.as_ref().map_or(&[], |dump| &dump.verdict.cpus)
    }
}

impl Cpu {
    /// Whether the vmcore has its registers.
    pub const fn is_there(&self) -> bool {
        self.registers.is_some()
    }
}

impl From<Map<String, Value>> for Ladder {
    fn from(map: Map<String, Value>) -> Self {
        let rungs = map.iter().filter_map(|(key, value)| {
            Some(Rung {
                name: key.strip_suffix("_us")?.replace('_', "-"),
                us: value.as_u64(),
            })
        });
        let mut rungs: Vec<Rung> = rungs.collect();
        rungs.sort_by_key(|rung| (place(&rung.name), rung.name.clone()));
        let stopped = map.get("stopped").and_then(Value::as_array);
        let stopped = stopped.into_iter().flatten().cloned().map(Stopped::from);
        Self {
            rungs,
            stopped: stopped.collect(),
        }
    }
}

/// Where a rung is on Linux's ladder: what interrupts can do comes first, SDEI last, all else between.
fn place(name: &str) -> u8 {
    match name {
        "ipi" => 0,
        "sdei" => 2,
        _ => 1,
    }
}

impl From<Value> for Stopped {
    fn from(value: Value) -> Self {
        if let Some(how) = value.as_str() {
            return Self {
                how: how.to_owned(),
                after_us: None,
            };
        }
        let only = value.as_object().and_then(|map| map.iter().next());
        match only {
            Some((how, after)) => Self {
                how: how.clone(),
                after_us: after.get("after_us").and_then(Value::as_u64),
            },
            None => Self {
                how: "unknown".to_owned(),
                after_us: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A document with one run, as little as can be.
    fn least() -> Value {
        json!({
            "schema": 1,
            "about": {"version": "0.1.0", "git": null, "qemu": null, "machine": "virt", "el3": "none", "date": "2026-11-30T09:00:00Z", "new": 1},
            "kernel": {"release": "7.3.4", "build_id": null},
            "passed": false,
            "runs": [{
                "passed": false, "faults": ["no CPU was wedged"], "seconds": 3.5,
                "plan": {"scenario": "kdump", "cpus": 4, "wedge": [2], "firmware": "spec"},
                "dump": null, "oracle": null, "story": {"panic": null}
            }]
        })
    }

    fn refused(value: &Value) -> String {
        format!("{:#}", Document::of(value.clone()).unwrap_err())
    }

    #[test]
    fn what_is_new_is_passed_over_and_what_is_old_is_absent() {
        let document = Document::of(least()).unwrap();
        let run = &document.runs[0];
        assert!(run.lines.is_none() && run.ending.is_none() && !run.story.is_up);
        assert_eq!(run.plan.more["firmware"], "spec");
        assert!(run.cpus().is_empty());
    }

    #[test]
    fn what_is_no_report_is_told_with_the_mend() {
        for (text, said) in [
            ("", "this is no JSON"),
            ("[]", "it has no schema; kdump --report"),
            ("{\"version\": 1}", "it has no schema"),
            (
                "{\"event\":\"begin\"}\n{\"event\":\"end\"}\n",
                "--format json-lines",
            ),
        ] {
            let error = Document::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let mut newer = least();
        newer["schema"] = 7.into();
        newer["about"]["git"] = "0123".into();
        let said = refused(&newer);
        assert!(
            said.contains("its schema is 7, and this halligan reads 1"),
            "{said}"
        );
        assert!(
            said.ends_with("the halligan that wrote it (0123)"),
            "{said}"
        );
        let mut empty = least();
        empty["runs"] = json!([]);
        assert!(refused(&empty).contains("it has no run"));
        let mut odd = least();
        odd["runs"][0]["plan"]["cpus"] = "four".into();
        let said = refused(&odd);
        assert!(
            said.contains("report.schema.json") && said.contains("four"),
            "{said}"
        );
    }

    #[test]
    fn each_rung_is_read_by_its_name_those_to_come_too() {
        let ladder = json!({
            "sdei_us": 5, "pseudo_nmi_us": null, "ipi_us": 1_000_000,
            "stopped": ["panicked", {"ipi": {"after_us": null}}, {"pseudo-nmi": {"after_us": 7}}, "not", 3]
        });
        let ladder: Ladder = serde_json::from_value(ladder).unwrap();
        let rungs: Vec<(&str, Option<u64>)> = ladder
            .rungs
            .iter()
            .map(|rung| (rung.name.as_str(), rung.us))
            .collect();
        assert_eq!(
            rungs,
            [
                ("ipi", Some(1_000_000)),
                ("pseudo-nmi", None),
                ("sdei", Some(5))
            ]
        );
        let how: Vec<(&str, Option<u64>)> = ladder
            .stopped
            .iter()
            .map(|stopped| (stopped.how.as_str(), stopped.after_us))
            .collect();
        assert_eq!(
            how,
            [
                ("panicked", None),
                ("ipi", None),
                ("pseudo-nmi", Some(7)),
                ("not", None),
                ("unknown", None)
            ]
        );
    }
}
