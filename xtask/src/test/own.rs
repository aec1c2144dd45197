//! xtask itself, run as its user does.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// A `cargo xtask run` of the guests of a file, which ends after `limit` at the latest: what the guests write is to be read, and what xtask
/// says of itself is not.
pub fn run(guests: &Path, limit: Duration) -> Result<Command> {
    let mut command = xtask()?;
    command
        .arg("run")
        .arg(format!("--timeout={}", limit.as_secs()))
        .arg("--guest")
        .arg(guests)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    Ok(command)
}

/// A process that ends when this is dropped, with all that it has started.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It ends what it has started.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
