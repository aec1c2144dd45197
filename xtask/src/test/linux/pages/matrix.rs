//! Each makedumpfile of Debian's archive, an idle guest and one with a load, each level that people use. Run when its rows are named:
//! `cargo xtask test dump-matrix/`.

use anyhow::{Result, ensure};
use introspection::oracle::Report;

use super::super::Run;
use super::{Guest, Setup, ask};
use crate::ledger::Ledger;
use debian::initramfs::{self, Saver};
use machine::board::Board;
use machine::el3::El3;
use machine::workshop::Workshop;

/// What all names begin with.
const PREFIX: &str = "dump-matrix/";
/// Those of Debian 12, 13 and sid.
const VERSIONS: [&str; 3] = ["1.7.2", "1.7.6", "1.7.8"];
const LEVELS: [u32; 4] = [0, 1, 17, 31];
/// In a level: what belongs to programs.
const USER: u32 = 8;

/// Runs those that are named.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    if !ledger.names(PREFIX) || workshop.board != Board::Virt || workshop.el3 != El3::None {
        return;
    }
    let mut runs: Vec<Run<'_>> = Vec::new();
    for version in VERSIONS {
        for (load, words) in [("idle", ""), ("load", " lab.load=yes")] {
            for level in LEVELS {
                let name = format!("{PREFIX}{version}/{load}/level-{level}");
                let run = move || row(workshop, version, words, level);
                runs.push((name, Box::new(run)));
            }
        }
    }
    ledger.check_each(&runs, |_, run| run());
}

/// Nothing is different, and only what a level leaves out of programs may take other pages with it.
fn row(workshop: &Workshop, version: &str, words: &str, level: u32) -> Result<String> {
    let initrd = initramfs::ensure_with(
        &workshop.cache,
        initramfs::Guest::Any,
        &Saver::Version(version.to_owned()),
        &workshop.progress,
    )?;
    let mut guest = Guest::start_with(&Setup {
        level,
        initrd: Some(&initrd),
        words,
        ..Setup::default()
    })?;
    guest.screen.wait_for("LAB: last cpu=")?;
    guest.ctl(&["freeze"])?;
    let truth = guest.core("all")?;
    let saved = guest.capture()?;
    let report = ask(&truth, &saved, None)?;
    ensure!(
        report.level == level
            && report.different.pages == 0
            && (level & USER != 0 || report.is_true()),
        "{report}"
    );
    let size = saved.metadata()?.len() as f64 / 1e6;
    Ok(format!("{size:.1} MB; pages: {}", counts(&report)))
}

fn counts(report: &Report) -> String {
    let mut parts: Vec<String> = Vec::new();
    for line in &report.classes {
        let reason = line
            .reason
            .map_or(String::new(), |reason| format!(" ({reason})"));
        parts.push(format!("{} {}{reason}", line.count.pages, line.class));
    }
    parts.join(", ")
}
