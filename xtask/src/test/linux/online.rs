//! Whose registers are in a dump that the hypervisor makes: those that Linux itself has online, or all that run if it has panicked.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::super::own::{self, Running};
use super::super::screen::Screen;
use super::{Run, TIMEOUT};
use machine::board::Board;
use machine::el3::El3;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// A Linux that resets itself, and is dumped then.
struct Row {
    name: &'static str,
    append: &'static str,
    /// How many CPUs the dump has.
    cpus: usize,
    /// Who said which, as `@vm-dump` has it.
    by: &'static str,
}

const ROWS: [Row; 2] = [
    Row {
        name: "linux/assisted/who-is-offline-is-left-out",
        // An orderly reboot takes all CPUs but one offline, and leaves them spinning.
        append: "lab.do=reboot",
        cpus: 1,
        by: "linux",
    },
    Row {
        name: "linux/assisted/who-a-panic-stopped-is-dumped",
        append: "lab.do=kdump lab.wedge=2 lab.panic=0 lab.capture=no panic=1",
        cpus: 4,
        by: "panic",
    },
];

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// Them, on the usual machine.
pub fn runs<'a>(workshop: &Workshop) -> Vec<Run<'a>> {
    if workshop.board != Board::Virt || workshop.el3 != El3::None {
        return Vec::new();
    }
    let run = |row: &'static Row| (row.name.to_owned(), Box::new(|| row.dump()) as Box<_>);
    ROWS.iter().map(run).collect()
}

impl Row {
    fn dump(&self) -> Result<String> {
        let folder = RunDir::create(None)?;
        let [file, log] = ["guest.toml", "serial.log"].map(|name| folder.file(name));
        let text = format!(
            "append = \"{}\"\ncpus = 4\nmemory = \"512M\"\non-reset = \"dump\"\ndump = {{ memory = \"192M\" }}\n",
            self.append
        );
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = own::run(&file, TIMEOUT)?;
        command.arg("--log").arg(&log);
        let mut running = Running(command.spawn().context("cannot run xtask")?);
        let output = running.0.stdout.take().context("it has no output")?;
        let said = Screen::of(output).between("LAB: capture up", "LAB: vmcore bytes=");
        drop(running);
        let log = fs::read_to_string(&log).unwrap_or_default();
        let said = said.with_context(|| log.clone())?;
        let notes = said.matches("LAB: note pid=").count();
        ensure!(notes == self.cpus, "{notes} CPUs have registers\n{said}");
        let record = log.lines().find(|line| line.contains("@vm-dump "));
        let record = record.with_context(|| format!("there was no @vm-dump\n{log}"))?;
        let words = format!(" vcpus={} by={} ", self.cpus, self.by);
        ensure!(record.contains(&words), "{record}");
        Ok(String::new())
    }
}
