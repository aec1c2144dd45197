//! QEMU's monitor (QMP), over a pair of sockets that nobody else has.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};

use super::{Machine, Session};

/// How long QEMU may take for an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// The way to a machine's monitor.
pub struct Monitor {
    stream: BufReader<UnixStream>,
    is_greeted: bool,
}

impl Machine {
    /// Starts the machine as [`Machine::start`] does, with a monitor, which `may_debug`: let a debugger in later.
    pub fn start_with_monitor(
        &self,
        timeout: Option<Duration>,
        may_debug: bool,
    ) -> Result<(Session, Monitor)> {
        let (ours, qemus) = UnixStream::pair()?;
        ours.set_read_timeout(Some(LIMIT))?;
        // QEMU inherits it, under its number.
        fcntl_setfd(&qemus, FdFlags::empty())?;
        let mut machine = self.clone();
        let socket = format!("socket,id=monitor,fd={}", qemus.as_raw_fd());
        let mut arguments: Vec<_> = ["-chardev", &socket, "-mon", "chardev=monitor,mode=control"]
            .map(Into::into)
            .into();
        if may_debug && self.gdb.is_none() {
            // A debugger reaches this monitor, too.
            arguments.extend(super::NO_PROGRAMS.map(Into::into));
        }
        machine.extra.splice(0..0, arguments);
        let session = machine.start(timeout)?;
        let monitor = Monitor {
            stream: BufReader::new(ours),
            is_greeted: false,
        };
        Ok((session, monitor))
    }
}

impl Monitor {
    /// Writes `size` bytes of the machine's memory from the physical address `pa` on into `file`.
    pub fn save_memory(&mut self, pa: u64, size: u64, file: &Path) -> Result<()> {
        let name = file.to_str().context("its name is no text")?;
        self.execute(
            "pmemsave",
            json!({ "val": pa, "size": size, "filename": name }),
        )?;
        Ok(())
    }

    /// Lets a debugger in, on this TCP port of 127.0.0.1.
    pub fn listen_for_debugger(&mut self, port: u16) -> Result<()> {
        let line = format!("gdbserver tcp:127.0.0.1:{port}");
        let said = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        let said = said.as_str().unwrap_or_default();
        if !said.starts_with("Waiting for gdb connection") {
            bail!("QEMU lets no debugger in: {}", said.trim());
        }
        Ok(())
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        if !self.is_greeted {
            // Its greeting comes first, which answers nothing.
            self.ask("qmp_capabilities", json!({}))?;
            self.is_greeted = true;
        }
        self.ask(command, arguments)
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let order = json!({ "execute": command, "arguments": arguments });
        self.stream
            .get_mut()
            .write_all(format!("{order}\n").as_bytes())?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("QEMU has ended");
            }
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(error) = answer.get("error") {
                bail!("{}", error["desc"].as_str().unwrap_or(command));
            }
            // The rest are events.
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}
