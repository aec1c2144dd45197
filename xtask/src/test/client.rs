//! The client of SDEI that is an example, `guest-tests/client-example`, does on the hypervisor what it is to do, and says so where
//! firmware does not.

use anyhow::{Result, ensure};

use super::flat;
use crate::ledger::Ledger;
use machine::board::Board;
use machine::build::{self, Program};
use machine::el3::El3;
use machine::guest::Options;
use machine::workshop::Workshop;

struct Row {
    name: &'static str,
    board: Board,
    firmware: &'static str,
    /// Its last line.
    last: &'static str,
}

const PASSED: &str = "PASSED";

const ROWS: [Row; 3] = [
    Row {
        name: "run/client-example/spec",
        board: Board::Virt,
        firmware: "spec",
        last: PASSED,
    },
    Row {
        name: "run/client-example/raspi4b",
        board: Board::Raspi4b,
        firmware: "spec",
        last: PASSED,
    },
    Row {
        name: "run/client-example/tfa-2.12",
        board: Board::Virt,
        firmware: "tfa-2.12",
        last: "FAILED",
    },
];

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if workshop.board != Board::Virt || workshop.el3 != El3::None {
        return;
    }
    for row in &ROWS {
        match row.board {
            Board::Raspi4b => {
                flat::on_board(row.name, workshop, ledger, |workshop| check(workshop, row))
            }
            _ => ledger.check(row.name, || check(workshop, row)),
        }
    }
}

fn check(workshop: &Workshop, row: &Row) -> Result<String> {
    let options = Options {
        kernel: Some(build::build(workshop, Program::ClientExample)?.image),
        machine: Some(row.board),
        firmware: Some(row.firmware.to_owned()),
        ..Options::default()
    };
    let booted = flat::boot(&options, false)?;
    ensure!(
        booted.console.lines().last() == Some(row.last),
        "{}\n{}\n{}",
        booted.ending,
        booted.console,
        booted.lines.join("\n")
    );
    Ok(format!("{} lines", booted.console.lines().count()))
}
