use serde_json::json;

use super::super::Comparison;
use super::*;

/// A document with a run in which SDEI stopped CPU 1 of 3, which was wedged, after `change`.
fn document(change: impl Fn(&mut Value)) -> Document {
    let cpu = |cpu: u32, stopped: Value, equal: Value| {
        json!({
            "cpu": cpu, "wedged": cpu == 1, "stopped": stopped, "stood_in": "f+0x4",
            "registers": {"pc": "0x1", "sp": "0x2", "x0": "0x3"}, "outside": null, "equal": equal, "faults": []
        })
    };
    let stopped = [
        json!("panicked"),
        json!({"sdei": {"after_us": 40}}),
        json!({"ipi": {"after_us": null}}),
    ];
    let mut value = json!({
        "schema": 1,
        "about": {"version": "0.1.0", "git": "1", "qemu": "10.0", "machine": "virt", "el3": "none", "date": ""},
        "kernel": {"release": "7.3.4", "build_id": "0123456789abcdef"},
        "passed": true,
        "runs": [{
            "passed": true, "faults": [], "seconds": 20.0, "ending": "power-off",
            "plan": {"scenario": "kdump", "cpus": 3, "wedge": [1], "place": "el1", "firmware": "spec"},
            "dump": {
                "format": "elf", "bytes": 1, "release": "7.3.4",
                "ladder": {"ipi_us": 1_600_000, "sdei_us": 5000, "stopped": stopped},
                "verdict": {"cpus": [
                    cpu(0, stopped[0].clone(), Value::Null),
                    cpu(1, stopped[1].clone(), 3.into()),
                    cpu(2, stopped[2].clone(), Value::Null)
                ]}
            },
            "oracle": {"report": {
                "classes": [{"class": "equal", "pages": 9, "bytes": 36_864}],
                "different": {"pages": 1, "first": []}, "missing": {"pages": 0, "first": []}
            }},
            "story": {"is_up": true, "panic": null},
            "lines": ["LAB: up", "[    7.5] SMP: retry stop with SDEI NMI for CPUs 1"]
        }]
    });
    change(&mut value);
    Document::of(value).unwrap()
}

fn usual() -> Document {
    document(|_| {})
}

fn compared(b: &Document) -> Comparison {
    Comparison::of(("a.json", &usual()), ("b.json", b), None).unwrap()
}

/// That this makes B worse by this alone, and the other way round better.
fn makes_worse(change: impl Fn(&mut Value), said: &str) {
    let b = document(change);
    let comparison = compared(&b);
    let worse = |comparison: &Comparison, weight: Weight| -> Vec<String> {
        let all = comparison
            .differences
            .iter()
            .filter(|it| it.weight == weight);
        all.map(|it| it.text.clone()).collect()
    };
    let told = worse(&comparison, Weight::Worse);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(said), "{told:?}");
    assert!(comparison.worse && comparison.to_string().ends_with("B is worse\n"));
    let other = Comparison::of(("b.json", &b), ("a.json", &usual()), None).unwrap();
    let better = worse(&other, Weight::Better);
    assert_eq!(better.len(), 1, "{better:?}");
}

const CPU: &str = "/runs/0/dump/verdict/cpus/1";

fn put(value: &mut Value, place: &str, new: Value) {
    *value.pointer_mut(place).unwrap() = new;
}

#[test]
fn a_result_is_no_worse_than_itself() {
    let comparison = compared(&usual());
    assert!(comparison.differences.is_empty() && !comparison.worse);
    assert_eq!(comparison.story, Some(Default::default()));
    let text = comparison.to_string();
    assert!(text.ends_with("\nB is no worse\n"), "{text}");
    assert!(text.contains("wedged, sdei, 3 of 3 registers"), "{text}");
    let json = serde_json::to_value(&comparison).unwrap();
    report_schema::check("comparison", &json).unwrap();
    // Without a dump and pages, too.
    let b = document(|b| {
        for part in ["dump", "oracle", "lines"] {
            b["runs"][0][part] = Value::Null;
        }
    });
    let json = serde_json::to_value(compared(&b)).unwrap();
    report_schema::check("comparison", &json).unwrap();
}

#[test]
fn each_thing_that_is_worse_is_told_and_the_other_way_round_better() {
    makes_worse(
        |b| put(b, "/runs/0/passed", false.into()),
        "B fails and A passes: of A 1 of 1 runs passed, of B 0 of 1 runs",
    );
    makes_worse(
        |b| {
            put(b, &format!("{CPU}/registers"), Value::Null);
            put(b, &format!("{CPU}/equal"), Value::Null);
        },
        "CPU 1 is missing from the dump of B",
    );
    makes_worse(
        |b| put(b, &format!("{CPU}/equal"), 2.into()),
        "registers of CPU 1 that are as recorded: 3 in A, 2 in B",
    );
    makes_worse(
        |b| put(b, &format!("{CPU}/equal"), Value::Null),
        "the registers of CPU 1 are not compared in B",
    );
    makes_worse(
        |b| put(b, "/runs/0/oracle/report/missing/pages", 4.into()),
        "bad pages: 1 in A, 5 in B",
    );
}

/// What makes the first worse than the second, or the other way round.
fn worse(a: &Document, b: &Document) -> Vec<String> {
    let comparison = Comparison::of(("a", a), ("b", b), None).unwrap();
    let all = comparison.differences.into_iter();
    let worse = all.filter(|it| it.weight == Weight::Worse);
    worse.map(|it| it.text).collect()
}

#[test]
fn a_rung_that_is_gone_or_new_is_worse() {
    let other = document(|b| {
        let stopped = json!({"pseudo-nmi": {"after_us": 3}});
        put(b, "/runs/0/dump/verdict/cpus/2/stopped", stopped);
        b["runs"][0]["dump"]["ladder"]["pseudo_nmi_us"] = 5.into();
    });
    let told = worse(&usual(), &other);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("the rung ipi is gone"), "{told:?}");
    assert!(
        told[1].starts_with("the rung pseudo-nmi is needed"),
        "{told:?}"
    );
    assert_eq!(worse(&other, &usual()).len(), 2);
}

#[test]
fn a_rung_that_stops_what_nothing_stopped_before_is_no_worse() {
    let running = document(|a| put(a, &format!("{CPU}/stopped"), "not".into()));
    assert!(worse(&running, &usual()).is_empty());
    let told = worse(&usual(), &running);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("CPU 1 is not stopped in B"), "{told:?}");
    assert!(told[1].starts_with("the rung sdei is gone"), "{told:?}");
}

#[test]
fn without_a_dump_each_cpu_is_missing() {
    let b = document(|b| {
        put(b, "/runs/0/passed", false.into());
        put(b, "/runs/0/dump", Value::Null);
    });
    let comparison = compared(&b);
    let told: Vec<&str> = comparison
        .differences
        .iter()
        .map(|it| it.text.as_str())
        .collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(told[3].starts_with("CPU 2 is missing from the dump of B"));
}

#[test]
fn times_make_nothing_worse_unless_it_is_asked_for() {
    let b = document(|b| put(b, "/runs/0/dump/ladder/sdei_us", 8000.into()));
    assert!(!compared(&b).worse);
    let with = |slower| Comparison::of(("a", &usual()), ("b", &b), Some(slower)).unwrap();
    assert!(!with(60).worse);
    let comparison = with(59);
    assert!(comparison.worse);
    assert!(
        comparison
            .to_string()
            .contains("takes 8.000 ms (median) in B, more than 59 % longer than 5.000 ms")
    );
    // A rung that was not climbed has no time.
    let b = document(|b| put(b, "/runs/0/dump/ladder/sdei_us", Value::Null));
    assert!(
        !Comparison::of(("a", &usual()), ("b", &b), Some(1))
            .unwrap()
            .worse
    );
}

#[test]
fn results_of_two_jobs_are_refused_by_what_is_not_the_same() {
    for (place, new, said) in [
        (
            "/runs/0/plan/scenario",
            json!("nmi"),
            "the scenario of A is kdump, and of B nmi",
        ),
        (
            "/runs/0/plan/cpus",
            json!(4),
            "the number of CPUs of A is 3, and of B 4",
        ),
        (
            "/runs/0/plan/wedge",
            json!([]),
            "the wedged CPUs of A is 1, and of B none",
        ),
        (
            "/runs/0/plan/place",
            json!("el0"),
            "the place of CPUs of A is el1, and of B el0",
        ),
    ] {
        let b = document(|b| put(b, place, new.clone()));
        let error = Comparison::of(("a", &usual()), ("b", &b), None).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(said) && error.contains("behind --"),
            "{error}"
        );
    }
}

#[test]
fn what_else_was_not_the_same_is_told_and_makes_nothing_worse() {
    let b = document(|b| {
        put(b, "/runs/0/plan/firmware", "tfa-2.12".into());
        put(b, "/about/machine", "virt-gicv2".into());
    });
    let comparison = compared(&b);
    assert!(!comparison.worse);
    let text = comparison.to_string();
    assert!(
        text.contains("firmware is spec in A and tfa-2.12 in B"),
        "{text}"
    );
    assert!(
        text.contains("machine is virt in A and virt-gicv2 in B"),
        "{text}"
    );
}

#[test]
fn a_report_without_lines_is_compared_in_all_else() {
    let b = document(|b| put(b, "/runs/0/lines", Value::Null));
    let comparison = compared(&b);
    assert!(comparison.story.is_none() && !comparison.worse);
    assert!(
        comparison
            .to_string()
            .contains("The console is not compared")
    );
}

#[test]
fn a_line_that_only_one_has_is_shown_as_it_was_said() {
    let b = document(|b| {
        put(
            b,
            "/runs/0/lines",
            json!(["LAB: up", "[    9.0] SMP: failed to stop secondary CPUs 1"]),
        )
    });
    let text = compared(&b).to_string();
    assert!(
        text.contains("only A  | [    7.5] SMP: retry stop with SDEI NMI for CPUs 1"),
        "{text}"
    );
    assert!(
        text.contains("only B  | [    9.0] SMP: failed to stop"),
        "{text}"
    );
}
