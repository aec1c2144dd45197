//! The crash utility, which is not ours, opens each kind of dump and walks the stack of each wedged CPU.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::operator::{Wedged, dump};
use super::{CASES, Run, run_plan};
use crate::ledger::Ledger;
use debian::crash_utility::CrashUtility;
use lab::kdump::Lab;
use lab::plan::{Plan, Scenario};
use lab::verdict::WEDGE_FUNCTION;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// What their names begin with; run when they are named.
const PREFIX: &str = "linux/crash/";
/// A guest's own dump, by its crash kernel.
const KDUMP: &str = "linux/crash/kdump";
/// That of a guest without a crash kernel, by the hypervisor's capture kernel.
const ASSISTED: &str = "linux/crash/assisted";
/// What `ctl dump` writes.
const CORE: &str = "linux/crash/core";

const CPUS: u32 = 4;

/// The way from a wedge out to user space: from Linux's vectors to where LKDTM is written to. The wedge itself makes no frame record, so its
/// caller is in x30 alone, which crash does not ask.
const STACK: [&str; 11] = [
    WEDGE_FUNCTION,
    "direct_entry",
    "full_proxy_write",
    "vfs_write",
    "ksys_write",
    "__arm64_sys_write",
    "invoke_syscall",
    "do_el0_svc",
    "el0_svc",
    "el0t_64_sync_handler",
    "el0t_64_sync",
];

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [KDUMP, ASSISTED, CORE].into_iter()
}

/// What is run for them, if one is named; without crash, if that cannot be had.
pub fn runs<'a>(workshop: &'a Workshop, lab: &'a Lab, ledger: &Ledger) -> Vec<Run<'a>> {
    if !ledger.names(PREFIX.trim_end_matches('/')) {
        return Vec::new();
    }
    let crash = match CrashUtility::ensure(&workshop.cache, &workshop.progress) {
        Ok(crash) => Arc::new(crash),
        Err(error) => {
            for name in names().filter(|name| ledger.wants(name)) {
                ledger.skipped(name, &format!("crash cannot be had: {error:#}"));
            }
            return Vec::new();
        }
    };
    let (own, beside, core) = (crash.clone(), crash.clone(), crash);
    vec![
        (KDUMP.to_owned(), Box::new(move || kdump(&own, lab))),
        (
            ASSISTED.to_owned(),
            Box::new(move || assisted(&beside, lab)),
        ),
        (CORE.to_owned(), Box::new(move || of_operator(&core, lab))),
    ]
}

fn kdump(crash: &CrashUtility, lab: &Lab) -> Result<String> {
    saved(crash, lab, CASES[0].plan()?)
}

fn assisted(crash: &CrashUtility, lab: &Lab) -> Result<String> {
    let plan = Plan {
        wedge: (0..CPUS).collect(),
        ..Plan::new(Scenario::Assisted, CPUS)
    };
    saved(crash, lab, plan)
}

/// The dump that a job of `kdump` leaves.
fn saved(crash: &CrashUtility, lab: &Lab, plan: Plan) -> Result<String> {
    let folder = RunDir::create(None)?;
    let keep = folder.file("kept");
    let report = run_plan(lab, plan, Some(&keep))?;
    ensure!(report.passed, "{}", report.text());
    let (cpus, wedged) = (report.plan.cpus, report.plan.wedge.iter().collect());
    check(crash, lab.vmlinux()?, &keep.join("vmcore"), cpus, wedged)
}

fn of_operator(crash: &CrashUtility, lab: &Lab) -> Result<String> {
    let folder = RunDir::create(None)?;
    let core = folder.file("core");
    {
        let mut guest = Wedged::start()?;
        guest.wait()?;
        // The guest's own folder goes with it, and crash need not share the host with four CPUs that loop.
        fs::rename(dump(&guest, "all")?, &core)?;
    }
    check(crash, lab.vmlinux()?, &core, CPUS, (0..CPUS).collect())
}

/// That crash finds so many CPUs in `dump`, and of each of those that are `wedged` the whole stack.
fn check(
    crash: &CrashUtility,
    vmlinux: &Path,
    dump: &Path,
    cpus: u32,
    wedged: Vec<u32>,
) -> Result<String> {
    let said = ask(crash, vmlinux, dump, "sys\nbt -a\nquit\n")?;
    let release = field(&said, "RELEASE").with_context(|| format!("no release in:\n{said}"))?;
    let stacks = stacks(&said);
    ensure!(
        stacks.len() == cpus as usize,
        "crash shows the stacks of {} CPUs, not of {cpus}:\n{said}",
        stacks.len()
    );
    for cpu in &wedged {
        let found = stacks.iter().find(|(number, _)| number == cpu);
        let (_, frames) = found.with_context(|| format!("no CPU {cpu} in:\n{said}"))?;
        ensure!(
            *frames == STACK,
            "crash finds on CPU {cpu} {}, and not {}:\n{said}",
            frames.join(" <- "),
            STACK.join(" <- ")
        );
    }
    let (frames, wedged) = (STACK.len(), wedged.len());
    Ok(format!(
        "Linux {release}, {frames} frames of each of {wedged} wedged"
    ))
}

/// What crash writes when it is told `orders`. Our kernel has no modules, which crash has to be told; 8.0.6, which Debian 13 has, does not find
/// the slabs of Linux 7.3.
fn ask(crash: &CrashUtility, vmlinux: &Path, dump: &Path, orders: &str) -> Result<String> {
    let home = RunDir::create(None)?;
    let file = home.file("orders");
    fs::write(&file, orders)?;
    let output = crash
        .command()
        .args(["--no_modules", "--no_kmem_cache", "-s", "-i"])
        .args([file.as_path(), vmlinux, dump])
        // Nobody's .crashrc, and no pager.
        .env("HOME", home.path())
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .output()
        .context("cannot run crash")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("crash failed, {}: {said}\n{complaint}", output.status);
    }
    Ok(said)
}

/// What stands behind `name:` in the output of `sys`.
fn field<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

/// The functions of each stack that `bt -a` shows, innermost first, by CPU.
fn stacks(said: &str) -> Vec<(u32, Vec<&str>)> {
    let mut stacks: Vec<(u32, Vec<&str>)> = Vec::new();
    for line in said.lines() {
        let line = line.trim_start();
        if let Some((_, rest)) = line
            .split_once("CPU: ")
            .filter(|_| line.starts_with("PID: "))
        {
            let number = rest.split_whitespace().next().unwrap_or_default();
            stacks.extend(number.parse().ok().map(|cpu| (cpu, Vec::new())));
        } else if line.starts_with('#')
            && let Some((_, frame)) = line.split_once("] ")
            && let Some((_, frames)) = stacks.last_mut()
        {
            // What a compiler has made a part or a copy of is called by its function's name: x.constprop.0.
            let name = frame.split([' ', '.']).next().unwrap_or_default();
            frames.push(name);
        }
    }
    stacks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_read_by_cpu() {
        let said = "\
     RELEASE: 7.3.4
PID: 0        TASK: ffff000000d50000  CPU: 1    COMMAND: \"swapper/1\"
 #0 [ffff80008000bd90] crash_save_cpu at ffffd236adcf1dc8
--- <IRQ stack> ---
 #1 [ffff8000800c3c90] call_on_irq_stack at ffffd236adc15dcc

PID: 149      TASK: ffff000000dec380  CPU: 2    COMMAND: \"sh\"
 #0 [ffff80008034bcc0] lkdtm_HARDLOCKUP at ffffd236adf6f5fc
#10 [ffff80008034be30] invoke_syscall.constprop.0 at ffffd236adc237d0
     PC: 000000000041e5c0   LR: 000000000041e5e0   SP: 0000fffff1f5e0b0

PID: 147      TASK: ffff000001588d80  CPU: 3    COMMAND: \"sh\"
";
        assert_eq!(field(said, "RELEASE"), Some("7.3.4"));
        assert_eq!(field(said, "PANIC"), None);
        let expected = [
            (1, vec!["crash_save_cpu", "call_on_irq_stack"]),
            (2, vec!["lkdtm_HARDLOCKUP", "invoke_syscall"]),
            // As crash shows a CPU that is not in the dump.
            (3, vec![]),
        ];
        assert_eq!(stacks(said), expected);
    }
}
