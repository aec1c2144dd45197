//! Debian's U-Boot for QEMU's `virt`, unchanged, as a guest with a flash of its own: it keeps a variable in that over a
//! reset, and boots a kernel from a virtio disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;

use anyhow::{Context, Result};

use super::own;
use super::screen::{self, Screen};
use crate::ledger::Ledger;
use debian::archive::Archive;
use debian::cache::unwritable;
use debian::paths;
use machine::build::{self, Program};
use machine::workshop::Workshop;

const NAME: &str = "uboot/boots-a-kernel-from-a-disk";

/// Where Debian has it; the suite is named, so that its output does not change with the host.
const SUITE: &str = "bookworm";
const PACKAGE: &str = "u-boot-qemu";
const FILE: &str = "usr/lib/u-boot/qemu_arm64/u-boot.bin";

/// What its package takes while it is fetched and taken apart.
const SPACE: u64 = 30_000_000;

/// How long all of it may take, in seconds, with other work on the host.
const TIMEOUT: u32 = 300;

const SECTOR: u64 = 512;

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [NAME].into_iter()
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    ledger.check(NAME, || boot(workshop).map(|()| String::new()));
}

/// Takes U-Boot out of its package, unless the cache has it.
fn ensure_uboot(workshop: &Workshop) -> Result<PathBuf> {
    let (cache, progress) = (&workshop.cache, &workshop.progress);
    let _lock = cache.lock("u-boot", progress)?;
    let entry = cache.entry(&format!("u-boot-{SUITE}"), |dir| {
        cache.demand_space(SPACE, "fetching Debian's U-Boot")?;
        let archive = Archive::open(cache)?;
        let root = archive.suite(SUITE, progress)?;
        root.update(progress)?;
        let file = (format!("./{FILE}"), dir.join("u-boot.bin"));
        archive.take(&root, PACKAGE, &[file], progress)
    })?;
    Ok(entry.join("u-boot.bin"))
}

/// A disk that begins with `kernel`, and how many sectors that has.
fn disk(kernel: &Path, to: &Path) -> Result<u64> {
    let bytes = fs::read(kernel)?;
    let sectors = (bytes.len() as u64).div_ceil(SECTOR);
    let mut file = File::create(to).map_err(|error| unwritable(to, &error))?;
    file.write_all(&bytes)?;
    file.set_len(sectors * SECTOR)?;
    Ok(sectors)
}

/// Says a line at the prompt, waits for the answer and the next prompt.
fn say((input, screen): (&mut ChildStdin, &mut Screen), line: &str, answer: &str) -> Result<()> {
    writeln!(input, "{line}")?;
    screen.wait_for(answer)?;
    screen.wait_for("=> ")
}

fn boot(workshop: &Workshop) -> Result<()> {
    let uboot = ensure_uboot(workshop)?;
    let kernel = build::build(workshop, Program::GuestTests)?.image;
    let disk_path = workshop.output("uboot-disk.img")?;
    let sectors = disk(&kernel, &disk_path)?;
    let file = workshop.output("uboot.toml")?;
    let text = format!(
        // Firmware for `virt` finds the devicetree where RAM begins, and a flat binary would have it behind itself.
        "kernel = {uboot:?}\ndtb-at = 0x40000000\ndisks = [{disk_path:?}]\ncpus = 2\nmemory = \"512M\"\nflash = \"64M\"\ntimeout = {TIMEOUT}\n"
    );
    paths::write_if_new(&file, text.as_bytes())?;
    let mut command = own::xtask()?;
    command.arg("run").arg("--guest").arg(&file);
    screen::converse(&mut command, |input, screen| {
        // A key stops it from booting by itself.
        let begin = |screen: &mut Screen| screen.wait_for("Hit any key to stop autoboot");
        begin(screen)?;
        say((input, screen), "", "")?;
        say((input, screen), "setenv kept it-is", "")?;
        say((input, screen), "saveenv", "Writing to Flash... done")?;
        say(
            (input, screen),
            "md.b 0x04040000 4",
            "04040000: ff ff ff ff",
        )
        .context("a flash that was never written is erased")?;
        writeln!(input, "reset")?;
        begin(screen)?;
        say((input, screen), "", "")?;
        say((input, screen), "printenv kept", "kept=it-is")?;
        say((input, screen), "virtio scan", "")?;
        let read = format!("virtio read 0x41000000 0 {sectors:x}");
        say(
            (input, screen),
            &read,
            &format!("{sectors} blocks read: OK"),
        )?;
        let test = "psci_version_is_1_3";
        say((input, screen), &format!("setenv bootargs test={test}"), "")?;
        writeln!(input, "booti 0x41000000 - ${{fdtcontroladdr}}")?;
        screen.wait_for(&format!("PASS {test}"))?;
        screen.wait_for("DONE")
    })
}
