//! How a command ends that is asked for what cannot be.

use std::error;
use std::fmt;
use std::process::ExitCode;

use anyhow::Error;

/// The exit code of wrong usage, clap's.
const WRONG: u8 = 2;

/// What is wrong with what was asked for.
#[derive(Debug)]
struct Wrong(Error);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl error::Error for Wrong {}

/// Marks `error` as one of usage: the command line, or a file that it names, has to change before anything can be done.
pub fn wrong(error: Error) -> Error {
    Error::new(Wrong(error))
}

/// The exit code of a command that ends with `error`.
pub fn code(error: &Error) -> ExitCode {
    if error.is::<Wrong>() {
        ExitCode::from(WRONG)
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn wrong_usage_has_a_code_of_its_own_and_the_same_words() {
        let error = || anyhow!("is a folder").context("cannot read /");
        assert_eq!(code(&error()), ExitCode::FAILURE);
        assert_eq!(code(&wrong(error())), ExitCode::from(2));
        assert_eq!(
            format!("{:#}", wrong(error())),
            "cannot read /: is a folder"
        );
        // What is said around it does not change what it is.
        assert_eq!(code(&wrong(error()).context("A")), ExitCode::from(2));
    }
}
