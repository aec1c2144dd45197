//! xtask itself, run as its user does.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// This program, which takes nothing from the terminal.
pub fn xtask() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Runs `command`, which must exit with 0.
pub fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot run xtask")?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\nstandard output:\n{}\nstandard error:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
