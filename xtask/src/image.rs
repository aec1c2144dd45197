//! `cargo xtask image`: what is on the card of a board.

pub mod card;
mod settings;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::bringup::Bench;
use crate::run::payloads;
use debian::cache::digest;
use debian::paths;
use lab::given::Given;
use lab::usage;
use machine::board::{Board, raspi4b as pi};
use machine::build::{self, Program};
use machine::guest::Options;
use machine::payload::{USUAL_MIB, write_all};
use machine::raspi4b;
use machine::workshop::Workshop;

use card::Entry;

/// Make the card of a board: a folder to copy to a FAT partition, or an image to write to the card as it is.
///
/// kernel8.img (the hypervisor, or with --chainloader what receives it over the serial line), the guest's
/// bundle, Linux's devicetree of the board with the console on the good UART, config.txt with every line
/// explained, the board's firmware from Debian's package raspi-firmware, and a list of all with checksums.
#[derive(Args)]
pub struct Image {
    /// The board.
    #[arg(value_enum)]
    board: Bench,
    /// Leave the files in this folder.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write a bootable card to this file, too: FAT32 and a second partition for a crash dump.
    #[arg(long, value_name = "FILE")]
    img: Option<PathBuf>,
    /// The guest, in a file as `cargo xtask run --guest` takes it [default: our Linux with a shell].
    #[arg(long, value_name = "FILE.toml", conflicts_with = "chainloader")]
    guest: Option<PathBuf>,
    /// The chainloader instead of hypervisor and guest, which `cargo xtask bringup` then sends.
    #[arg(long)]
    chainloader: bool,
    /// What runs at EL3.
    #[arg(long, value_enum, default_value = "stock")]
    armstub: Stub,
    /// Leave the board's own firmware out; the card then boots only where somebody adds it.
    #[arg(long)]
    without_firmware: bool,
}

/// What runs at EL3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stub {
    /// The firmware's own.
    Stock,
    /// Debian's Trusted Firmware-A.
    Tfa,
}

/// The same guests on a Raspberry Pi, which has no flash for one.
fn on_board(options: Options) -> Options {
    Options {
        machine: Some(Board::Raspi4b),
        flash: None,
        ..options
    }
}

/// Where the firmware puts the bundle: clear of Image, firmware and devicetree on every Raspberry Pi 4.
const BUNDLE_PA: u64 = pi::INITRD_PA;
const BUNDLE: &str = "guest.itb";

impl Image {
    /// Makes it, and says what it is made of.
    pub fn execute(self) -> Result<ExitCode> {
        let Bench::Rpi4 = self.board;
        let options = self.options().map_err(usage::wrong)?;
        let workshop = Workshop::open()?;
        let mut files = self.files(options, &workshop)?;
        if !self.without_firmware {
            files.extend(raspi4b::videocore(&workshop).with_context(|| {
                "cannot take the board's firmware from Debian; take start4.elf and fixup4.dat from the folder \
                 boot of Raspberry Pi's repository raspberrypi/firmware, and say --without-firmware"
            })?);
        }
        files.sort();
        let list = list(&files);
        files.push(("FILES.txt".into(), list.clone().into_bytes()));
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot make the folder {}", self.out.display()))?;
        for (name, bytes) in &files {
            paths::write_if_new(&self.out.join(name), bytes)?;
        }
        if let Some(img) = &self.img {
            card::write(img, &files)?;
        }
        print!("{list}");
        Ok(ExitCode::SUCCESS)
    }

    /// What the guest file says; that it can be done, and be written where it is to go, is known before anything is built.
    fn options(&self) -> Result<Options> {
        let out = self.out.display();
        ensure!(
            !self.out.exists() || self.out.is_dir(),
            "--out {out} is a file, not a folder; name a folder, which is made if there is none"
        );
        if let Some(img) = &self.img {
            paths::check_output(img, "--img")?;
        }
        let options = match &self.guest {
            Some(path) => Options::read(path)?,
            None => Options::default(),
        };
        options.check_files()?;
        options.check_together(false, Program::Hypervisor)?;
        on_board(options.clone()).each()?;
        Ok(options)
    }

    /// What is ours, and the devicetree.
    fn files(&self, options: Options, workshop: &Workshop) -> Result<Vec<Entry>> {
        let read = |path: &PathBuf| {
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let mut files = Vec::new();
        let program = if self.chainloader {
            Program::Chainloader
        } else {
            Program::Hypervisor
        };
        files.push((
            "kernel8.img".into(),
            read(&build::build(workshop, program)?.image)?,
        ));
        let mut bundle = None;
        if !self.chainloader {
            let ignored = options.about_qemu();
            if !ignored.is_empty() {
                let (keys, what) = (
                    ignored.join(", "),
                    "of the guest file are about QEMU and do not count on a board",
                );
                workshop.progress.say(&format!("{keys} {what}"));
            }
            let options = on_board(options);
            let guests = options.each()?;
            let mut given = Vec::new();
            for guest in &guests {
                given.push(Given::of(guest, workshop)?);
            }
            let path = workshop.output("card.itb")?;
            let payloads = payloads(&options, &guests, &given)?;
            for needs in write_all(&payloads, &path, USUAL_MIB, options.operator())? {
                needs.check(Board::Raspi4b, pi::LEAST_MIB, true)?;
            }
            files.push((BUNDLE.into(), read(&path)?));
            bundle = Some((BUNDLE, BUNDLE_PA));
        }
        let stub = match self.armstub {
            Stub::Stock => None,
            Stub::Tfa => {
                files.push((
                    "bl31.bin".into(),
                    read(&raspi4b::trusted_firmware(workshop)?)?,
                ));
                Some("bl31.bin")
            }
        };
        let stock = raspi4b::stock_devicetree(workshop)?;
        files.push((
            "bcm2711-rpi-4-b.dtb".into(),
            raspi4b::devicetree::configure(&stock)?,
        ));
        files.push((
            "config.txt".into(),
            settings::text(bundle, stub).into_bytes(),
        ));
        Ok(files)
    }
}

/// What each file is, by its name.
fn origin(name: &str) -> &'static str {
    match name {
        "kernel8.img" => "this project; MIT or Apache-2.0",
        BUNDLE => "the guest, as bundled by this project; its parts have their own licences",
        "config.txt" => "this project; every line is explained in it",
        "bcm2711-rpi-4-b.dtb" => "Linux's, of Debian's kernel package, edited; GPL-2.0",
        "bl31.bin" => "Trusted Firmware-A of Debian's arm-trusted-firmware; BSD-3-Clause",
        "start4.elf" | "fixup4.dat" | "LICENCE.broadcom" | "raspi-firmware.copyright" => {
            "Debian's raspi-firmware (non-free-firmware); Broadcom's licence: for use on Raspberry Pi only"
        }
        _ => "",
    }
}

/// The list of `files`, with sizes, checksums and where each comes from; `sha256sum -c` reads it.
fn list(files: &[Entry]) -> String {
    let mut list = String::new();
    for (name, bytes) in files {
        let (hash, size) = (digest(bytes), bytes.len());
        list += &format!("{hash}  {name}\n# {size} bytes; {}\n", origin(name));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_name_size_hash_and_origin() {
        let list = list(&[("start4.elf".into(), b"abc".to_vec())]);
        assert!(
            list.starts_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
        assert!(list.contains("start4.elf") && list.contains("3 bytes"));
        assert!(list.contains("for use on Raspberry Pi only"));
    }

    #[test]
    fn sha256sum_checks_the_list_without_complaint() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("start4.elf".into(), b"abc".to_vec()),
            ("config.txt".into(), b"arm_64bit=1\n".to_vec()),
        ];
        for (name, bytes) in &files {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        fs::write(folder.path().join("FILES.txt"), list(&files)).unwrap();
        let output = supervisor::command("sha256sum")
            .args(["--check", "--strict", "FILES.txt"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        assert_eq!(output.stdout, b"start4.elf: OK\nconfig.txt: OK\n");
    }
}
