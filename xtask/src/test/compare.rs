//! `compare` and `bisect-step` as their users run them, where nothing has to be built: kept results, two firmwares, wrong usage.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::own;
use crate::ledger::Ledger;
use machine::board::Board;
use machine::el3::El3;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const KEPT: &str = "compare/kept-results";
const REFUSED: &str = "compare/refusals";
const FIRMWARES: &str = "compare/two-firmwares";
const STEP: &str = "bisect-step/wrong-usage-is-no-verdict";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [KEPT, REFUSED, FIRMWARES, STEP].into_iter()
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if workshop.board != Board::Virt || workshop.el3 != El3::None {
        return;
    }
    ledger.check(KEPT, kept);
    ledger.check(REFUSED, refused);
    ledger.check(FIRMWARES, firmwares);
    ledger.check(STEP, step);
}

/// A report of a run in which CPU 1 of 2 was wedged, and stopped like this.
fn report(folder: &RunDir, name: &str, scenario: &str, stopped: &Value) -> Result<PathBuf> {
    let is_there = stopped != "not";
    let cpu = |cpu: u32, stopped: &Value, equal: Value| {
        let registers = is_there.then(|| json!({"pc": "0x1"}));
        json!({
            "cpu": cpu, "wedged": cpu == 1, "stopped": stopped, "stood_in": null, "outside": null, "faults": [],
            "registers": if cpu == 1 { registers } else { Some(json!({"pc": "0x1"})) },
            "equal": if is_there { equal } else { Value::Null }
        })
    };
    let panicked = json!("panicked");
    let document = json!({
        "schema": 1,
        "about": {"version": "0.1.0", "git": null, "qemu": null, "machine": "virt", "el3": "none", "date": ""},
        "kernel": {"release": "7.3.4", "build_id": null},
        "passed": is_there,
        "runs": [{
            "passed": is_there, "faults": [], "seconds": 20.0, "ending": "power-off", "lines": ["LAB: up"],
            "plan": {"scenario": scenario, "cpus": 2, "wedge": [1]},
            "dump": {
                "format": "elf", "bytes": 1, "release": "7.3.4",
                "ladder": {"ipi_us": 1_600_000, "sdei_us": 5000, "stopped": [panicked, stopped]},
                "verdict": {"cpus": [cpu(0, &panicked, Value::Null), cpu(1, stopped, 1.into())]}
            },
            "oracle": null, "story": {"is_up": true, "panic": null}
        }]
    });
    let path = folder.file(name);
    fs::write(&path, document.to_string())?;
    Ok(path)
}

/// What `xtask` says and writes to standard output with these words, and its exit code.
fn said(words: &[&str]) -> Result<(i32, String, String)> {
    let output = own::xtask()?
        .args(words)
        .output()
        .context("cannot run xtask")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().context("a signal ended xtask")?;
    Ok((code, text(&output.stdout), text(&output.stderr)))
}

fn kept() -> Result<String> {
    let folder = RunDir::create(None)?;
    let good = report(
        &folder,
        "good.json",
        "kdump",
        &json!({"sdei": {"after_us": 40}}),
    )?;
    let bad = report(&folder, "bad.json", "kdump", &json!("not"))?;
    let (good, bad) = (good.display().to_string(), bad.display().to_string());
    for (words, expected, last) in [
        ([&good, &good], 0, "B is no worse"),
        ([&good, &bad], 1, "B is worse"),
        ([&bad, &good], 0, "B is no worse"),
    ] {
        let [a, b] = words;
        let (code, out, errors) = said(&["compare", a, b])?;
        ensure!(code == expected, "{code}: {out}{errors}");
        ensure!(out.lines().last() == Some(last), "{out}");
    }
    let (code, out, _) = said(&["compare", &good, &bad, "--format", "json"])?;
    let value: Value = serde_json::from_str(&out).context("it is no JSON")?;
    ensure!(code == 1 && value["worse"] == true, "{code}: {out}");
    Ok(String::new())
}

fn refused() -> Result<String> {
    let folder = RunDir::create(None)?;
    let sdei = json!({"sdei": {"after_us": 40}});
    let one = report(&folder, "one.json", "kdump", &sdei)?
        .display()
        .to_string();
    let other = report(&folder, "other.json", "nmi", &sdei)?
        .display()
        .to_string();
    let newer = folder.file("newer.json");
    fs::write(&newer, "{\"schema\": 2, \"about\": {\"git\": \"0123\"}}")?;
    let newer = newer.display().to_string();
    for (words, expected) in [
        (
            vec![&*one, "/no/such"],
            "B: there is no /no/such; name a result",
        ),
        (
            vec![&*one, &*other],
            "the scenario of A is kdump, and of B nmi",
        ),
        (
            vec![&*one, &*newer],
            "its schema is 2, and this halligan reads 1",
        ),
        (
            vec![&*one, &*one, "--repeat", "2"],
            "no job is done; leave out --repeat",
        ),
        (
            vec!["ours", &*one, "--", "--scenario", "none"],
            "invalid value 'none' for '--scenario",
        ),
        (
            vec!["ours", &*one, "--", "--keep", "folder"],
            "leave them out: --keep DIR before the --",
        ),
        (vec!["--firmware", "spec"], "give --firmware twice"),
    ] {
        let words: Vec<&str> = ["compare"].into_iter().chain(words).collect();
        let (code, out, errors) = said(&words)?;
        ensure!(code == 2 && out.is_empty(), "{words:?}: {code}: {out}");
        ensure!(errors.contains(expected), "{words:?}: {errors}");
    }
    Ok(String::new())
}

fn firmwares() -> Result<String> {
    let two = |one, other| said(&["compare", "--firmware", one, "--firmware", other]);
    let (code, out, errors) = two("spec", "tfa-2.12")?;
    ensure!(code == 1, "{code}: {out}{errors}");
    for words in [
        "--- spec\n+++ tfa-2.12\n",
        "-SDEI_VERSION() = 1.1 of vendor ",
        "+SDEI_VERSION() = 1.0 of vendor 0x0\n",
    ] {
        ensure!(
            out.contains(words),
            "it does not say {words:?}:\n{out}{errors}"
        );
    }
    let (code, out, errors) = two("spec", "spec")?;
    ensure!(
        code == 0 && out.ends_with("the calls are the same\n"),
        "{code}: {out}{errors}"
    );
    Ok(out.lines().next().unwrap_or_default().to_owned())
}

fn step() -> Result<String> {
    for words in [
        vec!["bisect-step"],
        vec!["bisect-step", "--tree", "/no/such", "--wedge", "2"],
        vec![
            "bisect-step",
            "--tree",
            "/no/such",
            "--",
            "--scenario",
            "none",
        ],
        vec!["bisect-step", "--tree", "/no/such"],
    ] {
        let (code, out, errors) = said(&words)?;
        ensure!(code == 125, "{words:?}: {code}: {out}{errors}");
        ensure!(errors.contains("error: "), "{words:?}: {errors}");
    }
    let (code, out, _) = said(&["bisect-step", "--help"])?;
    ensure!(code == 0 && out.contains("125"), "{code}: {out}");
    Ok(String::new())
}
