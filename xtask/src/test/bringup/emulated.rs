//! QEMU's raspi4b behind a pseudo-terminal: a board.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use machine::qemu::Machine;
use machine::serial::Port;

/// A running QEMU whose serial line is a pseudo-terminal; killed when dropped.
pub struct Emulated {
    child: Child,
    monitor: ChildStdin,
    /// Its line.
    pub path: PathBuf,
}

/// How long QEMU may take to say where its line is.
const UP: Duration = Duration::from_secs(30);

impl Emulated {
    pub fn start(machine: &Machine) -> Result<Self> {
        let mut command = supervisor::command(&machine.qemu);
        for argument in machine.arguments() {
            if argument == "stdio,id=console,signal=off" {
                command.arg("pty,id=console");
            } else if argument == "tcg,thread=multi" {
                command.arg("tcg,thread=single");
            } else {
                command.arg(argument);
            }
        }
        let mut child = command
            .args(["-monitor", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start QEMU")?;
        let monitor = child.stdin.take().context("QEMU has no input")?;
        let output = child.stdout.take().context("QEMU has no output")?;
        let mut emulated = Self {
            child,
            monitor,
            path: PathBuf::new(),
        };
        // `char device redirected to /dev/pts/3 (label console)`
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // The receiver goes once it knows.
                let _ = sender.send(line);
            }
        });
        let end = Instant::now() + UP;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let line = receiver.recv_timeout(left);
            let line = line.context("QEMU does not say where its serial line is")?;
            let path = line.split_once("redirected to ").map(|(_, rest)| rest);
            if let Some(path) = path.and_then(|rest| rest.split_whitespace().next()) {
                emulated.path = Path::new(path).to_owned();
                return Ok(emulated);
            }
        }
        bail!("QEMU does not say where its serial line is")
    }

    pub fn port(&self) -> Result<Port> {
        Port::open(&self.path, chainload::BASE_RATE)
    }

    pub fn reset(&mut self) -> Result<()> {
        self.tell("system_reset")
    }

    /// Has QEMU do something.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.monitor, "{command}")
            .and_then(|()| self.monitor.flush())
            .with_context(|| format!("cannot tell QEMU's board to {command}"))
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        // Both fail only if QEMU has ended and been waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
