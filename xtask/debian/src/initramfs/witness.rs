//! `guest-tests/linux/witness.c`, which samples the guest's CPUs and fills their registers, compiled by what
//! compiles the guest kernel.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, fingerprint, unwritable};
use crate::progress::Progress;
use crate::tools;

const SOURCE: &str = include_str!("../../../../guest-tests/linux/witness.c");

/// It stands alone: no library, no interpreter, nothing of this host.
const ARGUMENTS: [&str; 10] = [
    "-O2",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-stack-protector",
    "-fno-pie",
    "-no-pie",
    "-nostdlib",
    "-static",
    "-s",
    "-Wl,--build-id=none",
];

/// The program, compiled unless the cache has it.
pub fn ensure(cache: &Cache, progress: &Progress) -> Result<Vec<u8>> {
    let name = format!("witness-{}", fingerprint(&[SOURCE, &ARGUMENTS.join(" ")]));
    let entry = cache.entry(&name, |dir| {
        tools::demand(cache, &[tools::cross_gcc()], progress)?;
        let source = dir.join("witness.c");
        fs::write(&source, SOURCE).map_err(|error| unwritable(&source, &error))?;
        let compiler = tools::cross_gcc().program;
        let output = Command::new(compiler)
            .args(ARGUMENTS)
            .args(["-o", "witness", "witness.c"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {compiler}"))?;
        if !output.status.success() {
            bail!(
                "{compiler} does not compile guest-tests/linux/witness.c: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    })?;
    let path = entry.join("witness");
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}
