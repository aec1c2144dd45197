use super::*;

mod xml;

fn about() -> About {
    About {
        version: "0.1.0".into(),
        git: Some("0123456789ab-dirty".into()),
        qemu: None,
        machine: Some("virt"),
        el3: Some("none"),
        date: "2026-11-30T09:00:00Z".into(),
    }
}

fn case(name: &str, outcome: Outcome, remark: Option<&str>, details: &[&str]) -> Case {
    Case {
        name: name.into(),
        outcome,
        time: (outcome != Outcome::Skipped).then_some(Duration::from_millis(1234)),
        remark: remark.map(str::to_owned),
        details: details.iter().map(|&line| line.to_owned()).collect(),
        report: None,
    }
}

fn written(format: Format) -> String {
    let mut out = Vec::new();
    let mut results = Results::begin(format, about(), &mut out).unwrap();
    results.note("LAB: up <kernel>=7.3").unwrap();
    let cases = [
        case("guest/one", Outcome::Passed, Some("3 boots"), &[]),
        case(
            "linux/two#2",
            Outcome::Failed,
            None,
            &[
                "CPU 2 is \"missing\" & gone\u{1b}[0m",
                "ok 7 <not a result>",
            ],
        ),
        case("gdb", Outcome::Skipped, Some("there is no gdb"), &[]),
    ];
    for case in cases {
        results.case(case).unwrap();
    }
    let count = results.end().unwrap();
    assert_eq!((count.passed, count.failed, count.skipped), (1, 1, 1));
    String::from_utf8(out).unwrap()
}

#[test]
fn people_get_a_line_each_and_what_is_wrong_below() {
    assert_eq!(
        written(Format::Human),
        "  | LAB: up <kernel>=7.3\n\
         \u{1b}[32mok    \u{1b}[0m    1.2 s  guest/one: 3 boots\n\
         \u{1b}[31mFAILED\u{1b}[0m    1.2 s  linux/two#2\n\
         \x20       CPU 2 is \"missing\" & gone\u{1b}[0m\n\
         \x20       ok 7 <not a result>\n\
         \u{1b}[33m-     \u{1b}[0m    0.0 s  gdb: there is no gdb\n\
         \u{1b}[31m1 passed, 1 failed\u{1b}[0m\n"
    );
}

#[test]
fn ktap_has_its_diagnostics_before_each_result_and_no_plan() {
    assert_eq!(
        written(Format::Ktap),
        "KTAP version 1\n# halligan: 0.1.0\n# git: 0123456789ab-dirty\n# machine: virt\n# el3: none\n\
         # date: 2026-11-30T09:00:00Z\n# LAB: up <kernel>=7.3\n# 1.2 s 3 boots\nok 1 guest/one\n# 1.2 s\n\
         # CPU 2 is \"missing\" & gone [0m\n# ok 7 <not a result>\nnot ok 2 linux/two_2\n\
         ok 3 gdb # SKIP there is no gdb\n# Totals: pass:1 fail:1 skip:1 total:3\n"
    );
}

#[test]
fn junit_is_well_formed_and_has_what_its_schema_requires() {
    let text = written(Format::Junit);
    let root = xml::parse(&text).unwrap();
    assert_eq!(root.name, "testsuites");
    let suite = &root.children[0];
    for name in [
        "id",
        "package",
        "name",
        "hostname",
        "timestamp",
        "tests",
        "failures",
        "errors",
        "time",
    ] {
        assert!(suite.attributes.contains_key(name), "{name}: {suite:?}");
    }
    assert_eq!(suite.attributes["timestamp"], "2026-11-30T09:00:00");
    assert_eq!(suite.attributes["tests"], "3");
    assert_eq!(suite.attributes["failures"], "1");
    let order: Vec<&str> = suite.children.iter().map(|child| &*child.name).collect();
    assert_eq!(
        order,
        [
            "properties",
            "testcase",
            "testcase",
            "testcase",
            "system-out",
            "system-err"
        ]
    );
    for case in &suite.children[1..4] {
        for name in ["name", "classname", "time"] {
            assert!(case.attributes.contains_key(name), "{name}: {case:?}");
        }
    }
    let failed = &suite.children[2].children[0];
    assert_eq!(failed.name, "failure");
    assert!(failed.attributes.contains_key("type"));
    assert_eq!(
        failed.text,
        "CPU 2 is \"missing\" & gone\u{fffd}[0m\nok 7 <not a result>"
    );
    assert_eq!(suite.children[3].children[0].name, "skipped");
}

#[test]
fn a_document_of_what_was_not_run_took_no_time() {
    let mut out = Vec::new();
    let mut results = Results::begin(Format::Junit, about(), &mut out).unwrap();
    let case = case("gdb", Outcome::Skipped, Some("there is no gdb"), &[]);
    results.case(case).unwrap();
    results.end().unwrap();
    let root = xml::parse(&String::from_utf8(out).unwrap()).unwrap();
    assert_eq!(root.children[0].attributes["time"], "0.000");
}

#[test]
fn the_check_of_xml_finds_what_is_wrong() {
    for wrong in [
        "<a>",
        "<a></b>",
        "<a b=c/>",
        "<a b=\"1\" b=\"2\"/>",
        "<a>&</a>",
        "<a/><b/>",
        "<a>\u{1b}</a>",
        "<a b=\"<\"/>",
    ] {
        assert!(xml::parse(wrong).is_err(), "{wrong}");
    }
    assert!(xml::parse("<?xml version=\"1.0\"?>\n<a b=\"&lt;\"><c/>&amp;</a>\n").is_ok());
}

#[test]
fn each_json_line_is_as_the_schema_says() {
    let text = written(Format::JsonLines);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let events: Vec<&str> = lines
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        events,
        ["begin", "console", "result", "result", "result", "end"]
    );
    for line in &lines {
        report_schema::check("line", line).unwrap();
    }
    assert_eq!(lines[0]["schema"], SCHEMA);
    assert!(lines[0]["about"]["qemu"].is_null());
    assert!(lines[4]["seconds"].is_null());
}
