//! `cargo xtask matrix` as its user types it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::own;
use crate::ledger::Ledger;
use machine::run_dir::RunDir;

const LIST: &str = "matrix/list";
const REFUSALS: &str = "matrix/refusals";
const UNMADE: &str = "matrix/kernel-that-cannot-be-used";
/// Run when it is named: Linux is booted three times.
const ROWS: &str = "matrix/rows";
/// The same: half an hour.
const DEFAULT: &str = "matrix/default";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [LIST, REFUSALS, UNMADE, ROWS, DEFAULT].into_iter()
}

/// Runs them.
pub fn run(ledger: &mut Ledger) {
    ledger.check(LIST, list);
    ledger.check(REFUSALS, refusals);
    ledger.check(UNMADE, unmade);
}

/// Runs those that boot Linux, if they are named.
pub fn run_linux(ledger: &mut Ledger) {
    if ledger.names(ROWS) {
        ledger.check(ROWS, rows);
    }
    if ledger.names(DEFAULT) {
        ledger.check(DEFAULT, default);
    }
}

fn matrix(words: &[&str]) -> Result<Output> {
    let mut command = own::xtask()?;
    command.arg("matrix").args(words);
    command.output().context("cannot run xtask")
}

/// The lines of a list, all of which are rows.
fn listed(words: &[&str]) -> Result<BTreeSet<String>> {
    let said = own::succeed(own::xtask()?.args(["matrix", "--list"]).args(words))?;
    for line in said.lines() {
        ensure!(line.contains("  cargo xtask kdump --"), "a row is\n{line}");
    }
    // How wide the names' column is depends on the names.
    let words = said.lines().map(|line| line.split_whitespace());
    let lines = words.map(|words| words.collect::<Vec<_>>().join(" "));
    let lines: BTreeSet<String> = lines.collect();
    ensure!(
        lines.len() == said.lines().count(),
        "a row is there twice:\n{said}"
    );
    Ok(lines)
}

fn list() -> Result<String> {
    let all = listed(&[])?;
    let mut parts = BTreeSet::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let part = listed(&["--shard", shard])?;
        ensure!(
            part.is_disjoint(&parts),
            "{shard} has what another shard has"
        );
        parts.extend(part);
    }
    ensure!(parts == all, "the shards have not all rows");
    let some = listed(&["--only", "assisted", "--only", "hardlockup"])?;
    let is_one = |line: &String| line.starts_with("assisted") || line.starts_with("hardlockup");
    ensure!(some.iter().all(is_one), "the filters leave {some:?}");
    let said = own::succeed(own::xtask()?.args([
        "matrix",
        "--list",
        "--axis",
        "scenario=kdump,nmi",
        "--axis",
        "wedge=2",
    ]))?;
    ensure!(
        said.contains("left out: nmi/wedge=2: --scenario nmi wedges all CPUs"),
        "it does not say what is left out:\n{said}"
    );
    Ok(format!("{} rows", all.len()))
}

fn refusals() -> Result<String> {
    let folder = RunDir::create(None)?;
    let path = folder.file("plan.toml");
    fs::write(&path, "[[axes]]\nscenario = \"kdump\"\nwegde = [\"0\"]\n")?;
    let plan = path.to_str().context("a folder without a name")?;
    for (words, said) in [
        (
            &[plan][..],
            "line 3, [[axes]]: there is no option `wegde` of kdump; there are ",
        ),
        (
            &["/no/plan.toml"],
            "in the plan /no/plan.toml: cannot read it",
        ),
        (&["--axis", "scenario=kdmup"], "invalid value 'kdmup'"),
        (
            &["--axis", "kernel=tree:/no/tree"],
            "there is no folder /no/tree",
        ),
        (&["--shard", "4/3"], "a shard is I/N with I from 1 to N"),
        (
            &["--only", "no-such-row"],
            "no row has `no-such-row` in its name",
        ),
        (&["--retries", "2"], "a retry hides"),
    ] {
        let output = matrix(words)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(2),
            "{words:?}: {}\n{errors}",
            output.status
        );
        ensure!(errors.contains(said), "{words:?} says\n{errors}");
        ensure!(output.stdout.is_empty(), "{words:?} has results");
    }
    Ok(String::new())
}

/// A kernel without its vmlinux is said once, and each row that has it fails.
fn unmade() -> Result<String> {
    let folder = RunDir::create(None)?;
    let kernel = folder.file("Image");
    fs::write(&kernel, "none")?;
    let axis = format!("kernel={}", kernel.display());
    let keep = folder.file("kept").to_string_lossy().into_owned();
    let rows = ["--axis", "scenario=kdump,nmi", "--axis", &axis];
    let output = matrix(&[&rows[..], &["--keep", &keep, "--format", "ktap"]].concat())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1),
        "{}\n{errors}",
        output.status
    );
    let count = errors.matches("error: there is no ").count();
    ensure!(count == 1, "it is said {count} times:\n{errors}");
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("not ok "))
        .collect();
    ensure!(
        lines.len() == 2 && !said.contains("\nok "),
        "the results are\n{said}"
    );
    ensure!(
        said.contains("# again: cargo xtask kdump --scenario nmi --kernel "),
        "{said}"
    );
    let summary: Value = serde_json::from_slice(&fs::read(folder.file("kept/matrix.json"))?)?;
    ensure!(
        summary["finished"] == true && summary["passed"] == false,
        "{summary}"
    );
    Ok(String::new())
}

/// A row that passes, one that fails as it must, and one that does not.
const PLAN: &str = "
[[axes]]
scenario = \"panic\"
cpus = 2

[[rows]]
name = \"lost\"
sdei = \"off\"
fails-with = \"CPU 2\"

[[rows]]
name = \"not lost\"
cpus = 2
sdei = \"on\"
fails-with = \"CPU 1\"

[[rows]]
name = \"never\"
scenario = \"panic\"
";

fn rows() -> Result<String> {
    let folder = RunDir::create(None)?;
    let plan = folder.file("plan.toml");
    fs::write(&plan, PLAN)?;
    let kept = folder.file("kept");
    let [plan, keep] = [&plan, &kept].map(|path| path.to_string_lossy().into_owned());
    let output = matrix(&[
        &plan,
        "--keep",
        &keep,
        "--fail-fast",
        "--format",
        "json-lines",
    ])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1),
        "{}\n{errors}",
        output.status
    );
    let said = String::from_utf8_lossy(&output.stdout);
    let mut outcomes = Vec::new();
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        if line["event"] == "result" {
            let has_report = line["report"].is_object();
            outcomes.push(format!("{} {} {has_report}", line["name"], line["outcome"]));
        }
    }
    let wanted = [
        r#""panic/cpus=2" "passed" true"#,
        r#""lost" "passed" true"#,
        r#""not lost" "failed" true"#,
        r#""never" "skipped" false"#,
    ];
    ensure!(outcomes == wanted, "it says {outcomes:?}\n{errors}");
    check_kept(&kept)?;
    Ok(String::new())
}

fn check_kept(kept: &Path) -> Result<()> {
    let text = fs::read(kept.join("matrix.json"))?;
    let summary: Value = serde_json::from_slice(&text)?;
    ensure!(
        summary["finished"] == true && summary["passed"] == false,
        "{summary}"
    );
    let folder = |at: usize| -> Result<_> {
        let name = summary["rows"][at]["folder"].as_str();
        Ok(kept.join(name.context("a row without a folder")?))
    };
    for at in [0, 1] {
        let own = folder(at)?;
        for name in ["report.json", "output.txt", "serial.log"] {
            ensure!(own.join(name).is_file(), "{} has no {name}", own.display());
        }
        ensure!(
            !own.join("run").exists(),
            "{} has its dump still",
            own.display()
        );
    }
    for name in ["vmcore", "vmlinux", "README"] {
        let path = folder(2)?.join("run").join(name);
        ensure!(path.is_file(), "there is no {}", path.display());
    }
    let last = &summary["rows"][3];
    ensure!(
        last["outcome"] == "not-run" && last["seconds"].is_null(),
        "{last}"
    );
    Ok(())
}

fn default() -> Result<String> {
    let said = own::succeed(own::xtask()?.arg("matrix"))?;
    let last = said.lines().last().unwrap_or_default();
    Ok(last.to_owned())
}
