//! drgn, a debugger that is not ours, opens the dump, finds the wedged CPU where
//! it is, and all that the kernel has allocated.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use debian::tools::{self, Tool};
use lab::verdict::WEDGE_FUNCTION;
use machine::workshop::Workshop;

/// drgn in a folder of the cache, for the host's Python.
pub struct Drgn {
    folder: PathBuf,
}

/// The host's Python.
const PYTHON: &str = "python3";

/// Its way to fetch packages, by Debian's name for it.
const PIP: Tool = Tool {
    program: "pip3",
    package: "python3-pip",
};

impl Drgn {
    /// Fetches it from Python's package index, unless the cache has it.
    pub fn ensure(workshop: &Workshop) -> Result<Self> {
        if run(supervisor::command(PYTHON).args(["-m", "pip", "--version"])).is_err() {
            tools::demand(&workshop.cache, &[PIP], &workshop.progress)?;
        }
        let version = "import sys; print('%d.%d' % sys.version_info[:2])";
        let version = run(supervisor::command(PYTHON).args(["-c", version]))?;
        let name = format!("drgn-python{}", version.trim());
        let _lock = workshop.cache.lock("drgn", &workshop.progress)?;
        let folder = workshop.cache.entry(&name, |folder| {
            let mut pip = supervisor::command(PYTHON);
            pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:"]);
            pip.arg("--target").arg(folder).arg("drgn");
            run(&mut pip).map(|_| ())
        })?;
        Ok(Self { folder })
    }

    /// What our `script` finds in the dump.
    fn ask(&self, script: &str, vmcore: &Path, vmlinux: &Path, more: &[String]) -> Result<String> {
        let mut python = supervisor::command(PYTHON);
        python
            .env("PYTHONPATH", &self.folder)
            .args(["-c", script])
            .args([vmcore, vmlinux])
            .args(more);
        run(&mut python)
    }

    /// That the stack of wedged `cpu` leads from the wedge out to user space; answers its innermost part.
    pub fn check(&self, vmcore: &Path, vmlinux: &Path, cpu: u32) -> Result<String> {
        let script = include_str!("stack.py");
        let stack = self.ask(script, vmcore, vmlinux, &[cpu.to_string()])?;
        let stack: Vec<&str> = stack.lines().collect();
        let whole = stack.join(" <- ");
        ensure!(
            // What is inlined there, such as cpu_relax, stands before it.
            stack.iter().take(2).any(|name| *name == WEDGE_FUNCTION),
            "drgn finds CPU {cpu} not in {WEDGE_FUNCTION} but in: {whole}"
        );
        ensure!(
            stack.contains(&"el0t_64_sync"),
            "drgn finds no way from {WEDGE_FUNCTION} to user space: {whole}"
        );
        Ok(format!(
            "CPU {cpu}: {} <- ...",
            stack[..stack.len().min(3)].join(" <- ")
        ))
    }

    /// That a guest which runs is opened by its control socket: its release, the run queue of each CPU, and the stack of a task
    /// that sleeps.
    pub fn check_live(&self, socket: &Path, vmlinux: &Path, cpus: u32) -> Result<String> {
        let found = self.ask(include_str!("live.py"), socket, vmlinux, &[])?;
        let lines: Vec<&str> = found.lines().collect();
        let queues = (0..cpus).map(|cpu| format!("queue {cpu} {cpu} swapper/{cpu}"));
        let expected = queues.chain(["task kthreadd".to_owned(), "frame ret_from_fork".to_owned()]);
        for line in expected {
            ensure!(lines.contains(&line.as_str()), "no `{line}` in:\n{found}");
        }
        let first = lines.first().and_then(|line| line.strip_prefix("release "));
        ensure!(
            first.is_some() && lines.contains(&"frame schedule"),
            "{found}"
        );
        Ok(format!("Linux {}", first.unwrap_or_default()))
    }

    /// That no page of the kernel's slabs was left out of the dump; answers how many there are.
    pub fn check_slabs(&self, vmcore: &Path, vmlinux: &Path) -> Result<String> {
        let found = self.ask(include_str!("slabs.py"), vmcore, vmlinux, &[])?;
        let mut counts = found.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(pages)), Some(Ok(absent))) = (counts.next(), counts.next()) else {
            bail!("slabs.py should answer two counts, but answered: {found}");
        };
        ensure!(
            pages > 0 && absent == 0,
            "of {pages} pages of slabs {absent} are not in the dump"
        );
        Ok(format!("all {pages} pages of slabs"))
    }
}

/// Runs `command` to its end and answers what it wrote.
fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {PYTHON}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{PYTHON} failed: {}", complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
