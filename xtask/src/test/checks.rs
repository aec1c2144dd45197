//! What needs no machine: format, lints, documentation, host tests, the house rules.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::toolchain;
use crate::conformance;
use crate::ledger::Ledger;
use crate::tidy;
use machine::build::{self, Program};
use machine::workshop::Workshop;

/// The crates of the bare machine, which the host cannot build.
const BARE: [&str; 6] = [
    Program::Hypervisor.name(),
    Program::GuestTests.name(),
    Program::Flat.name(),
    Program::ClientExample.name(),
    Program::Chainloader.name(),
    Program::Armstub.name(),
];

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    ledger.check("fmt", || cargo(workshop, &["fmt", "--all", "--check"]));
    ledger.check("tidy", || {
        tidy::check(workshop.root()).map(|()| String::new())
    });
    ledger.check("conformance", || {
        conformance::check(workshop.root(), super::run_names().collect())
    });
    // What is for the host has a target directory of its own, and so a lock of cargo's.
    let mut cases: Vec<(String, Check)> = Vec::new();
    for program in Program::ALL {
        let lint = move |workshop: &Workshop| lint_bare(workshop, program);
        cases.push((format!("clippy/{}", program.name()), Box::new(lint)));
    }
    for program in Program::ALL {
        let build = move |workshop: &Workshop| {
            let built = build::build(workshop, program)?;
            Ok(format!("{} bytes", program.check(&built, workshop)?))
        };
        cases.push((format!("build/{}", program.name()), Box::new(build)));
    }
    cases.insert(1, ("clippy/host".into(), Box::new(lint_host)));
    cases.insert(2, ("host".into(), Box::new(test_host)));
    cases.push(("doc".into(), Box::new(document)));
    cases.insert(3, (toolchain::NAME.into(), Box::new(toolchain::build)));
    ledger.check_each(&cases, |_, check| check(workshop));
}

/// A check of the sources.
type Check = Box<dyn Fn(&Workshop) -> Result<String> + Sync>;

/// Where proptest's cases begin.
const SEED: &str = "PROPTEST_RNG_SEED";

fn lint_host(workshop: &Workshop) -> Result<String> {
    let mut arguments = hosted("clippy");
    arguments.extend(["--all-targets", "--", "-D", "warnings"]);
    cargo(workshop, &arguments)
}

fn test_host(workshop: &Workshop) -> Result<String> {
    let mut arguments = hosted("test");
    arguments.push("--all-targets");
    let mut command = own_cargo();
    command.args(arguments);
    // Property tests try the same cases each time, so that a suite that has passed passes.
    if std::env::var_os(SEED).is_none() {
        command.env(SEED, "1");
    }
    complete(workshop, command)
}

/// Each by itself: together they would get each other's features.
fn lint_bare(workshop: &Workshop, program: Program) -> Result<String> {
    let mut command = workshop.target.cargo();
    command.args(["clippy", "--quiet", "--release"]);
    command.args(["--package", program.package(), "--bin", program.name()]);
    command.args(["--", "-D", "warnings"]);
    complete(workshop, command)
}

fn document(workshop: &Workshop) -> Result<String> {
    let mut command = own_cargo();
    command
        .args(hosted("doc"))
        .args(["--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    complete(workshop, command)
}

/// `subcommand` on every crate that the host can build.
fn hosted(subcommand: &str) -> Vec<&str> {
    let mut arguments = vec![subcommand, "--quiet", "--workspace"];
    for name in BARE {
        arguments.extend(["--exclude", name]);
    }
    arguments
}

/// The cargo that runs us.
fn own_cargo() -> Command {
    supervisor::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn cargo(workshop: &Workshop, arguments: &[&str]) -> Result<String> {
    let mut command = own_cargo();
    command.args(arguments);
    complete(workshop, command)
}

/// Runs `command` to its end; what it printed is the error if it fails.
fn complete(workshop: &Workshop, mut command: Command) -> Result<String> {
    let output = command
        .current_dir(workshop.root())
        .stdin(Stdio::null())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::new())
}
