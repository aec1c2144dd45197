//! What it takes until a Linux all of whose CPUs are wedged is dumped: by its own crash kernel after an NMI, and by the capture kernel that the
//! hypervisor starts beside its memory.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Bench, CPUS};
use debian::kernel::KernelVariant;
use lab::kdump::{Lab, Request, System};
use lab::plan::{Plan, Scenario};
use machine::console::{Part, Splitter};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// One of the two.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Cost {
    way: &'static str,
    /// Microseconds of the machine's time, from the hypervisor's word to the end of the kernel that saves: 32 ns for each instruction of any
    /// CPU, as `kdump --icount` has it, and what all of them slept.
    micros: u64,
    /// Size of the dump.
    bytes: u64,
}

/// A way to a dump.
struct Way {
    name: &'static str,
    scenario: Scenario,
    /// The record that it begins with.
    begin: &'static str,
}

/// The record that each ends with: the kernel that saves switches the guest off.
const END: &str = "vm-off";

const WAYS: [Way; 2] = [
    Way {
        name: "NMI, and the guest's own crash kernel",
        scenario: Scenario::Nmi,
        begin: "vm-nmi",
    },
    Way {
        name: "capture kernel of the hypervisor's",
        scenario: Scenario::Assisted,
        begin: "vm-dump",
    },
];

/// Takes the time of both, and prints it.
pub fn compare(bench: &Bench) -> Result<ExitCode> {
    let workshop = Workshop::open()?.on(bench.machine);
    let lab = Lab::prepare(&workshop, &System::Ours(KernelVariant::Plain))?;
    let costs = WAYS.map(|way| one(&lab, &way, bench.timeout));
    let costs = costs.into_iter().collect::<Result<Vec<_>>>()?;
    for cost in &costs {
        let (seconds, mb) = (cost.micros as f64 / 1e6, cost.bytes as f64 / 1e6);
        println!("{:44}{seconds:>10.1} s, {mb:.1} MB", cost.way);
    }
    bench.write_json(&costs)?;
    Ok(ExitCode::SUCCESS)
}

fn one(lab: &Lab, way: &Way, seconds: u64) -> Result<Cost> {
    let folder = RunDir::create(None)?;
    let kept = folder.file("run");
    let plan = Plan {
        icount: true,
        wedge: (0..CPUS).collect(),
        ..Plan::new(way.scenario, CPUS)
    };
    let request = Request {
        plan,
        timeout: Duration::from_secs(seconds),
        keep: Some(&kept),
    };
    let report = lab.run(&request, |_| ())?;
    ensure!(report.passed, "{}", report.text());
    let dump = report.dump.context("there is no dump")?;
    Ok(Cost {
        way: way.name,
        micros: time(&kept.join("serial.log"), way)?,
        bytes: dump.bytes,
    })
}

/// Of the log of a run.
fn time(log: &Path, way: &Way) -> Result<u64> {
    let bytes = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    between(&bytes, way)
}

/// Microseconds from the first record that begins it to the next [`END`].
fn between(console: &[u8], way: &Way) -> Result<u64> {
    let parts = Splitter::default().push(console);
    let records = parts.into_iter().filter_map(|part| match part {
        Part::Line(line) => Some((line.record()?.ok()?.name, line.time_us?)),
        Part::Guest { .. } => None,
    });
    let mut records = records.skip_while(|(name, _)| name != way.begin);
    let begin = records.next();
    let (_, begin) = begin.with_context(|| format!("the log has no @{}", way.begin))?;
    let end = records.find(|(name, _)| name == END);
    let (_, end) = end.with_context(|| format!("behind @{} the log has no @{END}", way.begin))?;
    end.checked_sub(begin).context("it ends before it begins")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_from_its_first_record_to_its_end() {
        let lines = [
            "\x1e[    1.000000 p0] @vm-off vm=0",
            "LAB: dump done",
            "\x1e[    2.500000 p3] @vm-dump vm=0 vcpus=4",
            "\x1e[    2.600000 p0] text",
            "\x1e[    4.000001 p0] @vm-off vm=0",
            "\x1e[    9.000000 p0] @vm-off vm=0\n",
        ];
        let log = lines.join("\n").into_bytes();
        let [own, assisted] = &WAYS;
        assert_eq!(between(&log, assisted).unwrap(), 1_500_001);
        let said = between(&log, own).unwrap_err().to_string();
        assert_eq!(said, "the log has no @vm-nmi");
        assert!(between(&log[..log.len() / 2], assisted).is_err());
    }
}
