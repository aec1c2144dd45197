//! `cargo xtask crash show`: the hypervisor's last words, out of an image of the machine's memory.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use hv_abi::crash;

use debian::paths;
use lab::symbolize::Explainer;
use lab::usage;
use machine::console::{Part, Splitter};

/// Read what the hypervisor left in memory when it crashed.
#[derive(Args)]
pub struct Crash {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Show(Show),
}

/// Find the crash record in an image of the machine's memory and print it, with functions.
///
/// The image is what a debugger or QEMU's `pmemsave` writes. It begins at an address that is a multiple of 4 KiB.
/// The next boot of the machine prints the record as well, and then it is gone.
///
/// Exit codes: 0 it is printed, 1 there is none, or it cannot be read, 2 wrong usage.
#[derive(Args)]
struct Show {
    /// The image of memory.
    file: PathBuf,
    /// ELF file with the symbols [default: that of the hypervisor built last].
    #[arg(long, value_name = "FILE")]
    elf: Option<PathBuf>,
    /// ELF file of what the guest was, a vmlinux, for its addresses.
    #[arg(long, value_name = "FILE")]
    guest_elf: Option<PathBuf>,
}

impl Crash {
    /// Prints it.
    pub fn execute(self) -> Result<ExitCode> {
        let Command::Show(show) = self.command;
        show.check().map_err(usage::wrong)?;
        let elf = match show.elf {
            Some(elf) => elf,
            None => paths::output("hypervisor.elf")?,
        };
        ensure!(
            elf.exists(),
            "there is no {}; `cargo xtask build` makes it",
            elf.display()
        );
        let mut explainer = Explainer::load(&elf, show.guest_elf.as_deref())?;
        let memory =
            fs::read(&show.file).with_context(|| format!("cannot read {}", show.file.display()))?;
        let Some(lines) = lines(&memory) else {
            bail!("there is no crash record in {}", show.file.display());
        };
        for line in lines {
            println!("{}", explainer.explain(&line));
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    /// That the files that it names are there.
    fn check(&self) -> Result<()> {
        for (path, option) in [(&self.guest_elf, "--guest-elf"), (&self.elf, "--elf")] {
            if let Some(path) = path {
                paths::check_input(path, option)?;
            }
        }
        paths::check_input(&self.file, "FILE")
    }
}

/// The lines of the crash record in `memory`.
pub fn lines(memory: &[u8]) -> Option<Vec<String>> {
    let parts = Splitter::default().push(crash::find(memory)?);
    let lines = parts.into_iter().filter_map(|part| match part {
        Part::Line(line) => Some(line.to_string()),
        Part::Guest { .. } => None,
    });
    Some(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_taken_out_of_its_framing() {
        let text = b"\x1e\r\n[    1.000000 p0] one\r\n\x1e\r\n[    1.000001 p0] two\r\n";
        let mut memory = vec![0; crash::ALIGNMENT];
        memory.extend(crash::header(text));
        memory.extend(text);
        let found = lines(&memory).unwrap();
        assert_eq!(found, ["[    1.000000 p0] one", "[    1.000001 p0] two"]);
        assert_eq!(lines(&memory[..crash::ALIGNMENT]), None);
    }
}
