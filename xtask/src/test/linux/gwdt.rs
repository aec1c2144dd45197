//! A guest whose CPUs are all wedged does not refresh its own watchdog, which Linux's driver `sbsa_gwdt` drives: it gets an NMI.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::super::own;
use super::{Run, TIMEOUT};
use crate::ledger::Ledger;
use debian::paths;
use machine::board::Board;
use machine::workshop::Workshop;

/// On the machine that is tested, and with a GICv2 as well where that is `virt`; run when they are named.
const USUAL: &str = "linux/watchdog/sbsa-gwdt";
const GICV2: &str = "linux/gicv2/sbsa-gwdt";

/// What the guest's Linux does: it refreshes its watchdog, which bites after eight seconds, until all its CPUs are wedged.
const WORDS: &str =
    "crashkernel=192M lab.do=nmi lab.dog=8 lab.wedge=0,1,2,3 lab.panic=0 lab.maxcpus=1";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [USUAL, GICV2].into_iter()
}

/// What is run for them.
pub fn runs<'a>(
    workshop: &'a Workshop,
    ledger: &Ledger,
) -> impl Iterator<Item = Run<'a>> + use<'a> {
    let second = (workshop.board == Board::Virt).then_some((GICV2, Board::VirtGicv2));
    let all = [(USUAL, workshop.board)].into_iter().chain(second);
    let named: Vec<_> = all.filter(|(name, _)| ledger.names(name)).collect();
    named.into_iter().map(move |(name, board)| {
        let run = Box::new(move || bite(workshop, board)) as Box<dyn Fn() -> _ + Sync>;
        (name.to_owned(), run)
    })
}

/// The watchdog's second signal has the hypervisor send an NMI; Linux panics by that, and its crash kernel comes up. The guest's time
/// is what it executes, so that a busy host does not keep it from refreshing.
fn bite(workshop: &Workshop, board: Board) -> Result<String> {
    let file = workshop.output(&format!("linux-gwdt-{}.toml", board.name()))?;
    let text = format!(
        "sbsa-gwdt = \"nmi\"\nmemory = \"512M\"\ntimeout = {}\nappend = \"{WORDS}\"\n",
        TIMEOUT.as_secs()
    );
    paths::write_if_new(&file, text.as_bytes())?;
    let mut command: Command = own::xtask()?;
    command.args([
        "run",
        "--icount",
        "--cpus",
        "4",
        "--machine",
        board.name(),
        "--guest",
    ]);
    let output = command.arg(&file).output().context("cannot run xtask")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (guest, said) = (text(&output.stdout), text(&output.stderr));
    // None before the last CPU was wedged.
    let after = guest.split_once("LAB: last cpu=0").map(|(_, after)| after);
    ensure!(
        guest.contains("LAB: dog seconds=8")
            && said
                .matches("the guest has not refreshed its sbsa-gwdt; an NMI is sent")
                .count()
                == 1
            && after.is_some_and(|after| {
                after.contains("Kernel panic - not syncing: Asynchronous SError Interrupt")
                    && after.contains("LAB: capture up")
            }),
        "exit code {:?}\n{guest}\n{said}",
        output.status.code()
    );
    Ok(String::new())
}
