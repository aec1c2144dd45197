//! Whether one result is worse than another.

use anyhow::{Result, ensure};
use lab::document::{Document, Plan};
use serde::Serialize;
use serde_json::Value;

use super::summary::{Cpu, Rung, Summary};

/// What a difference says of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// It is worse than A.
    Worse,
    /// It is better.
    Better,
    /// It is another, and nobody can say which is better.
    Other,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What it says of B.
    pub weight: Weight,
    /// In a sentence.
    pub text: String,
}

/// What makes two jobs two: with another scenario, other CPUs or other places the results have nothing to do with each other.
///
/// # Errors
///
/// The first such thing, by name.
pub fn check_same_job(a: &Document, b: &Document) -> Result<()> {
    let plans = || a.runs.first().zip(b.runs.first());
    let Some((a, b)) = plans().map(|(a, b)| (&a.plan, &b.plan)) else {
        return Ok(());
    };
    let place = |plan: &Plan| plan.more.get("place").cloned();
    let parts = [
        (
            "scenario",
            Value::from(a.scenario.clone()),
            Value::from(b.scenario.clone()),
        ),
        ("number of CPUs", a.cpus.into(), b.cpus.into()),
        (
            "wedged CPUs",
            a.wedge.clone().into(),
            b.wedge.clone().into(),
        ),
        ("place of CPUs", place(a).into(), place(b).into()),
    ];
    for (what, a, b) in parts {
        ensure!(
            a == b,
            "these are two jobs, and results of one job are compared: the {what} of A is {}, and of B {}; give both the same options of kdump, behind --",
            shown(&a),
            shown(&b)
        );
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// What else was not the same about two jobs.
pub fn conditions(a: &Document, b: &Document) -> Vec<Difference> {
    let mut parts = vec![
        (
            "machine".to_owned(),
            Value::from(a.about.machine.clone()),
            Value::from(b.about.machine.clone()),
        ),
        (
            "el3".to_owned(),
            a.about.el3.clone().into(),
            b.about.el3.clone().into(),
        ),
        (
            "qemu".to_owned(),
            a.about.qemu.clone().into(),
            b.about.qemu.clone().into(),
        ),
        (
            "git".to_owned(),
            a.about.git.clone().into(),
            b.about.git.clone().into(),
        ),
    ];
    if let Some((a, b)) = a.runs.first().zip(b.runs.first()) {
        for (name, value) in &a.plan.more {
            // What only one of them has is of another version of halligan.
            if let Some(other) = b.plan.more.get(name) {
                parts.push((name.clone(), value.clone(), other.clone()));
            }
        }
    }
    let differing = parts.into_iter().filter(|(_, a, b)| a != b);
    let told = differing.map(|(name, a, b)| Difference {
        weight: Weight::Other,
        text: format!("{name} is {} in A and {} in B", shown(&a), shown(&b)),
    });
    told.collect()
}

/// What is different. Times count only if `slower` is given: B is worse if the median of a rung is so many percent longer.
pub fn differences(a: &Summary, b: &Summary, slower: Option<u32>) -> Vec<Difference> {
    let mut all = Both::default();
    let fails = |summary: &Summary| summary.passed < summary.runs;
    all.either(fails(a), fails(b), |which, other| {
        let of = |summary: &Summary| format!("{} of {} runs", summary.passed, summary.runs);
        let (a, b) = (of(a), of(b));
        format!("{which} fails and {other} passes: of A {a} passed, of B {b}")
    });
    // Without any dump there is nothing to be said of a CPU, but that each is missing.
    for number in 0..a.cpus.len().max(b.cpus.len()) {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let of = |summary: &Summary| summary.cpus.iter().find(|cpu| cpu.cpu == number).cloned();
        all.cpu(number, of(a).as_ref(), of(b).as_ref());
    }
    if !a.cpus.is_empty() && !b.cpus.is_empty() {
        all.rungs(a, b);
    }
    if let (Some(a), Some(b)) = (a.bad_pages, b.bad_pages) {
        all.more(a, b, |a, b| format!("bad pages: {a} in A, {b} in B"));
    }
    if let Some(percent) = slower {
        for rung in &a.rungs {
            let other = b.rungs.iter().find(|other| other.name == rung.name);
            all.0
                .extend(other.and_then(|other| slow(rung, other, percent)));
        }
    }
    all.0
}

/// That a rung has become slower than is allowed.
fn slow(a: &Rung, b: &Rung, percent: u32) -> Option<Difference> {
    let (was, is) = (a.milliseconds?.median, b.milliseconds?.median);
    let limit = was * (1.0 + f64::from(percent) / 100.0);
    (is > limit).then(|| Difference {
        weight: Weight::Worse,
        text: format!(
            "the rung {} takes {is:.3} ms (median) in B, more than {percent} % longer than {was:.3} ms in A",
            a.name
        ),
    })
}

/// Differences on their way.
#[derive(Default)]
struct Both(Vec<Difference>);

impl Both {
    fn push(&mut self, weight: Weight, text: String) {
        self.0.push(Difference { weight, text });
    }

    /// Something bad that one of them has; `text` is given the name of that one and of the other.
    fn either(&mut self, a: bool, b: bool, text: impl Fn(&str, &str) -> String) {
        match (a, b) {
            (true, false) => self.push(Weight::Better, text("A", "B")),
            (false, true) => self.push(Weight::Worse, text("B", "A")),
            _ => {}
        }
    }

    /// Something of which more is worse.
    fn more(&mut self, a: u64, b: u64, text: impl Fn(u64, u64) -> String) {
        if a != b {
            let weight = if b > a { Weight::Worse } else { Weight::Better };
            self.push(weight, text(a, b));
        }
    }

    fn cpu(&mut self, number: u32, a: Option<&Cpu>, b: Option<&Cpu>) {
        let missing = |cpu: Option<&Cpu>| cpu.is_none_or(|cpu| cpu.missing > 0);
        self.either(missing(a), missing(b), |which, other| {
            format!("CPU {number} is missing from the dump of {which}, and is in that of {other}")
        });
        let running = |cpu: Option<&Cpu>| cpu.is_some_and(|cpu| cpu.stopped.contains("not"));
        self.either(running(a), running(b), |which, other| {
            format!("CPU {number} is not stopped in {which}, and stopped in {other}")
        });
        let (Some(a), Some(b)) = (a, b) else {
            return;
        };
        match (a.equal, b.equal) {
            // Of fewer, fewer are as they were.
            (Some(one), Some(other)) => self.more(other, one, |other, one| {
                format!("registers of CPU {number} that are as recorded: {one} in A, {other} in B")
            }),
            (one, other) => {
                // Of a CPU that is missing that is all there is to say.
                let is_unknown =
                    |cpu: &Cpu, equal: Option<u64>| equal.is_none() && cpu.missing == 0;
                if one.is_some() || other.is_some() {
                    self.either(is_unknown(a, one), is_unknown(b, other), |which, other| {
                        format!(
                            "the registers of CPU {number} are not compared in {which}, and are in {other}"
                        )
                    });
                }
            }
        }
        if a.stopped != b.stopped {
            let how = |cpu: &Cpu| cpu.stopped.iter().cloned().collect::<Vec<_>>().join(" or ");
            self.push(
                Weight::Other,
                format!(
                    "how CPU {number} was stopped: {} in A, {} in B",
                    how(a),
                    how(b)
                ),
            );
        }
    }

    fn rungs(&mut self, a: &Summary, b: &Summary) {
        for gone in a.used().difference(&b.used()) {
            self.push(
                Weight::Worse,
                format!("the rung {gone} is gone: it stopped CPUs in A, and stops none in B"),
            );
        }
        // A rung that stops a CPU which nothing stopped before is no worse.
        let was_stopped = |number: u32| {
            let mut cpus = a.cpus.iter();
            cpus.any(|cpu| cpu.cpu == number && !cpu.stopped.contains("not"))
        };
        for new in b.used().difference(&a.used()) {
            let mut stops = b.cpus.iter().filter(|cpu| cpu.stopped.contains(*new));
            if stops.any(|cpu| was_stopped(cpu.cpu)) {
                self.push(
                    Weight::Worse,
                    format!("the rung {new} is needed: it stops CPUs in B, and A did without"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
