//! The other way to come by the target's libraries: with what rustup installs, everything builds as well and fits.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::own;
use debian::toolchain::prebuilt::Prebuilt;
use machine::build::Program;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Its name in the ledger.
pub const NAME: &str = "build/with-installed-libraries";

/// Builds the hypervisor's images with such a compiler, as its user does, which checks their sizes. The other programs have room.
pub fn build(workshop: &Workshop) -> Result<String> {
    let folder = RunDir::create(None)?;
    let Some(compiler) = Prebuilt::make(&workshop.target, &folder.file("compiler"))? else {
        return Ok("so does everything here".to_owned());
    };
    // xtask works in the target folder that it lies in.
    let target = folder.file("target");
    let xtask = target.join("debug/xtask");
    fs::create_dir_all(target.join("debug"))?;
    fs::copy(std::env::current_exe()?, &xtask)?;
    let with_it = |arguments: &[&str]| -> Result<String> {
        let mut command = own::program(&xtask);
        command
            .args(arguments)
            .env("RUSTC", &compiler.rustc)
            .env("SYSROOT", &compiler.sysroot)
            .env("CARGO_TARGET_DIR", &target);
        own::succeed(&mut command)
    };
    let doctor = with_it(&["doctor"])?;
    ensure!(
        doctor.contains("the compiler's libraries for it"),
        "it did not take them:\n{doctor}"
    );
    with_it(&[
        "build",
        Program::Hypervisor.name(),
        Program::FaultInjection.name(),
    ])?;
    let image = fs::metadata(target.join("xtask/hypervisor.img"));
    let size = image.context("it built no hypervisor")?.len();
    Ok(format!("{size} bytes"))
}
