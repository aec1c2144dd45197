//! Whether a run came to where it can be judged.

use anyhow::{Result, bail, ensure};

use crate::evidence::GuestLog;
use crate::plan::{Fate, Plan, Scenario};
use crate::verdict::WEDGE_FUNCTION;
use crate::watch::GuestRun;
use machine::ending::Ending;

/// That the run went to its end.
pub fn check_run(plan: &Plan, seen: &GuestRun) -> Result<()> {
    let story = &seen.story;
    if let Some(failure) = &story.failure {
        bail!("the guest gave up: {failure}");
    }
    if let Ending::GuestCrash(_) | Ending::HypervisorCrash(_) = seen.ending {
        bail!("{}", seen.ending);
    }
    if !story.done {
        let stage = if story.captured {
            "the capture kernel came up but did not finish"
        } else if story.panic.is_some() {
            "the kernel panicked but no capture kernel came up"
        } else if !story.wedged.is_empty() {
            "CPUs were wedged but nothing came of it"
        } else {
            "no CPU was wedged"
        };
        bail!("{}: {stage}", seen.ending);
    }
    if plan.scenario == Scenario::Assisted {
        ensure!(
            story.boots > 1,
            "{}: the guest did not start anew after its dump",
            seen.ending
        );
    } else if plan.scenario.dumps() {
        ensure!(
            seen.ending == Ending::PowerOff && seen.drain.complete,
            "{} before the hypervisor had written its records",
            seen.ending
        );
    }
    if let Some(fate) = plan.fate.filter(|fate| *fate != Fate::Park) {
        ensure!(
            story.fate.as_deref() == Some(fate.name()),
            "this kernel does not know sdei_ending={}; it lacks guest-tests/linux/sdei-ending.patch",
            fate.name()
        );
    }
    if plan.scenario == Scenario::Hardlockup {
        let panic = story.panic.as_deref().unwrap_or("nothing");
        ensure!(
            panic.contains("Hard LOCKUP") || panic.contains("hard LOCKUP"),
            "the hard-lockup detector was to panic, but the kernel panicked for: {panic}"
        );
    }
    Ok(())
}

/// That the guest's log shows each wedged CPU where it is.
pub fn check_backtraces(plan: &Plan, story: &GuestLog) -> Result<()> {
    for cpu in plan.wedge.iter() {
        ensure!(
            story.wedged.contains(cpu),
            "CPU {cpu} was to be wedged, but the guest did not find it wedged"
        );
        let places: Vec<&str> = story
            .backtraces
            .iter()
            .filter(|(of, _)| *of == cpu)
            .map(|(_, place)| place.as_str())
            .collect();
        ensure!(
            places.iter().any(|place| place.starts_with(WEDGE_FUNCTION)),
            "the guest's log has no backtrace of CPU {cpu} in {WEDGE_FUNCTION}, only of {places:?}"
        );
    }
    Ok(())
}
