//! A conversation with a guest that xtask runs, as its user has one.

use std::io::Read;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs `command`, a `cargo xtask run`, and talks with its guest, which then is to switch itself off: by itself, or its time
/// is over.
///
/// # Errors
///
/// If the talk fails, or the run ends with another code than 0.
pub fn converse(
    command: &mut Command,
    talk: impl FnOnce(&mut ChildStdin, &mut Screen) -> Result<()>,
) -> Result<()> {
    let mut run = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run xtask")?;
    let mut input = run.stdin.take().context("it has no input")?;
    let output = run.stdout.take().context("it has no output")?;
    let mut screen = Screen::of(output);
    let talked = talk(&mut input, &mut screen);
    drop(input);
    let rest = screen.rest();
    let ended = run.wait_with_output()?;
    let errors = String::from_utf8_lossy(&ended.stderr);
    let both = format!("standard output:\n{rest}\nstandard error:\n{errors}");
    talked.with_context(|| both.clone())?;
    ensure!(
        ended.status.code() == Some(0),
        "the guest was to power off, but: {}\n{both}",
        ended.status
    );
    Ok(())
}

/// What a guest has written.
pub struct Screen {
    output: ChildStdout,
    text: String,
    /// How much of it has been looked at.
    seen: usize,
}

impl Screen {
    pub const fn of(output: ChildStdout) -> Self {
        Self {
            output,
            text: String::new(),
            seen: 0,
        }
    }

    /// Reads on until `words` come, after those it waited for before.
    pub fn wait_for(&mut self, words: &str) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let new = self.text.get(self.seen..).unwrap_or_default();
            if let Some(at) = new.find(words) {
                self.seen += at + words.len();
                return Ok(());
            }
            let count = self.output.read(&mut buffer)?;
            ensure!(count > 0, "{words:?} never came");
            self.text
                .push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    /// What stands between `from` and `to`, which come after those it waited for before.
    pub fn between(&mut self, from: &str, to: &str) -> Result<String> {
        self.wait_for(from)?;
        let start = self.seen;
        self.wait_for(to)?;
        let text = self.text.get(start..self.seen - to.len());
        Ok(text.unwrap_or_default().to_owned())
    }

    /// All that was written, once it ends.
    fn rest(mut self) -> String {
        let mut rest = Vec::new();
        // An error is an end, too.
        let _ = self.output.read_to_end(&mut rest);
        self.text + &String::from_utf8_lossy(&rest)
    }
}
