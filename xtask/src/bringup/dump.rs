//! The verdict on the kdump job of a board: by the line alone, or with the dump from its card.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::boot::Boot;
use lab::evidence::Frame;
use lab::kdump::check_run;
use lab::ladder::{Ladder, Stopped};
use lab::plan::{Plan, Scenario};
use lab::registers::PSTATE_I;
use lab::symbols::Symbols;
use lab::verdict::{Evidence, Verdict, WEDGE_FUNCTION};
use lab::vmcore::{self, Vmcore};
use lab::watch::GuestRun;

/// What is done to Linux on the board.
pub fn plan() -> Plan {
    Plan {
        model: "cortex-a72".into(),
        wedge: [2].into_iter().collect(),
        ..Plan::new(Scenario::Kdump, 4)
    }
}

/// What came of it.
pub struct Judged {
    /// For people.
    pub lines: Vec<String>,
    /// What is wrong, one sentence each.
    pub faults: Vec<String>,
}

/// Judges by what came over the line.
pub fn judge(boot: &Boot, timed_out: bool, elapsed: Duration) -> Judged {
    let plan = plan();
    let seen = GuestRun {
        story: boot.story.clone(),
        drain: boot.drain.clone(),
        ending: boot.ending(timed_out),
        elapsed,
        lines: Vec::new(),
        tail: boot.tail(),
        stood: None,
    };
    if let Err(error) = check_run(&plan, &seen) {
        return Judged {
            lines: boot
                .tail()
                .iter()
                .map(|line| format!("  | {line}"))
                .collect(),
            faults: vec![format!("{error:#}")],
        };
    }
    let ladder = Ladder::of(plan.cpus, &boot.story, &boot.drain);
    let mut lines = vec!["Stop ladder".to_owned(), ladder.to_string(), String::new()];
    let mut faults = Vec::new();
    for (cpu, stopped) in (0..).zip(&ladder.stopped) {
        let is_wedged = plan.wedge.contains(cpu);
        let mark = if is_wedged { "wedged" } else { "" };
        let mut line = format!("  CPU {cpu:<3} {mark:6} {stopped}");
        if is_wedged {
            match witness(boot, cpu, *stopped) {
                Ok(frame) => line += &format!(", recorded at {:#x}", frame.registers.pc),
                Err(fault) => faults.push(format!("CPU {cpu} {fault}")),
            }
        }
        lines.push(line);
    }
    lines.push(String::new());
    lines.push(
        "By the line alone: who was stopped how, and that the hypervisor recorded it. That the dump has the \
         same registers only the card can show: --replay RECORD --card DEVICE."
            .into(),
    );
    Judged { lines, faults }
}

/// The hypervisor's record of how a wedged CPU was stopped.
fn witness(boot: &Boot, cpu: u32, stopped: Stopped) -> Result<&Frame, String> {
    if !boot.story.wedged.contains(cpu) {
        return Err("was to be wedged, but the guest did not find it wedged".into());
    }
    if !matches!(stopped, Stopped::Sdei { .. }) {
        return Err(format!(
            "was wedged and should be stopped by SDEI, not: {stopped}"
        ));
    }
    let mut frames = boot.drain.frames.iter();
    let frame = frames.find(|frame| frame.vcpu == cpu && frame.event == 0 && frame.running);
    let frame = frame.ok_or("was signalled, but the hypervisor has no record of event 0 on it")?;
    if frame.registers.pstate & PSTATE_I == 0 {
        let pstate = frame.registers.pstate;
        return Err(format!(
            "was interrupted with interrupts enabled, pstate {pstate:#x}"
        ));
    }
    Ok(frame)
}

/// Judges by the dump on `card`, too: each CPU, register by register.
pub fn judge_card(boot: &Boot, card: &Path, vmlinux: &Path, copy: &Path) -> Result<Judged> {
    let plan = plan();
    let mut disk =
        File::open(card).with_context(|| format!("cannot open the card {}", card.display()))?;
    let start = dump_partition(&mut disk)?;
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(copy)
        .with_context(|| format!("cannot write {}", copy.display()))?;
    let bytes = vmcore::extract_from(&mut disk, start, &mut file)
        .with_context(|| format!("there is no dump on the card {}", card.display()))?;
    let dump = Vmcore::read(&file).context("cannot read the vmcore")?;
    let ladder = Ladder::of(plan.cpus, &boot.story, &boot.drain);
    let symbols = Symbols::load(vmlinux)?;
    let evidence = Evidence {
        cpus: plan.cpus,
        wedge: &plan.wedge,
        story: &boot.story,
        drain: &boot.drain,
        notes: &dump.notes,
        symbols: &symbols,
        kaslr_offset: dump.kaslr_offset()?,
        stays_in_handler: plan.stays_in_handler(),
        is_masked: plan.is_masked(),
        event: None,
    };
    let verdict = Verdict::of(&evidence, &ladder);
    let release = dump.release()?;
    let size = bytes as f64 / 1e6;
    Ok(Judged {
        lines: vec![
            format!("vmcore of Linux {release} ({}, {size:.1} MB)", dump.format),
            verdict.to_string(),
            format!("  (wedged CPUs are to stand in {WEDGE_FUNCTION})"),
        ],
        faults: verdict.faults(),
    })
}

/// Where the dump is on `disk`: its second partition, or its start if it has no partitions. (MBR: a signature
/// at 510, entries of 16 bytes from 446 on, each with its type at 4 and its first sector at 8.)
fn dump_partition(disk: &mut impl Read) -> Result<u64> {
    const SECOND: usize = 446 + 16;
    let mut sector = [0; 512];
    disk.read_exact(&mut sector)
        .context("the card cannot be read")?;
    if sector[510..] != [0x55, 0xaa] {
        return Ok(0);
    }
    let first: [u8; 4] = sector[SECOND + 8..SECOND + 12].try_into()?;
    ensure!(
        sector[SECOND + 4] != 0,
        "the card has no second partition, where the dump would be"
    );
    Ok(u64::from(u32::from_le_bytes(first)) * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn the_dump_is_in_the_second_partition_or_at_the_start() {
        let mut sector = [0; 512];
        let at = |sector: [u8; 512]| dump_partition(&mut Cursor::new(sector.to_vec()));
        assert_eq!(at(sector).unwrap(), 0);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(at(sector).is_err());
        sector[466] = 0xda;
        sector[470..474].copy_from_slice(&0x0010_0000u32.to_le_bytes());
        assert_eq!(at(sector).unwrap(), 512 << 20);
    }

    #[test]
    fn a_boot_without_a_dump_is_a_fault_that_says_how_far_it_came() {
        let judged = judge(&Boot::default(), true, Duration::ZERO);
        assert!(judged.faults[0].ends_with("no CPU was wedged"));
    }
}
