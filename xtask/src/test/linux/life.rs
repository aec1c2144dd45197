//! Linux that lives on: it takes its CPUs off and on under event 0, and then reboots with one of them wedged.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hv_abi::watchdog::{Act, Watchdog};

use super::cases::{Case, USUAL};
use super::host_pauses::HostPauses;
use super::{Run, TIMEOUT, demand_hardening};
use crate::ledger::Ledger;
use lab::evidence::{GuestLog, HvRecords};
use lab::kdump::{Care, Lab};
use machine::console::{GuestLines, Record};
use machine::qemu::Event;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// CPUs go off and on while all are sent event 0, for their backtraces, and the kernel has nothing to complain
/// of. Then one is wedged, and a reboot stops it by event 0 and leaves nothing of it.
const LIFE: &str = "linux/life";

/// The same with a watchdog over the guest, which has nothing to report until the one is wedged. It is only run when it is named:
/// `--minutes` says for how long.
const WATCHED: &str = "linux/watchdog/life";

/// The same of a kernel that masks interrupts by priority (irqchip.gicv3_pseudo_nmi=1): its interrupts for backtraces and for the stop are
/// not masked, and it needs no event 0 for them.
const PRIORITIES: &str = "linux/watchdog/life-by-priorities";

/// Of the watchdog. A guest that is in nobody's way takes its interrupts within milliseconds.
const WATCHDOG: Watchdog = Watchdog {
    limit_ms: 10_000,
    one: Act::Report,
    all: Act::Report,
};

/// Its CPUs have all that a guest is shown of what QEMU has.
const LIVING: Case = Case {
    name: LIFE,
    model: "max",
    ..USUAL
};

/// One of them.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    watchdog: Option<Watchdog>,
    masks_by_priority: bool,
}

const ROWS: [Row; 3] = [
    Row {
        name: LIFE,
        watchdog: None,
        masks_by_priority: false,
    },
    Row {
        name: WATCHED,
        watchdog: Some(WATCHDOG),
        masks_by_priority: false,
    },
    Row {
        name: PRIORITIES,
        watchdog: Some(WATCHDOG),
        masks_by_priority: true,
    },
];

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

/// Them, for so many minutes: the first, and the others if they are named.
pub fn runs<'a>(
    workshop: &'a Workshop,
    lab: &'a Lab,
    minutes: u32,
    ledger: &Ledger,
) -> Vec<Run<'a>> {
    let wanted = |row: &&Row| row.name == LIFE || ledger.names(row.name);
    let rows = ROWS.iter().filter(wanted).copied();
    rows.map(|row| {
        let run = move || live(workshop, lab, minutes, row);
        (row.name.to_owned(), Box::new(run) as Box<_>)
    })
    .collect()
}

/// What was seen of it.
#[derive(Default)]
struct LifeRun {
    story: GuestLog,
    drain: HvRecords,
    /// What our init said of the CPUs that it took off and on.
    hotplug: Option<String>,
    /// How often Linux came up and found SDEI.
    boots: u32,
    /// How often the VM was reset.
    resets: u32,
}

impl LifeRun {
    fn note(&mut self, line: &str) -> Result<()> {
        if let Some((_, failure)) = line.split_once("LAB: fail ") {
            bail!("the guest says: {failure}");
        }
        if let Some((_, done)) = line.split_once("LAB: hotplug ") {
            self.hotplug = Some(done.trim_end().to_owned());
        }
        if line.contains("LAB: up") {
            ensure!(line.contains("sdei=yes"), "it came up without SDEI: {line}");
            self.boots += 1;
        }
        if self.boots == 1 {
            self.story.note(line);
        }
        Ok(())
    }

    /// The watchdog may find who is wedged on purpose, and what Linux has parked, and nobody else.
    fn bark(&self, record: &Record) -> Result<()> {
        let is_wedged = record.name == "vm-late" && record.word("late").ok() == Some("wedged");
        let is_meant = !self.story.wedged.is_empty();
        ensure!(
            !is_wedged || is_meant,
            "vCPU {} is called wedged",
            record.index("vcpu")?
        );
        Ok(())
    }

    /// The reboot must have stopped the wedged CPU, by event 0 unless that masks by priority, and all others.
    fn check(&self, wedged: u32, masks_by_priority: bool) -> Result<String> {
        let hotplug = self.hotplug.as_deref();
        let hotplug = hotplug.context("it did not take CPUs off and on")?;
        let story = &self.story;
        ensure!(
            self.resets == 1,
            "the VM was reset {} times, not once",
            self.resets
        );
        ensure!(story.wedged.contains(wedged), "CPU {wedged} was not wedged");
        ensure!(
            story.failed.is_empty(),
            "Linux could not stop CPUs {}",
            story.failed
        );
        let way = if masks_by_priority {
            ensure!(
                story.nmi_retried.contains(wedged) && story.retried.is_empty(),
                "Linux stopped CPUs {} by an NMI of its own, and {} by SDEI",
                story.nmi_retried,
                story.retried
            );
            "an NMI of Linux's own"
        } else {
            ensure!(
                story.retried.contains(wedged),
                "Linux stopped CPUs {} by SDEI",
                story.retried
            );
            let parked = |frame: &&lab::evidence::Frame| {
                frame.vcpu == wedged && frame.event == 0 && frame.running
            };
            ensure!(
                self.drain.frames.iter().any(|frame| parked(&frame)),
                "the hypervisor did not interrupt CPU {wedged} by event 0"
            );
            "SDEI"
        };
        let registers = story.registers.as_deref();
        let registers = registers.context("it did not look at registers")?;
        Ok(format!(
            "{registers}; {hotplug}; the reboot stopped CPU {wedged} by {way}; {}",
            story.hardening.join(" ")
        ))
    }
}

/// Boots it once, and lets it reboot.
fn live(workshop: &Workshop, lab: &Lab, minutes: u32, row: Row) -> Result<String> {
    const WEDGED: u32 = 2;
    let folder = RunDir::create(None)?;
    let plan = LIVING.plan()?;
    let priorities = match row.masks_by_priority {
        true => " irqchip.gicv3_pseudo_nmi=1",
        false => "",
    };
    let bootargs =
        format!("console=ttyAMA0 lab.do=life lab.minutes={minutes} lab.wedge={WEDGED}{priorities}");
    let care = Care {
        watchdog: row.watchdog,
        dump: None,
    };
    let machine = lab.machine_with(&plan, &bootargs, &folder, &care)?;
    let host = HostPauses::watch();
    let timeout = TIMEOUT + Duration::from_secs(60 * u64::from(minutes));
    let mut session = machine.start(Some(timeout))?;
    let mut lines = GuestLines::default();
    let mut seen = LifeRun::default();
    let lived = loop {
        let step = match session.next_event()? {
            Event::Guest { bytes, .. } => lines
                .push(&bytes)
                .iter()
                .try_for_each(|line| seen.note(line)),
            Event::Line(line) => match line.record().transpose()? {
                Some(record) => {
                    seen.resets += u32::from(record.name == "vm-reset");
                    seen.drain.note(&record).and_then(|()| seen.bark(&record))
                }
                None => Ok(()),
            },
            Event::Complaint(_) => Ok(()),
            Event::Ended(_) => Err(anyhow::anyhow!("it ended too early")),
            Event::TimedOut | Event::Left => Err(anyhow::anyhow!("it takes too long")),
        };
        if step.is_err() || seen.boots == 2 {
            break step
                .and_then(|()| demand_hardening(workshop.board, &LIVING, &seen.story))
                .and_then(|()| seen.check(WEDGED, row.masks_by_priority));
        }
    };
    let lived = lived.map(|remark| format!("{remark}; {host}"));
    lived.with_context(|| {
        format!(
            "{}\n{host}\nQEMU was: {}",
            session.tail().join("\n"),
            machine.command_line()
        )
    })
}
