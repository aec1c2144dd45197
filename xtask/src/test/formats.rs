//! What `--format` writes, read by programs: JSON of ours, and KTAP by the kernel's own parser.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::own;
use crate::ledger::Ledger;
use debian::kernel::kunit;
use debian::tools;
use lab::results::{About, Case, Format, Outcome, Results};
use machine::build::{self, Program};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const KTAP: &str = "format/ktap-by-the-kernels-parser";
const LINES: &str = "format/json-lines";
const STOP: &str = "format/stop-demo";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [KTAP, LINES, STOP].into_iter()
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    ledger.check(LINES, json_lines);
    ledger.check(STOP, stop_demo);
    if !ledger.wants(KTAP) {
        return;
    }
    if tools::find("python3").is_none() {
        ledger.skipped(KTAP, "there is no python3");
        return;
    }
    match kunit::parser(&workshop.cache, &workshop.progress) {
        Ok(None) => ledger.skipped(KTAP, "the cache has no source package of Linux"),
        Ok(Some(parser)) => ledger.check(KTAP, || ktap(workshop, &parser)),
        Err(error) => ledger.failed(KTAP, Duration::ZERO, &format!("{error:#}")),
    }
}

/// A row of the suite that takes no time, written in a format; its output.
fn short(format: &str) -> Result<String> {
    own::succeed(own::xtask()?.args(["test", "tidy", "--format", format]))
}

fn json_lines() -> Result<String> {
    let said = short("json-lines")?;
    let events: Vec<String> = lines(&said)?.iter().map(event).collect();
    ensure!(events == ["begin", "result", "end"], "it said\n{said}");
    Ok(String::new())
}

/// The JSON of each line.
fn lines(said: &str) -> Result<Vec<Value>> {
    let lines = said.lines();
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect()
}

/// Its event.
fn event(line: &Value) -> String {
    line["event"].as_str().unwrap_or_default().to_owned()
}

/// A stop of the hypervisor, with one pCPU that nobody reaches.
fn stop_demo() -> Result<String> {
    let mut demo = own::xtask()?;
    demo.args(["stop-demo", "--el3", "none", "--cpus", "3"]);
    demo.args(["--wedge", "2:exit", "--icount", "--format", "json-lines"]);
    let said = own::succeed(&mut demo)?;
    let lines = lines(&said)?;
    let mut events: Vec<String> = lines.iter().map(event).collect();
    events.dedup();
    ensure!(
        events == ["begin", "console", "result", "end"],
        "it said\n{said}"
    );
    let result = lines.iter().find(|line| event(line) == "result");
    let result = result.unwrap_or(&Value::Null);
    ensure!(
        result["name"] == "stop-demo/panic" && result["outcome"] == "passed",
        "the result is {result}"
    );
    let report = &result["report"];
    let pcpus = report["pcpus"].as_array();
    let fates: Vec<&str> = pcpus
        .into_iter()
        .flatten()
        .filter_map(|pcpu| pcpu["fate"].as_str())
        .collect();
    ensure!(
        fates == ["stopper", "ipi", "deaf"] && report["us"].is_u64(),
        "the report is {report}"
    );
    Ok(String::new())
}

/// Has the parser count the results of a file.
const COUNT: &str = "
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import kunit_parser, kunit_printer
with open(sys.argv[2]) as lines:
    test = kunit_parser.parse_run_tests(lines, kunit_printer.Printer(output=sys.stderr))
count = test.counts
print(count.passed, count.failed, count.crashed, count.skipped, count.errors)
print('; '.join(sub.name for sub in test.subtests))
";

fn ktap(workshop: &Workshop, parser: &Path) -> Result<String> {
    let folder = RunDir::create(None)?;
    let path = folder.file("results.ktap");
    fs::write(&path, sample(workshop)?)?;
    let names = "guest/one; linux/two_2; gdb/three";
    let said = count(parser, &path)?;
    ensure!(
        said == format!("1 1 0 1 0\n{names}\n"),
        "of all outcomes the parser has\n{said}"
    );
    fs::write(&path, short("ktap")?)?;
    let said = count(parser, &path)?;
    ensure!(
        said == "1 0 0 0 0\ntidy\n",
        "of a row of ours the parser has\n{said}"
    );
    fs::write(&path, guest_tests(workshop)?)?;
    let said = count(parser, &path)?;
    ensure!(
        said == format!("1 1 0 1 0\n{}\n", TESTS.join("; ")),
        "of a boot of the test guests the parser has\n{said}"
    );
    Ok(String::new())
}

/// Tests of the test guests: one that passes, one that does not apply, as no instructions are counted, and one that they have not.
const TESTS: [&str; 3] = ["psci_version_is_1_3", "the_cost_of_calls", "nobody"];

/// What they say of these.
fn guest_tests(workshop: &Workshop) -> Result<String> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let tests = TESTS.map(|test| format!("test={test}")).join(" ");
    let mut run = own::xtask()?;
    run.args(["run", "--kernel"]).arg(image);
    own::succeed(run.args(["--append", &format!("ktap {tests}"), "--timeout", "120"]))
}

fn count(parser: &Path, path: &Path) -> Result<String> {
    let output = supervisor::command("python3")
        .args(["-c", COUNT])
        .args([parser, path])
        .output()
        .context("cannot run python3")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A result of each kind, with words that could be taken for others.
fn sample(workshop: &Workshop) -> Result<Vec<u8>> {
    let about = About::now(workshop.board, workshop.el3);
    let mut out = Vec::new();
    let mut results = Results::begin(Format::Ktap, about, &mut out)?;
    results.note("LAB: up kernel=7.3.4 cpus=4")?;
    let case = |name: &str, outcome, remark: Option<&str>, details: &[&str]| Case {
        name: name.to_owned(),
        outcome,
        time: Some(Duration::from_secs(1)),
        remark: remark.map(str::to_owned),
        details: details.iter().map(|&line| line.to_owned()).collect(),
        report: None,
    };
    let wrong = ["not ok 9 this is what was said", "1..7", "KTAP version 1"];
    results.case(case(
        "guest/one",
        Outcome::Passed,
        Some("3 boots # SKIP"),
        &[],
    ))?;
    results.case(case("linux/two#2", Outcome::Failed, None, &wrong))?;
    results.case(case(
        "gdb/three",
        Outcome::Skipped,
        Some("there is no gdb"),
        &[],
    ))?;
    results.end()?;
    Ok(out)
}
