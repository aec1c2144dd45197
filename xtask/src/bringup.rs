//! `cargo xtask bringup`: a board on a serial line, from power to a stopped Linux.

mod boot;
mod dump;
pub mod load;
mod replay;
mod stage;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chainload::frame::{Decoder, Heard};
use chainload::message::FromLoader;
use clap::{Args, ValueEnum};

use crate::ledger::Ledger;
use crate::offer::offered;
use debian::initramfs::{self, Guest};
use debian::kernel::{self, KernelVariant};
use debian::paths;
use lab::kdump;
use lab::usage;
use machine::build::{self, Program};
use machine::control::{self, Control};
use machine::payload::{Capture, Payload};
use machine::protocol::Outcome;
use machine::remote::Remote;
use machine::run_dir::RunDir;
use machine::serial::{Line, Port};
use machine::workshop::Workshop;

use boot::{Boot, Output};
use load::{Cargo, Terms, Told};

/// Bring a board up over its serial line, and run the guest tests and the kdump job on it.
///
/// The card has the chainloader (`cargo xtask image rpi4 --chainloader`), which receives everything else.
/// What the board has to pass comes in stages; one that fails says what it was to prove and what to check on
/// the bench. docs/raspberry-pi-4.md has the wiring, and the whole way.
///
/// Exit codes: 0 all is as it must be, 1 something is not (which is named), 2 wrong usage.
#[derive(Args)]
pub struct Bringup {
    /// The board.
    #[arg(value_enum)]
    board: Bench,
    /// The serial port that it is on, such as /dev/ttyUSB0.
    #[arg(long, value_name = "DEVICE", required_unless_present = "replay")]
    port: Option<PathBuf>,
    /// Baud to send at, if the loader and the line can; all else is at 115200.
    #[arg(long, value_name = "N", default_value_t = 921_600)]
    baud: u32,
    /// What to run, joined by commas; the board has to be switched off and on in between [default: tests,kdump].
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["tests", "kdump"], hide_default_value = true)]
    jobs: Vec<Job>,
    /// Wait for the loader for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    wait: u64,
    /// Keep all that comes from the board in this file.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    record: Option<PathBuf>,
    /// Judge such a record, without a board.
    #[arg(long, value_name = "FILE", conflicts_with = "port")]
    replay: Option<PathBuf>,
    /// With --replay: the board's card, or an image of it, with the dump that the recorded run wrote.
    #[arg(
        long,
        value_name = "DEVICE",
        requires = "replay",
        conflicts_with = "port"
    )]
    card: Option<PathBuf>,
    /// Where programs reach the hypervisor's operator, as `cargo xtask ctl` does: a socket [default: in a folder of this command's
    /// own, which ctl finds].
    #[arg(long, value_name = "PATH", conflicts_with = "replay")]
    control: Option<PathBuf>,
    /// Print all that comes, not only what matters.
    #[arg(long, short)]
    verbose: bool,
}

/// A board that can be brought up.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Bench {
    /// Raspberry Pi 4 Model B.
    Rpi4,
}

/// Something to run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Job {
    /// The guest tests that share a boot.
    Tests,
    /// Linux, a CPU wedged, a panic, a dump on the card.
    Kdump,
}

/// How long the hypervisor may take to say its first word, and to have the machine.
const ENTRY: Duration = Duration::from_secs(15);
const MACHINE: Duration = Duration::from_secs(60);
/// How long a guest may be silent.
const QUIET: Duration = Duration::from_secs(180);

impl Bringup {
    /// Runs all, and says what came of it.
    pub fn execute(self) -> Result<ExitCode> {
        let Bench::Rpi4 = self.board;
        self.check().map_err(usage::wrong)?;
        if let Some(record) = &self.replay {
            return self.judge_record(record);
        }
        let path = self.port.as_deref().context("--port is missing")?;
        if !path.exists() {
            // Nothing is built for a port that is not there.
            stage::PORT.judge(Port::open(path, chainload::BASE_RATE))?;
        }
        let workshop = Workshop::open()?;
        let cargoes: Vec<_> = self
            .jobs
            .iter()
            .map(|&job| Ok((job, job.cargo(&workshop)?)))
            .collect::<Result<_>>()?;
        let mut port = stage::PORT.judge(Port::open(path, chainload::BASE_RATE))?;
        if let Some(record) = &self.record {
            let file = File::create(record)
                .with_context(|| format!("cannot write the record {}", record.display()))?;
            port.record(file);
        }
        println!("{}", stage::PORT.passed(&path.display().to_string()));
        let mut judge = Judge::default();
        for (number, (job, cargo)) in cargoes.iter().enumerate() {
            if number > 0 {
                println!("now switch the board off and on again");
            }
            let (boot, timed_out, elapsed) = self.run(&mut port, cargo)?;
            boot.check_start()?;
            judge.judge(*job, &boot, timed_out, elapsed);
        }
        Ok(judge.close())
    }

    /// Loads `cargo` and watches what comes of it.
    fn run(&self, port: &mut Port, cargo: &Cargo) -> Result<(Boot, bool, Duration)> {
        println!("waiting for the loader; switch the board on");
        let terms = Terms {
            rate: self.baud,
            patience: Duration::from_secs(self.wait),
        };
        let mut show = |told| self.show(told);
        let rest = load::load(port, cargo, terms, &mut show)?;
        let folder = RunDir::create(None)?;
        let own = || folder.file(control::NAME);
        let mut remote = Remote::open(&self.control.clone().unwrap_or_else(own), false)?;
        let started = Instant::now();
        let mut boot = Boot::default();
        let line = (port as &mut dyn Line, &mut remote);
        let timed_out = watch(line, &mut boot, &rest, &mut |seen| match seen {
            Output::Passed(text) => show(Told::Passed(text)),
            Output::Hypervisor(text) if self.verbose => show(Told::Note(format!("hv: {text}"))),
            Output::Guest(text) if self.verbose || kdump::matters(&text) => {
                show(Told::Note(format!("  | {text}")));
            }
            Output::Hypervisor(_) | Output::Guest(_) => {}
        })?;
        Ok((boot, timed_out, started.elapsed()))
    }

    fn show(&self, told: Told) {
        let terminal = std::io::stderr().is_terminal();
        let clear = if terminal { "\r\x1b[K" } else { "" };
        match told {
            Told::Passed(text) | Told::Note(text) => {
                eprint!("{clear}");
                println!("{text}");
            }
            Told::Text(text) if self.verbose => {
                eprint!("{clear}");
                println!("board: {}", text.trim_end());
            }
            Told::Progress(text) if terminal => eprint!("{clear}{text}"),
            Told::Text(_) | Told::Progress(_) => {}
        }
    }

    /// That the files that it names can be read or written.
    fn check(&self) -> Result<()> {
        if let Some(record) = &self.replay {
            paths::check_input(record, "--replay")?;
        }
        if let Some(card) = &self.card {
            paths::check_input(card, "--card")?;
        }
        if let Some(record) = &self.record {
            paths::check_output(record, "--record")?;
        }
        match &self.control {
            Some(control) => Control::check(control, &[]),
            None => Ok(()),
        }
    }

    fn judge_record(&self, record: &Path) -> Result<ExitCode> {
        let bytes = fs::read(record)
            .with_context(|| format!("cannot read the record {}", record.display()))?;
        let replay = replay::Replay::read(&bytes)?;
        for line in replay.check()? {
            println!("{line}");
        }
        let mut judge = Judge::default();
        for boot in &replay.boots {
            boot.check_start()?;
            println!(
                "{}",
                stage::ENTRY.passed(boot.entered.as_deref().unwrap_or_default())
            );
            println!("{}", stage::MACHINE.passed("all CPUs are up"));
            let job = if boot.is_of_tests() {
                Job::Tests
            } else {
                Job::Kdump
            };
            judge.judge(job, boot, !boot.is_over(), Duration::ZERO);
            if let (Job::Kdump, Some(card)) = (job, &self.card) {
                let workshop = Workshop::open()?;
                let ours =
                    kernel::ensure(&workshop.cache, KernelVariant::Plain, &workshop.progress)?;
                let copy = workshop.output("card-vmcore")?;
                let judged = dump::judge_card(boot, card, &ours.vmlinux, &copy)?;
                judge.enter("kdump/rpi4/card", &judged, Duration::ZERO);
            }
        }
        Ok(judge.close())
    }
}

impl Job {
    /// What is sent for it.
    fn cargo(self, workshop: &Workshop) -> Result<Cargo> {
        let hypervisor = build::build(workshop, Program::Hypervisor)?;
        let bundle = workshop.output("bringup.itb")?;
        match self {
            Self::Tests => {
                let guest = build::build(workshop, Program::GuestTests)?;
                Payload {
                    kernel: &guest.image,
                    initrd: None,
                    flash: None,
                    capture: Capture::default(),
                    config: offered("test=shared"),
                }
                .write(&bundle)?;
            }
            Self::Kdump => {
                let ours =
                    kernel::ensure(&workshop.cache, KernelVariant::Plain, &workshop.progress)?;
                let guest = Guest::Ours(&ours.image);
                let initrd = initramfs::ensure(&workshop.cache, guest, &workshop.progress)?;
                Payload {
                    kernel: &ours.image,
                    initrd: Some(&initrd),
                    flash: None,
                    capture: Capture::default(),
                    config: hv_bundle::GuestConfig {
                        bootargs: dump::plan().bootargs(),
                        sdei: true,
                        ..Default::default()
                    },
                }
                .write(&bundle)?;
            }
        }
        Cargo::read(&hypervisor.image, &bundle, "")
    }
}

/// Watches a start until it is over; true if it did not come to that in time.
fn watch(
    (line, remote): (&mut dyn Line, &mut Remote),
    boot: &mut Boot,
    rest: &[u8],
    show: &mut dyn FnMut(Output),
) -> Result<bool> {
    let started = Instant::now();
    let mut heard_at = started;
    let mut ends_at = None;
    let mut loader = Decoder::default();
    let mut bytes = rest.to_vec();
    remote.hear(rest);
    loop {
        if !bytes.is_empty() {
            heard_at = Instant::now();
        }
        for &byte in &bytes {
            if let Heard::Message(message) = loader.push(byte)
                && let Some(FromLoader::Ready { .. }) = FromLoader::read(message)
            {
                let stage = if boot.entered.is_none() {
                    stage::ENTRY
                } else {
                    stage::MACHINE
                };
                return stage.judge(Err(anyhow::anyhow!(
                    "the board was reset, and its loader is back"
                )));
            }
        }
        for seen in boot.push(&bytes)? {
            show(seen);
        }
        if boot.is_over() {
            return Ok(false);
        }
        if let Some(limit) = boot.limit.take() {
            ends_at = Some(Instant::now() + limit);
        }
        let is_late = match (&boot.entered, boot.ready) {
            (None, _) => started.elapsed() > ENTRY,
            (Some(_), false) => started.elapsed() > MACHINE,
            (Some(_), true) => heard_at.elapsed() > QUIET,
        };
        if is_late || ends_at.is_some_and(|at| Instant::now() > at) {
            return Ok(true);
        }
        bytes = remote.exchange(line, Duration::from_millis(100))?;
    }
}

/// The lines of the report and their count.
struct Judge {
    ledger: Ledger,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            ledger: Ledger::new(None),
        }
    }
}

impl Judge {
    fn judge(&mut self, job: Job, boot: &Boot, timed_out: bool, elapsed: Duration) {
        let failed = self.ledger.failures();
        match job {
            Job::Tests => self.judge_tests(boot, timed_out, elapsed),
            Job::Kdump => {
                let judged = dump::judge(boot, timed_out, elapsed);
                self.enter("kdump/rpi4/line", &judged, elapsed);
            }
        }
        let stage = match job {
            Job::Tests => stage::TESTS,
            Job::Kdump => stage::KDUMP,
        };
        if self.ledger.failures() == failed {
            println!("{}", stage.passed(""));
        } else {
            let lines = anyhow::anyhow!("see the lines that begin with FAILED");
            let failure: Result<()> = stage.judge(Err(lines));
            println!(
                "{}",
                failure.err().map_or_else(String::new, |it| it.to_string())
            );
        }
    }

    fn judge_tests(&mut self, boot: &Boot, timed_out: bool, elapsed: Duration) {
        let mut results = boot.results.clone();
        let ending = boot.ending(timed_out).to_string();
        results.close(&[], &ending);
        let share = elapsed / u32::try_from(results.outcomes.len().max(1)).unwrap_or(1);
        for (test, outcome) in &results.outcomes {
            let name = format!("guest/rpi4/{test}");
            match outcome {
                Outcome::Passed(metrics) => self.ledger.passed(&name, share, metrics),
                Outcome::Skipped(why) => self.ledger.skipped(&name, why),
                Outcome::Failed(why) => self.ledger.failed(&name, share, why),
            }
        }
        if !results.done {
            let why = format!("the test guest did not come to its end: {ending}");
            let why = format!("{why}\n{}", boot.tail().join("\n"));
            self.ledger.failed("guest/rpi4/end", elapsed, &why);
        } else if results.outcomes.is_empty() {
            let why = "the test guest came to its end, and nothing was heard of a test";
            self.ledger.failed("guest/rpi4/end", elapsed, why);
        }
    }

    fn enter(&mut self, name: &str, judged: &dump::Judged, elapsed: Duration) {
        for line in &judged.lines {
            println!("{line}");
        }
        if judged.faults.is_empty() {
            self.ledger.passed(name, elapsed, "");
        } else {
            self.ledger.failed(name, elapsed, &judged.faults.join("\n"));
        }
    }

    fn close(self) -> ExitCode {
        self.ledger.close()
    }
}

/// Has a board's loader start `cargo`, for tests; answers what came after that within `after`.
pub fn start(
    line: &mut dyn Line,
    cargo: &Cargo,
    terms: Terms,
    after: Duration,
    tell: &mut dyn FnMut(Told),
) -> Result<Vec<u8>> {
    let mut all = load::load(line, cargo, terms, tell)?;
    let end = Instant::now() + after;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        all.extend(line.exchange(&mut VecDeque::new(), left)?);
    }
    if all.is_empty() {
        bail!("what was started says nothing");
    }
    Ok(all)
}
