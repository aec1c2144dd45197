//! That all machines boot one and the same image, bit for bit.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::ledger::Ledger;
use debian::cache::digest;
use debian::tools;
use machine::board::Board;
use machine::build::{self, Program};
use machine::el3::El3;
use machine::firmware::Firmware;
use machine::qemu::Machine;
use machine::raspi4b;
use machine::workshop::Workshop;

/// Its name in the ledger.
const NAME: &str = "build/one-image-for-all-machines";

/// Runs it.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    ledger.check(NAME, || {
        let built = build::build(workshop, Program::Hypervisor)?;
        let hash = digest(&fs::read(&built.image)?);
        let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
        let mut names = Vec::new();
        for board in Board::value_variants() {
            if *board == Board::Raspi4b && !raspi4b::is_known(&qemu)? {
                continue;
            }
            let loaded = loaded(workshop, &qemu, *board, &built.image)?;
            ensure!(
                digest(&loaded) == hash,
                "{} does not have the image in its RAM that was built",
                board.name()
            );
            names.push(board.name());
        }
        Ok(format!("{hash} on {}", names.join(", ")))
    });
}

/// What `board` has in its RAM when it starts to boot `image`.
fn loaded(workshop: &Workshop, qemu: &Path, board: Board, image: &Path) -> Result<Vec<u8>> {
    let mut machine = Machine::new(qemu, image);
    machine.board = board;
    machine.firmware = Firmware::prepare(workshop, board, El3::None)?;
    let scratch = format!("loaded-{}-{}", board.name(), std::process::id());
    machine.loaded_kernel(&workshop.output(&scratch)?)
}
