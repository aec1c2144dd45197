//! `cargo xtask run`: boots a guest and gives it the terminal.

mod consoles;
mod on_crash;
mod prepare;
mod shown;
mod silence;
mod speakers;
mod traced;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::terminal::{self, Terminal};
use consoles::{Consoles, Wanted};
use debian::paths;
use lab::results;
use lab::symbolize::Explainer;
use lab::usage;
use machine::build::Program;
use machine::console::GuestLines;
use machine::control::{self, Control};
use machine::ending::{Ending, Watch};
use machine::guest::Options;
use machine::operator::{Direct, Operator};
use machine::port;
use machine::qemu::{Event, ICOUNT_SHIFT, Session};
use machine::run_dir::RunDir;
use on_crash::{Aftermath, OnCrash};
pub use prepare::{Prepared, machine, payloads};
use shown::Shown;
use silence::Silence;
use speakers::Speakers;

/// Boot a guest and give it the terminal.
///
/// What the guest writes goes to standard output, byte for byte; what the hypervisor and xtask say,
/// to standard error. Ctrl-A X leaves; Ctrl-A Ctrl-A sends one Ctrl-A to the guest; Ctrl-A ? lists the keys that reach the guest
/// from outside, as `cargo xtask ctl` does, and those that choose the guest that is typed to.
///
/// Exit codes: 0 the guest powered off, 1 it could not be started, 2 wrong usage, 3 the guest crashed, which
/// is seen of Linux when it panics and stays there, and of any guest whose vCPUs do nothing but fault, 4 the hypervisor crashed, 5 the time was over, 6 QEMU ended
/// otherwise or was left, 141 nobody reads what is written.
#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    options: Options,
    /// Read options from this file; those of the command line win.
    ///
    /// TOML whose keys are named as the options are: docs/guest-file.md has them all, and an example. Relative paths
    /// are relative to the file.
    #[arg(long, value_name = "FILE.toml")]
    guest: Option<PathBuf>,
    /// Without the hypervisor: QEMU boots the kernel itself, to compare; at EL1, on raspi4b at EL2.
    #[arg(long)]
    bare: bool,
    /// Boot the test image of the hypervisor, which can break itself: it obeys break=, wedge= and probe= in --hv-append
    /// (docs/stop.md).
    #[arg(long, conflicts_with = "bare")]
    fault_injection: bool,
    /// Count instructions: 32 nanoseconds of the machine's time for each, whatever the host does.
    ///
    /// All CPUs then take turns on one thread of the host, and a guest that sleeps wakes at once. An accelerator or a
    /// count among the --qemu-arg wins over ours.
    #[arg(long)]
    icount: bool,
    /// Wait for a debugger on this TCP port of 127.0.0.1 before the first instruction.
    ///
    /// Whoever may connect to it, which is every user of this host, may do with the guest what a debugger can.
    #[arg(long, value_name = "PORT", require_equals = true, num_args = 0..=1, default_missing_value = "1234",
          value_parser = clap::value_parser!(u16).range(1..))]
    gdb: Option<u16>,
    /// What becomes of QEMU when the hypervisor has crashed.
    ///
    /// `hold` lets a debugger look at it on a TCP port of 127.0.0.1, until you leave or the time is over. `dump` saves
    /// the hypervisor's own memory in a file that `cargo xtask crash show` reads.
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "quit",
        conflicts_with = "bare"
    )]
    on_crash: OnCrash,
    /// Give a guest a console of its own, beside the screen that all share: what it writes goes to a file, or it has a terminal,
    /// whose path is said; with `stdio` it has standard input and output to itself, and the others' lines go to standard error.
    #[arg(
        long = "console",
        value_name = "NAME=FILE|pty|stdio",
        conflicts_with = "bare"
    )]
    consoles: Vec<String>,
    /// Show on standard error each call that a guest makes of its firmware, and the answer: SDEI, PSCI and whatever else it asks
    /// by SMC or HVC. As lines, or as JSON objects (docs/firmware.md).
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        conflicts_with = "bare",
        require_equals = true,
        num_args = 0..=1,
        default_missing_value = "lines"
    )]
    trace: Option<traced::Format>,
    /// Build everything, print the QEMU command and stop.
    #[arg(long)]
    dry_run: bool,
    /// Where programs reach the hypervisor's operator, as `cargo xtask ctl` does: a socket [default: in the run's own
    /// folder].
    #[arg(long, value_name = "PATH", conflicts_with = "bare")]
    control: Option<PathBuf>,
}

impl Run {
    /// Boots and answers how it ended.
    pub fn execute(self) -> Result<ExitCode> {
        let program = if self.fault_injection {
            Program::FaultInjection
        } else {
            Program::Hypervisor
        };
        let Settled {
            options,
            guests,
            consoles,
        } = self.settle(program).map_err(usage::wrong)?;
        if let Some(port) = self.gdb.filter(|_| !self.dry_run) {
            // Nothing is built for one that somebody has.
            port::check(port)?;
        }
        // The command that is printed names files that its reader needs.
        let printed = paths::output("dry-run")?;
        let mut folder = RunDir::create(self.dry_run.then_some(&*printed))?;
        let Prepared {
            mut machine,
            vmlinux,
            backings,
        } = machine(&options, self.bare, program, &folder)?;
        let hypervisor = paths::output(&format!("{}.elf", program.name()))?;
        machine.gdb = self.gdb;
        if self.trace.is_some() {
            machine.append = format!("{} {}", machine.append, traced::WORD);
        }
        machine.icount = self.icount;
        machine.icount_shift = ICOUNT_SHIFT;
        if self.dry_run {
            machine.write_files()?;
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
        if let Some(port) = self.gdb {
            port::check(port)?;
            eprintln!("xtask: waiting for `target remote 127.0.0.1:{port}`");
        }
        let timeout = options.timeout.map(Duration::from_secs);
        let (mut session, monitor) = match self.bare {
            true => (machine.start(timeout)?, None),
            false => {
                let may_debug = self.on_crash == OnCrash::Hold;
                let (session, monitor) = machine.start_with_monitor(timeout, may_debug)?;
                (session, Some(Arc::new(Mutex::new(monitor))))
            }
        };
        let file = folder.file("hypervisor.ram");
        let mut aftermath = Aftermath::new(self.on_crash, monitor.clone(), self.gdb, file);
        if let Some(log) = log {
            session.log_to(log);
        }
        let input = session.take_input().context("QEMU has no input")?;
        let operator = Operator::new(input, self.bare);
        if let Some(monitor) = monitor {
            operator.reach_ram(Direct::new(monitor, backings)?);
        }
        let names: Vec<String> = guests.into_iter().map(|(_, name)| name).collect();
        operator.expect(&names);
        let consoles = Consoles::open(consoles, &operator)?;
        let path = self.control.unwrap_or_else(|| folder.file(control::NAME));
        let controls = if self.bare {
            Vec::new()
        } else {
            Control::open_all(&path, &operator)?
        };
        if let Some(control) = controls.first() {
            let path = control.path().display();
            eprintln!("xtask: `cargo xtask ctl` reaches the hypervisor, by {path}");
        }
        let files = (&*hypervisor, vmlinux.as_deref());
        let speakers = Speakers::new(&names, results::has_colour());
        let on_screen = Screen {
            speakers,
            consoles,
            bare: self.bare,
            trace: self.trace,
            names,
        };
        let ending = converse(&mut session, &operator, on_screen, files, &mut aftermath)?;
        operator.end();
        if let Some(saved) = aftermath.saved() {
            folder.keep();
            let (saved, elf) = (saved.display(), hypervisor.display());
            eprintln!("xtask: `cargo xtask crash show {saved} --elf {elf}` reads it");
        }
        // Both can be: a guest that has crashed, and was not done.
        let over = match ending {
            Ending::GuestCrash(_) if session.has_timed_out() => " when the time was over,",
            _ => "",
        };
        eprintln!(
            "xtask: {ending}{over} after {:.1} s",
            session.elapsed().as_secs_f64()
        );
        Ok(ending.code())
    }

    /// What is asked for. What of it cannot be is wrong usage, and said before anything is built.
    fn settle(&self, program: Program) -> Result<Settled> {
        let own = self.options.clone();
        let options = match &self.guest {
            Some(path) => own.over(Options::read(path)?),
            None => own,
        };
        options.check_together(self.bare, program)?;
        options.check_files()?;
        if let Some(log) = &options.log {
            paths::check_output(log, "--log")?;
        }
        let each = options.each()?;
        prepare::size(&options, &each)?;
        let names = each
            .iter()
            .map(|guest| guest.name.clone().unwrap_or("guest".to_owned()));
        let guests: Vec<(u8, String)> = (0..).zip(names).collect();
        let consoles = Wanted::read(&self.consoles, &guests)?;
        // A command that is only printed may be for later.
        if let Some(control) = self.control.as_ref().filter(|_| !self.dry_run) {
            Control::check(control, guests.get(1..).unwrap_or_default())?;
        }
        Ok(Settled {
            options,
            guests,
            consoles,
        })
    }
}

/// What is to be run.
struct Settled {
    options: Options,
    /// By their numbers, with their names.
    guests: Vec<(u8, String)>,
    consoles: Vec<Wanted>,
}

/// How long a guest that has panicked may be silent until it is believed: a person at a shell who reads an old log
/// gets a prompt behind it.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Writes what guests have said.
fn to_screen(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .context("cannot write the guest's console to standard output")
}

/// Writes what other guests have said than the one that has standard output.
fn to_errors(bytes: &[u8]) -> Result<()> {
    let written = io::stderr().lock().write_all(bytes);
    written.context("cannot write the guests' consoles to standard error")
}

/// What people see of a run.
struct Screen {
    speakers: Speakers,
    consoles: Consoles,
    /// There is no hypervisor.
    bare: bool,
    /// How calls are shown, if they are.
    trace: Option<traced::Format>,
    /// The guests'.
    names: Vec<String>,
}

/// Lets user and guest talk until the end. The ELF files of `hypervisor` and guest explain reports.
fn converse(
    session: &mut Session,
    operator: &Operator,
    screen: Screen,
    (hypervisor, guest): (&Path, Option<&Path>),
    aftermath: &mut Aftermath,
) -> Result<Ending> {
    let Screen {
        mut speakers,
        mut consoles,
        bare,
        trace,
        names,
    } = screen;
    let terminal = Terminal::take()?;
    let focus = operator.of(consoles.stdio.unwrap_or_default());
    terminal::forward(focus, terminal.is_raw(), session.leave());
    // Who has standard output to itself shares it with nobody.
    let to_all = match consoles.stdio {
        Some(_) => to_errors,
        None => to_screen,
    };
    let line_end = if terminal.is_raw() { "\r\n" } else { "\n" };
    let mut watch = Watch::default();
    let mut shown = Shown::default();
    let mut guest_lines: BTreeMap<u8, GuestLines> = BTreeMap::new();
    let mut explainer: Option<Explainer> = None;
    let mut silence = Silence::default();
    if bare {
        silence.begin(Instant::now());
    }
    loop {
        let until = [silence.until(), speakers.until()];
        let Some(event) = session.next_event_until(until.into_iter().flatten().min())? else {
            let now = Instant::now();
            if silence.until().is_some_and(|until| until <= now) {
                eprint!("xtask: {}{line_end}", silence.tell());
            }
            to_all(&speakers.show_prompts(now))?;
            continue;
        };
        if matches!(event, Event::Ended(_) | Event::Left | Event::TimedOut) {
            // Nothing more comes of any line.
            to_all(&speakers.end())?;
        }
        match event {
            Event::Guest { vm, bytes } => {
                silence.end();
                operator.hear_guest(vm, &bytes);
                if consoles.stdio == Some(vm) {
                    to_screen(&bytes)?;
                } else if !consoles.take(vm, &bytes)? {
                    to_all(&speakers.show(vm, &bytes, Instant::now()))?;
                }
                let guest_lines = guest_lines.entry(vm).or_default();
                let lines = guest_lines.push(&bytes);
                let is_over = lines.iter().fold(false, |_, line| watch.hear(vm, line));
                if is_over && guest_lines.open().is_empty() && aftermath.ends_with_guest() {
                    session.end_when_quiet(LAST_WORDS);
                }
            }
            Event::Line(line) => {
                operator.hear(&line);
                aftermath.note(&line);
                if line.text.starts_with("@vm-start ") {
                    silence.begin(Instant::now());
                }
                let limit = watch.look(&line)?;
                if let Some(limit) = aftermath.limit(limit, watch.has_crashed()) {
                    session.shorten(limit);
                }
                if watch.stuck().is_some() && aftermath.ends_with_guest() {
                    session.end_when_quiet(LAST_WORDS);
                }
                if let Some(format) = trace
                    && let Some(text) = traced::show(&line, format, &names)?
                {
                    if terminal.is_raw() {
                        to_screen(speakers.interrupt())?;
                    }
                    eprint!("{text}{line_end}");
                    continue;
                }
                let is_over = line.text == "@hv-crash-end";
                for line in shown.next(line)? {
                    if terminal.is_raw() {
                        // The screen is one.
                        to_screen(speakers.interrupt())?;
                    }
                    if explainer.is_none() && line.text.contains("@hv-") {
                        explainer = Explainer::load(hypervisor, guest).ok();
                    }
                    let text = line.to_string();
                    let text = match &mut explainer {
                        Some(explainer) => explainer.explain(&text),
                        None => text,
                    };
                    eprint!("{text}{line_end}");
                }
                if is_over {
                    let leaves = if terminal.is_raw() {
                        "Ctrl-A X"
                    } else {
                        "Ctrl-C"
                    };
                    if let Some(told) = aftermath.begin(leaves) {
                        eprint!("xtask: {told}{line_end}");
                    }
                }
            }
            Event::Complaint(text) => eprint!("qemu: {text}{line_end}"),
            Event::Ended(status) => {
                if !status.success() {
                    eprint!("xtask: QEMU failed: {status}{line_end}");
                }
                return Ok(match watch.ending(false) {
                    // Without the hypervisor nobody records the power-off, which ends QEMU well.
                    Ending::Gone if bare && status.success() => Ending::PowerOff,
                    ending => ending,
                });
            }
            Event::Left => return Ok(watch.left()),
            Event::TimedOut => return Ok(watch.ending(true)),
        }
    }
}
