//! What it costs that a crash kernel's instant is found, and who writes afterwards: a guest without a kernel jumps into the memory of its
//! crash kernel and stores, in so much RAM and in twice as much, with the key `crashkernel` and without.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hv_abi::operator::Verb;
use hv_bundle::{GuestConfig, parse_crashkernel};
use serde::Serialize;

use super::{Bench, counted};
use crate::instant;
use debian::tools;
use machine::build::{self, Program};
use machine::operator::Operator;
use machine::payload::{Capture, Payload};
use machine::qemu::Machine;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

const CRASH: &str = "2M@0x41000000";
const MIB: [u64; 2] = [256, 512];

/// A mark of the plugin: MOVZ XZR, #0x4c00 + its number.
const fn mark(number: u32) -> u32 {
    0xd280_001f | (0x4c00 + number) << 5
}

/// Copies what is behind it into [`CRASH`] and jumps there; that stores to a page twice and switches the guest off.
const PROGRAM: [u32; 25] = [
    mark(0),
    0xd2a8_3009, // mov x9, #0x41800000
    0xd2a8_2001, // mov x1, #0x41000000
    0x1000_01c2, // adr x2, 0x44
    0xd280_0003, // mov x3, #0x0
    0xf863_6844, // ldr x4, [x2, x3]
    0xf823_6824, // str x4, [x1, x3]
    0x9100_2063, // add x3, x3, #0x8
    0xf101_007f, // cmp x3, #0x40
    0x54ff_ff81, // b.ne 0x14
    0xd503_3b9f, // dsb ish
    0xd508_751f, // ic iallu
    0xd503_3b9f, // dsb ish
    0xd503_3fdf, // isb
    mark(1),
    0xd61f_0020, // br x1
    0xd503_201f, // nop
    mark(2),
    0xb900_0126, // str w6, [x9]
    mark(3),
    0xb900_0926, // str w6, [x9, #8]
    mark(4),
    0x5280_0100, // mov w0, #0x8
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0x0
];

/// Instructions of EL2.
#[derive(Debug, Clone, Copy, Serialize)]
struct Cost {
    mib: u64,
    is_watched: bool,
    /// From the reset to the guest's first.
    start: u64,
    /// From the jump to the first of the crash kernel, with all that an operator has asked meanwhile.
    instant: u64,
    first_write: u64,
    later_write: u64,
}

/// Counts and prints.
pub fn count(bench: &Bench) -> Result<()> {
    let workshop = Workshop::open()?.on(bench.machine);
    let mut costs = Vec::new();
    for is_watched in [false, true] {
        for mib in MIB {
            costs.push(one(&workshop, mib, is_watched, bench.timeout)?);
        }
    }
    print!("{}", table(&costs)?);
    bench.write_json(&costs)
}

fn one(workshop: &Workshop, mib: u64, is_watched: bool, seconds: u64) -> Result<Cost> {
    let folder = RunDir::create(None)?;
    let (kernel, bundle) = (folder.file("program.bin"), folder.file("program.itb"));
    fs::write(&kernel, PROGRAM.map(u32::to_le_bytes).as_flattened())?;
    let crashkernel = is_watched.then(|| parse_crashkernel(CRASH)).transpose()?;
    Payload {
        kernel: &kernel,
        initrd: None,
        flash: None,
        capture: Capture::default(),
        config: GuestConfig {
            crashkernel,
            ..GuestConfig::default()
        },
    }
    .write(&bundle)?;
    let qemu = tools::qemu(&workshop.cache, &workshop.progress)?;
    let hypervisor = build::build(workshop, Program::Hypervisor)?;
    let mut machine = Machine::new(&qemu, &hypervisor.image);
    machine.board = workshop.board;
    machine.memory_mib = mib;
    machine.initrd = Some(bundle);
    let counts = folder.file("counts");
    counted(&mut machine, &counts, None)?;
    let thaw = |operator: &Operator| operator.ask(Verb::Thaw, 0).map(|_| ());
    instant::run(&machine, Duration::from_secs(seconds), thaw, |_| Ok(()))?;
    let text = fs::read_to_string(&counts).context("the plugin has written no counts")?;
    cost(&text, mib, is_watched)
}

/// Of the plugin's lines.
fn cost(text: &str, mib: u64, is_watched: bool) -> Result<Cost> {
    let el2 = |mark: u32| -> Result<u64> {
        let begin = format!("{mark} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        let line = line.with_context(|| format!("mark {mark} is missing: {text:?}"))?;
        Ok(line.split(' ').next().unwrap_or_default().parse()?)
    };
    let marks = [el2(0)?, el2(1)?, el2(2)?, el2(3)?, el2(4)?];
    Ok(Cost {
        mib,
        is_watched,
        start: marks[0],
        instant: marks[2] - marks[1],
        first_write: marks[3] - marks[2],
        later_write: marks[4] - marks[3],
    })
}

/// What a page of 4 KiB adds, of two sizes of RAM.
fn table(costs: &[Cost]) -> Result<String> {
    let &[bare, more_bare, watched, more_watched] = costs else {
        bail!("there are not four runs");
    };
    let pages = (more_bare.mib - bare.mib) << 8;
    let slope = |one: u64, more: u64| more.saturating_sub(one) as f64 / pages as f64;
    let mut text = format!("{:56}{:>12}{:>12}\n", "", "without", "crashkernel");
    for (name, bare, watched) in [
        (
            "start of the guest, for each page of RAM",
            slope(bare.start, more_bare.start),
            slope(watched.start, more_watched.start),
        ),
        (
            "the instant, for each page of RAM",
            slope(bare.instant, more_bare.instant),
            slope(watched.instant, more_watched.instant),
        ),
        (
            "the first write to a page",
            bare.first_write as f64,
            watched.first_write as f64,
        ),
        (
            "each other write to it",
            bare.later_write as f64,
            watched.later_write as f64,
        ),
    ] {
        text += &format!("{name:56}{bare:>12.2}{watched:>12.2}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_page_adds_is_the_difference_of_two_sizes() {
        let run = |mib: u64, is_watched, per_page: u64| {
            let pages = mib << 8;
            let start = 1000 + pages * per_page;
            let text = format!(
                "0 {start} 1\n1 {start} 9\n2 {} 9\n3 {} 10\n4 {} 11\n",
                2 * start,
                2 * start + 700,
                2 * start + 700
            );
            cost(&text, mib, is_watched).unwrap()
        };
        let costs = [
            run(256, false, 1),
            run(512, false, 1),
            run(256, true, 3),
            run(512, true, 3),
        ];
        let text = table(&costs).unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().rev().take(2).collect())
            .collect();
        assert_eq!(
            lines[1..],
            [
                ["3.00", "1.00"],
                ["3.00", "1.00"],
                ["700.00", "700.00"],
                ["0.00", "0.00"]
            ]
        );
        assert!(cost("0 1 2\n", 256, false).is_err());
        assert!(table(&costs[..3]).is_err());
    }
}
