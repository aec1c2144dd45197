//! What is there, what was chosen, what is missing and how to get it. Looks
//! only: nothing is fetched, installed or built.

use std::process::ExitCode;

use anyhow::Result;

use debian::archive::Archive;
use debian::cache::Cache;
use debian::kernel;
use debian::toolchain;
use debian::tools;
use machine::raspi4b;

/// How a finding bears on the other commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Ready.
    Ok,
    /// Not there, but xtask gets it when it is needed.
    Later,
    /// Not there, and only the user can mend it.
    Missing,
}

struct Finding {
    state: State,
    what: &'static str,
    text: String,
}

/// Say what is there, what was chosen, what is missing and how to get it.
///
/// Looks only: nothing is fetched, installed or built. "later" is what other commands get by
/// themselves when they need it; "MISSING" is what only you can mend, and fails this command.
#[derive(clap::Args)]
pub struct Doctor {}

impl Doctor {
    /// Prints the findings; fails if something is missing.
    pub fn execute(self) -> Result<ExitCode> {
        report()
    }
}

fn report() -> Result<ExitCode> {
    let cache = Cache::look()?;
    let findings = [
        Finding {
            state: State::Ok,
            what: "cache",
            text: place(&cache),
        },
        archive(&cache),
        target(&cache),
        host_tools(),
        qemu(),
        guest(&cache),
    ];
    for finding in &findings {
        println!("{}", line(finding));
    }
    let missing = findings.iter().any(|has| has.state == State::Missing);
    Ok(if missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Where the cache is or will be.
fn place(cache: &Cache) -> String {
    let path = cache.path();
    let later = if path.is_dir() {
        ""
    } else {
        ", made when it is needed"
    };
    format!("{}{later}", path.display())
}

fn line(finding: &Finding) -> String {
    let state = match finding.state {
        State::Ok => "ok",
        State::Later => "later",
        State::Missing => "MISSING",
    };
    format!("{state:<8}{:<14}{}", finding.what, finding.text)
}

/// Turns a result into a finding; an error says its own mend.
fn judged(what: &'static str, result: Result<(State, String)>) -> Finding {
    let (state, text) = result.unwrap_or_else(|error| (State::Missing, format!("{error:#}")));
    Finding { state, what, text }
}

fn archive(cache: &Cache) -> Finding {
    let found = Archive::look(cache).map(|archive| {
        let text = format!(
            "Debian {}, {}, through the mirror of this machine's apt",
            archive.release(),
            archive.host_architecture()
        );
        (State::Ok, text)
    });
    judged("packages", found)
}

fn target(cache: &Cache) -> Finding {
    let found = toolchain::Target::look(cache).map(|target| match target {
        Ok(target) => (State::Ok, target.describe()),
        Err(plan) => (State::Later, plan),
    });
    judged("Rust target", found)
}

fn host_tools() -> Finding {
    let missing = tools::missing(&tools::all());
    let (state, text) = if missing.is_empty() {
        (State::Ok, "all there".to_owned())
    } else {
        getting(&missing)
    };
    Finding {
        state,
        what: "host tools",
        text,
    }
}

fn qemu() -> Finding {
    let Some(path) = tools::find(tools::QEMU.program) else {
        return Finding {
            state: getting(&[tools::QEMU]).0,
            what: "QEMU",
            text: "not installed; see the host tools".to_owned(),
        };
    };
    let found = tools::demand_version(&path).and_then(|version| {
        let raspi4b = if raspi4b::is_known(&path)? {
            "knows raspi4b".to_owned()
        } else {
            format!("does not know raspi4b: {}", tools::newer_qemu())
        };
        let text = format!("{version}, {}, {raspi4b}", path.display());
        Ok((State::Ok, text))
    });
    judged("QEMU", found)
}

/// How the tools will come, or how to get them.
fn getting(missing: &[tools::Tool]) -> (State, String) {
    let packages = tools::packages(missing);
    if rustix::process::geteuid().is_root() {
        let text = format!("will be installed when needed: {}", packages.join(" "));
        (State::Later, text)
    } else {
        let names: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
        let command = tools::install_command(&packages);
        (
            State::Missing,
            format!("{}: run `{command}`", names.join(", ")),
        )
    }
}

fn guest(cache: &Cache) -> Finding {
    let (state, text) = match kernel::ready(cache, kernel::KernelVariant::Plain) {
        Some(kernel) => (
            State::Ok,
            format!("Linux {}, {}", kernel.release, kernel.image.display()),
        ),
        None => (
            State::Later,
            "Linux is fetched (170 MB) and built at its first use, or by `cargo xtask guest-kernel`"
                .to_owned(),
        ),
    };
    Finding {
        state,
        what: "guest kernel",
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_a_missing_thing_with_its_own_words() {
        let finding = judged("packages", Err(anyhow::anyhow!("no archive: do this")));
        assert_eq!(finding.state, State::Missing);
        assert_eq!(line(&finding), "MISSING packages      no archive: do this");
    }
}
