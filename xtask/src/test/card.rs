//! The card of a Raspberry Pi 4 boots. QEMU has no VideoCore, so what the board's own firmware does is done
//! here: config.txt says which files of the card are loaded, and where.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::own;
use crate::image::card;
use crate::ledger::Ledger;
use debian::paths::write_if_new;
use debian::tools;
use machine::board::Board;
use machine::board::raspi4b as pi;
use machine::build::{self, Program};
use machine::ending::{Ending, Watch};
use machine::firmware::Firmware;
use machine::qemu::{Event, Machine};
use machine::raspi4b;
use machine::workshop::Workshop;

/// Names, what `image` is told besides, and whether the devicetree then names the other UART.
const ROWS: [(&str, &[&str], bool); 3] = [
    ("card/stock", &[], false),
    ("card/tfa", &["--armstub", "tfa"], false),
    ("card/mini-uart", &[], true),
];

/// How long a boot may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What its guest does: every CPU is up, and one is stopped that masks interrupts.
const TEST: &str = "c180_event_0_reaches_a_cpu_that_spins_masked";

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|(name, ..)| *name)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    for (name, options, mini_uart) in ROWS {
        ledger.check(name, || boots(workshop, options, mini_uart));
    }
}

/// Makes a card with the test guest on it, and boots it.
fn boots(workshop: &Workshop, options: &[&str], mini_uart: bool) -> Result<String> {
    let pi = Workshop::open()?.on(Board::Raspi4b);
    let card = make(workshop, options)?;
    let machine = Machine {
        mini_uart,
        ..VideoCore::read(&card)?.machine(&pi)?
    };
    fs::remove_file(&card).with_context(|| format!("cannot remove {}", card.display()))?;
    let mut session = machine.start(Some(LIMIT))?;
    let mut watch = Watch::default();
    let mut said = Vec::new();
    let timed_out = loop {
        match session.next_event()? {
            Event::Line(line) => watch.follow(&line, &mut session)?,
            Event::Guest { bytes, .. } => said.extend(bytes),
            Event::Complaint(_) => {}
            Event::Ended(_) | Event::Left => break false,
            Event::TimedOut => break true,
        }
    };
    let ending = watch.ending(timed_out);
    let said = String::from_utf8_lossy(&said);
    ensure!(
        matches!(ending, Ending::PowerOff) && said.contains(&format!("PASS {TEST}")),
        "the guest on the card was to run and power off, but: {ending}\n{said}\n{}\nQEMU was: {}",
        session.tail().join("\n"),
        machine.command_line()
    );
    Ok(String::new())
}

/// A card image as `cargo xtask image` makes it, its guest the test guest.
fn make(workshop: &Workshop, options: &[&str]) -> Result<PathBuf> {
    let guest = workshop.output("card-guest.toml")?;
    let kernel = build::build(workshop, Program::GuestTests)?.image;
    let text = format!("kernel = {kernel:?}\nappend = \"test={TEST}\"\n");
    write_if_new(&guest, text.as_bytes())?;
    let image = workshop.output("card.img")?;
    let mut command = own::xtask()?;
    command
        .args(["image", "rpi4", "--without-firmware"])
        .args(options);
    command.arg("--out").arg(workshop.output("card")?);
    command.arg("--img").arg(&image).arg("--guest").arg(&guest);
    own::succeed(&mut command)?;
    Ok(image)
}

/// What the board's own firmware reads off a card.
struct VideoCore {
    files: Vec<card::Entry>,
    kernel: String,
    devicetree: String,
    initramfs: Option<(String, u64)>,
    armstub: Option<String>,
}

impl VideoCore {
    fn read(image: &Path) -> Result<Self> {
        let files = card::read(image)?;
        let text = files.iter().find(|(name, _)| name == "config.txt");
        let (_, text) = text.context("the card has no config.txt")?;
        let text = std::str::from_utf8(text)?;
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let value = |key: &str| {
            lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
        };
        let initramfs = lines().find_map(|line| line.strip_prefix("initramfs "));
        let initramfs = initramfs.and_then(|rest| rest.split_once(" 0x"));
        let initramfs =
            initramfs.map(|(name, pa)| anyhow::Ok((name.to_owned(), u64::from_str_radix(pa, 16)?)));
        ensure!(
            value("arm_64bit").as_deref() == Some("1"),
            "it boots AArch32"
        );
        Ok(Self {
            kernel: value("kernel").context("config.txt names no kernel")?,
            devicetree: value("device_tree").context("config.txt names no devicetree")?,
            initramfs: initramfs.transpose()?,
            armstub: value("armstub"),
            files,
        })
    }

    /// The board after it has loaded all of it.
    fn machine(&self, pi: &Workshop) -> Result<Machine> {
        let qemu = tools::qemu(&pi.cache, &pi.progress)?;
        let mut firmware = Firmware::of(pi)?.context("the board has no stub")?;
        firmware.own_devicetree = Some(self.file(pi, &self.devicetree)?);
        if let Some(name) = &self.armstub {
            firmware.bios = pi.output("card-armstub.bin")?;
            let stub = raspi4b::fill_in(self.bytes(name)?.to_vec())?;
            write_if_new(&firmware.bios, &stub)?;
        }
        let mut machine = Machine::new(&qemu, &self.file(pi, &self.kernel)?);
        machine.board = Board::Raspi4b;
        machine.firmware = Some(firmware);
        if let Some((name, pa)) = &self.initramfs {
            ensure!(
                *pa == pi::INITRD_PA,
                "config.txt puts the bundle at {pa:#x}"
            );
            machine.initrd = Some(self.file(pi, name)?);
        }
        Ok(machine)
    }

    fn bytes(&self, name: &str) -> Result<&[u8]> {
        match self.files.iter().find(|(file, _)| file == name) {
            Some((_, bytes)) => Ok(bytes),
            None => bail!("config.txt names {name}, which the card has not"),
        }
    }

    /// A copy of a file of the card, for QEMU.
    fn file(&self, pi: &Workshop, name: &str) -> Result<PathBuf> {
        let path = pi.output(&format!("card-{name}"))?;
        write_if_new(&path, self.bytes(name)?)?;
        Ok(path)
    }
}
