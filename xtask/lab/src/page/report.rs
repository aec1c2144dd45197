//! The page of a report: of each run the ladder, the CPUs, the pages and the console.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::timeline::{how, timeline};
use super::{printable, verdict, whole};
use crate::document::{Cpu, Document, Dump, Pages, Run, Stood};

/// The page of `document`.
pub fn report(document: &Document) -> String {
    let (passed, runs) = (
        document.runs.iter().filter(|run| run.passed).count(),
        document.runs.len(),
    );
    let plan = document.runs.first().map(|run| &run.plan);
    let scenario = plan.map_or("kdump", |plan| plan.scenario.as_str());
    let release = document.kernel.release.as_deref().unwrap_or("unknown");
    let title = format!("kdump/{scenario} of Linux {release}");
    let body = html! {
        header id="about" {
            h1 { (printable(&title)) ": " (verdict(document.passed)) }
            (about(document))
        }
        @if runs > 1 {
            nav id="runs" {
                h2 { (passed) " of " (runs) " runs passed" }
                table {
                    @for (number, run) in (1..).zip(&document.runs) {
                        tr {
                            td { a href=(format!("#run-{number}")) { "run " (number) } }
                            td { (verdict(run.passed)) }
                            td class="number" { (format!("{:.0} s", run.seconds)) }
                            td { @if let Some(fault) = run.faults.first() { (printable(fault)) } }
                        }
                    }
                }
            }
        }
        @for (number, run) in (1..).zip(&document.runs) { (one_run(number, runs, run)) }
    };
    whole(&title, &body)
}

fn about(document: &Document) -> Markup {
    let about = &document.about;
    let halligan = match &about.git {
        Some(git) => format!("{} ({git})", about.version),
        None => about.version.clone(),
    };
    let facts = [
        (
            "kernel",
            document
                .kernel
                .build_id
                .as_ref()
                .map(|id| format!("build {id}")),
        ),
        (
            "machine",
            Some(format!("{}, EL3: {}", about.machine, about.el3)),
        ),
        ("QEMU", about.qemu.clone()),
        ("halligan", Some(halligan)),
        ("date", Some(about.date.clone())),
    ];
    html! {
        dl class="facts" {
            @for (name, value) in facts {
                @if let Some(value) = value { dt { (name) } dd { (printable(&value)) } }
            }
        }
    }
}

/// A run; what its anchors begin with is nothing for the only one or the first, so that a link to it is short.
fn one_run(number: usize, runs: usize, run: &Run) -> Markup {
    let id = |part: &str| match number {
        1 => part.to_owned(),
        _ => format!("run-{number}-{part}"),
    };
    let plan = &run.plan;
    let wedged: Vec<String> = plan.wedge.iter().map(u32::to_string).collect();
    html! {
        section id=(format!("run-{number}")) {
            h2 {
                @if runs > 1 { "Run " (number) ": " } @else { "Verdict: " }
                (verdict(run.passed)) (format!(" in {:.0} s", run.seconds))
            }
            p {
                (plan.cpus) " CPUs, wedged: " (if wedged.is_empty() { "none".to_owned() } else { wedged.join(", ") })
                @if let Some(ending) = &run.ending { ". The machine ended by: " (printable(ending)) }
                @if let Some(panic) = &run.story.panic { ". Linux panicked: " (printable(panic)) }
            }
            @if !run.faults.is_empty() {
                ul id=(id("faults")) { @for fault in &run.faults { li class="bad" { (printable(fault)) } } }
            }
            @if let Some(ladder) = run.ladder() {
                h3 id=(id("ladder")) { "Stop ladder" }
                (timeline(ladder, &plan.wedge, &|cpu| run.dump.is_some().then(|| anchor(number, cpu))))
            }
            @match &run.dump {
                Some(dump) => { (of_dump(dump, number, &id)) }
                None => { p class="weak" { "There is no dump to be judged." } }
            }
            @if let Some(stood) = &run.stood { (when_over(stood, &id("stood"))) }
            @if !run.story.backtraces.is_empty() {
                h3 id=(id("backtraces")) { "Backtraces" }
                ul class="frames" {
                    @for (cpu, place) in &run.story.backtraces { li { "CPU " (cpu) ": " code { (printable(place)) } } }
                }
            }
            @if let Some(oracle) = &run.oracle { (pages(&oracle.report, &id("pages"))) }
            (console(run, &id))
            @if !run.next.is_empty() {
                h3 id=(id("next")) { "To see more" }
                @for command in &run.next { p { code { (printable(command)) } } }
            }
        }
    }
}

fn of_dump(dump: &Dump, number: usize, id: &impl Fn(&str) -> String) -> Markup {
    html! {
        h3 id=(id("cpus")) {
            (format!("CPUs in the dump of Linux {} ({}, {:.1} MB)", printable(&dump.release), printable(&dump.format), dump.bytes as f64 / 1e6))
        }
        @for cpu in &dump.verdict.cpus { (one_cpu(cpu, &anchor(number, cpu.cpu))) }
    }
}

/// Where each CPU stood when the time was over.
fn when_over(stood: &[Stood], id: &str) -> Markup {
    html! {
        h3 id=(id) { "CPUs when the time was over" }
        ul class="frames" {
            @for cpu in stood {
                li {
                    "CPU " (cpu.cpu) ": " (printable(cpu.state.as_deref().unwrap_or("no answer")))
                    @if let Some(place) = cpu.place.as_ref().or(cpu.pc.as_ref()) { " " code { (printable(place)) } }
                }
            }
        }
    }
}

/// The anchor of a CPU.
fn anchor(run: usize, cpu: u32) -> String {
    match run {
        1 => format!("cpu-{cpu}"),
        _ => format!("run-{run}-cpu-{cpu}"),
    }
}

fn one_cpu(cpu: &Cpu, anchor: &str) -> Markup {
    let is_good = cpu.faults.is_empty();
    let place = cpu
        .stood_in
        .as_deref()
        .unwrap_or("no registers in the dump");
    html! {
        details class="cpu" id=(anchor) open[!is_good] {
            summary {
                b { "CPU " (cpu.cpu) } " "
                @if is_good { span class="good" { "ok" } } @else { span class="bad" { "BAD" } }
                @if cpu.wedged { ", wedged" }
                ", " (how(&cpu.stopped)) ", " code { (printable(place)) }
                @if let Some((equal, all)) = cpu.equal.zip(cpu.registers.as_ref()) {
                    ", " (equal) " of " (all.len()) " registers as recorded"
                }
            }
            @if !is_good { ul { @for fault in &cpu.faults { li class="bad" { (printable(fault)) } } } }
            @if let Some(outside) = cpu.outside.as_ref().filter(|outside| !outside.frames.is_empty()) {
                p { "Seen by the hypervisor, innermost function first:" }
                ul class="frames" { @for frame in &outside.frames { li { code { (printable(frame)) } } } }
            }
            @if let Some(registers) = &cpu.registers {
                div class="registers" {
                    @for (name, value) in in_order(registers) { span { b { (printable(name)) } (printable(value)) } }
                }
            }
        }
    }
}

/// Registers as people count: x2 before x10, and what has no number last.
fn in_order(registers: &BTreeMap<String, String>) -> Vec<(&String, &String)> {
    let mut all: Vec<_> = registers.iter().collect();
    let number = |name: &str| {
        name.strip_prefix('x')
            .and_then(|rest| rest.parse::<u32>().ok())
    };
    all.sort_by_key(|(name, _)| (number(name).unwrap_or(u32::MAX), name.to_owned()));
    all
}

fn pages(pages: &Pages, id: &str) -> Markup {
    let bad = [
        ("different", &pages.different),
        ("absent and required", &pages.missing),
    ];
    html! {
        h3 id=(id) { "Pages of the dump, against memory" }
        table {
            tr { th { "class" } th class="number" { "pages" } th class="number" { "MiB" } }
            @for class in &pages.classes {
                tr {
                    td { (printable(&class.class)) @if let Some(reason) = &class.reason { ": " (printable(reason)) } }
                    td class="number" { (class.pages) }
                    td class="number" { (format!("{:.1}", class.bytes as f64 / f64::from(1 << 20))) }
                }
            }
        }
        @for (name, bad) in bad {
            @if bad.pages > 0 {
                p class="bad" { "Pages that are " (name) ": " (bad.pages) ", the first of them:" }
                ul class="frames" {
                    @for page in &bad.first {
                        li {
                            code { (format!("{:#x}", page.address)) } " " (printable(&page.belongs))
                            @for by in &page.written_by { "; written to by " (printable(by)) }
                        }
                    }
                }
            }
        }
    }
}

fn console(run: &Run, id: &impl Fn(&str) -> String) -> Markup {
    let lines = |name: &str, title: &str, lines: &[String]| {
        html! {
            @if !lines.is_empty() {
                h3 id=(id(name)) { (title) }
                ol class="console" {
                    @for (number, line) in (1..).zip(lines) {
                        @let anchor = format!("{}-{number}", id(name));
                        li id=(anchor) { a href=(format!("#{anchor}")) { (number) } (printable(line)) }
                    }
                }
            }
        }
    };
    html! {
        (lines("console", "Console: the lines that matter", run.lines.as_deref().unwrap_or_default()))
        (lines("last", "Console: the last lines", &run.console))
    }
}

#[cfg(test)]
mod tests;
