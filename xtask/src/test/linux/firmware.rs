//! Linux on firmware with faults: what went wrong on machines goes wrong here.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::cases::USUAL;
use super::{Run, TIMEOUT, control, run_plan};
use lab::kdump::Lab;
use lab::plan::{Fate, Plan};
use machine::board::Board;
use machine::console::GuestLines;
use machine::qemu::Event;
use machine::run_dir::RunDir;
use machine::workshop::Workshop;

/// CPU_OFF in the event, as TF-A 2.12 handles it: the capture kernel hangs when it starts that CPU.
const HANG: &str = "linux/firmware/tfa-2.12-hangs-the-capture-kernel";

/// A signal that is answered with success and lost: the wedged CPU is missing.
const LOST: &str = "linux/firmware/signal-lost-loses-the-wedged-cpu";

/// The names of these tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    [HANG, LOST].into_iter()
}

/// Them, on a kernel that has a choice of endings; the longest first.
pub fn runs<'a>(workshop: &'a Workshop, lab: &'a Lab) -> impl Iterator<Item = Run<'a>> {
    let runs: [Run<'a>; 2] = [
        (HANG.into(), Box::new(|| hang(workshop, lab))),
        (LOST.into(), Box::new(|| lose(lab))),
    ];
    runs.into_iter()
}

/// A run in which the wedged CPU is missing, as it must be.
fn lose(lab: &Lab) -> Result<String> {
    let plan = Plan {
        firmware: "signal-lost=1".into(),
        ..USUAL.plan()?
    };
    control(&run_plan(lab, plan, None)?)
}

/// How long a hang is watched, unless the kernel itself says so before; what hangs here takes seconds
/// elsewhere.
const SILENCE: Duration = Duration::from_secs(60);

/// The capture kernel must start the CPU that went off in the event, and never come up.
fn hang(workshop: &Workshop, lab: &Lab) -> Result<String> {
    let plan = Plan {
        fate: Some(Fate::Off),
        firmware: "tfa-2.12".into(),
        ..USUAL.plan()?
    };
    let folder = RunDir::create(None)?;
    // Its own console comes up too late.
    let pl011: u64 = match workshop.board {
        Board::Virt | Board::VirtGicv2 => 0x900_0000,
        Board::Raspi4b => 0xfe20_1000,
    };
    let bootargs = format!("{} earlycon=pl011,{pl011:#x}", plan.bootargs());
    let machine = lab.machine(&plan, &bootargs, &folder)?;
    let mut session = machine.start(Some(TIMEOUT))?;
    let mut lines = GuestLines::default();
    let (mut has_left, mut has_begun) = (false, false);
    loop {
        match session.next_event()? {
            Event::Guest { bytes, .. } => {
                for line in lines.push(&bytes) {
                    has_left |= line.contains("Starting crashdump kernel");
                    if has_left && line.contains("CPU2: Booted secondary processor") {
                        has_begun = true;
                        session.shorten(SILENCE);
                    }
                    ensure!(
                        !line.contains("LAB: capture up"),
                        "the capture kernel came up"
                    );
                    if has_begun && line.contains("Watchdog detected hard LOCKUP on cpu 2") {
                        return Ok("hard LOCKUP on cpu 2, says the capture kernel".into());
                    }
                }
            }
            Event::TimedOut if has_begun => break,
            Event::TimedOut | Event::Ended(_) | Event::Left => bail!(
                "no capture kernel started CPU 2\n{}\nQEMU was: {}",
                session.tail().join("\n"),
                machine.command_line()
            ),
            Event::Line(_) | Event::Complaint(_) => {}
        }
    }
    let seconds = SILENCE.as_secs();
    Ok(format!(
        "{seconds} s after it started CPU 2 the capture kernel is not up"
    ))
}
