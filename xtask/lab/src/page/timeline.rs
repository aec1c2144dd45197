//! The stop ladder as a timeline: a line for each CPU, from when the kernel begins to stop others to when it leaves them.

use maud::{Markup, html};

use super::printable;
use crate::document::{Ladder, Rung, Stopped};

/// One rung's part of the line. Each is as wide as the others, however long it took: one takes a second, and the next milliseconds.
#[derive(Clone, Debug, PartialEq)]
struct Part<'a> {
    rung: &'a Rung,
    /// In percent of the line.
    from: f64,
    width: f64,
    micros: u64,
}

/// What is drawn of a CPU.
#[derive(Clone, Debug, PartialEq)]
struct Track {
    /// To where it ran, in percent.
    until: f64,
    /// Where it may have gone on to, if it is not known when it stopped in its rung.
    perhaps: f64,
    /// Which rung stopped it, if one did.
    rung: Option<String>,
}

/// The rungs that took a time, side by side.
fn parts(ladder: &Ladder) -> Vec<Part<'_>> {
    let climbed = || {
        let rungs = ladder.rungs.iter();
        rungs.filter_map(|rung| rung.us.map(|micros| (rung, micros)))
    };
    let width = 100.0 / climbed().count().max(1) as f64;
    let parts = climbed().enumerate().map(|(number, (rung, micros))| Part {
        rung,
        from: width * number as f64,
        width,
        micros,
    });
    parts.collect()
}

fn track(parts: &[Part<'_>], stopped: &Stopped) -> Track {
    let Some(part) = parts.iter().find(|part| part.rung.name == stopped.how) else {
        // The one that stops the others is there to the end, and so is one that nothing stops.
        return Track {
            until: 100.0,
            perhaps: 100.0,
            rung: None,
        };
    };
    let end = part.from + part.width;
    let (until, perhaps) = match stopped.after_us {
        Some(after) => {
            let share = after as f64 / part.micros.max(1) as f64;
            let at = part.from + part.width * share.min(1.0);
            (at, at)
        }
        None => (part.from, end),
    };
    Track {
        until,
        perhaps,
        rung: Some(stopped.how.clone()),
    }
}

/// The name of a rung for people.
pub fn name(rung: &str) -> String {
    match rung {
        "ipi" => "IPI".to_owned(),
        "sdei" => "SDEI".to_owned(),
        "pseudo-nmi" => "pseudo-NMI".to_owned(),
        other => printable(other),
    }
}

/// How a CPU came to stand still, for people.
pub fn how(stopped: &Stopped) -> String {
    let how = match stopped.how.as_str() {
        "panicked" => return "panicked".to_owned(),
        "restarted" => return "restarted the machine".to_owned(),
        "itself" => return "panicked second, and stopped itself".to_owned(),
        "not" => return "not stopped".to_owned(),
        "below" => return "stopped by the hypervisor".to_owned(),
        rung => name(rung),
    };
    match stopped.after_us {
        Some(micros) => format!("{how} after {}", millis(micros)),
        None => format!("{how}, not measurable"),
    }
}

/// Microseconds as milliseconds.
pub fn millis(micros: u64) -> String {
    format!("{:.3} ms", micros as f64 / 1000.0)
}

/// The timeline, of which the CPUs `wedged` are shown as such; each CPU leads to its `anchor`, if there is more of it on the page.
pub fn timeline(
    ladder: &Ladder,
    wedged: &[u32],
    anchor: &impl Fn(u32) -> Option<String>,
) -> Markup {
    let parts = parts(ladder);
    if parts.is_empty() {
        return html! { p class="weak" { "No rung of Linux's ladder has a time." } };
    }
    html! {
        div class="timeline" {
            span class="weak" { "rung" }
            div class="scale" {
                @for part in &parts { span { b { (name(&part.rung.name)) } " " (millis(part.micros)) } }
            }
            @for (cpu, stopped) in (0..).zip(&ladder.stopped) {
                @match anchor(cpu) {
                    Some(anchor) => { a href=(format!("#{anchor}")) { "CPU " (cpu) } }
                    None => { span { "CPU " (cpu) } }
                }
                (line(&parts, cpu, stopped, wedged.contains(&cpu)))
            }
        }
        p class="weak" {
            "Each rung is drawn as wide as the others, and to its own scale. A bar ends where the CPU stopped; red is a wedged CPU, and pale where it is not known when it did."
        }
    }
}

/// The line of a CPU.
fn line(parts: &[Part<'_>], cpu: u32, stopped: &Stopped, is_wedged: bool) -> Markup {
    let track = track(parts, stopped);
    let class = if is_wedged { "wedged" } else { "running" };
    let percent = |value: f64| format!("{value:.2}%");
    let said = format!("CPU {cpu}: {}", how(stopped));
    html! {
        svg role="img" aria-label=(said) {
            title { (said) }
            rect class="ground" width="100%" height="100%" {}
            rect class=(class) y="25%" height="50%" width=(percent(track.until)) {}
            @if track.perhaps > track.until {
                rect class=(format!("{class} perhaps")) y="25%" height="50%" x=(percent(track.until)) width=(percent(track.perhaps - track.until)) {}
            }
            @for part in parts.iter().skip(1) {
                line class="edge" x1=(percent(part.from)) x2=(percent(part.from)) y1="0" y2="100%" {}
            }
            @if let Some(rung) = track.rung.filter(|_| track.perhaps <= track.until) {
                line class=(format!("mark {}", name_of_class(&rung))) x1=(percent(track.until)) x2=(percent(track.until)) y1="0" y2="100%" {}
            }
        }
    }
}

/// A class for a rung: one of the style's, or none.
fn name_of_class(rung: &str) -> &str {
    match rung {
        "ipi" | "sdei" | "pseudo-nmi" => rung,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn stop(value: Value) -> Stopped {
        serde_json::from_value(value).unwrap()
    }

    fn ladder() -> Ladder {
        serde_json::from_value(
            json!({"ipi_us": 1_600_000, "pseudo_nmi_us": null, "sdei_us": 5000, "stopped": []}),
        )
        .unwrap()
    }

    #[test]
    fn a_cpu_ends_where_it_stopped_in_its_rung() {
        let ladder = ladder();
        let parts = parts(&ladder);
        let names: Vec<&str> = parts.iter().map(|part| part.rung.name.as_str()).collect();
        assert_eq!(names, ["ipi", "sdei"]);
        for (stopped, until, perhaps) in [
            (json!({"ipi": {"after_us": 400_000}}), 12.5, 12.5),
            (json!({"ipi": {"after_us": null}}), 0.0, 50.0),
            (json!({"sdei": {"after_us": 1000}}), 60.0, 60.0),
            // Signals go out one by one, and the last may be entered after the rung's end.
            (json!({"sdei": {"after_us": 9000}}), 100.0, 100.0),
            (json!("panicked"), 100.0, 100.0),
            (json!("not"), 100.0, 100.0),
            (json!({"another": {"after_us": 1}}), 100.0, 100.0),
        ] {
            let track = track(&parts, &stop(stopped));
            assert!((track.until - until).abs() < 1e-9, "{track:?}");
            assert!((track.perhaps - perhaps).abs() < 1e-9, "{track:?}");
        }
    }

    #[test]
    fn how_a_cpu_stopped_is_said() {
        for (stopped, said) in [
            (json!({"sdei": {"after_us": 949}}), "SDEI after 0.949 ms"),
            (
                json!({"pseudo-nmi": {"after_us": null}}),
                "pseudo-NMI, not measurable",
            ),
            (json!("not"), "not stopped"),
            (json!("restarted"), "restarted the machine"),
        ] {
            assert_eq!(how(&stop(stopped)), said);
        }
        let empty: Ladder = serde_json::from_value(json!({"stopped": []})).unwrap();
        assert!(
            timeline(&empty, &[], &|_| None)
                .into_string()
                .contains("No rung")
        );
    }
}
