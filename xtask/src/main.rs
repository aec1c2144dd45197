//! The project's one command: builds the hypervisor and its guests, runs them, tests them.
#![forbid(unsafe_code)]

mod archive;
mod build;
mod cache;
mod console;
mod doctor;
mod ending;
mod guest;
mod initramfs;
mod kernel;
mod progress;
mod protocol;
mod qemu;
mod run;
mod symbolize;
mod symbols;
mod terminal;
mod test;
mod tidy;
mod toolchain;
mod tools;
mod workshop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs and tests the hypervisor.
///
/// What is built lands in target/xtask; what is downloaded or built once, in the cache that
/// `cargo xtask doctor` names.
#[derive(Parser)]
#[command(name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Doctor(doctor::Doctor),
    GuestKernel(kernel::GuestKernel),
    Run(Box<run::Run>),
    Build(build::Build),
    Test(test::Test),
    Symbolize(symbolize::Symbolize),
    Tidy(tidy::Tidy),
}

fn main() -> ExitCode {
    if !(cfg!(target_os = "linux")
        && (cfg!(target_arch = "x86_64") || cfg!(target_arch = "aarch64")))
    {
        eprintln!("error: xtask runs on Linux on x86_64 or aarch64, and on nothing else yet");
        return ExitCode::FAILURE;
    }
    let result = match Cli::parse().command {
        Command::Doctor(doctor) => doctor.execute(),
        Command::GuestKernel(kernel) => kernel.execute(),
        Command::Run(run) => run.execute(),
        Command::Build(build) => build.execute(),
        Command::Test(test) => test.execute(),
        Command::Symbolize(symbolize) => symbolize.execute(),
        Command::Tidy(tidy) => tidy.execute(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
