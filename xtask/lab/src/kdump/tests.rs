use clap::{Parser, ValueEnum};
use hv_bundle::parse_crashkernel;

use super::checks::check_backtraces;
use super::*;
use crate::evidence::HvRecords;
use crate::evidence::tests::{LOG, drain, story};
use crate::ladder::Ladder;
use crate::ladder::tests::records;
use crate::outside::tests::outside;
use crate::stood::Stood;
use crate::verdict::WEDGE_FUNCTION;
use crate::verdict::tests::{judge_run, notes};
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
        lines: log
            .lines()
            .filter(|line| matters(line))
            .map(str::to_owned)
            .collect(),
        tail: vec!["last words".into()],
        stood: None,
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
fn panic_notifiers_come_between_the_stop_and_the_crash_kernel() {
    let said = fault(Scenario::PostNotifiers, &seen(LOG, Ending::PowerOff));
    assert!(
        said.starts_with("no panic notifier said anything"),
        "{said}"
    );
    let notified = |after: &str| {
        let line = format!("[    8.702000] Kernel Offset: 0x1000 from 0x2000\n{after}");
        let log = LOG.replace(after, &line);
        check_run(
            &plan(Scenario::PostNotifiers),
            &seen(&log, Ending::PowerOff),
        )
    };
    assert!(notified("[    8.705751] Starting").is_ok());
    let log = LOG.replace(
        "[    6.567454] SMP",
        "[    6.0] Kernel Offset: disabled\n[    6.567454] SMP",
    );
    let log = log.replace("[    6.0]", "[    6.000000]");
    let said = fault(Scenario::PostNotifiers, &seen(&log, Ending::PowerOff));
    assert!(
        said.contains("between the stop and the crash kernel"),
        "{said}"
    );
}

#[test]
fn a_panic_in_a_handler_is_one_that_the_hypervisor_has_begun_and_seen_left() {
    let log = LOG
        .replace("LAB: panic cpu=0", "LAB: waits cpu=0")
        .replace("sysrq triggered crash", "dumptest");
    let mut seen = seen(&log, Ending::PowerOff);
    let said = fault(Scenario::PanicInHandler, &seen);
    assert!(said.contains("took no event 0x100"), "{said}");
    let dispatched = "@trace vm=0 vcpu=0 t=7000000 event=sdei-dispatch a=0x100 b=0x0";
    seen.drain = drain(&[dispatched.to_owned(), "@end vm=0".to_owned()]);
    let said = fault(Scenario::PanicInHandler, &seen);
    assert!(said.contains("has not left the handler"), "{said}");
    let left = "@trace vm=0 vcpu=0 t=9000000 event=sdei-resume a=0x0 b=0x0";
    seen.drain = drain(&[dispatched, left, "@end vm=0"].map(str::to_owned));
    assert!(check_run(&plan(Scenario::PanicInHandler), &seen).is_ok());
    seen.story.panicked = Some(1);
    let said = fault(Scenario::PanicInHandler, &seen);
    assert!(said.contains("but CPU 1 panicked, for: dumptest"), "{said}");
}

#[test]
fn a_panic_in_a_panic_leaves_a_cpu_that_stands_still() {
    let log = LOG.split("[    8.700455]").next().unwrap();
    let serror = "[    7.0] SError Interrupt on CPU0, code 0x00000000bf484c47 -- SError";
    let mut seen = seen(&format!("{log}{serror}"), Ending::Gone);
    let said = fault(Scenario::NestedPanic, &seen);
    assert!(said.starts_with("nobody looked"), "{said}");
    let frames = ["arm64_serror_panic+0x78", "do_serror+0x60"];
    seen.story.outside = [(0, outside(1, &frames))].into();
    assert!(check_run(&plan(Scenario::NestedPanic), &seen).is_ok());
    seen.story.outside = [(0, outside(1, &["cpu_do_idle+0x8"]))].into();
    let said = fault(Scenario::NestedPanic, &seen);
    assert!(said.contains("but is in [\"cpu_do_idle"), "{said}");
    seen.story.serror = None;
    let said = fault(Scenario::NestedPanic, &seen);
    assert!(said.contains("the guest's log has none of it"), "{said}");
}

#[test]
fn without_a_dump_the_hypervisor_is_the_witness() {
    let said = |scenario, log: &str, lines: &[String]| {
        let mut seen = seen(log, Ending::PowerOff);
        seen.drain = drain(lines);
        seen.drain.complete = true;
        check_run(&plan(scenario), &seen).map_err(|error| error.to_string())
    };
    let taken = |time: u32| {
        let line =
            move |cpu| format!("@trace vm=0 vcpu={cpu} t={time} event=sdei-dispatch a=0x0 b=0x0");
        (0..4).map(line).collect::<Vec<_>>()
    };
    let off = "LAB: up\nLAB: hotplug changes=8\nLAB: done";
    assert!(said(Scenario::Hotplug, off, &taken(5)).is_ok());
    let error = said(Scenario::Hotplug, off, &taken(5)[..3]).unwrap_err();
    assert!(error.starts_with("CPUs 3 took no event 0"), "{error}");
    let slept = "LAB: up\nLAB: sleep\nLAB: awake\nLAB: done";
    let call = "@trace vm=0 vcpu=0 t=6 event=system-suspend a=0x0 b=0x0".to_owned();
    let with = |time| [vec![call.clone()], taken(time)].concat();
    assert!(said(Scenario::Suspend, slept, &with(7)).is_ok());
    let error = said(Scenario::Suspend, slept, &with(5)).unwrap_err();
    assert!(error.starts_with("CPUs 0-3 took no event 0"), "{error}");
    let error = said(Scenario::Suspend, slept, &taken(7)).unwrap_err();
    assert!(error.contains("SYSTEM_SUSPEND"), "{error}");
    let once = said(Scenario::Kexec, "LAB: up\nLAB: done", &[]).unwrap_err();
    assert!(once.contains("came up 1 times"), "{once}");
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
    report.command = Some("qemu -x".into());
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

#[test]
fn a_report_for_programs_is_as_its_schema_says() {
    use super::document::{Document, KernelId};
    use crate::results::{About, Outcome};
    use machine::el3::El3;

    let check = |value: &serde_json::Value| report_schema::check("document", value).unwrap();
    let judged = |log: &str| {
        let records = records();
        let verdict = judge_run(log, &records, &notes());
        let ladder = Ladder::of(4, &story(log), &drain(&records));
        Ok(Some(super::report::Judged {
            format: "kdump-compressed",
            bytes: 29_135_092,
            release: "7.3.4".to_owned(),
            ladder,
            verdict,
            capture: None,
        }))
    };
    let image = b"Linux version 7.3.4 (me)";
    let about = About::now(Board::Virt, El3::None);
    let mut document = Document::new(about, KernelId::of(image, None));
    let found = "LAB: cpu 1 online=no\nLAB: cpu 2 online=yes task=yes timer=3 ipi=1 event0=no\n";
    let log = LOG.replace("LAB: done", &format!("{found}LAB: done"));
    let good = Report::of(
        &plan(Scenario::Kdump),
        seen(&log, Ending::PowerOff),
        judged(LOG),
    );
    assert!(good.passed, "{:?}", good.faults);
    document.push(&good).unwrap();
    let case = document.case(&good, 2).unwrap();
    assert_eq!(
        (&*case.name, case.outcome),
        ("kdump/kdump/1", Outcome::Passed)
    );
    check(&case.report.unwrap());
    let mut records = records();
    records.push("@end vm=0".to_owned());
    let mut again = seen("LAB: up\nLAB: up\nLAB: done", Ending::PowerOff);
    again.drain = drain(&records);
    let restarted = Report::of(&plan(Scenario::Reboot), again, Ok(None));
    assert!(restarted.restart.is_some() && !restarted.passed);
    document.push(&restarted).unwrap();
    let error = anyhow::anyhow!("the time was over");
    let mut late = seen("", Ending::TimedOut);
    late.stood = Some(vec![Stood {
        cpu: 1,
        pc: Some(0x4000),
        ..Stood::default()
    }]);
    let bad = Report::of(&plan(Scenario::Nmi), late, Err(error));
    assert!(bad.text().contains("when the time was over:\n  CPU 1"));
    document.push(&bad).unwrap();
    let case = document.case(&bad, 2).unwrap();
    assert_eq!(
        (&*case.name, case.outcome),
        ("kdump/nmi/3", Outcome::Failed)
    );
    assert_eq!(case.details, ["the time was over"]);
    let json = serde_json::to_value(&document).unwrap();
    check(&json);
    assert_eq!(json["passed"], false);
    assert_eq!(json["kernel"]["release"], "7.3.4");
    assert!(json["kernel"]["build_id"].is_null());
    assert_eq!(json["runs"].as_array().unwrap().len(), 3);
    let cpus = &json["runs"][0]["dump"]["verdict"]["cpus"];
    assert_eq!(cpus[2]["equal"], 34);
    assert!(cpus[0]["equal"].is_null());
    // It can be read back.
    let read = crate::document::Document::of(json.clone()).unwrap();
    let cpus = read.runs[0].cpus();
    assert_eq!(
        (cpus.len(), cpus[2].equal, &*cpus[2].stopped.how),
        (4, Some(34), "sdei")
    );
    assert_eq!(read.runs[0].lines.as_ref().unwrap().len(), good.lines.len());
    assert_eq!(read.runs[2].ending.as_deref(), Some("timed-out"));
    // What was not measured is null, and not 0.
    let revived = &json["runs"][0]["story"]["revived"];
    assert!(revived[0]["timer"].is_null() && revived[1]["timer"] == 3);
    assert!(json["runs"][0]["command"].is_null());
}

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    kdump: Kdump,
}

/// What a command line plans, or how it is refused.
fn planned(words: &[&str]) -> Result<Plan> {
    let words = ["kdump"].iter().chain(words);
    let kdump = CommandLine::try_parse_from(words)?.kdump;
    let plan = kdump.plan();
    kdump.check(&plan, 0)?;
    Ok(plan)
}

fn names<T: ValueEnum>() -> Vec<String> {
    let values = T::value_variants().iter();
    let values = values.filter_map(ValueEnum::to_possible_value);
    values.map(|value| value.get_name().to_owned()).collect()
}

#[test]
fn the_oracle_is_planned_or_refused_with_each_scenario_ending_firmware_and_machine() {
    let endings = names::<Fate>()
        .into_iter()
        .map(|name| ["--ending".into(), name]);
    let endings: Vec<Vec<String>> = endings.map(Vec::from).collect();
    let reclaim = vec!["--reclaim".to_owned()];
    let endings = [vec![vec![], reclaim], endings].concat();
    let dumps = Scenario::value_variants().iter();
    let dumps = dumps.filter(|scenario| scenario.dumps());
    let scenarios_that_dump: Vec<_> = dumps.map(|scenario| scenario.name().to_owned()).collect();
    let (mut plans, mut refusals) = (0, 0);
    for machine in names::<Board>() {
        for scenario in names::<Scenario>() {
            for ending in &endings {
                for firmware in ["spec", "tfa-2.12", "tfa-2.13", "absent", "signal-lost=1"] {
                    let mut words = vec!["--oracle", "--machine", &machine];
                    words.extend(["--scenario", &scenario, "--firmware", firmware]);
                    words.extend(ending.iter().map(String::as_str));
                    let is_assisted = scenario == "assisted";
                    let dumps = scenarios_that_dump.contains(&scenario);
                    let is_refused = !dumps
                        || machine == "raspi4b" && !is_assisted
                        || !ending.is_empty() && (is_assisted || firmware == "absent");
                    match planned(&words) {
                        Ok(plan) => {
                            assert!(!is_refused, "{words:?}");
                            plans += 1;
                            assert!(plan.oracle);
                            let place = plan.crashkernel();
                            assert_eq!(place.is_none(), is_assisted, "{words:?}");
                            let Some(place) = place else {
                                assert!(plan.capture().is_some());
                                continue;
                            };
                            assert!(parse_crashkernel(&place).is_ok(), "{place}");
                            let word = format!(" crashkernel={place} ");
                            assert!(plan.bootargs().contains(&word), "{}", plan.bootargs());
                        }
                        Err(error) => {
                            let said = error.to_string();
                            assert!(is_refused, "{words:?}: {said}");
                            refusals += 1;
                            // With what can be done instead.
                            let has_mend = said.contains("leave ") || said.contains("choose ");
                            assert!(has_mend, "{words:?}: {said}");
                        }
                    }
                }
            }
        }
    }
    assert!(plans > 100 && refusals > 100, "{plans}, {refusals}");
}

#[test]
fn pseudo_nmis_need_a_gicv3_and_sleep_a_clock() {
    let plan = planned(&["--pseudo-nmi"]).unwrap();
    assert!(plan.bootargs().ends_with(" irqchip.gicv3_pseudo_nmi=1"));
    let refused = |words: &[&str]| planned(words).unwrap_err().to_string();
    let said = refused(&["--pseudo-nmi", "--stock", "debian-13"]);
    assert!(said.contains("leave --pseudo-nmi or --stock out"), "{said}");
    let said = refused(&["--pseudo-nmi", "--machine", "virt-gicv2"]);
    assert!(said.contains("need a GICv3"), "{said}");
    let said = refused(&["--scenario", "suspend", "--machine", "raspi4b"]);
    assert!(said.contains("no clock that wakes it"), "{said}");
}

#[test]
fn a_guest_that_the_hypervisor_dumps_is_alone() {
    let error = planned(&["--scenario", "assisted", "--beside", "x.toml"]).unwrap_err();
    assert!(error.to_string().contains("leave --beside out"), "{error}");
    for words in [["--scenario", "panic-in-handler"], ["--place", "interrupt"]] {
        let words = [&words[..], &["--beside", "x.toml"]].concat();
        let error = planned(&words).unwrap_err().to_string();
        assert!(error.contains("for a guest alone"), "{error}");
    }
    let stock = planned(&["--scenario", "assisted", "--stock", "debian-13"]).unwrap();
    assert!(stock.is_masked() && stock.capture().unwrap().memory > crate::plan::HELD);
    let card = ["--stock", "debian-13", "--machine", "raspi4b"];
    planned(&card).unwrap();
    let nobodys = planned(&["--capture-kernel", "ours"]).unwrap_err();
    assert!(
        nobodys.to_string().contains("--scenario assisted only"),
        "{nobodys}"
    );
    let alone = planned(&["--scenario", "assisted", "--cpus", "8"]).unwrap();
    assert_eq!(alone.wedge.iter().count(), 8);
}

#[test]
fn how_a_dump_is_saved_is_for_scenarios_that_have_one() {
    for option in [
        "--dump-level=1",
        "--makedumpfile=m",
        "--makedumpfile-version=1.7.2",
    ] {
        planned(&["--scenario=nmi", option]).unwrap();
        for scenario in ["--scenario=reboot", "--scenario=sysrq-l"] {
            let error = planned(&[scenario, option]).unwrap_err().to_string();
            assert!(
                error.contains("leave --dump-level, --makedumpfile"),
                "{error}"
            );
        }
    }
}
