//! What came of a row, by its exit code, its report and what it said. Without effects.

use serde::Deserialize;
use serde_json::Value;

/// How a row's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What came of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it is as it must be.
    pub is_well: bool,
    /// What its report says is wrong, or why there is none; of a row that must fail, also when it did.
    pub faults: Vec<String>,
    /// How long the rung of SDEI took at most, in microseconds, if the report says.
    pub sdei_us: Option<u64>,
}

/// As much of a report as is looked at: docs/report.md.
#[derive(Deserialize)]
struct Report {
    passed: bool,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    faults: Vec<String>,
    dump: Option<Dump>,
}

#[derive(Deserialize)]
struct Dump {
    ladder: Ladder,
}

#[derive(Deserialize)]
struct Ladder {
    sdei_us: Option<u64>,
}

/// Judges a row that has written `report`, and `said` all that, and must fail with faults that each have `fails_with`, if that is given.
pub fn judge(
    exit: Exit,
    report: Option<&Value>,
    said: &str,
    fails_with: Option<&str>,
) -> Judgement {
    let read = report.map(Report::deserialize).transpose();
    let report = match read {
        Ok(Some(report)) => report,
        Ok(None) => return unjudged(exit, said),
        Err(error) => {
            return Judgement {
                faults: vec![format!("its report is none that we know: {error}")],
                ..Judgement::default()
            };
        }
    };
    let runs = report.runs.iter();
    let rungs = runs
        .clone()
        .filter_map(|run| run.dump.as_ref()?.ladder.sdei_us);
    let sdei_us = rungs.max();
    let mut faults: Vec<String> = runs.flat_map(|run| run.faults.clone()).collect();
    let code = i32::from(!report.passed);
    let is_consistent = exit == Exit::Code(code) && report.passed == faults.is_empty();
    let is_well = match fails_with {
        _ if !is_consistent => {
            let report = match report.passed {
                true => "its report has passed",
                false => "its report has failed",
            };
            faults.push(about_its_end(exit, report));
            false
        }
        None => report.passed,
        Some(text) if report.passed => {
            faults.push(format!("it must fail with `{text}`, and has passed"));
            false
        }
        Some(text) => {
            let others = faults.iter().any(|fault| !fault.contains(text));
            if others {
                faults.push(format!("each fault must have `{text}`, and not each has"));
            }
            !others
        }
    };
    Judgement {
        is_well,
        faults,
        sdei_us,
    }
}

/// A row that ended before its job began, or in its midst.
fn unjudged(exit: Exit, said: &str) -> Judgement {
    // What main has to say of an error is the last that it says.
    let lines: Vec<&str> = said.lines().collect();
    let begin = lines.iter().rposition(|line| line.starts_with("error: "));
    let mut faults: Vec<String> = begin
        .map(|at| lines[at..].iter().map(|&line| line.to_owned()).collect())
        .unwrap_or_default();
    if faults.is_empty() || exit != Exit::Code(1) {
        faults.push(about_its_end(exit, "it has left no report"));
    }
    Judgement {
        faults,
        ..Judgement::default()
    }
}

/// The end of a process that did not come as it should.
fn about_its_end(exit: Exit, report: &str) -> String {
    match exit {
        Exit::Signal(signal) => format!("signal {signal} has ended it"),
        Exit::Code(code) => format!("{report}, and its exit code is {code}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(faults: &[&str], sdei_us: Option<u64>) -> Value {
        let run = |faults: &[&str], sdei_us| {
            json!({"passed": faults.is_empty(), "faults": faults, "seconds": 3.5,
                   "dump": {"ladder": {"ipi_us": 1, "sdei_us": sdei_us, "stopped": []}}})
        };
        json!({"schema": 1, "passed": faults.is_empty(),
               "runs": [run(&[], Some(3)), {"faults": [], "dump": null}, run(faults, sdei_us)]})
    }

    fn came(exit: Exit, faults: &[&str], fails_with: Option<&str>) -> (bool, Vec<String>) {
        let came = judge(exit, Some(&report(faults, Some(7))), "", fails_with);
        assert_eq!(came.sdei_us, Some(7), "the longest of several runs");
        (came.is_well, came.faults)
    }

    const GOOD: Exit = Exit::Code(0);
    const BAD: Exit = Exit::Code(1);

    #[test]
    fn a_row_is_what_its_report_says() {
        assert_eq!(came(GOOD, &[], None), (true, vec![]));
        let (is_well, faults) = came(BAD, &["CPU 2 is missing", "x"], None);
        assert!(!is_well);
        assert_eq!(faults, ["CPU 2 is missing", "x"]);
        let none = judge(GOOD, Some(&report(&[], None)), "", None);
        assert_eq!(none.sdei_us, Some(3));
    }

    #[test]
    fn a_row_that_must_fail_does_so_for_its_reason_only() {
        let must = Some("CPU 2");
        assert!(came(BAD, &["CPU 2 is missing", "of CPU 2 nothing"], must).0);
        let (is_well, faults) = came(GOOD, &[], must);
        assert!(!is_well && faults == ["it must fail with `CPU 2`, and has passed"]);
        let (is_well, faults) = came(BAD, &["CPU 2 is missing", "CPU 1 is wrong"], must);
        assert!(!is_well && faults.len() == 3, "{faults:?}");
        let refused = judge(BAD, None, "error: CPU 2 is none\n", must);
        assert!(!refused.is_well, "a job that has not begun shows nothing");
    }

    #[test]
    fn exit_code_and_report_must_agree() {
        let (is_well, faults) = came(BAD, &[], None);
        assert!(!is_well && faults == ["its report has passed, and its exit code is 1"]);
        let (is_well, faults) = came(GOOD, &["x"], None);
        assert!(!is_well && faults.len() == 2, "{faults:?}");
        let (is_well, faults) = came(Exit::Signal(9), &["x"], Some("x"));
        assert!(!is_well && faults == ["x", "signal 9 has ended it"]);
    }

    #[test]
    fn without_a_report_it_is_what_the_row_said_last() {
        let said = "xtask: error: is no error\nerror: this kernel cannot do this job:\n  LKDTM is not set\n";
        let came = judge(BAD, None, said, None);
        assert!(!came.is_well);
        assert_eq!(
            came.faults,
            [
                "error: this kernel cannot do this job:",
                "  LKDTM is not set"
            ]
        );
        let came = judge(Exit::Signal(11), None, "nothing", None);
        assert_eq!(came.faults, ["signal 11 has ended it"]);
        assert!(!judge(GOOD, None, "", None).is_well);
        assert!(!judge(GOOD, Some(&json!({"passed": true})), "", None).is_well);
    }
}
