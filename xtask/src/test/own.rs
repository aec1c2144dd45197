//! xtask itself, run as its user does.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// This program, which takes nothing from the terminal.
pub fn xtask() -> Result<Command> {
    Ok(program(&std::env::current_exe()?))
}

/// A copy of it. A signal that whoever runs the tests has us ignore, as a shell does of what it runs in the background, ends it
/// nevertheless.
pub fn program(path: &Path) -> Command {
    let mut command = supervisor::command("/usr/bin/env");
    command.arg("--default-signal").arg(path);
    command.stdin(Stdio::null());
    command
}

/// Runs `command`, which must exit with 0, and answers what it printed.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot run xtask")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\nstandard output:\n{}\nstandard error:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
