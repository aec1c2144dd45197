//! Machines in runs of their own, and what is told of them.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::test::own;
use debian::paths;
use machine::control::{self, Address, Client};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Nothing takes so long.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A machine in a run of its own.
pub struct Boot {
    pub run: Option<Child>,
    pub socket: PathBuf,
    pub folder: RunDir,
}

impl Boot {
    pub fn start(
        workshop: &Workshop,
        name: &str,
        code: &[u32],
        arguments: &[&str],
    ) -> Result<Self> {
        let kernel = program(workshop, name, code)?;
        let timeout: &[&str] = match arguments.contains(&"--timeout") {
            true => &[],
            false => &["--timeout", "120"],
        };
        let folder = RunDir::create(None)?;
        let socket = folder.file(control::NAME);
        let run = own::xtask()?
            .args(["run", "--cpus", "2", "--memory", "256M"])
            .arg("--kernel")
            .arg(kernel)
            .arg("--control")
            .arg(&socket)
            .args(timeout)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run xtask")?;
        Ok(Self {
            run: Some(run),
            socket,
            folder,
        })
    }

    /// A machine with several guests, each with its name, keys of a guest file, and a program. Its terminal is `terminal`, if it is to
    /// have one.
    pub fn of_guests(
        workshop: &Workshop,
        guests: &[(&str, &str, &[u32])],
        (terminal, arguments): (Option<OwnedFd>, &[&str]),
    ) -> Result<Self> {
        let mut text = "timeout = 120\n".to_owned();
        for (name, keys, code) in guests {
            let kernel = program(workshop, name, code)?;
            let kernel = kernel.display();
            text += &format!(
                "[[guest]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nmemory = \"64M\"\n{keys}\n"
            );
        }
        let folder = RunDir::create(None)?;
        let file = folder.file("guests.toml");
        std::fs::write(&file, text)?;
        let socket = folder.file(control::NAME);
        let mut command = own::xtask()?;
        command.args(["run", "--guest"]).arg(file);
        command.arg("--control").arg(&socket).args(arguments);
        match terminal {
            Some(terminal) => {
                command.stdin(terminal.try_clone()?);
                command.stdout(terminal.try_clone()?).stderr(terminal);
            }
            None => {
                command.stdin(Stdio::piped());
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
        }
        let run = command.spawn().context("cannot run xtask")?;
        Ok(Self {
            run: Some(run),
            socket,
            folder,
        })
    }

    /// The hypervisor answers, and the guest has been started.
    pub fn client(&mut self) -> Result<Client> {
        self.status(|status| vcpu(status, 0)["state"] == "on")?;
        Client::connect(&self.socket)
    }

    /// The guest of this name or number has been started, as one of several.
    pub fn client_of(&mut self, guest: &str) -> Result<Client> {
        // The hypervisor listens.
        self.status(|_| true)?;
        let address = Address {
            path: self.socket.clone(),
            guest: Some(guest.to_owned()),
        };
        let until = Instant::now() + LIMIT;
        loop {
            let mut client = address.connect()?;
            let status = client.execute("x-halligan-status", json!({}))?;
            if vcpu(&status, 0)["state"] == "on" {
                return Ok(client);
            }
            ensure!(Instant::now() < until, "{guest} never starts: {status}");
        }
    }

    /// Waits until one of several guests is said to be so.
    pub fn wait_for(&self, guest: &str, state: &str) -> Result<()> {
        let address = Address {
            path: self.socket.clone(),
            guest: Some(guest.to_owned()),
        };
        let until = Instant::now() + LIMIT;
        loop {
            let told = address.connect()?.execute("x-halligan-status", json!({}))?;
            if told["vm"]["state"] == state {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{guest} is never {state}: {told}");
        }
    }

    /// What the hypervisor answers as soon as it does, and that is as said.
    pub fn status(&mut self, is_good: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + LIMIT;
        loop {
            if let Ok(mut client) = Client::connect(&self.socket)
                && let Ok(status) = client.execute("x-halligan-status", json!({}))
                && is_good(&status)
            {
                return Ok(status);
            }
            let run = self.run.as_mut().context("it has ended")?;
            if run.try_wait()?.is_some() {
                let (_, errors, _) = self.end()?;
                bail!("it has ended: {errors}");
            }
            ensure!(Instant::now() < until, "nobody answers");
            std::thread::yield_now();
        }
    }

    /// `cargo xtask ctl` with `arguments`.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = own::xtask()?;
        command.args(["ctl", "--control"]).arg(&self.socket);
        own::succeed(command.args(arguments))
    }

    /// What it has written when it has ended, and its exit code.
    pub fn end(&mut self) -> Result<(String, String, Option<i32>)> {
        let run = self.run.take().context("it has ended")?;
        let output = run.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            text(&output.stdout),
            text(&output.stderr),
            output.status.code(),
        ))
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        if let Some(run) = &mut self.run {
            // It ends what it has started.
            let _ = run.kill();
            let _ = run.wait();
        }
    }
}

/// A guest of these instructions, in a file.
fn program(workshop: &Workshop, name: &str, code: &[u32]) -> Result<PathBuf> {
    let kernel = workshop.output(&format!("operator-{name}.bin"))?;
    let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    paths::write_if_new(&kernel, &bytes)?;
    Ok(kernel)
}

/// What is told of a vCPU.
pub fn vcpu(status: &Value, n: u64) -> &Value {
    let all = status["vcpus"].as_array();
    let one = all.and_then(|all| all.iter().find(|vcpu| vcpu["vcpu"] == n));
    one.unwrap_or(&Value::Null)
}

/// Waits until vCPU 0 is at a branch to itself; where that is.
pub fn spin(client: &mut Client) -> Result<u64> {
    let until = Instant::now() + LIMIT;
    loop {
        let status = client.execute("x-halligan-status", json!({}))?;
        let pc = vcpu(&status, 0)["pc"].as_u64().context("it has no pc")?;
        if client.read(pc, 4)? == 0x1400_0000_u32.to_le_bytes() {
            return Ok(pc);
        }
        ensure!(Instant::now() < until, "it never spins");
    }
}
