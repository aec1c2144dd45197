//! Linux that hibernates: its memory goes to the disk, another boot loads it, and SDEI is there again. Then it
//! sleeps, all CPUs powered down, and SDEI is there again when it wakes up.

use anyhow::{Context, Result, bail, ensure};

use super::cases::USUAL;
use super::{Run, TIMEOUT};
use lab::cpulist::CpuList;
use lab::evidence::HvRecords;
use lab::kdump::Lab;
use machine::board::Board;
use machine::console::GuestLines;
use machine::qemu::{Event, Machine};
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// Linux unregisters event 0 and powers off; restored, it registers it on every CPU, and each takes it. So does
/// each after SYSTEM_SUSPEND, which masked it.
const HIBERNATE: &str = "linux/hibernate";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [HIBERNATE].into_iter()
}

/// Them; none on a board, as it resumes from a virtio disk.
pub fn runs<'a>(workshop: &'a Workshop, lab: &'a Lab) -> impl Iterator<Item = Run<'a>> {
    let run: Run<'a> = (HIBERNATE.into(), Box::new(|| hibernate(lab)));
    (workshop.board != Board::Raspi4b)
        .then_some(run)
        .into_iter()
}

/// What was seen of one boot.
#[derive(Default)]
struct HibernateRun {
    /// What our init said, without the words that its lines begin with.
    said: Vec<String>,
    /// Whether the kernel registered event 0 at its start.
    has_started: bool,
    drain: HvRecords,
    /// Whether the VM went off.
    is_off: bool,
}

impl HibernateRun {
    /// What our init said after `word`.
    fn said(&self, word: &str) -> Option<&str> {
        let mut said = self.said.iter();
        said.find_map(|line| line.strip_prefix(word))
    }

    /// Which vCPUs the hypervisor had take event 0.
    fn dispatched(&self) -> CpuList {
        let frames = self.drain.frames.iter();
        frames
            .filter(|frame| frame.event == 0)
            .map(|frame| frame.vcpu)
            .collect()
    }
}

/// Boots it, lets it hibernate, and boots it again from the same disk.
fn hibernate(lab: &Lab) -> Result<String> {
    let folder = RunDir::create(None)?;
    let plan = USUAL.plan()?;
    // Where there is nothing to resume from, it boots.
    let bootargs = "console=ttyAMA0 lab.do=hibernate resume=/dev/vda";
    let machine = lab.machine(&plan, bootargs, &folder)?;

    let first = boot(&machine)?;
    let marker = first.said("hibernate marker=");
    let marker = marker.context("it came to its end before it hibernated")?;
    ensure!(
        first.is_off && first.said("resumed").is_none(),
        "it did not power off: {:?}",
        first.said
    );

    let second = boot(&machine)?;
    let resumed = second.said("resumed marker=");
    ensure!(
        resumed == Some(marker) && second.said("up").is_none(),
        "the second boot should go on with marker {marker}, but it said {:?}",
        second.said
    );
    ensure!(
        second.said("done").is_some() && second.is_off,
        "it did not come to its end: {:?}",
        second.said
    );
    let (cpus, all) = (second.dispatched(), (0..plan.cpus).collect());
    ensure!(
        cpus == all,
        "the hypervisor had CPUs {cpus} take event 0 after it was restored, not CPUs {all}"
    );
    Ok(format!(
        "CPUs {cpus} take event 0 in the memory that was restored, and after a sleep"
    ))
}

/// One boot, to its end.
fn boot(machine: &Machine) -> Result<HibernateRun> {
    let mut session = machine.start(Some(TIMEOUT))?;
    let mut lines = GuestLines::default();
    let mut seen = HibernateRun::default();
    let ended = loop {
        match session.next_event()? {
            Event::Guest { bytes, .. } => {
                for line in lines.push(&bytes) {
                    seen.has_started |= line.contains("sdei_nmi: using SDEI");
                    if let Some((_, said)) = line.split_once("LAB: ") {
                        seen.said.push(said.trim_end().to_owned());
                    }
                }
            }
            Event::Line(line) => {
                if let Some(record) = line.record().transpose()? {
                    seen.is_off |= record.name == "vm-off";
                    seen.drain.note(&record)?;
                }
            }
            Event::Complaint(_) => {}
            Event::Ended(_) | Event::Left => break "it ended",
            Event::TimedOut => break "it takes too long",
        }
    };
    if let Some(failure) = seen.said("fail ") {
        bail!(
            "{ended}, and the guest says: {failure}\n{}",
            session.tail().join("\n")
        );
    }
    ensure!(
        seen.has_started && seen.is_off,
        "{ended} before it powered off\n{}\nQEMU was: {}",
        session.tail().join("\n"),
        machine.command_line()
    );
    Ok(seen)
}
