//! Our own programs in the guest, which stand alone: no library, no interpreter, nothing of this host. They are compiled
//! by what compiles the guest kernel.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, fingerprint, unwritable};
use crate::progress::Progress;
use crate::tools;

/// A program: its name in the guest's /bin, and its source in `guest-tests/linux`.
struct Program {
    name: &'static str,
    source: &'static str,
}

const PROGRAMS: [Program; 2] = [
    // Samples the guest's CPUs and fills their registers.
    Program {
        name: "witness",
        source: include_str!("../../../../guest-tests/linux/witness.c"),
    },
    // The jobs of `cargo xtask bench`.
    Program {
        name: "workload",
        source: include_str!("../../../../guest-tests/linux/workload.c"),
    },
];

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

/// Each program by its name, compiled unless the cache has it.
pub fn ensure(cache: &Cache, progress: &Progress) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let compiled = PROGRAMS.iter().map(|program| {
        let bytes = compile(cache, program, progress)?;
        Ok((program.name, bytes))
    });
    compiled.collect()
}

fn compile(cache: &Cache, program: &Program, progress: &Progress) -> Result<Vec<u8>> {
    let Program { name, source } = program;
    let key = fingerprint(&[source, &ARGUMENTS.join(" ")]);
    let entry = cache.entry(&format!("{name}-{key}"), |dir| {
        tools::demand(cache, &[tools::cross_gcc()], progress)?;
        let file = format!("{name}.c");
        let path = dir.join(&file);
        fs::write(&path, source).map_err(|error| unwritable(&path, &error))?;
        let compiler = tools::cross_gcc().program;
        let output = supervisor::command(compiler)
            .args(ARGUMENTS)
            .args(["-o", name, &file])
            .current_dir(dir)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {compiler}"))?;
        if !output.status.success() {
            bail!(
                "{compiler} does not compile guest-tests/linux/{file}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    })?;
    let path = entry.join(name);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}
