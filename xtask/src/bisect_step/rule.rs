//! What a kernel's `kdump` job says of a commit.

use lab::document::{Document, Run};

/// What `git bisect run` is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The job passed.
    Good,
    /// The kernel came up, and failed.
    Bad,
    /// Nothing can be said of this commit.
    Skip,
}

/// A step, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What git is told.
    pub step: Step,
    /// In one line.
    pub why: String,
}

/// What there is to decide by.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What the job reported; nothing if it did not come to that.
    pub document: Option<&'a Document>,
    /// Its exit code; nothing if a signal ended it.
    pub code: Option<i32>,
    /// What it complained of.
    pub complaint: Option<&'a str>,
}

impl Step {
    /// The exit code: git takes 1 to 127 for bad, but for 125, and gives up on more.
    pub const fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Skip => 125,
        }
    }

    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Skip => "cannot be judged",
        }
    }
}

impl Decision {
    /// A decision with a reason, of which the first line is told.
    fn new(step: Step, why: &str) -> Self {
        let line = why.lines().next().unwrap_or_default();
        Self {
            step,
            why: line.trim_end_matches(':').to_owned(),
        }
    }

    /// That nothing can be said, for that reason.
    pub fn skip(why: &str) -> Self {
        // The first line of a compiler's complaint says that it does not build, and the next one why.
        let lines: Vec<&str> = why.lines().map(str::trim).take(3).collect();
        Self::new(Step::Skip, &lines.join(" "))
    }

    /// Decides.
    pub fn of(seen: &Seen<'_>) -> Self {
        let Some(code) = seen.code else {
            return Self::skip("a signal ended the job");
        };
        // It does not configure, not build, or has not what the job needs; or something of ours does not work.
        let Some(document) = seen.document else {
            let ended = format!("the job ended with exit code {code} and reported nothing");
            return Self::skip(seen.complaint.unwrap_or(&ended));
        };
        match document.runs.iter().find(|run| !run.passed) {
            Some(failed) => Self::failed(failed),
            None if code == 0 => Self::new(Step::Good, &passed(document)),
            // Of several runs not all were done.
            None => {
                let ended = format!("the job ended with exit code {code} after a run that passed");
                Self::skip(seen.complaint.unwrap_or(&ended))
            }
        }
    }

    fn failed(run: &Run) -> Self {
        let fault = run.faults.first().map_or("it failed", String::as_str);
        match run.ending.as_deref() {
            // Whatever the kernel does, these are not to come of it.
            Some("hypervisor-crash") => Self::skip(&format!("the hypervisor crashed: {fault}")),
            Some("gone" | "left") => Self::skip(&format!("QEMU ended: {fault}")),
            _ if !run.story.is_up => Self::skip(&format!(
                "it did not boot as far as the scenario's start (LAB: up): {fault}"
            )),
            _ => Self::new(Step::Bad, fault),
        }
    }
}

fn passed(document: &Document) -> String {
    match document.runs.len() {
        1 => "the job passed".to_owned(),
        runs => format!("the job passed {runs} times"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(passed: bool, is_up: bool, ending: &str) -> Value {
        let faults = if passed {
            vec![]
        } else {
            vec!["CPU 2 is missing from the vmcore\nmore", "other"]
        };
        json!({
            "passed": passed, "faults": faults, "seconds": 20.0, "ending": ending,
            "plan": {"scenario": "kdump", "cpus": 4, "wedge": [2]},
            "dump": null, "oracle": null, "story": {"is_up": is_up, "panic": null}
        })
    }

    fn document(runs: Vec<Value>) -> Document {
        Document::of(json!({
            "schema": 1,
            "about": {"version": "0.1.0", "git": null, "qemu": null, "machine": "virt", "el3": "none", "date": ""},
            "kernel": {"release": null, "build_id": null},
            "passed": true,
            "runs": runs
        }))
        .unwrap()
    }

    fn decide(runs: Vec<Value>, code: i32) -> (Step, String) {
        let document = document(runs);
        let decision = Decision::of(&Seen {
            document: Some(&document),
            code: Some(code),
            complaint: None,
        });
        (decision.step, decision.why)
    }

    #[test]
    fn a_kernel_is_judged_by_what_it_did_once_it_was_up() {
        let good = || run(true, true, "power-off");
        assert_eq!(
            decide(vec![good()], 0),
            (Step::Good, "the job passed".to_owned())
        );
        assert_eq!(decide(vec![good(), good()], 0).1, "the job passed 2 times");
        let fault = "CPU 2 is missing from the vmcore".to_owned();
        assert_eq!(
            decide(vec![run(false, true, "power-off")], 1),
            (Step::Bad, fault.clone())
        );
        assert_eq!(
            decide(vec![good(), run(false, true, "timed-out")], 1),
            (Step::Bad, fault)
        );
    }

    #[test]
    fn what_did_not_come_to_its_start_or_is_our_own_fault_says_nothing() {
        for (runs, code, said) in [
            (vec![run(false, false, "timed-out")], 1, "LAB: up"),
            (
                vec![run(false, true, "hypervisor-crash")],
                1,
                "the hypervisor crashed: CPU 2",
            ),
            (vec![run(false, true, "gone")], 1, "QEMU ended"),
            // Killed between two runs, or a disk that is full.
            (
                vec![run(true, true, "power-off")],
                1,
                "after a run that passed",
            ),
        ] {
            let (step, why) = decide(runs, code);
            assert_eq!(step, Step::Skip, "{why}");
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn a_job_without_a_report_says_nothing_and_why() {
        let seen = |code, complaint| {
            Decision::of(&Seen {
                document: None,
                code,
                complaint,
            })
        };
        let complaint = "the tree x does not build: make Image failed:\n  smp.c:9: error: no\n  more\n  and more";
        let decision = seen(Some(1), Some(complaint));
        assert_eq!(decision.step, Step::Skip);
        assert_eq!(
            decision.why,
            "the tree x does not build: make Image failed: smp.c:9: error: no more"
        );
        assert!(seen(Some(101), None).why.contains("exit code 101"));
        assert_eq!(seen(None, None).why, "a signal ended the job");
    }

    #[test]
    fn git_is_told_what_it_knows() {
        let codes = [Step::Good, Step::Bad, Step::Skip].map(Step::code);
        assert_eq!(codes, [0, 1, 125]);
    }
}
