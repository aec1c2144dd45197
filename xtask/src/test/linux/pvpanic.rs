//! Linux panics, and says so by pvpanic with its own driver.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::super::own;
use super::{Run, TIMEOUT};
use debian::paths;
use machine::workshop::Workshop;

const PANICKED: &str = "linux/pvpanic/panicked";
const CRASH_LOADED: &str = "linux/pvpanic/crash-loaded";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [PANICKED, CRASH_LOADED].into_iter()
}

/// What is run for them.
pub fn runs(workshop: &Workshop) -> [Run<'_>; 2] {
    [
        (PANICKED.to_owned(), Box::new(|| panicked(workshop))),
        (CRASH_LOADED.to_owned(), Box::new(|| crash_loaded(workshop))),
    ]
}

/// `run` of our Linux with the words `append`, by the guest file `name`.
fn run(workshop: &Workshop, name: &str, append: &str) -> Result<Command> {
    let file = workshop.output(name)?;
    let text = format!(
        "pvpanic = true\nmemory = \"512M\"\ntimeout = {}\nappend = \"{append}\"\n",
        TIMEOUT.as_secs()
    );
    paths::write_if_new(&file, text.as_bytes())?;
    let mut command = own::xtask()?;
    command.arg("run").arg("--guest").arg(&file);
    Ok(command)
}

/// Runs it, and answers its exit code, what the guest wrote, and what `run` said.
fn finish(mut command: Command) -> Result<(Option<i32>, String, String)> {
    let output = command.output().context("cannot run xtask")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (guest, said) = (text(&output.stdout), text(&output.stderr));
    Ok((output.status.code(), guest, said))
}

/// Nobody is there to save a dump: it has panicked, and that is how the run ends.
fn panicked(workshop: &Workshop) -> Result<String> {
    let command = run(workshop, "pvpanic-panicked.toml", "rdinit=/nonexistent")?;
    let (code, guest, said) = finish(command)?;
    ensure!(
        code == Some(3)
            && guest.contains("Kernel panic - not syncing: ")
            && said.contains(" says by pvpanic: it has panicked\n")
            && said.contains(": it says by pvpanic that it has panicked)"),
        "exit code {code:?}\n{guest}\n{said}"
    );
    Ok(String::new())
}

/// A kernel is loaded for this case. Linux tells of that before it starts it only if it is to (kernel/panic.c).
fn crash_loaded(workshop: &Workshop) -> Result<String> {
    let words = "crashkernel=192M crash_kexec_post_notifiers lab.do=panic lab.maxcpus=1";
    let (code, guest, said) = finish(run(workshop, "pvpanic-crash-loaded.toml", words)?)?;
    // It has no disk to save a dump on, says so, and switches itself off.
    ensure!(
        code == Some(0)
            && guest.contains("LAB: fail there is no disk for the dump")
            && said.contains(
                " says by pvpanic: it has panicked, and the kernel loaded for this case takes over\n"
            )
            && !said.contains(" says by pvpanic: it has panicked\n"),
        "exit code {code:?}\n{guest}\n{said}"
    );
    Ok(String::new())
}
