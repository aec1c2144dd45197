//! The client of SDEI that is an example, `guest-tests/client-example`, does on the hypervisor what it is to do, and says so where
//! firmware does not.

use anyhow::{Context, Result, ensure};

use super::flat;
use crate::ledger::Ledger;
use machine::board::Board;
use machine::build::{self, Program};
use machine::calls::Call;
use machine::console::Line;
use machine::el3::El3;
use machine::guest::Options;
use machine::workshop::Workshop;

struct Row {
    name: &'static str,
    board: Board,
    firmware: &'static str,
    /// Its calls are traced.
    is_traced: bool,
    /// Its last line.
    last: &'static str,
}

const PASSED: &str = "PASSED";

const ROWS: [Row; 4] = [
    Row {
        name: "run/client-example/spec",
        board: Board::Virt,
        firmware: "spec",
        is_traced: false,
        last: PASSED,
    },
    Row {
        name: "run/client-example/raspi4b",
        board: Board::Raspi4b,
        firmware: "spec",
        is_traced: false,
        last: PASSED,
    },
    Row {
        name: "run/client-example/tfa-2.12",
        board: Board::Virt,
        firmware: "tfa-2.12",
        is_traced: false,
        last: "FAILED",
    },
    Row {
        name: "run/client-example/traced",
        board: Board::Virt,
        firmware: "spec",
        is_traced: true,
        last: PASSED,
    },
];

/// Some of its calls: their number, and how each is shown up to what changes from boot to boot.
const TRACED: [(usize, &str); 5] = [
    (0, "cpu 0: SDEI_VERSION() = 1.1 of vendor 0x484c474e, "),
    (1, "cpu 0: SDEI_EVENT_ENABLE(event 0) = DENIED, "),
    (2, "cpu 0: SDEI_EVENT_REGISTER(event 0, entry 0x"),
    (8, "cpu 0: SDEI_EVENT_SIGNAL(event 0, target 0) = SUCCESS, "),
    (9, "cpu 0: SDEI_EVENT_COMPLETE(status 0) does not return"),
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
        hv_append: row.is_traced.then(|| "trace=calls".to_owned()),
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
    let calls = booted.lines.iter().filter_map(|line| {
        let record = Line::parse(line).record()?;
        record
            .and_then(|record| Call::of(&record).transpose())
            .transpose()
    });
    let calls: Vec<String> = calls
        .map(|call| Ok(call?.to_string()))
        .collect::<Result<_>>()?;
    if !row.is_traced {
        ensure!(calls.is_empty(), "calls are traced: {calls:?}");
        return Ok(format!("{} lines", booted.console.lines().count()));
    }
    for (at, begins) in TRACED {
        let call = calls
            .get(at)
            .with_context(|| format!("only {} calls", calls.len()))?;
        ensure!(call.starts_with(begins), "call {at} is {call}");
    }
    let last = calls.last().context("no call is traced")?;
    ensure!(
        last.starts_with("cpu 0: SYSTEM_OFF()"),
        "the last call is {last}"
    );
    Ok(format!("{} calls", calls.len()))
}
