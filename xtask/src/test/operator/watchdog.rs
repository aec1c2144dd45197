//! The watchdog over a guest, and the rungs of an NMI, as their user sees them.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::boot::{Boot, LIMIT, spin, vcpu};
use super::code::{EVENT, SPIN, wedge};
use debian::paths;
use machine::workshop::Workshop;

const WAITS: &str = "interrupt 27 ";

fn log(workshop: &Workshop, act: &str) -> Result<PathBuf> {
    workshop.output(&format!("operator-watchdog-{act}.log"))
}

fn boot(workshop: &Workshop, act: &str) -> Result<Boot> {
    let file = workshop.output(&format!("operator-watchdog-{act}.toml"))?;
    let text = format!("watchdog = {{ limit = \"200ms\", all = \"{act}\" }}\n");
    paths::write_if_new(&file, text.as_bytes())?;
    let (file, log) = (
        file.display().to_string(),
        log(workshop, act)?.display().to_string(),
    );
    // Of an earlier run.
    let _ = std::fs::remove_file(&log);
    let arguments = ["--guest", &file, "--log", &log];
    Boot::start(workshop, "wedge", &wedge(), &arguments)
}

/// The only vCPU that is on is wedged: so are all that are on.
pub fn freeze_reset_and_end(workshop: &Workshop) -> Result<()> {
    let mut frozen = boot(workshop, "freeze")?;
    let status = frozen.status(|status| status["vm"]["state"] == "paused")?;
    let late = &vcpu(&status, 0)["late"];
    ensure!(
        late["state"] == "wedged" && late["intid"] == 27 && late["masked"] == "pstate",
        "{status}"
    );
    let said = frozen.ctl(&["status"])?;
    ensure!(
        said.contains(&format!(", wedged: {WAITS}waits for ")),
        "{said}"
    );
    frozen.ctl(&["off"])?;
    let (_, errors, code) = frozen.end()?;
    let told = |errors: &str, act: &str| {
        let sentence = format!("kept off by PSTATE; so are all that are on; {act}");
        errors.contains("vCPU 0 is wedged at pc 0x")
            && errors.contains(&format!(": {WAITS}has been waiting for 0."))
            && errors.contains(&sentence)
    };
    ensure!(
        code == Some(0) && told(&errors, "the guest is paused"),
        "{code:?}\n{errors}"
    );

    let (_, errors, code) = boot(workshop, "off")?.end()?;
    ensure!(
        code == Some(0) && told(&errors, "the guest is switched off"),
        "{code:?}\n{errors}"
    );

    let mut reset = boot(workshop, "reset")?;
    let log = log(workshop, "reset")?;
    let until = Instant::now() + LIMIT;
    loop {
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if text.matches("@vm-reset vm=0").count() >= 2 {
            break;
        }
        ensure!(Instant::now() < until, "it is not reset twice: {text}");
        std::thread::yield_now();
    }
    reset.ctl(&["off"])?;
    let (_, errors, _) = reset.end()?;
    ensure!(told(&errors, "the guest is reset"), "{errors}");
    Ok(())
}

/// An event that the guest has registered, and is switched off by; and a guest that has registered none and masks SErrors.
pub fn climb(workshop: &Workshop) -> Result<()> {
    let file = workshop.output("operator-rungs.toml")?;
    let text = "events = [{ number = 256, scope = \"private\", priority = \"critical\" }]\n\
                nmi = { event = 256, limit = \"400ms\", last = \"freeze\" }\n";
    paths::write_if_new(&file, text.as_bytes())?;
    let file = file.display().to_string();

    let mut obeys = Boot::start(workshop, "event", &EVENT, &["--guest", &file])?;
    spin(&mut obeys.client()?)?;
    obeys.ctl(&["nmi", "0"])?;
    let (output, errors, code) = obeys.end()?;
    ensure!(
        code == Some(0) && output == "E",
        "{code:?} {output:?}\n{errors}"
    );

    let mut deaf = Boot::start(workshop, "spin", &SPIN, &["--guest", &file])?;
    spin(&mut deaf.client()?)?;
    let said = deaf.ctl(&["nmi", "0"])?;
    ensure!(said.starts_with("an SError waits for vCPU 0"), "{said}");
    tells_of_rungs(&said)?;
    let status = deaf.status(|_| true)?;
    ensure!(status["vm"]["state"] == "paused", "{status}");
    deaf.ctl(&["off"])?;
    let (_, errors, _) = deaf.end()?;
    tells_of_rungs(&errors)
}

/// What becomes of an NMI on a guest that has registered no event and masks SErrors.
fn tells_of_rungs(told: &str) -> Result<()> {
    let mut rest = told;
    for sentence in [
        "NMI on vCPU 0: the SDEI event, which the guest has not registered and enabled",
        "NMI on vCPU 0: the SError waits: PSTATE.A is set",
        "NMI on vCPU 0: nothing has helped: the guest is paused",
    ] {
        let found = rest.split_once(sentence);
        let Some((_, behind)) = found else {
            anyhow::bail!("no `{sentence}`: {told}");
        };
        rest = behind;
    }
    Ok(())
}
