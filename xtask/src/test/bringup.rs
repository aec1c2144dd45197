//! `cargo xtask bringup` without a board: QEMU's raspi4b with the chainloader on its card, behind a
//! pseudo-terminal, and a line in between on which things go wrong.

mod control;
mod emulated;
mod left;
mod monitor;
mod troubled;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::own;
use crate::bringup::load::{Cargo, Terms, Told};
use crate::bringup::start;
use crate::ledger::Ledger;
use debian::tools;
use machine::board::Board;
use machine::build::{self, Program};
use machine::firmware::Firmware;
use machine::qemu::Machine;
use machine::run_dir::RunDir;
use machine::serial::Line;
use machine::workshop::Workshop;

use emulated::Emulated;
use troubled::{Scripted, Troubled};

/// What a row does to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Nothing.
    None,
    /// Bytes are lost, broken and made up, in both directions.
    Noise,
    /// The board is reset when half has been sent.
    Reset,
    /// xtask is killed when half has been sent, and started again.
    HostGone,
    /// The board's answers stop.
    Silence,
    /// Nobody is at the other end.
    NoBoard,
    /// Somebody else is: only text and garbage come.
    NoLoader,
    /// What is sent is no arm64 Image.
    WrongImage,
}

const ROWS: [(&str, Trouble); 8] = [
    ("bringup/load", Trouble::None),
    ("bringup/noise", Trouble::Noise),
    ("bringup/reset", Trouble::Reset),
    ("bringup/host-gone", Trouble::HostGone),
    ("bringup/silence", Trouble::Silence),
    ("bringup/no-board", Trouble::NoBoard),
    ("bringup/no-loader", Trouble::NoLoader),
    ("bringup/wrong-image", Trouble::WrongImage),
];

/// The rows that do what is done on a board: the guest tests over the line; and they and the kdump job.
const TESTS: &str = "bringup/guest-tests";
const WHOLE: &str = "bringup/whole";

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|(name, _)| *name).chain([
        monitor::NAME,
        control::NAME,
        left::NAME,
        TESTS,
        WHOLE,
    ])
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if !names().any(|name| ledger.wants(name)) {
        return;
    }
    let before = ledger.failures();
    let mut bench = match Bench::prepare(workshop) {
        Ok(bench) => bench,
        Err(error) => {
            ledger.failed("bringup/board", Duration::ZERO, &format!("{error:#}"));
            return;
        }
    };
    for (name, trouble) in ROWS {
        ledger.check(name, || bench.row(trouble));
    }
    ledger.check(monitor::NAME, || monitor::check(workshop, &bench.machine));
    ledger.check(control::NAME, || control::check(workshop, &bench.machine));
    ledger.check(left::NAME, || {
        left::check(workshop, &bench.machine, &bench.loader)
    });
    // They take as long as the tests and the job themselves, which have rows of their own.
    if workshop.board == Board::Raspi4b || ledger.is_filtered() {
        ledger.check(TESTS, || bench.guest_tests());
        ledger.check(WHOLE, || bench.whole());
    }
    if ledger.failures() > before {
        eprintln!(
            "        what was there is in {}",
            bench.folder.keep().display()
        );
    }
}

/// What the rows have in common.
struct Bench {
    /// Theirs alone: another machine's devicetree would be one that breaks on purpose.
    folder: RunDir,
    machine: Machine,
    loader: PathBuf,
}

/// Bytes of a bundle that nobody reads.
const BUNDLE: usize = 40_000;

/// How long what was started may take to say its first lines.
const AFTER: Duration = Duration::from_millis(1500);

impl Bench {
    fn prepare(workshop: &Workshop) -> Result<Self> {
        let pi = Workshop::open()?.on(Board::Raspi4b);
        let loader = build::build(workshop, Program::Chainloader)?.image;
        let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
        let folder = RunDir::create(None)?;
        let mut machine = Machine::new(&qemu, &loader);
        machine.board = Board::Raspi4b;
        machine.firmware = Firmware::of(&pi)?.map(|firmware| firmware.within(&folder));
        machine.reboots = true;
        machine.write_files()?;
        Ok(Self {
            folder,
            machine,
            loader,
        })
    }

    /// Where the command records what comes over the line.
    fn record(&self) -> PathBuf {
        self.folder.file("record")
    }

    /// The loader itself is what is loaded: small, and it says at which level it was entered.
    fn cargo(&self) -> Result<Cargo> {
        Ok(Cargo {
            image: std::fs::read(&self.loader)?,
            bundle: (0..BUNDLE).map(|at| (at % 251) as u8).collect(),
            bootargs: "words".into(),
        })
    }

    fn row(&self, trouble: Trouble) -> Result<String> {
        let mut cargo = self.cargo()?;
        if trouble == Trouble::WrongImage {
            cargo.image.truncate(8000);
            cargo.image[0x38] = 0;
        }
        if let Trouble::NoBoard | Trouble::NoLoader = trouble {
            return nobody(trouble, &cargo);
        }
        let board = Emulated::start(&self.machine)?;
        let mut line = Troubled::new(board.port()?, trouble);
        let mut tale = Tale::default();
        let result = match trouble {
            Trouble::HostGone => {
                let half = until_half(&mut line, &cargo, &mut tale);
                ensure!(half.is_err(), "nothing was left to send when the host went");
                line.board = Some(board);
                load(&mut line, &cargo, &mut tale)
            }
            _ => {
                line.board = Some(board);
                load(&mut line, &cargo, &mut tale)
            }
        };
        judge(trouble, result, &tale)
    }

    /// The whole command with a hypervisor and the guest tests, and its record once more.
    fn guest_tests(&self) -> Result<String> {
        let board = Emulated::start(&self.machine)?;
        let socket = self.folder.file("bringup-control");
        let mut command = self.command(&board)?;
        command.args(["--jobs", "tests", "--control"]).arg(&socket);
        let looking = std::thread::spawn(move || control::first_status(&socket));
        let passed = own::succeed(&mut command);
        let looked = looking.join();
        passed?;
        drop(board);
        self.replay(None)?;
        let pc = looked.map_err(|_| anyhow!("who looks has panicked"))??;
        Ok(format!(
            "and its record; a guest at {pc:#x} seen from outside"
        ))
    }

    /// The command as it is meant: the guest tests, then Linux, which writes its dump to the card that the loader
    /// came from. In between somebody switches the board off and on.
    fn whole(&self) -> Result<String> {
        let card = self.folder.file("card.img");
        let mut image = own::xtask()?;
        image.args(["image", "rpi4", "--chainloader", "--without-firmware"]);
        image
            .arg("--out")
            .arg(self.folder.file("card"))
            .arg("--img")
            .arg(&card);
        own::succeed(&mut image)?;
        // QEMU takes no other sizes.
        let file = fs::File::options().write(true).open(&card)?;
        file.set_len(file.metadata()?.len().next_power_of_two())
            .with_context(|| format!("cannot extend {}", card.display()))?;
        let mut machine = self.machine.clone();
        machine.disks = vec![card.clone()];
        // Off is not the end of it.
        machine.extra = vec!["-no-shutdown".into()];
        let mut board = Emulated::start(&machine)?;
        let mut bringup = self.command(&board)?.stdout(Stdio::piped()).spawn()?;
        let output = bringup.stdout.take().context("it has no output")?;
        let mut said = Vec::new();
        for line in BufReader::new(output).lines() {
            let line = line.context("it does not write text")?;
            if line.starts_with("now switch the board off") {
                board.tell("system_reset")?;
                board.tell("cont")?;
            }
            said.push(line);
        }
        let ended = bringup.wait().context("cannot wait for xtask")?;
        ensure!(ended.success(), "{ended}:\n{}", said.join("\n"));
        drop(board);
        self.replay(Some(&card))?;
        Ok("and its record with the card".into())
    }

    /// The command on `board`, recorded.
    fn command(&self, board: &Emulated) -> Result<Command> {
        let mut command = own::xtask()?;
        command.args(["bringup", "rpi4", "--wait", "60"]);
        command.arg("--port").arg(&board.path);
        command.arg("--record").arg(self.record());
        Ok(command)
    }

    fn replay(&self, card: Option<&Path>) -> Result<()> {
        let mut command = own::xtask()?;
        command
            .args(["bringup", "rpi4", "--replay"])
            .arg(self.record());
        if let Some(card) = card {
            command.arg("--card").arg(card);
        }
        own::succeed(&mut command).map(|_| ())
    }
}

const TERMS: Terms = Terms {
    rate: chainload::BASE_RATE,
    patience: Duration::from_secs(30),
};

/// What was told, all of it.
#[derive(Default)]
struct Tale {
    told: Vec<Told>,
}

impl Tale {
    fn text(&self) -> String {
        let lines = self.told.iter().filter_map(|told| match told {
            Told::Passed(text) | Told::Note(text) | Told::Text(text) => Some(text.trim_end()),
            Told::Progress(_) => None,
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn load(line: &mut dyn Line, cargo: &Cargo, tale: &mut Tale) -> Result<Vec<u8>> {
    start(line, cargo, TERMS, AFTER, &mut |told| tale.told.push(told))
}

/// Loads until half of it is there, and then no more.
fn until_half(line: &mut Troubled, cargo: &Cargo, tale: &mut Tale) -> Result<Vec<u8>> {
    line.budget = Some((cargo.image.len() + cargo.bundle.len()) / 2);
    let result = load(line, cargo, tale);
    line.budget = None;
    result
}

/// What has to come of each trouble.
fn judge(trouble: Trouble, result: Result<Vec<u8>>, tale: &Tale) -> Result<String> {
    let told = tale.text();
    let has_started = told.contains("the loader has started it");
    let expected = match trouble {
        Trouble::Silence => Some("fallen silent"),
        Trouble::WrongImage => Some("no arm64 Image"),
        _ => None,
    };
    match (expected, result) {
        (Some(expected), Err(error)) => {
            let text = format!("{error:#}");
            ensure!(
                text.contains(expected) && text.contains("check on the bench"),
                "it failed otherwise than it must: {text}"
            );
            ensure!(!has_started, "what must not be was started\n{told}");
            Ok(text.lines().next().unwrap_or_default().to_owned())
        }
        (Some(expected), Ok(_)) => bail!("it was to fail: {expected}\n{told}"),
        (None, Err(error)) => bail!("{error:#}\n{told}"),
        (None, Ok(after)) => {
            let after = String::from_utf8_lossy(&after);
            ensure!(
                after.contains("halligan chainloader, entered at EL2"),
                "what was started does not say that it was entered at EL2: {after}"
            );
            let mark = match trouble {
                Trouble::Reset => "the board was reset",
                Trouble::HostGone => "still has",
                _ => "all blocks arrived",
            };
            ensure!(told.contains(mark), "nothing was said of `{mark}`\n{told}");
            Ok(String::new())
        }
    }
}

/// At the other end of the line is nobody, or nobody that knows the protocol.
fn nobody(trouble: Trouble, cargo: &Cargo) -> Result<String> {
    let script: &[u8] = match trouble {
        Trouble::NoBoard => b"",
        _ => b"U-Boot 2025.01\r\nU-Boot> \0\xff\xfe",
    };
    let mut line = Scripted(script.to_vec());
    let terms = Terms {
        patience: Duration::from_millis(1500),
        ..TERMS
    };
    let result = start(&mut line, cargo, terms, AFTER, &mut |_| {});
    let text = match result {
        Ok(_) => bail!("something was started where nothing is"),
        Err(error) => format!("{error:#}"),
    };
    let expected = match trouble {
        Trouble::NoBoard => "nothing came from the board",
        _ => "the board wrote:\nU-Boot",
    };
    ensure!(
        text.contains(expected) && text.contains("3.3 V"),
        "it is not said what is wrong: {text}"
    );
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
