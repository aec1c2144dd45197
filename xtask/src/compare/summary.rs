//! What the runs of a result come to, taken together: of times the spread, of all else the worst.

use std::collections::{BTreeMap, BTreeSet};

use lab::document::{Document, Run};
use serde::Serialize;

/// A result in short.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// What the user named.
    pub name: String,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The kernel's build id.
    pub build_id: Option<String>,
    /// The machine.
    pub machine: String,
    /// What ran at EL3.
    pub el3: String,
    /// When it began.
    pub date: String,
    /// How many runs there are.
    pub runs: usize,
    /// How many of them passed.
    pub passed: usize,
    /// The rungs of the stop ladder, lowest first.
    pub rungs: Vec<Rung>,
    /// CPU by CPU; none if no run left a dump.
    pub cpus: Vec<Cpu>,
    /// The pages of the dump by class, of the run with the most bad ones, if they were judged.
    pub pages: Option<BTreeMap<String, u64>>,
    /// Pages that are different, or absent and required, of that run.
    pub bad_pages: Option<u64>,
    /// What was wrong in any run.
    pub faults: BTreeSet<String>,
}

/// A rung of the ladder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rung {
    /// Its name.
    pub name: String,
    /// Whether it stopped a CPU in any run.
    pub has_stopped: bool,
    /// How long it took; nothing if no run has measured it.
    pub milliseconds: Option<Spread>,
}

/// The spread of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle, or between the two that are.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

/// A CPU, in all runs that left a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Its number.
    pub cpu: u32,
    /// Whether it was wedged.
    pub wedged: bool,
    /// How it was stopped: by which rungs, `panicked`, `below` or `not`.
    pub stopped: BTreeSet<String>,
    /// In how many runs the vmcore lacks it.
    pub missing: usize,
    /// How many of its registers are as recorded, at worst; nothing if they were never compared.
    pub equal: Option<u64>,
    /// So many registers the vmcore has of it.
    pub registers: Option<usize>,
}

impl Summary {
    /// That of `document`, which the user calls `name`.
    pub fn of(name: &str, document: &Document) -> Self {
        let worst = document.runs.iter().filter_map(|run| {
            let pages = &run.oracle.as_ref()?.report;
            Some((pages.different.pages + pages.missing.pages, pages))
        });
        let worst = worst.max_by_key(|(bad, _)| *bad);
        let faults = document.runs.iter().flat_map(|run| run.faults.clone());
        Self {
            name: name.to_owned(),
            kernel: document.kernel.release.clone(),
            build_id: document.kernel.build_id.clone(),
            machine: document.about.machine.clone(),
            el3: document.about.el3.clone(),
            date: document.about.date.clone(),
            runs: document.runs.len(),
            passed: document.runs.iter().filter(|run| run.passed).count(),
            rungs: rungs(&document.runs),
            cpus: cpus(&document.runs),
            bad_pages: worst.map(|(bad, _)| bad),
            pages: worst.map(|(_, pages)| {
                let classes = pages.classes.iter().map(|class| {
                    let name = match &class.reason {
                        Some(reason) => format!("{}: {reason}", class.class),
                        None => class.class.clone(),
                    };
                    (name, class.pages)
                });
                classes.collect()
            }),
            faults: faults.collect(),
        }
    }

    /// The rungs that stopped a CPU.
    pub fn used(&self) -> BTreeSet<&str> {
        let all = self.cpus.iter().flat_map(|cpu| &cpu.stopped);
        let all = all.map(String::as_str);
        all.filter(|how| !NO_RUNGS.contains(how)).collect()
    }
}

/// How a CPU stands still that no rung of Linux's ladder stopped.
const NO_RUNGS: [&str; 4] = ["panicked", "not", "below", "unknown"];

impl Spread {
    /// That of `values`, unless there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median = match values.len() % 2 {
            0 => f64::midpoint(*values.get(middle - 1)?, upper),
            _ => upper,
        };
        Some(Self {
            min: *values.first()?,
            median,
            max: *values.last()?,
        })
    }
}

fn rungs(runs: &[Run]) -> Vec<Rung> {
    let ladders = || runs.iter().filter_map(Run::ladder);
    let mut names: Vec<&str> = Vec::new();
    for rung in ladders().flat_map(|ladder| &ladder.rungs) {
        if !names.contains(&rung.name.as_str()) {
            names.push(&rung.name);
        }
    }
    let rung = |name: &str| {
        let times = ladders().flat_map(|ladder| &ladder.rungs);
        let times = times.filter(|rung| rung.name == name);
        let times = times.filter_map(|rung| Some(rung.us? as f64 / 1000.0));
        Rung {
            name: name.to_owned(),
            has_stopped: runs
                .iter()
                .flat_map(Run::cpus)
                .any(|cpu| cpu.stopped.how == name),
            milliseconds: Spread::of(times.collect()),
        }
    };
    names.into_iter().map(rung).collect()
}

fn cpus(runs: &[Run]) -> Vec<Cpu> {
    let mut cpus: BTreeMap<u32, Cpu> = BTreeMap::new();
    for seen in runs.iter().flat_map(Run::cpus) {
        let cpu = cpus.entry(seen.cpu).or_insert_with(|| Cpu {
            cpu: seen.cpu,
            wedged: false,
            stopped: BTreeSet::new(),
            missing: 0,
            equal: None,
            registers: None,
        });
        cpu.wedged |= seen.wedged;
        cpu.stopped.insert(seen.stopped.how.clone());
        cpu.missing += usize::from(!seen.is_there());
        cpu.equal = match (cpu.equal, seen.equal) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        cpu.registers = cpu
            .registers
            .max(seen.registers.as_ref().map(BTreeMap::len));
    }
    cpus.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_of_any_number_of_values() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[]), None);
        let all = |min, median, max| Some(Spread { min, median, max });
        assert_eq!(spread(&[2.0]), all(2.0, 2.0, 2.0));
        assert_eq!(spread(&[9.0, 1.0]), all(1.0, 5.0, 9.0));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), all(1.0, 2.0, 9.0));
    }
}
