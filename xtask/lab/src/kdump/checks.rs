//! Whether a run came to where it can be judged.

use anyhow::{Context, Result, bail, ensure};

use crate::cpulist::CpuList;
use crate::evidence::{GuestLog, HvRecords, Trace};
use crate::patch::{PANIC, PANIC_EVENT};
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
    if plan.scenario == Scenario::NestedPanic && !story.captured {
        return check_nested(plan, story);
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
    if !plan.scenario.dumps() && !matches!(plan.scenario, Scenario::SysrqL | Scenario::NestedPanic)
    {
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
    ensure!(
        story.pseudo_nmi || !plan.pseudo_nmi,
        "this kernel has no pseudo-NMIs: it lacks CONFIG_ARM64_PSEUDO_NMI, or finds no GIC for them"
    );
    if plan.scenario == Scenario::Hardlockup {
        let panic = story.panic.as_deref().unwrap_or("nothing");
        ensure!(
            panic.contains("Hard LOCKUP") || panic.contains("hard LOCKUP"),
            "the hard-lockup detector was to panic, but the kernel panicked for: {panic}"
        );
    }
    match plan.scenario {
        Scenario::PostNotifiers => check_notifiers(story),
        Scenario::PanicInHandler => check_handler(plan.panic, story, &seen.drain),
        Scenario::TwoPanics => {
            let second = plan.second().into_iter();
            let both: CpuList = second.chain([plan.panic]).collect();
            let is_among = story.panicked.is_some_and(|cpu| both.contains(cpu));
            ensure!(
                story.panicking == both && is_among,
                "CPUs {both} were to panic at the same time, but CPUs {} were about to, and CPU {} did",
                story.panicking,
                story
                    .panicked
                    .map_or("none".to_owned(), |cpu| cpu.to_string())
            );
            Ok(())
        }
        Scenario::Reboot | Scenario::Kexec => {
            ensure!(
                story.boots == 2,
                "Linux was to come up twice, and came up {} times",
                story.boots
            );
            Ok(())
        }
        Scenario::Hotplug => {
            ensure!(
                story.hotplug.is_some(),
                "the guest did not take CPUs off and on"
            );
            check_events(plan.cpus, &seen.drain, 0)
        }
        Scenario::Suspend => {
            ensure!(story.slept, "the guest did not sleep");
            let trace = seen.drain.traces.iter();
            let slept = trace.filter(|trace| trace.event == "system-suspend");
            let slept = slept.map(|trace| trace.time_us).max();
            let slept = slept.context("the guest has not called SYSTEM_SUSPEND")?;
            check_events(plan.cpus, &seen.drain, slept)
        }
        _ => Ok(()),
    }
}

/// That a CPU that panicked took an SError, and stands still where Linux leaves one that panics again.
fn check_nested(plan: &Plan, story: &GuestLog) -> Result<()> {
    /// It parks the CPU when `nmi_panic` returns.
    const LAST: &str = "arm64_serror_panic+";
    let cpu = plan.panic;
    ensure!(
        story.wedged == plan.wedge && story.panic.is_some() && story.stop_us.is_some(),
        "CPU {cpu} was to panic while CPUs {} were wedged, and CPUs {} were; it panicked for: {}",
        plan.wedge,
        story.wedged,
        story.panic.as_deref().unwrap_or("nothing")
    );
    ensure!(
        story
            .serror
            .as_ref()
            .is_some_and(|serror| serror.cpu == cpu),
        "CPU {cpu} was to take an SError in its panic, and the guest's log has none of it"
    );
    let frames = story.outside.get(&cpu).map(|seen| &seen.frames);
    let frames = frames.context("nobody looked where the CPU stands that panicked twice")?;
    ensure!(
        frames.first().is_some_and(|frame| frame.starts_with(LAST)),
        "CPU {cpu} was to stand still in {LAST}, but is in {frames:?}"
    );
    Ok(())
}

/// That every CPU has taken event 0 since `since_us`.
fn check_events(cpus: u32, drain: &HvRecords, since_us: u64) -> Result<()> {
    let has_taken = |cpu: &u32| drain.first(*cpu, "sdei-dispatch", since_us).is_some();
    let without: CpuList = (0..cpus).filter(|cpu| !has_taken(cpu)).collect();
    ensure!(
        without.is_empty(),
        "CPUs {without} took no event 0 that the hypervisor recorded"
    );
    Ok(())
}

/// That panic notifiers were called between the stop and the crash kernel.
fn check_notifiers(story: &GuestLog) -> Result<()> {
    let called = story.notified_us;
    let called = called.context(
        "no panic notifier said anything: arm64's says where the kernel is (Kernel Offset)",
    )?;
    ensure!(
        story.stop_us.is_some_and(|stop| stop <= called)
            && story.left_us.is_some_and(|left| called <= left),
        "panic notifiers were to be called between the stop and the crash kernel, but were at {called} us of the log: the stop began at {:?}, the crash kernel at {:?}",
        story.stop_us,
        story.left_us
    );
    Ok(())
}

/// That `cpu` panicked in the handler of its event, and left it for the crash kernel.
fn check_handler(cpu: u32, story: &GuestLog, drain: &HvRecords) -> Result<()> {
    let event = PANIC_EVENT.number;
    let panic = story.panic.as_deref().unwrap_or("nothing");
    ensure!(
        panic == PANIC && story.panicked == Some(cpu),
        "CPU {cpu} was to panic in the handler of event {event:#x}, but CPU {} panicked, for: {panic}",
        story
            .panicked
            .map_or("none".to_owned(), |cpu| cpu.to_string())
    );
    let of_event = |trace: &&Trace| trace.vcpu == cpu && trace.a == u64::from(event);
    let mut dispatched = drain.traces.iter().filter(of_event);
    let dispatched = dispatched.find(|trace| trace.event == "sdei-dispatch");
    let dispatched = dispatched.with_context(|| {
        format!("CPU {cpu} took no event {event:#x} that the hypervisor recorded")
    })?;
    ensure!(
        drain
            .first(cpu, "sdei-resume", dispatched.time_us)
            .is_some(),
        "CPU {cpu} has not left the handler of event {event:#x} for the crash kernel"
    );
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
