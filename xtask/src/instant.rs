//! Runs a guest that jumps into the memory of its crash kernel: at that instant it stands still until somebody thaws it.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use machine::operator::Operator;
use machine::qemu::{Event, Machine};

/// Runs `machine` to its end, or for so long. At each instant `still` looks at the guest and thaws it; all that happens goes to `hear`.
pub fn run(
    machine: &Machine,
    limit: Duration,
    still: impl Fn(&Operator) -> Result<()> + Copy + Send + 'static,
    mut hear: impl FnMut(&Event) -> Result<()>,
) -> Result<()> {
    let mut session = machine.start(Some(limit))?;
    let operator = Operator::new(session.take_input().context("QEMU has no input")?, false);
    let mut thawing = Vec::new();
    loop {
        let event = session.next_event()?;
        hear(&event)?;
        match event {
            Event::Line(line) => {
                operator.hear(&line);
                let record = line.record().transpose()?;
                if record.is_some_and(|record| record.name == "kexec") {
                    // The answers to what is asked come while the machine is watched.
                    let (operator, leave) = (operator.clone(), session.leave());
                    thawing.push(std::thread::spawn(move || {
                        let thawed = still(&operator);
                        if thawed.is_err() {
                            leave.leave();
                        }
                        thawed
                    }));
                }
            }
            Event::Guest { .. } | Event::Complaint(_) => {}
            Event::Ended(_) | Event::Left => break,
            Event::TimedOut => bail!("the guest does not end within {} s", limit.as_secs()),
        }
    }
    operator.end();
    for thread in thawing {
        thread
            .join()
            .map_err(|_| anyhow!("who thaws has panicked"))??;
    }
    Ok(())
}
