//! The way to the control socket of a running machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::NAME;

/// A connection.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// To the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| {
            format!(
                "nobody listens at {}; is a machine running there?",
                path.display()
            )
        })?;
        let mut client = Self {
            stream: BufReader::new(stream),
        };
        let greeting = client.line()?;
        ensure!(
            greeting.get("QMP").is_some(),
            "what listens at {} does not speak QMP",
            path.display()
        );
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// To the only machine whose run has a folder in `runs`.
    pub fn find(runs: &Path) -> Result<Self> {
        let folders = fs::read_dir(runs).into_iter().flatten().flatten();
        let sockets = folders.map(|folder| folder.path().join(NAME));
        let live: Vec<PathBuf> = sockets
            .filter(|path| UnixStream::connect(path).is_ok())
            .collect();
        match &live[..] {
            [one] => Self::connect(one),
            [] => bail!(
                "no machine is running in this checkout; start one with `cargo xtask run`, or name its socket with --control"
            ),
            several => {
                let names: Vec<String> = several
                    .iter()
                    .map(|path| format!("--control {}", path.display()))
                    .collect();
                bail!(
                    "several machines are running; choose one: {}",
                    names.join(", or ")
                )
            }
        }
    }

    /// Executes a command; what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let order = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{order}").context("the machine has ended")?;
        let mut answer = self.line()?;
        if let Some(error) = answer.get("error") {
            bail!("{}", error["desc"].as_str().unwrap_or(command));
        }
        let value = answer.get_mut("return").context("that is no answer")?;
        Ok(value.take())
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        ensure!(
            read.context("the machine has ended")? != 0,
            "the machine has ended"
        );
        serde_json::from_str(&line).context("that is no answer")
    }
}
