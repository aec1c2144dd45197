//! The CPUs in the kernel that comes after: which came back, and whether they are as good as before.

use std::fmt;

use serde::Serialize;

use crate::evidence::{GuestLog, HvRecords, Trace};
use crate::ladder::{Ladder, Stopped};
use crate::plan::Plan;
use crate::revived::Revived;

/// The verdict on the CPUs in a kernel that came after another.
#[derive(Clone, Debug, Serialize)]
pub struct Capture {
    cpus: Vec<Cpu>,
    /// What that kernel is called.
    #[serde(skip)]
    kernel: &'static str,
}

/// The verdict on one.
#[derive(Clone, Debug, Serialize)]
struct Cpu {
    cpu: u32,
    /// That it stays away, since it never left its handler or never stopped spinning.
    is_lost: bool,
    found: Option<Revived>,
    faults: Vec<String>,
}

impl Capture {
    /// Judges what `story` says the capture kernel found, and `drain` the hypervisor saw.
    pub fn of(plan: &Plan, story: &GuestLog, drain: &HvRecords, ladder: &Ladder) -> Self {
        let lost = |cpu: u32| match ladder.stopped.get(cpu as usize) {
            Some(Stopped::Sdei { .. }) => !plan.comes_back(),
            // It is in no event that CPU_ON could take it back from.
            Some(Stopped::Itself) => true,
            _ => false,
        };
        let since = drain.stop_over_us(story);
        Self::judge(plan.cpus, story, lost, "the capture kernel", |cpu| {
            drain.first(cpu, "sdei-dispatch", since?)
        })
    }

    /// The same of the kernel after a restart, which has them all.
    pub fn after_restart(cpus: u32, story: &GuestLog, drain: &HvRecords) -> Self {
        // Without a stop nobody was sent an event before.
        let since = drain.stop_over_us(story).unwrap_or(0);
        Self::judge(
            cpus,
            story,
            |_| false,
            "the kernel after the restart",
            |cpu| drain.first(cpu, "sdei-dispatch", since),
        )
    }

    /// `signalled` is the event 0 of a CPU that the hypervisor dispatched since that kernel was there.
    fn judge<'a>(
        cpus: u32,
        story: &GuestLog,
        lost: impl Fn(u32) -> bool,
        kernel: &'static str,
        signalled: impl Fn(u32) -> Option<&'a Trace>,
    ) -> Self {
        let several = (0..cpus).filter(|&cpu| !lost(cpu)).count() > 1;
        let cpus = (0..cpus).map(|cpu| {
            let found = story.revived.iter().find(|found| found.cpu == cpu).copied();
            let is_lost = lost(cpu);
            Cpu {
                cpu,
                is_lost,
                found,
                faults: match found {
                    None => vec![format!("was not looked at by {kernel}")],
                    Some(found) if is_lost => lost_faults(&found),
                    Some(found) => faults(&found, several, signalled(cpu).is_some()),
                },
            }
        });
        Self {
            cpus: cpus.collect(),
            kernel,
        }
    }

    /// All that is wrong, one sentence each.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        self.cpus.iter().flat_map(|cpu| {
            let faults = cpu.faults.iter();
            faults.map(|fault| format!("in {}, CPU {} {fault}", self.kernel, cpu.cpu))
        })
    }
}

impl fmt::Display for Capture {
    /// One line per CPU; no line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, cpu) in self.cpus.iter().enumerate() {
            let line_end = if number == 0 { "" } else { "\n" };
            let verdict = if cpu.faults.is_empty() { "ok" } else { "BAD" };
            write!(f, "{line_end}  CPU {:<3} {verdict:3} ", cpu.cpu)?;
            match cpu.found {
                Some(found) if found.online => write!(
                    f,
                    "online, {} timer interrupts, {} IPIs{}",
                    found.timer,
                    found.ipi,
                    if found.event0 { ", event 0" } else { "" }
                )?,
                _ if cpu.is_lost => f.write_str("not online, and cannot be: it spins")?,
                _ => f.write_str("not online")?,
            }
        }
        Ok(())
    }
}

fn lost_faults(found: &Revived) -> Vec<String> {
    if found.online {
        vec!["is online, though nobody switched it off".into()]
    } else {
        Vec::new()
    }
}

fn faults(found: &Revived, several: bool, was_signalled: bool) -> Vec<String> {
    if !found.online {
        return vec!["did not come back".into()];
    }
    let mut faults = Vec::new();
    let mut demand = |met: bool, fault: &str| {
        if !met {
            faults.push(fault.to_owned());
        }
    };
    demand(found.task, "is online, but runs no task");
    demand(found.timer > 0, "is online, but takes no timer interrupt");
    if several {
        // A CPU alone has nobody to take IPIs and events from.
        demand(found.ipi > 0, "is online, but takes no IPI");
        demand(found.event0, "is online, but gives no backtrace");
        demand(
            was_signalled,
            "is online, but took no event 0 that the hypervisor recorded",
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tests::{LOG, drain, story};
    use crate::ladder::tests::records;
    use crate::plan::Fate;

    const FOUND: [&str; 4] = [
        "LAB: cpu 0 online=yes task=yes timer=4 ipi=1 event0=yes",
        "LAB: cpu 1 online=yes task=yes timer=5 ipi=2 event0=yes",
        "LAB: cpu 2 online=yes task=yes timer=6 ipi=3 event0=yes",
        "LAB: cpu 3 online=yes task=yes timer=7 ipi=4 event0=yes",
    ];

    fn faults(fate: Fate, found: &str) -> Vec<String> {
        let plan = Plan {
            fate: Some(fate),
            ..crate::kdump::tests::plan(crate::plan::Scenario::Kdump)
        };
        let mut lines = records();
        lines.push("@trace vm=0 vcpu=0 t=9800000 event=pe-mask a=0x0 b=0x0".into());
        for cpu in 0..4 {
            lines.push(format!(
                "@trace vm=0 vcpu={cpu} t=9900000 event=sdei-dispatch a=0x0 b=0x0"
            ));
        }
        let (story, drain) = (story(&format!("{LOG}\n{found}")), drain(&lines));
        let ladder = Ladder::of(4, &story, &drain);
        Capture::of(&plan, &story, &drain, &ladder)
            .faults()
            .collect()
    }

    #[test]
    fn a_cpu_that_was_switched_off_comes_back_whole() {
        assert_eq!(faults(Fate::Off, &FOUND.join("\n")), [""; 0]);
        for (good, bad, said) in [
            ("cpu 2 online=yes", "cpu 2 online=no", "did not come back"),
            ("yes timer=6", "no timer=6", "runs no task"),
            ("timer=6", "timer=0", "no timer interrupt"),
            ("ipi=3", "ipi=0", "no IPI"),
            ("ipi=3 event0=yes", "ipi=3 event0=no", "no backtrace"),
            ("cpu 2", "cup 2", "not looked at"),
        ] {
            let faults = faults(Fate::PadOff, &FOUND.join("\n").replace(good, bad));
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].contains(said), "{faults:?}");
            assert!(faults[0].contains("CPU 2"), "{faults:?}");
        }
    }

    #[test]
    fn a_cpu_that_spins_stays_away() {
        let lost = FOUND
            .join("\n")
            .replace("cpu 2 online=yes", "cpu 2 online=no");
        assert_eq!(faults(Fate::Park, &lost), [""; 0]);
        let faults = faults(Fate::ResumePark, &FOUND.join("\n"));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("nobody switched it off"), "{faults:?}");
    }
}
