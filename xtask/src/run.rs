//! `cargo xtask run`: boots a guest and gives it the terminal.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::console::Line;
use crate::ending::{Ending, Watch};
use crate::guest::Options;
use crate::qemu::{DEFAULT_CPU, Happening, Machine, Session};
use crate::terminal::{self, Terminal};

/// Boot a guest and give it the terminal.
///
/// What the guest writes goes to standard output, byte for byte; what the hypervisor and xtask say,
/// to standard error. Ctrl-A X leaves; Ctrl-A Ctrl-A sends one Ctrl-A to the guest.
///
/// Exit codes: 0 the guest powered off, 1 it could not be started, 2 wrong usage, 3 the guest
/// crashed, 4 the hypervisor crashed, 5 the time was over, 6 QEMU ended otherwise or was left.
#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    options: Options,
    /// Read options from this file; those of the command line win.
    ///
    /// TOML with the keys kernel, initrd, append, cpus, memory, disks, cpu, sdei, qemu-args, timeout
    /// and log, which mean what the options of those names mean. Relative paths are relative to the
    /// file.
    #[arg(long, value_name = "FILE.toml")]
    guest: Option<PathBuf>,
    /// Without the hypervisor: QEMU boots the kernel at EL1 itself, to compare.
    #[arg(long)]
    bare: bool,
    /// Wait for a debugger on TCP port 1234 before the first instruction.
    #[arg(long)]
    gdb: bool,
    /// Build everything, print the QEMU command and stop.
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    /// Boots and answers how it ended.
    pub fn execute(self) -> Result<ExitCode> {
        let options = match &self.guest {
            Some(path) => self.options.over(Options::read(path)?),
            None => self.options,
        };
        options.check_files()?;
        let mut machine = machine(&options, self.bare)?;
        machine.gdb = self.gdb;
        if self.dry_run {
            println!("{}", machine.command_line());
            return Ok(ExitCode::SUCCESS);
        }
        let log = match &options.log {
            Some(path) => Some(
                File::create(path)
                    .with_context(|| format!("cannot write the log {}", path.display()))?,
            ),
            None => None,
        };
        if self.gdb {
            eprintln!("xtask: waiting for `target remote :1234`");
        }
        let mut session = machine.start(options.timeout.map(Duration::from_secs))?;
        if let Some(log) = log {
            session.log_to(log);
        }
        let ending = converse(&mut session)?;
        eprintln!(
            "xtask: {ending} after {:.1} s",
            session.elapsed().as_secs_f64()
        );
        Ok(ending.code())
    }
}

/// The machine that `options` describe.
fn machine(options: &Options, bare: bool) -> Result<Machine> {
    let Some(kernel) = options.kernel.as_deref().filter(|_| bare) else {
        bail!("only --bare with a --kernel can be run yet");
    };
    let mut machine = Machine::new(Path::new("qemu-system-aarch64"), kernel);
    machine.el2 = !bare;
    machine.cpu = options.cpu.clone().unwrap_or(DEFAULT_CPU.to_owned());
    machine.cpus = options.cpus()?;
    machine.memory_mib = options.memory_mib()?;
    machine.initrd = options.initrd.clone();
    machine.append = options.append.clone().unwrap_or_default();
    machine.disks = options.disks.clone();
    machine.extra = options.qemu_args.iter().map(Into::into).collect();
    Ok(machine)
}

/// Lets user and guest talk until the end.
fn converse(session: &mut Session) -> Result<Ending> {
    let terminal = Terminal::take()?;
    if let Some(input) = session.take_input() {
        terminal::forward(input, terminal.is_raw(), session.leave());
    }
    let line_end = if terminal.is_raw() { "\r\n" } else { "\n" };
    let mut watch = Watch::default();
    loop {
        match session.next()? {
            Happening::Guest(bytes) => {
                let mut stdout = io::stdout().lock();
                stdout
                    .write_all(&bytes)
                    .and_then(|()| stdout.flush())
                    .context("cannot write the guest's console to standard output")?;
            }
            Happening::Line(line) => {
                watch.follow(&line, session)?;
                if is_for_people(&line) {
                    eprint!("{line}{line_end}");
                }
            }
            Happening::Complaint(text) => eprint!("qemu: {text}{line_end}"),
            Happening::Ended(status) => {
                if !status.success() {
                    eprint!("xtask: QEMU failed: {status}{line_end}");
                }
                return Ok(watch.ending(false));
            }
            Happening::Left => return Ok(watch.ending(false)),
            Happening::TimedOut => return Ok(watch.ending(true)),
        }
    }
}

/// Whether `line` is a sentence; records are for programs, and the log has them all.
fn is_for_people(line: &Line) -> bool {
    line.record().is_none()
}
