use serde_json::{Value, json};

use super::*;

/// A document with all that a page can show.
fn full() -> Value {
    let cpu = |number: u32, stopped: Value| {
        json!({
            "cpu": number, "wedged": number == 1, "stopped": stopped, "stood_in": "lkdtm_HARDLOCKUP+0x4",
            "registers": {"x10": "0xa", "x2": "0x2", "pc": "0xffff", "pstate": "0x80"},
            "outside": {"frames": ["lkdtm_HARDLOCKUP+0x4", "el0t_64_sync"]}, "equal": 4, "faults": ["has x2 0x2, recorded 0x3"]
        })
    };
    let stopped = [
        json!("panicked"),
        json!({"sdei": {"after_us": 949}}),
        json!({"ipi": {"after_us": null}}),
    ];
    let bad = |pages| json!({"pages": pages, "first": [{"address": 4096, "belongs": "slab kmalloc-64", "written_by": ["CPU 1 in f+0x4"]}]});
    let run = json!({
        "passed": false, "faults": ["CPU 1 has x2 0x2, recorded 0x3"], "seconds": 21.4, "ending": "power-off",
        "plan": {"scenario": "kdump", "cpus": 3, "wedge": [1], "place": "el1"},
        "dump": {
            "format": "kdump-compressed", "bytes": 29_135_092, "release": "7.3.4",
            "ladder": {"ipi_us": 1_609_860, "sdei_us": 5741, "stopped": stopped},
            "verdict": {"cpus": [cpu(0, stopped[0].clone()), cpu(1, stopped[1].clone()), cpu(2, stopped[2].clone())]}
        },
        "oracle": {"report": {
            "classes": [{"class": "equal", "pages": 9, "bytes": 36_864}, {"class": "absent and excludable", "reason": "free", "pages": 1, "bytes": 4096}],
            "different": bad(1), "missing": bad(0)
        }},
        "story": {"is_up": true, "panic": "sysrq triggered crash", "backtraces": [[1, "lkdtm_HARDLOCKUP+0x4/0x10"]]},
        "lines": ["LAB: up kernel=7.3.4", "SMP: retry stop with SDEI NMI for CPUs 1"],
        "console": ["the last words"], "command": "qemu", "folder": "/tmp/x", "next": ["drgn -c vmcore"]
    });
    json!({
        "schema": 1,
        "about": {"version": "0.1.0", "git": "0123", "qemu": "10.0.2", "machine": "virt", "el3": "none", "date": "2026-11-30T09:00:00Z"},
        "kernel": {"release": "7.3.4", "build_id": "feed"},
        "passed": false,
        "runs": [run.clone(), run]
    })
}

fn page(value: Value) -> String {
    report(&Document::of(value).unwrap())
}

#[test]
fn all_that_was_found_is_on_the_page() {
    let page = page(full());
    for part in [
        "<!DOCTYPE html>",
        "kdump/kdump of Linux 7.3.4",
        "0 of 2 runs passed",
        "id=\"about\"",
        "id=\"ladder\"",
        "id=\"run-2-ladder\"",
        "1609.860 ms",
        "SDEI after 0.949 ms",
        "IPI, not measurable",
        "id=\"cpu-1\"",
        "id=\"run-2-cpu-1\"",
        "4 of 4 registers as recorded",
        "id=\"backtraces\"",
        "lkdtm_HARDLOCKUP+0x4/0x10",
        "absent and excludable: free",
        "0x1000",
        "written to by CPU 1 in f+0x4",
        "id=\"console-2\"",
        "href=\"#console-2\"",
        "the last words",
        "drgn -c vmcore",
        "sysrq triggered crash",
    ] {
        assert!(page.contains(part), "{part}:\n{page}");
    }
    let place = |part: &str| page.find(part).unwrap();
    assert!(place("<b>x2</b>") < place("<b>x10</b>") && place("<b>x10</b>") < place("<b>pc</b>"));
}

#[test]
fn each_anchor_is_there_once_and_each_link_leads_to_one() {
    let page = page(full());
    let all = |mark: &str| -> Vec<&str> {
        let parts = page.split(mark).skip(1);
        parts.filter_map(|part| part.split('"').next()).collect()
    };
    let (mut ids, links) = (all(" id=\""), all(" href=\"#"));
    assert!(ids.len() > 20 && links.len() > 8);
    for link in links {
        assert!(ids.contains(&link), "{link}");
    }
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn a_page_needs_nothing_else() {
    let page = page(full());
    for part in [
        "http:", "https:", "src=", "url(", "@import", "<script", "<link",
    ] {
        assert!(!page.contains(part), "{part}");
    }
}

const HOSTILE: &str = "</style></title><script>alert(1)</script>\"'&\u{1b}[31m\u{0}<img onerror=x>";

/// Puts that in place of each string, but where the document says what it is.
fn spoil(value: &mut Value) {
    match value {
        Value::String(text) => *text = format!("{text}{HOSTILE}"),
        Value::Array(items) => items.iter_mut().for_each(spoil),
        Value::Object(map) => {
            map.values_mut().for_each(spoil);
            if let Some(registers) = map.get_mut("registers").and_then(Value::as_object_mut) {
                registers.insert(HOSTILE.to_owned(), HOSTILE.into());
            }
        }
        _ => {}
    }
}

#[test]
fn whatever_a_guest_says_is_text() {
    let mut value = full();
    spoil(&mut value);
    value["runs"][0]["dump"]["ladder"]["stopped"][1] = json!({HOSTILE: {"after_us": 1}});
    value["runs"][0]["dump"]["verdict"]["cpus"][1]["stopped"] = json!({HOSTILE: {"after_us": 1}});
    value["runs"][0]["dump"]["ladder"][format!("{HOSTILE}_us")] = 7.into();
    let page = page(value);
    for part in ["<script", "<img", "\u{1b}", "\u{0}"] {
        assert!(!page.contains(part), "{part:?}");
    }
    assert_eq!(page.matches("</style>").count(), 1);
    assert_eq!(
        page.matches("</title>").count(),
        1 + page.matches("<svg").count()
    );
    assert!(page.contains("&lt;script&gt;"));
}

#[test]
fn a_run_without_a_dump_has_its_faults_and_its_console() {
    let mut value = full();
    for part in ["dump", "oracle", "lines"] {
        value["runs"][0][part] = Value::Null;
    }
    value["runs"].as_array_mut().unwrap().truncate(1);
    let page = page(value);
    assert!(page.contains("There is no dump to be judged"));
    assert!(page.contains("id=\"last-1\"") && !page.contains("id=\"ladder\""));
    assert!(!page.contains("id=\"runs\""));
}

#[test]
fn a_restart_has_its_ladder_and_a_time_out_where_each_cpu_stood() {
    let mut value = full();
    let run = &mut value["runs"][0];
    run["dump"] = Value::Null;
    run["restart"] = json!({
        "ladder": {"ipi_us": 1000, "sdei_us": 500, "stopped": ["restarted", {"sdei": {"after_us": 100}}]}, "capture": {}, "faults": []
    });
    run["stood"] = json!([
        {"cpu": 0, "state": "on", "pc": "0x1234", "pstate": "0x3c5", "place": "panic+0x4"},
        {"cpu": 1, "state": null, "pc": null, "pstate": null, "place": null}
    ]);
    let page = page(value);
    for part in [
        "CPU 0: restarted the machine",
        "CPU 1: SDEI after 0.100 ms",
        "id=\"stood\"",
        "CPU 0: on <code>panic+0x4</code>",
        "CPU 1: no answer",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // There is nothing more of a CPU that a link could lead to.
    assert!(!page.contains("href=\"#cpu-0\""));
}
