//! How a command ends that is asked for what cannot be.

use std::process::ExitCode;

use anyhow::Error;

/// The exit code of wrong usage, clap's.
const WRONG: u8 = 2;

/// Says what is wrong with what was asked for, as all errors are said.
pub fn refuse(error: &Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(WRONG)
}
