//! A Linux that came up again after a restart: how the CPUs before were stopped, and what the CPUs after are good for.

use std::fmt;

use serde::Serialize;

use crate::capture::Capture;
use crate::evidence::{GuestLog, HvRecords};
use crate::ladder::{Ladder, Stopped};
use crate::plan::{Plan, Scenario};
use crate::registers::PSTATE_I;

/// The verdict on a restart.
#[derive(Clone, Debug, Serialize)]
pub struct Restart {
    /// The stop as it happened, if one CPU stopped the others.
    pub ladder: Option<Ladder>,
    /// The CPUs of the kernel that came up again.
    pub capture: Capture,
    /// What is wrong with the stop, one sentence each.
    pub faults: Vec<String>,
}

/// A function in which a CPU is wedged is no longer, in bytes.
const LOOP: u64 = 64;

impl Restart {
    /// Judges what `story` says, and `drain` the hypervisor saw.
    pub fn of(plan: &Plan, story: &GuestLog, drain: &HvRecords) -> Self {
        let ladder =
            (plan.scenario == Scenario::Reboot).then(|| Ladder::of(plan.cpus, story, drain));
        let faults = match &ladder {
            Some(ladder) => {
                let wedged = plan.wedge.iter();
                wedged
                    .filter_map(|cpu| {
                        let fault = judge(cpu, story, drain, ladder)?;
                        Some(format!("CPU {cpu} {fault}"))
                    })
                    .collect()
            }
            None => Vec::new(),
        };
        Self {
            ladder,
            capture: Capture::after_restart(plan.cpus, story, drain),
            faults,
        }
    }

    /// All that is wrong, one sentence each.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        self.faults.iter().cloned().chain(self.capture.faults())
    }
}

/// What is wrong with how the wedged CPU `cpu` was stopped.
fn judge(cpu: u32, story: &GuestLog, drain: &HvRecords, ladder: &Ladder) -> Option<String> {
    if !story.wedged.contains(cpu) {
        return Some("was to be wedged, but the guest did not find it wedged".into());
    }
    let stopped = ladder.stopped.get(cpu as usize).copied();
    match stopped.unwrap_or(Stopped::Not) {
        Stopped::Sdei { .. } => {}
        // The kernel says that it had to send one, and no more: it was reached.
        Stopped::PseudoNmi { .. } => return None,
        Stopped::Not => return Some("was not stopped, as the guest itself reports".into()),
        other => return Some(format!("was wedged, but how it was stopped is: {other}")),
    }
    let frame = drain.stopped_in(cpu, story).filter(|frame| frame.running);
    let Some(frame) = frame else {
        return Some("was stopped in no SDEI event that the hypervisor recorded".into());
    };
    let Some(wedge_at) = story.wedge_at else {
        return Some("was wedged in a function that the guest does not name".into());
    };
    let registers = &frame.registers;
    if registers.pc.wrapping_sub(wedge_at) >= LOOP {
        let pc = registers.pc;
        return Some(format!(
            "was wedged in the function at {wedge_at:#x}, but event 0 met it at {pc:#x}"
        ));
    }
    let is_masked = registers.pstate & PSTATE_I != 0 || story.pseudo_nmi;
    let pstate = registers.pstate;
    (!is_masked).then(|| {
        format!("was wedged with interrupts masked, but event 0 met it with pstate {pstate:#x}")
    })
}

impl fmt::Display for Restart {
    /// No line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ladder) = &self.ladder {
            writeln!(f, "Stop ladder\n{ladder}\n")?;
            for (cpu, stopped) in ladder.stopped.iter().enumerate() {
                writeln!(f, "  CPU {cpu:<3} {stopped}")?;
            }
            writeln!(f)?;
        }
        write!(f, "CPUs in the kernel after the restart\n{}", self.capture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::tests::{drain, story};
    use crate::registers::tests::{frame_line, sample};

    /// sample(2) stands at pc 0x20020.
    const LOG: &str = "\
LAB: up
LAB: wedge at=20000
LAB: wedged cpu=2
LAB: restart cpu=0
[    6.000000] sysrq: Resetting
[    7.100000] SMP: retry stop with SDEI NMI for CPUs 2
LAB: up
LAB: cpu 0 online=yes task=yes timer=4 ipi=1 event0=yes
LAB: cpu 1 online=yes task=yes timer=5 ipi=2 event0=yes
LAB: cpu 2 online=yes task=yes timer=6 ipi=3 event0=yes
LAB: cpu 3 online=yes task=yes timer=7 ipi=4 event0=yes
LAB: done";

    fn judged(log: &str, change: impl Fn(String) -> Option<String>) -> Restart {
        let frame = frame_line(2, "running", &sample(2)).replace("t=5000", "t=8100040");
        let mut lines = vec![
            "@trace vm=0 vcpu=0 t=8100000 event=sdei-signal a=0x2 b=0x0".to_owned(),
            "@trace vm=0 vcpu=2 t=8100040 event=sdei-dispatch a=0x0 b=0x20020".to_owned(),
            "@trace vm=0 vcpu=0 t=8105000 event=pe-mask a=0x0 b=0x0".to_owned(),
            frame,
        ];
        lines.extend((0..4).map(|cpu| {
            format!("@trace vm=0 vcpu={cpu} t=9900000 event=sdei-dispatch a=0x0 b=0x0")
        }));
        let lines: Vec<String> = lines.into_iter().filter_map(change).collect();
        let plan = crate::kdump::tests::plan(Scenario::Reboot);
        Restart::of(&plan, &story(log), &drain(&lines))
    }

    fn faults(log: &str, change: impl Fn(String) -> Option<String>) -> Vec<String> {
        judged(log, change).faults().collect()
    }

    #[test]
    fn a_wedged_cpu_is_stopped_by_sdei_and_comes_back() {
        let judged = judged(LOG, Some);
        assert_eq!(judged.faults().collect::<Vec<_>>(), [""; 0]);
        let ladder = judged.ladder.unwrap();
        // The restart itself says nothing of the stop, whose end is in the hypervisor's record.
        assert_eq!(
            (ladder.ipi_us, ladder.sdei_us),
            (Some(1_100_000), Some(5000))
        );
        assert_eq!(ladder.stopped[0], Stopped::Restarted);
        assert_eq!(ladder.stopped[2], Stopped::Sdei { after_us: Some(40) });
    }

    #[test]
    fn what_is_not_as_it_must_be_is_named() {
        let not = LOG.replace("retry stop with SDEI NMI for", "failed to stop secondary");
        let said = faults(&not, Some);
        assert_eq!(said, ["CPU 2 was not stopped, as the guest itself reports"]);
        let elsewhere = LOG.replace("at=20000", "at=30000");
        let said = faults(&elsewhere, Some);
        assert!(said[0].contains("event 0 met it at 0x20020"), "{said:?}");
        let said = faults(LOG, |line| (!line.starts_with("@frame")).then_some(line));
        assert!(said[0].contains("no SDEI event"), "{said:?}");
        let said = faults(LOG, |line| (!line.contains("t=9900000")).then_some(line));
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(
            said[3].starts_with(
                "in the kernel after the restart, CPU 3 is online, but took no event 0"
            ),
            "{said:?}"
        );
        let away = LOG.replace("cpu 2 online=yes", "cpu 2 online=no");
        assert!(faults(&away, Some)[0].ends_with("CPU 2 did not come back"));
    }
}
