use super::checks::check_backtraces;
use super::*;
use crate::evidence::HvRecords;
use crate::evidence::tests::{LOG, story};
use crate::verdict::WEDGE_FUNCTION;
use crate::watch::GuestRun;
use machine::ending::Ending;

pub fn plan(scenario: Scenario) -> Plan {
    Plan {
        wedge: "2".parse().unwrap(),
        ..Plan::new(scenario, 4)
    }
}

pub fn seen(log: &str, ending: Ending) -> GuestRun {
    GuestRun {
        story: story(log),
        drain: HvRecords {
            complete: true,
            ..HvRecords::default()
        },
        ending,
        elapsed: Duration::from_secs(30),
        tail: vec!["last words".into()],
    }
}

fn fault(scenario: Scenario, seen: &GuestRun) -> String {
    check_run(&plan(scenario), seen).unwrap_err().to_string()
}

#[test]
fn a_run_that_went_to_its_end_is_judged() {
    assert!(check_run(&plan(Scenario::Kdump), &seen(LOG, Ending::PowerOff)).is_ok());
}

#[test]
fn how_far_a_run_came_is_said() {
    let until = |mark: &str| LOG.split(mark).next().unwrap().to_owned();
    let said = |log: &str| fault(Scenario::Kdump, &seen(log, Ending::TimedOut));
    assert!(said("").ends_with("no CPU was wedged"));
    assert!(said(&until("LAB: panic")).ends_with("nothing came of it"));
    assert!(said(&until("LAB: capture")).contains("no capture kernel came up"));
    assert!(said(&until("LAB: done")).contains("did not finish"));
}

#[test]
fn a_crash_or_the_guests_own_failure_is_the_fault() {
    let crash = Ending::HypervisorCrash("pCPU 1: panic".into());
    assert!(fault(Scenario::Kdump, &seen(LOG, crash)).contains("pCPU 1: panic"));
    let log = LOG.replace("LAB: done", "LAB: fail there is no disk");
    let said = fault(Scenario::Kdump, &seen(&log, Ending::PowerOff));
    assert_eq!(said, "the guest gave up: there is no disk");
}

#[test]
fn a_dump_without_the_hypervisors_records_proves_nothing() {
    let mut seen = seen(LOG, Ending::PowerOff);
    seen.drain.complete = false;
    assert!(fault(Scenario::Kdump, &seen).contains("records"));
}

#[test]
fn a_panic_by_hand_is_no_hard_lockup() {
    let said = fault(Scenario::Hardlockup, &seen(LOG, Ending::PowerOff));
    assert!(said.ends_with("sysrq triggered crash"), "{said}");
    let log = LOG.replace("sysrq triggered crash", "Hard LOCKUP");
    assert!(check_run(&plan(Scenario::Hardlockup), &seen(&log, Ending::PowerOff)).is_ok());
}

#[test]
fn a_backtrace_must_be_of_the_wedge() {
    let plan = plan(Scenario::SysrqL);
    let log = "LAB: wedged cpu=2\n[    5.0] NMI backtrace for cpu 2\n[    5.1] pc : PLACE+0x4/0x10";
    let check = |place| check_backtraces(&plan, &story(&log.replace("PLACE", place)));
    assert!(check(WEDGE_FUNCTION).is_ok());
    let error = check("cpu_do_idle").unwrap_err().to_string();
    assert!(error.contains("cpu_do_idle+0x4"), "{error}");
    let error = check_backtraces(&plan, &story("LAB: wedged cpu=2")).unwrap_err();
    assert!(error.to_string().contains("no backtrace of CPU 2"));
}

#[test]
fn a_failure_is_reported_with_its_console_and_its_command() {
    let judged = Err(anyhow::anyhow!("the guest gave up: no disk"));
    let seen = seen("", Ending::PowerOff);
    let mut report = Report::of(&plan(Scenario::Kdump), seen, judged);
    report.command = "qemu -x".into();
    assert!(!report.passed);
    let text = report.text();
    for part in [
        "| last words",
        "FAILED: the guest gave up: no disk",
        "QEMU was: qemu -x",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_kernel_that_is_not_there_is_what_is_missing() {
    let error = beside(Path::new("/nonexistent"), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no kernel /nonexistent; check the path"
    );
    let own = std::env::current_exe().unwrap();
    let error = beside(&own, Some(Path::new("/no/vmlinux")))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("there is no /no/vmlinux; say with --vmlinux"),
        "{error}"
    );
}

#[test]
fn of_a_log_out_of_a_dump_what_matters_is_what_would_on_the_console() {
    assert!(matters("LAB: wedged cpu=2"));
    assert!(matters(
        "LAB: log [    1.0] SMP: failed to stop secondary CPUs 1-3"
    ));
    assert!(matters("[    1.0] Kernel panic - not syncing"));
    assert!(!matters("LAB: log [    1.0]  vfs_read+0x238/0x330"));
    assert!(!matters("[    1.0]  vfs_read+0x238/0x330"));
}
