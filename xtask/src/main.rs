//! The project's one command: builds the hypervisor and its guests, runs them, tests them.
#![forbid(unsafe_code)]

mod bench;
mod bisect_step;
mod bringup;
mod bt;
mod clean;
mod compare;
mod conformance;
mod crash;
mod ctl;
mod doctor;
#[cfg(test)]
mod documents;
mod frames;
mod guest_kernel;
mod image;
mod instant;
mod job;
mod ledger;
mod matrix;
mod monitor;
mod offer;
mod oracle;
mod run;
mod stop;
mod terminal;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lab::{kdump, results, symbolize, usage};
use machine::build;

/// Builds, runs and tests the hypervisor.
///
/// What is built lands in target/xtask; what is downloaded or built once, in the cache that
/// `cargo xtask doctor` names.
#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    version = version(),
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Install no packages, also as root; say the command that does. HALLIGAN_NO_INSTALL=1 in the environment is the same for good.
    #[arg(long, global = true)]
    no_install: bool,
}

#[derive(Subcommand)]
enum Command {
    Kdump(Box<kdump::Kdump>),
    Matrix(matrix::Matrix),
    Doctor(doctor::Doctor),
    GuestKernel(guest_kernel::GuestKernel),
    Run(Box<run::Run>),
    Build(build::Build),
    Test(test::Test),
    Bench(bench::Bench),
    StopDemo(stop::StopDemo),
    Ctl(ctl::Ctl),
    Crash(crash::Crash),
    Bt(bt::Bt),
    Oracle(oracle::Oracle),
    Compare(compare::Compare),
    BisectStep(bisect_step::BisectStep),
    Image(image::Image),
    Bringup(bringup::Bringup),
    Monitor(monitor::Monitor),
    Symbolize(symbolize::Symbolize),
    Tidy(tidy::Tidy),
    Conformance(conformance::Conformance),
    Clean(clean::Clean),
}

/// Our version, with the commit if somebody wants to know: it is git that is asked.
fn version() -> &'static str {
    let is_asked = std::env::args_os().any(|word| word == "--version" || word == "-V");
    match is_asked {
        true => Box::leak(results::version().into_boxed_str()),
        false => env!("CARGO_PKG_VERSION"),
    }
}

fn main() -> ExitCode {
    if let Some(code) = supervisor::begin() {
        return code;
    }
    if !(cfg!(target_os = "linux")
        && (cfg!(target_arch = "x86_64") || cfg!(target_arch = "aarch64")))
    {
        eprintln!("error: xtask runs on Linux on x86_64 or aarch64, and on nothing else yet");
        return ExitCode::FAILURE;
    }
    let cli = Cli::try_parse().unwrap_or_else(|error| bisect_step::end_for_usage(&error));
    if cli.no_install {
        debian::tools::forbid_install();
    }
    let result = match cli.command {
        Command::Kdump(kdump) => kdump.execute(),
        Command::Matrix(matrix) => matrix.execute(),
        Command::Doctor(doctor) => doctor.execute(),
        Command::GuestKernel(kernel) => kernel.execute(),
        Command::Run(run) => run.execute(),
        Command::Build(build) => build.execute(),
        Command::Test(test) => test.execute(),
        Command::Bench(bench) => bench.execute(),
        Command::StopDemo(demo) => demo.execute(),
        Command::Ctl(ctl) => ctl.execute(),
        Command::Crash(crash) => crash.execute(),
        Command::Bt(bt) => bt.execute(),
        Command::Oracle(oracle) => oracle.execute(),
        Command::Compare(compare) => compare.execute(),
        Command::BisectStep(step) => Ok(step.execute()),
        Command::Image(image) => image.execute(),
        Command::Bringup(bringup) => bringup.execute(),
        Command::Monitor(monitor) => monitor.execute(),
        Command::Symbolize(symbolize) => symbolize.execute(),
        Command::Tidy(tidy) => tidy.execute(),
        Command::Clean(clean) => clean.execute(),
        Command::Conformance(conformance) => conformance.execute(test::run_names().collect()),
    };
    result.unwrap_or_else(|error| {
        supervisor::settle();
        eprintln!("error: {error:#}");
        usage::code(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_means_nothing_beside_another_is_refused() {
        for line in [
            "kdump --vmlinux vmlinux --stock debian-13",
            "kdump --vmlinux vmlinux --tree linux",
            "kdump --config config --kernel Image",
            "kdump --config config --stock debian-13",
            "kdump --defconfig defconfig --kernel Image",
            "kdump --defconfig defconfig --stock debian-13",
            "kdump --jobs 2 --kernel Image",
            "kdump --jobs 2 --stock debian-13",
            "kdump --pages 64k --kernel Image",
            "kdump --pages 64k --stock debian-13",
            "compare ours ours --kernel Image",
            "bringup rpi4 --port tty --card card.img",
        ] {
            let words = ["xtask"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(words).map(|_| ()).unwrap_err();
            let kind = error.kind();
            assert_eq!(kind, clap::error::ErrorKind::ArgumentConflict, "{line}");
        }
    }
}
