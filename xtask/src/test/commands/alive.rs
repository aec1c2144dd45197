//! What takes long at EL2 and is not stuck: the watchdog, whose limit is shorter, lets it be.

use anyhow::{Result, ensure};

use crate::ledger::Ledger;
use crate::test::own;
use debian::paths;
use machine::build::{self, Program};
use machine::workshop::Workshop;

/// A pCPU that copies a large kernel for longer than the watchdog waits shows that it lives.
const LARGE: &str = "run/who-loads-a-large-guest-is-not-stuck";

/// Counts in a word that a reset leaves alone, resets itself until that is 3, and switches itself off.
const RESETS_TWICE: [u32; 11] = [
    0xd2a9_e001, // mov x1, #0x4f000000
    0xb940_0022, // ldr w2, [x1]
    0x1100_0442, // add w2, w2, #1
    0xb900_0022, // str w2, [x1]
    0x7100_0c5f, // cmp w2, #3
    0x5280_0120, // mov w0, #9
    0x5280_0103, // mov w3, #8
    0x1a83_3000, // csel w0, w0, w3, lo
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0
    0x1400_0000, // b .
];

/// In instructions, which no host delays: a kernel of 64 MiB takes some 10 milliseconds.
fn load_large(workshop: &Workshop) -> Result<()> {
    let mut image = RESETS_TWICE.map(u32::to_le_bytes).as_flattened().to_vec();
    image.resize(64 << 20, 0);
    let kernel = workshop.output("large.bin")?;
    paths::write_if_new(&kernel, &image)?;
    let output = own::xtask()?
        .args(["run", "--cpus", "2", "--memory", "512M", "--icount"])
        .args(["--hv-append", "watchdog=report:4", "--timeout", "300"])
        .arg("--kernel")
        .arg(&kernel)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && told.contains("guest reset (2)") && !told.contains("@hv-stuck"),
        "{}\n{told}",
        output.status
    );
    Ok(())
}

/// pCPUs that wait for each other's lines on the console for longer than the watchdog waits show that they live.
const CROWD: &str = "run/who-waits-for-the-console-is-not-stuck";

/// In instructions, which no host delays: at each reset of eight vCPUs all of them say what they have done last.
fn crowd(workshop: &Workshop) -> Result<()> {
    let image = build::build(workshop, Program::GuestTests)?.image;
    let output = own::xtask()?
        .args(["run", "--cpus", "8", "--memory", "256M", "--icount"])
        .args(["--hv-append", "watchdog=report:1", "--timeout", "300"])
        .arg("--append")
        .arg("test=system_reset_leaves_no_cpu_running_that_siblings_switch_on boots=6")
        .arg("--kernel")
        .arg(&image)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && told.contains("guest reset (6)") && !told.contains("@hv-stuck"),
        "{}\n{told}",
        output.status
    );
    Ok(())
}

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [LARGE, CROWD].into_iter()
}

/// Runs them.
pub fn run(workshop: &Workshop, ledger: &mut Ledger) {
    ledger.check(LARGE, || load_large(workshop).map(|()| String::new()));
    ledger.check(CROWD, || crowd(workshop).map(|()| String::new()));
}
