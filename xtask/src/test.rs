//! `cargo xtask test`: everything that is checked, one line each.

mod bisect;
mod bringup;
mod browser;
mod card;
mod checks;
mod client;
mod commands;
mod compare;
mod crash;
mod drgn;
mod endings;
mod flat;
mod formats;
mod gdb;
mod guests;
mod image;
mod linux;
mod matrix;
mod nexus;
mod on_crash;
mod operator;
mod own;
mod own_tree;
mod refusals;
mod screen;
mod several;
mod stock;
mod stops;
mod toolchain;
mod uboot;
mod usage;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::ledger::Ledger;
use debian::cache::Cache;
use debian::kernel::{self, KernelVariant};
use debian::progress::Progress;
use lab::results::{About, Format};
use lab::usage::wrong;
use machine::board::Board;
use machine::el3::El3;
use machine::workshop::Workshop;

/// Run the tests: format, lints, documentation, host tests, guest tests in QEMU, Linux end to end.
///
/// Each is one line, `ok` or `FAILED`, with the time it took; a failure is followed by what it said,
/// the last lines of the console and the QEMU command. The last line reads `N passed, M failed`.
/// For programs there are other formats.
///
/// Exit codes: 0 all passed, 1 something failed, or nothing has the filter in its name, 2 wrong usage.
#[derive(Args)]
pub struct Test {
    /// Run only what has this in its name, such as `clippy`, `guest/max/` or `linux/kdump`.
    filter: Option<String>,
    /// Leave out what needs Linux or Debian's U-Boot.
    #[arg(long)]
    quick: bool,
    /// Run the test guests on bare QEMU at EL1, without the hypervisor: a test of the tests.
    #[arg(long, conflicts_with = "el3")]
    bare: bool,
    /// Let `linux/life` take its CPUs off and on for so many minutes; without, four times.
    #[arg(long, value_name = "N", default_value_t = 0)]
    minutes: u32,
    /// Which machine QEMU plays, wherever the hypervisor is booted. With `virt` the test guests are
    /// booted on virt-gicv2, too, and Linux once.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "virt")]
    machine: Board,
    /// What runs below the hypervisor, at EL3, wherever it is booted.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "none")]
    el3: El3,
    /// How what comes of them is written to standard output: for people, or while they run as KTAP or JSON, or at the end as
    /// JUnit's XML: docs/report.md.
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "human")]
    format: Format,
}

/// The names of the tests that boot Linux or stop the hypervisor.
pub fn run_names() -> impl Iterator<Item = String> {
    linux::names().map(str::to_owned).chain(stops::names())
}

impl Test {
    /// That there is such a machine.
    fn check(&self) -> Result<()> {
        self.machine.check_el3(self.el3)?;
        match self.bare {
            true => self.machine.check_bare(),
            false => Ok(()),
        }
    }

    /// Runs them; fails if one does, or if the filter left none.
    pub fn execute(self) -> Result<ExitCode> {
        self.check().map_err(wrong)?;
        let workshop = Workshop::open()?.above(self.el3).on(self.machine);
        let about = About::now(self.machine, self.el3);
        let mut ledger = Ledger::begin(self.filter.clone(), self.format, about)?;
        if !ledger.is_filtered() && !self.quick && !self.bare {
            std::thread::spawn(build_linux);
        }
        if !self.bare {
            checks::run(&workshop, &mut ledger);
            image::run(&workshop, &mut ledger);
        }
        // A filter may name a test that only the test guest itself can list; not if it named another.
        let elsewhere = ledger.has_run()
            || linux::names().any(|name| ledger.wants(name))
            || stock::names().any(|name| ledger.wants(name))
            || crash::names().any(|name| ledger.wants(&name))
            || refusals::names().any(|name| ledger.wants(name))
            || stops::are_wanted(&ledger)
            || commands::names().any(|name| ledger.wants(name))
            || flat::names().any(|name| ledger.wants(name))
            || client::names().any(|name| ledger.wants(name))
            || several::names().any(|name| ledger.wants(name))
            || nexus::names().any(|name| ledger.wants(name))
            || on_crash::names().any(|name| ledger.wants(name))
            || gdb::names().any(|name| ledger.wants(name))
            || operator::names().any(|name| ledger.wants(name))
            || endings::names().any(|name| ledger.wants(name))
            || bringup::names().any(|name| ledger.wants(name))
            || card::names().any(|name| ledger.wants(name))
            || formats::names().any(|name| ledger.wants(name))
            || matrix::names().any(|name| ledger.wants(name))
            || compare::names().any(|name| ledger.wants(name))
            || usage::names().any(|name| ledger.wants(name))
            || own_tree::names().any(|name| ledger.wants(name))
            || bisect::names().any(|name| ledger.wants(name))
            || browser::names().any(|name| ledger.wants(name))
            || uboot::names().any(|name| ledger.wants(name));
        if ledger.wants("guest/") || !elsewhere {
            guests::run(&workshop, &mut ledger, self.bare);
        }
        if !self.bare {
            commands::run(&workshop, &mut ledger);
            formats::run(&workshop, &mut ledger);
            matrix::run(&mut ledger);
            compare::run(&workshop, &mut ledger);
            flat::run(&workshop, &mut ledger, self.quick);
            client::run(&workshop, &mut ledger);
            nexus::run(&workshop, &mut ledger);
            on_crash::run(&workshop, &mut ledger);
            gdb::run(&workshop, &mut ledger);
            operator::run(&workshop, &mut ledger);
            endings::run(&workshop, &mut ledger);
            refusals::run(&workshop, &mut ledger);
            crash::run(&workshop, &mut ledger);
            stops::run(&workshop, &mut ledger);
            card::run(&workshop, &mut ledger);
            bringup::run(&workshop, &mut ledger);
        }
        if !self.quick && !self.bare {
            linux::run(&workshop, &mut ledger, self.minutes);
            stock::run(&workshop, &mut ledger);
            uboot::run(&workshop, &mut ledger);
            own_tree::run(&workshop, &mut ledger);
            usage::run(&mut ledger);
            matrix::run_linux(&mut ledger);
            bisect::run(&workshop, &mut ledger);
            browser::run(&workshop, &mut ledger);
            several::run(&workshop, &mut ledger);
        }
        Ok(ledger.close())
    }
}

/// Has Linux built with what the host has left while other things are tested. The first test that needs it waits
/// for the same lock, and says what is wrong if it could not be built.
fn build_linux() {
    // Of this thread and what it starts; without, it is only less polite.
    let _ = rustix::process::nice(19);
    if let Ok(cache) = Cache::open() {
        let _ = kernel::ensure(&cache, KernelVariant::Plain, &Progress::new());
    }
}
