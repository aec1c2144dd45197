//! All CPUs of a Linux are wedged, and it has no crash kernel: the hypervisor starts its capture kernel, which saves a dump that has each CPU as
//! it was. Then the guest starts anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::Verb;
use hv_abi::watchdog::{Act, Watchdog};
use hv_bundle::DumpConfig;

use super::cases::{Case, USUAL};
use super::{Run, TIMEOUT};
use crate::ledger::Ledger;
use debian::initramfs::{self, Guest};
use lab::kdump::{Care, Lab};
use lab::registers::{PSTATE_I, Registers};
use lab::vmcore::{self, Vmcore};
use machine::board::Board;
use machine::console::{GuestLines, Record};
use machine::el3::El3;
use machine::operator::Operator;
use machine::payload;
use machine::qemu::Event;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// What has it dumped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Operator,
    Watchdog,
}

struct Row {
    name: &'static str,
    /// On this machine, if it is not the usual.
    board: Option<Board>,
    trigger: Trigger,
}

const ROWS: [Row; 3] = [
    Row {
        name: "linux/assisted/operator",
        board: None,
        trigger: Trigger::Operator,
    },
    Row {
        name: "linux/assisted/watchdog",
        board: None,
        trigger: Trigger::Watchdog,
    },
    Row {
        name: "linux/gicv2/assisted",
        board: Some(Board::VirtGicv2),
        trigger: Trigger::Operator,
    },
];

const CPUS: u32 = 4;
/// What a healthy guest never comes near, whatever else the host does.
const WATCHDOG: Watchdog = Watchdog {
    limit_ms: 10_000,
    one: Act::Report,
    all: Act::Dump,
};

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// Them, on the machines that go with this one: the first, and the others if they are named.
pub fn runs<'a>(
    workshop: &'a Workshop,
    lab: &'a Lab,
    ledger: &Ledger,
) -> impl Iterator<Item = Run<'a>> + use<'a> {
    let is_usual = workshop.board == Board::Virt && workshop.el3 == El3::None;
    let rows: Vec<&Row> = (0..)
        .zip(&ROWS)
        .filter(|(number, row)| *number == 0 || ledger.names(row.name))
        .map(|(_, row)| row)
        .filter(|row| row.board.is_none() || is_usual)
        .collect();
    let rows = rows.into_iter();
    rows.map(move |row| {
        let run = move || match row.board {
            Some(board) => dump(workshop, &lab.clone().on(board), row.trigger),
            None => dump(workshop, lab, row.trigger),
        };
        (row.name.to_owned(), Box::new(run) as Box<_>)
    })
}

/// What was seen of it.
#[derive(Default)]
struct Seen {
    /// Where the watchdog found each vCPU.
    found: BTreeMap<u8, u64>,
    /// `@vm-dump`: how many vCPUs it has notes of, who said which, and where VMCOREINFO was.
    dump: Option<(u64, [String; 2])>,
    /// What the capture kernel said of what it has saved.
    saved: Option<String>,
    /// The guest came up so often.
    boots: u32,
    is_again: bool,
}

impl Seen {
    fn hear(&mut self, line: &str) -> Result<()> {
        if let Some((_, failure)) = line.split_once("LAB: fail ") {
            bail!("the guest says: {failure}");
        }
        if let Some((_, saved)) = line.split_once("LAB: dump done ") {
            self.saved = Some(saved.trim_end().to_owned());
        }
        self.boots += u32::from(line.contains("LAB: up"));
        Ok(())
    }

    fn note(&mut self, record: &Record) -> Result<()> {
        match record.name.as_str() {
            "vm-late" if record.word("late").ok() == Some("wedged") => {
                let vcpu = u8::try_from(record.index("vcpu")?)?;
                self.found.insert(vcpu, record.number("pc")?);
            }
            "vm-dump" => {
                let words = [record.word("by")?, record.word("vmcoreinfo")?].map(str::to_owned);
                self.dump = Some((record.number("vcpus")?, words));
            }
            "vm-off" => self.is_again |= record.word("then").ok() == Some("restart"),
            _ => {}
        }
        Ok(())
    }
}

fn dump(workshop: &Workshop, lab: &Lab, trigger: Trigger) -> Result<String> {
    let mut folder = RunDir::create(None)?;
    let initrd = initramfs::ensure(&workshop.cache, Guest::Any, &workshop.progress)?;
    let plan = Case {
        cpus: CPUS,
        ..USUAL
    }
    .plan()?;
    let config = DumpConfig {
        memory: 192 << 20,
        bootargs: "console=ttyAMA0 maxcpus=1 panic=5 lab.do=save".to_owned(),
    };
    let own = payload::Capture {
        kernel: None,
        initrd: Some(&initrd),
    };
    let care = Care {
        watchdog: (trigger == Trigger::Watchdog).then_some(WATCHDOG),
        dump: Some((config, own)),
    };
    let bootargs = "console=ttyAMA0 lab.do=nmi lab.wedge=0,1,2,3 lab.panic=0 lab.capture=no";
    let machine = lab.machine_with(&plan, bootargs, &folder, &care)?;
    let mut session = machine.start(Some(TIMEOUT))?;
    session.log_to(File::create(folder.file("serial.log"))?);
    let operator = Operator::new(session.take_input().context("QEMU has no input")?, false);
    let (mut lines, mut seen) = (GuestLines::default(), Seen::default());
    let mut asked = None;
    let result = loop {
        let step = match session.next_event()? {
            Event::Guest { bytes, .. } => lines.push(&bytes).iter().try_for_each(|line| {
                let is_last = line.contains("LAB: last") && asked.is_none();
                if is_last && trigger == Trigger::Operator {
                    let operator = operator.clone();
                    asked = Some(std::thread::spawn(move || capture(&operator)));
                }
                seen.hear(line)
            }),
            Event::Line(line) => {
                operator.hear(&line);
                let record = line.record().transpose()?;
                record.map_or(Ok(()), |record| seen.note(&record))
            }
            Event::Complaint(_) => Ok(()),
            Event::Ended(_) | Event::TimedOut | Event::Left => Err(anyhow::anyhow!(
                "no guest came up after its dump\n{}\nQEMU was: {}",
                session.tail().join("\n"),
                machine.command_line()
            )),
        };
        if step.is_err() || seen.boots == 2 {
            break step;
        }
    };
    drop(session);
    operator.end();
    let asked = asked.map(|asked| asked.join().unwrap_or_else(|_| bail!("the asker panicked")));
    let judged = result.and_then(|()| {
        let registers = asked.transpose()?;
        judge(lab, &folder, &seen, registers.as_deref())
    });
    judged.with_context(|| format!("the log is in {}", folder.keep().display()))
}

/// Waits until all are wedged, which is when all stand at one instruction and mask interrupts, and has the guest dumped. The registers of each.
fn capture(operator: &Operator) -> Result<Vec<Registers>> {
    loop {
        let status = operator.ask(Verb::Status, 0)?;
        let first = status.vcpus.get(&0).and_then(|vcpu| vcpu.pc);
        let is_masked = |pstate: u64| pstate & PSTATE_I != 0;
        let wedged = status.vcpus.values().filter(|vcpu| {
            first.is_some() && vcpu.pc == first && vcpu.pstate.is_some_and(is_masked)
        });
        if wedged.count() == CPUS as usize {
            break;
        }
    }
    let mut all = Vec::new();
    for vcpu in 0..CPUS as u8 {
        let answers = operator.ask(Verb::Registers, vcpu)?;
        let answer = answers.vcpus.get(&vcpu).context("it has no registers")?;
        let value = |name: &str| match name {
            "pc" => answer.pc,
            "pstate" => answer.pstate,
            _ => answer.registers.get(name).copied(),
        };
        let registers = Registers::named_by(value);
        all.push(registers.with_context(|| format!("vCPU {vcpu} has not all registers"))?);
    }
    operator.ask(Verb::Dump, 0)?;
    Ok(all)
}

/// The dump on the disk has each CPU as it was.
fn judge(lab: &Lab, folder: &RunDir, seen: &Seen, asked: Option<&[Registers]>) -> Result<String> {
    let (vcpus, [by, info]) = seen.dump.as_ref().context("there was no @vm-dump")?;
    ensure!(
        *vcpus == u64::from(CPUS) && by == "linux" && info != "none",
        "notes of {vcpus} vCPUs, said by {by}, VMCOREINFO: {info}"
    );
    let saved = seen.saved.as_ref().context("the dump was not saved")?;
    ensure!(seen.is_again, "the guest was not started again");
    let dump = read(&folder.file("disk.img"), &folder.file("vmcore"))?;
    ensure!(
        dump.notes.len() == CPUS as usize,
        "the dump has notes of {} CPUs",
        dump.notes.len()
    );
    let symbols = lab::symbols::Symbols::load(lab.vmlinux()?)?;
    let offset = dump.kaslr_offset()?;
    for (vcpu, note) in (0..).zip(&dump.notes) {
        let place = symbols.describe(note.registers.pc.wrapping_sub(offset));
        ensure!(
            place.starts_with("lkdtm_HARDLOCKUP+"),
            "CPU {vcpu} is in {place}"
        );
        if let Some(registers) = asked.and_then(|all| all.get(usize::from(vcpu))) {
            let differences = note.registers.differences(registers);
            ensure!(differences.is_empty(), "CPU {vcpu}: {differences:x?}");
        } else {
            let found = seen.found.get(&vcpu);
            ensure!(
                found == Some(&note.registers.pc),
                "the watchdog found CPU {vcpu} at {found:x?}, and the dump has {:#x}",
                note.registers.pc
            );
        }
    }
    Ok(format!("Linux {}, {saved}", dump.release()?))
}

/// What the capture kernel has left on the disk.
fn read(disk: &Path, vmcore: &Path) -> Result<Vmcore> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(vmcore)
        .with_context(|| format!("cannot write {}", vmcore.display()))?;
    vmcore::extract(&mut File::open(disk)?, &mut file)?;
    Vmcore::read(&file).context("cannot read the vmcore")
}
