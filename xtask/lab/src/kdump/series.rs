//! The same run again and again.

use std::io::Write;

use anyhow::{Context, Result};

use super::Report;

/// Does `run` up to `times` times, and stops at the first that fails; answers whether none did.
///
/// Says in one line on `out` what came of each, and at the end how many passed.
pub fn run(
    times: u32,
    mut run: impl FnMut() -> Result<Report>,
    out: &mut impl Write,
) -> Result<bool> {
    let width = times.to_string().len();
    for number in 1..=times {
        let report = run().with_context(|| format!("run {number} of {times}"))?;
        writeln!(out, "run {number:width$} of {times}: {}", report.summary())?;
        if !report.passed {
            writeln!(out, "{} of {times} passed, then one failed", number - 1)?;
            return Ok(false);
        }
    }
    writeln!(out, "{times} of {times} passed")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{plan, seen};
    use super::*;
    use crate::plan::Scenario;
    use machine::ending::Ending;

    fn report(fault: Option<&str>) -> Report {
        let judged = fault.map_or(Ok(None), |fault| Err(anyhow::anyhow!("{fault}")));
        Report::of(&plan(Scenario::Kdump), seen("", Ending::PowerOff), judged)
    }

    #[test]
    fn every_run_has_its_line_and_the_last_line_counts() {
        let mut out = Vec::new();
        assert!(run(2, || Ok(report(None)), &mut out).unwrap());
        let said = String::from_utf8(out).unwrap();
        assert_eq!(
            said,
            "run 1 of 2: PASSED in 30 s\nrun 2 of 2: PASSED in 30 s\n2 of 2 passed\n"
        );
    }

    #[test]
    fn the_first_failure_ends_it() {
        let (mut out, mut runs) = (Vec::new(), 0);
        let next = || {
            runs += 1;
            Ok(report((runs == 2).then_some("CPU 2 is missing")))
        };
        assert!(!run(10, next, &mut out).unwrap());
        assert_eq!(runs, 2);
        let said = String::from_utf8(out).unwrap();
        assert_eq!(
            said.lines().collect::<Vec<_>>(),
            [
                "run  1 of 10: PASSED in 30 s",
                "run  2 of 10: FAILED in 30 s: CPU 2 is missing",
                "1 of 10 passed, then one failed"
            ]
        );
    }
}
