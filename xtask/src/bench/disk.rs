//! `cargo xtask bench disk`: what it costs that a virtio disk is mediated.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::{Bench, Cost, Job, costs, job};
use machine::guest::Options;
use machine::run_dir::RunDir;

/// Each read 2048 times 128 KiB.
const JOBS: [Job; 2] = [
    job([0x50, 0x51], "128 KiB, one after the other", None),
    job([0x60, 0x61], "128 KiB, 32 at a time", None),
];

/// How much a mediated disk has to read for each instruction, of what a trusted guest's does.
const GOAL: f64 = 0.8;

/// The disk: QEMU's, without anything behind it, whose requests are done at once. So nobody waits, and counts are the same each time.
const DISK: [&str; 6] = [
    "-global",
    "virtio-mmio.force-legacy=false",
    "-drive",
    "if=none,id=disk0,driver=null-co,size=4G,read-zeroes=off",
    "-device",
    "virtio-blk-device,drive=disk0,bus=virtio-mmio-bus.0",
];

/// What a job costs either way.
#[derive(Serialize)]
struct Pair {
    trusted: Cost,
    mediated: Cost,
    /// Bytes that are read for each instruction of EL2 and the guest together: the mediated disk's over the trusted guest's.
    ratio: f64,
}

/// Counts both and compares.
pub fn compare(bench: &Bench) -> Result<ExitCode> {
    let count = |is_trusted| -> Result<Vec<Cost>> {
        let folder = RunDir::create(None)?;
        let guest = Options {
            append: Some("lab.do=read".to_owned()),
            devices: Some(vec!["virtio:0".to_owned()]),
            trusted: Some(is_trusted),
            cpus: Some(1.into()),
            ..Options::default()
        };
        let options = Options {
            cpu: bench.cpu.clone(),
            machine: Some(bench.machine),
            qemu_args: DISK.map(str::to_owned).to_vec(),
            guests: vec![guest],
            ..Options::default()
        };
        costs(&bench.count(&options, &folder)?, &JOBS)
    };
    let pairs = count(true)?.into_iter().zip(count(false)?);
    let pairs: Vec<Pair> = pairs
        .map(|(trusted, mediated)| Pair {
            ratio: all(&trusted) / all(&mediated),
            trusted,
            mediated,
        })
        .collect();
    print!("{}", table(&pairs));
    bench.write_json(&pairs)?;
    let is_enough = pairs.iter().all(|pair| pair.ratio >= GOAL);
    Ok(ExitCode::from(u8::from(!is_enough)))
}

fn all(cost: &Cost) -> f64 {
    (cost.el2 + cost.guest) as f64
}

fn table(pairs: &[Pair]) -> String {
    let mut text = format!(
        "{:32}{:>14}{:>14}{:>14}{:>14}{:>8}{:>6}\n",
        "", "trusted: EL2", "guest", "mediated: EL2", "guest", "ratio", "goal"
    );
    for Pair {
        trusted,
        mediated,
        ratio,
    } in pairs
    {
        text += &format!(
            "{:32}{:>14}{:>14}{:>14}{:>14}{ratio:>8.3}{GOAL:>6}\n",
            trusted.job, trusted.el2, trusted.guest, mediated.el2, mediated.guest
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_bytes_for_each_instruction() {
        let cost = |el2, guest| Cost {
            job: "read",
            el2,
            guest,
            percent: 0.0,
            goal: None,
        };
        let (trusted, mediated) = (cost(10, 90), cost(35, 90));
        let ratio = all(&trusted) / all(&mediated);
        let pair = Pair {
            trusted,
            mediated,
            ratio,
        };
        assert!(table(&[pair]).contains("   0.800   0.8\n"));
    }
}
