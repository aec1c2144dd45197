//! What a command cannot do as it is asked for is wrong usage, which has an exit code of its own: programs take 1 for a kernel that is bad.

use anyhow::{Context, Result, ensure};

use super::own;
use crate::ledger::Ledger;

const NAME: &str = "usage/has-its-own-exit-code";

/// What is asked for, and what must be said.
const CASES: [(&[&str], &str); 28] = [
    (&["kdump", "--wedge", "9"], "there is no CPU 9"),
    (
        &["kdump", "--stock", "debian-13", "--scenario", "sysrq-l"],
        "leave --stock out",
    ),
    (
        &["kdump", "--scenario", "reboot", "--oracle"],
        "leave --oracle out",
    ),
    (
        &["kdump", "--keep", "/dev/null"],
        "name a folder for --keep",
    ),
    (
        &["stop-demo", "--cpus", "2", "--wedge", "5:spin"],
        "there is no pCPU 5",
    ),
    (
        &["stop-demo", "--wedge", "1:spin,1:exit"],
        "pCPU 1 can be stuck at one place only",
    ),
    (
        &["kdump", "--beside", "/no/such.toml"],
        "there is no file /no/such.toml for --beside",
    ),
    (
        &["kdump", "--kernel", "/no/such/Image"],
        "there is no kernel /no/such/Image",
    ),
    (
        &["kdump", "--guest", "/dev/null"],
        "the guest file /dev/null is no file",
    ),
    (
        &["oracle", "/no/such.core", "vmcore"],
        "there is no file /no/such.core for TRUTH",
    ),
    (
        &["bt", "/no/such.core"],
        "there is no file /no/such.core for DUMP",
    ),
    (
        &["image", "rpi4", "--out", "/no/such", "--guest", "/dev/null"],
        "the guest file /dev/null is no file",
    ),
    (
        &["run", "--console", "x"],
        "`x` is no console; write NAME=FILE",
    ),
    (
        &["run", "--console", "guest=/no/such/file"],
        "there is no folder /no/such for --console",
    ),
    (
        &["run", "--control", "/dev/null"],
        "there is something at /dev/null already",
    ),
    (&["run", "--memory", "1M"], "1 MiB of RAM are too few"),
    (&["run", "--machine", "virt-gicv2", "--el3", "tfa"], "--el3"),
    (&["run", "--log", "/"], "--log / is a folder; name a file"),
    (
        &[
            "bringup",
            "rpi4",
            "--port",
            "/dev/null",
            "--control",
            "/dev/null",
        ],
        "there is something at /dev/null already",
    ),
    (
        &["bringup", "rpi4", "--replay", "/no/such"],
        "there is no file /no/such for --replay",
    ),
    (
        &["monitor", "--port", "/dev/null", "--elf", "/no/such"],
        "there is no file /no/such for --elf",
    ),
    (
        &["crash", "show", "/no/such"],
        "there is no file /no/such for FILE",
    ),
    (
        &["bench", "linux", "--machine", "raspi4b"],
        "choose one of them with --machine",
    ),
    (
        &["test", "--bare", "--machine", "raspi4b"],
        "leave out --bare",
    ),
    (&["symbolize", "zz"], "zz is no hexadecimal number"),
    (&["ctl", "dump", "/"], "FILE / is a folder; name a file"),
    (
        &["ctl", "bt", "--vmlinux", "/dev/null"],
        "--vmlinux /dev/null is no file",
    ),
    (
        &["ctl", "read", "0", "--out", "/no/such/file"],
        "there is no folder /no/such for --out",
    ),
];

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [NAME].into_iter()
}

/// Runs it.
pub fn run(ledger: &mut Ledger) {
    ledger.check(NAME, || {
        for (words, expected) in CASES {
            refused(words, expected)?;
        }
        Ok(String::new())
    });
}

fn refused(words: &[&str], expected: &str) -> Result<()> {
    let output = own::xtask()?
        .args(words)
        .output()
        .context("cannot run xtask")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(2) && output.stdout.is_empty(),
        "{words:?}: {}\n{errors}",
        output.status
    );
    ensure!(
        errors.starts_with("error: ") && errors.contains(expected),
        "{words:?}: {errors}"
    );
    Ok(())
}
