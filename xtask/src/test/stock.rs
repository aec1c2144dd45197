//! Debian's own kernels, unchanged, as a user runs them: each boots to a shell, which is told to switch
//! the machine off; and each dumps itself.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{own, screen};
use crate::ledger::Ledger;
use debian::initramfs::{self, Guest};
use debian::stock::{self, Release};
use machine::control;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Each release by the name of its test.
const RELEASES: [(&str, Release); 3] = [
    ("stock/debian-12", Release::Debian12),
    ("stock/debian-13", Release::Debian13),
    ("stock/debian-13-backports", Release::Backports),
];

/// The same, of the tests that dump. One is in every run; the others are run when they are named.
const DUMPS: [(&str, Release); 3] = [
    ("stock/debian-12/kdump", Release::Debian12),
    ("stock/debian-13/kdump", Release::Debian13),
    ("stock/debian-13-backports/kdump", Release::Backports),
];
const ALWAYS: &str = "stock/debian-13/kdump";

/// How long a kernel may take to its shell and back, in seconds, with other work on the host.
const TIMEOUT: &str = "900";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    RELEASES.iter().chain(&DUMPS).map(|(name, _)| *name)
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    let cases = RELEASES.map(|(name, release)| (name.to_owned(), release));
    ledger.check_each(&cases, |_, release| {
        let kernel = stock::ensure(&workshop.cache, *release, &workshop.progress)?;
        use_shell(workshop, &kernel)?;
        Ok(kernel.release)
    });
    let dumps = DUMPS.map(|(name, release)| (name.to_owned(), release));
    let dumps = dumps
        .into_iter()
        .filter(|(name, _)| name == ALWAYS || ledger.names(name));
    ledger.check_each(&dumps.collect::<Vec<_>>(), |_, release| dump(*release));
}

/// Has `kdump` panic the kernel of `release`, and judge its dump.
fn dump(release: Release) -> Result<String> {
    let mut kdump = own::xtask()?;
    kdump.args(["kdump", "--stock", release.name(), "--timeout", TIMEOUT]);
    let said = own::succeed(&mut kdump)?;
    let dump = said.lines().find(|line| line.starts_with("vmcore of "));
    Ok(dump.context("it says nothing of a vmcore")?.to_owned())
}

/// Boots `kernel` with `run`, and uses its shell.
fn use_shell(workshop: &Workshop, kernel: &stock::Kernel) -> Result<()> {
    let initramfs = initramfs::ensure(&workshop.cache, Guest::Any, &workshop.progress)?;
    let folder = RunDir::create(None)?;
    let socket = folder.file(control::NAME);
    let mut command = own::xtask()?;
    command
        .arg("run")
        .arg("--kernel")
        .arg(&kernel.vmlinuz)
        .arg("--initrd")
        .arg(initramfs)
        .args(["--append", "console=ttyAMA0 lab.do=shell"])
        .args(["--timeout", TIMEOUT])
        .arg("--control")
        .arg(&socket);
    screen::converse(&mut command, |input, screen| {
        screen.wait_for(" # ")?;
        input.write_all(b"uname -r\n")?;
        screen.wait_for(&format!("\n{}\r\n", kernel.release))?;
        screen.wait_for(" # ")?;
        name_functions(&socket, &kernel.release)?;
        input.write_all(b"poweroff -f\n")?;
        Ok(())
    })
}

/// The hypervisor finds the functions of each vCPU by the kernel's own table, out of the guest's memory.
fn name_functions(socket: &Path, release: &str) -> Result<()> {
    let mut command = own::xtask()?;
    command.args(["ctl", "--json", "--control"]).arg(socket);
    let told = own::succeed(command.arg("bt"))?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let vcpus = told["vcpus"].as_array().context("it has no vCPUs")?;
    ensure!(told["release"] == release, "{told}");
    let mut idle = 0;
    for vcpu in vcpus {
        let frames = vcpu["frames"].as_array().context("it has no frames")?;
        let is_in = |name: &str| frames.iter().any(|frame| frame["symbol"] == name);
        let outermost = frames.last().map(|frame| &frame["symbol"]);
        let expected = [
            "__primary_switched",
            "__secondary_switched",
            "ret_from_fork",
        ];
        let is_user = vcpu["pstate"]
            .as_u64()
            .is_some_and(|pstate| pstate & 0xc == 0);
        let is_whole = outermost.is_some_and(|name| expected.iter().any(|whole| name == whole))
            || is_in("el0t_64_sync")
            || is_in("el0t_64_irq");
        ensure!(is_user || is_whole && vcpu["end"].is_null(), "{vcpu}");
        idle += u32::from(is_in("do_idle"));
    }
    ensure!(idle > 0, "nobody is idle: {told}");
    Ok(())
}
