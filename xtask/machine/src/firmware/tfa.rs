//! Trusted Firmware-A for QEMU's machine, built from Debian's source with the hypervisor as what it starts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::fip;
use debian::archive::Archive;
use debian::cache::{Cache, fingerprint, remove, unwritable};
use debian::kernel::kbuild::run;
use debian::progress::Progress;
use debian::tools;

/// Where Debian has it, and the release that has the version this was made with, 2.12.1.
const PACKAGE: &str = "arm-trusted-firmware";
const SUITE: &str = "trixie";

/// The build: silent, as the console is the guest's. What firmware says when it dies goes to the secure UART.
const OPTIONS: [&str; 7] = [
    "PLAT=qemu",
    "DEBUG=0",
    "LOG_LEVEL=0",
    "QEMU_USE_GIC_DRIVER=QEMU_GICV3",
    "ARM_LINUX_KERNEL_AS_BL33=1",
    "PRELOADED_BL33_BASE=0x40200000",
    "BUILD_MESSAGE_TIMESTAMP=\"\"",
];
const SDEI: [&str; 2] = ["SDEI_SUPPORT=1", "EL3_EXCEPTION_HANDLING=1"];

/// The file that the machine starts from, built unless the cache has it.
pub fn ensure(cache: &Cache, progress: &Progress, sdei: bool) -> Result<PathBuf> {
    let _lock = cache.lock("firmware", progress)?;
    let mut options = OPTIONS.to_vec();
    if sdei {
        options.extend(SDEI);
    }
    let key = fingerprint(&options);
    // Later runs do not ask the archive again.
    let pointer = cache.path().join(format!("firmware-for-{key}"));
    let chosen = |name: &str| cache.path().join(name.trim()).join("flash.bin");
    if let Ok(name) = fs::read_to_string(&pointer)
        && chosen(&name).is_file()
    {
        return Ok(chosen(&name));
    }
    tools::demand(cache, &tools::firmware_tools(), progress)?;
    let source = Archive::open(cache)?.source(SUITE, PACKAGE, progress)?;
    let name = format!("firmware-{}-{key}", source.version);
    cache.entry(&name, |dir| {
        build(dir, &source.tarball, &source.version, &options, progress)
    })?;
    fs::write(&pointer, &name).map_err(|error| unwritable(&pointer, &error))?;
    Ok(chosen(&name))
}

/// Unpacks, builds and packs into `dir`.
fn build(
    dir: &Path,
    tarball: &Path,
    version: &str,
    options: &[&str],
    progress: &Progress,
) -> Result<()> {
    let sdei = if options.contains(&SDEI[0]) {
        "with"
    } else {
        "without"
    };
    let mut step = progress.step(format!("build Trusted Firmware-A {version} {sdei} SDEI"));
    let source = dir.join("source");
    fs::create_dir_all(&source).map_err(|error| unwritable(&source, &error))?;
    let log = dir.join("build.log");
    let mut tar = supervisor::command("tar");
    tar.arg("-x").arg("-f").arg(tarball).arg("-C").arg(&source);
    tar.arg("--strip-components=1");
    run(&mut tar, &log, "tar", |child| {
        step.wait(child, || "unpacking".to_owned())
    })?;
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut make = supervisor::command("make");
    make.arg("-C")
        .arg(&source)
        .arg(format!("-j{jobs}"))
        .arg(format!("CROSS_COMPILE={}", tools::cross_prefix()))
        .arg(format!("BUILD_BASE={}", dir.join("objects").display()))
        .args(options)
        .args(["bl1", "bl2", "bl31"])
        // cargo's own jobserver is not for make.
        .env_remove("MAKEFLAGS")
        .env_remove("CARGO_MAKEFLAGS")
        .env("LC_ALL", "C");
    run(&mut make, &log, "make", |child| {
        step.wait(child, || "compiling".to_owned())
    })?;
    let built = dir.join("objects/qemu/release");
    let read = |name: &str| {
        fs::read(built.join(name)).with_context(|| format!("the build of TF-A left no {name}"))
    };
    let flash = fip::flash(&read("bl1.bin")?, &read("bl2.bin")?, &read("bl31.bin")?)?;
    let path = dir.join("flash.bin");
    fs::write(&path, flash).map_err(|error| unwritable(&path, &error))?;
    remove(&dir.join("objects"))?;
    remove(&source)?;
    step.done();
    Ok(())
}
