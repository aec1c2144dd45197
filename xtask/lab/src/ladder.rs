//! The stop ladder as it happened: which rung reached which CPU, and how long each took.

use std::fmt;

use serde::Serialize;

use crate::cpulist::CpuList;
use crate::evidence::{GuestLog, HvRecords};

/// How a CPU came to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// It is the one that panicked and stopped the others.
    Panicked,
    /// It is the one that restarted the machine and stopped the others.
    Restarted,
    /// It panicked while another did already, and stopped itself. Linux saves no registers of it.
    Itself,
    /// It took the stop IPI and switched itself off, so long after the kernel began to stop CPUs.
    Ipi {
        /// Microseconds, if both clocks can be compared, and tell which was first.
        after_us: Option<u64>,
    },
    /// It took the pseudo-NMI, an interrupt of a priority that the kernel does not mask, and switched itself off, so long after the
    /// kernel turned to that.
    PseudoNmi {
        /// Microseconds, if both clocks can be compared, and tell which was first.
        after_us: Option<u64>,
    },
    /// It was signalled, and its SDEI handler was entered so long after the signal.
    Sdei {
        /// Microseconds, if the hypervisor recorded both.
        after_us: Option<u64>,
    },
    /// The kernel gave up on it.
    Not,
    /// The hypervisor has stopped it, and the kernel knows nothing of it.
    Below,
}

/// The ladder, rung by rung.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ladder {
    /// Microseconds of the IPI rung: until the kernel turned to what comes next, or was done.
    pub ipi_us: Option<u64>,
    /// Microseconds of the pseudo-NMI rung, if the kernel has one and climbed it.
    pub pseudo_nmi_us: Option<u64>,
    /// Microseconds of the SDEI rung, if the kernel climbed it.
    pub sdei_us: Option<u64>,
    /// How each CPU came to stand still, by CPU number.
    pub stopped: Vec<Stopped>,
}

impl Ladder {
    /// Puts together what both witnesses saw of the stop of `cpus` CPUs.
    pub fn of(cpus: u32, story: &GuestLog, drain: &HvRecords) -> Self {
        let begin = story.stop_us;
        let clock = Clock::of(story, drain);
        // What comes after the stop says when that was over: in the log, or in the hypervisor's record.
        let recorded = || Some(drain.stop_over_us(story)?.saturating_sub(clock?.ahead_us));
        let over = story.notified_us.or(story.left_us).or_else(recorded);
        let off = |cpu, begin: Option<u64>| {
            clock.and_then(|clock| off_latency(cpu, begin?, clock, drain))
        };
        let stopped = (0..cpus).map(|cpu| {
            if story.panicked == Some(cpu) {
                Stopped::Panicked
            } else if story.restarted == Some(cpu) {
                Stopped::Restarted
            } else if story.failed.contains(cpu) {
                Stopped::Not
            } else if story.retried.contains(cpu) {
                Stopped::Sdei {
                    after_us: sdei_latency(cpu, story, drain),
                }
            } else if story.nmi_retried.contains(cpu) {
                Stopped::PseudoNmi {
                    after_us: off(cpu, story.nmi_us),
                }
            } else if story.panicking.contains(cpu) && has_stopped_itself(cpu, drain) {
                Stopped::Itself
            } else {
                Stopped::Ipi {
                    after_us: off(cpu, begin),
                }
            }
        });
        Self {
            ipi_us: span(begin, story.nmi_us.or(story.retry_us).or(over)),
            pseudo_nmi_us: span(story.nmi_us, story.retry_us.or(over)),
            sdei_us: span(story.retry_us, over),
            stopped: stopped.collect(),
        }
    }

    /// Of `cpus` CPUs that the hypervisor has stopped.
    pub fn below(cpus: u32) -> Self {
        Self {
            ipi_us: None,
            pseudo_nmi_us: None,
            sdei_us: None,
            stopped: (0..cpus).map(|_| Stopped::Below).collect(),
        }
    }

    fn those(&self, wanted: impl Fn(Stopped) -> bool) -> CpuList {
        let stopped = (0..).zip(&self.stopped);
        let those = stopped.filter(|&(_, &how)| wanted(how));
        those.map(|(cpu, _)| cpu).collect()
    }
}

impl fmt::Display for Ladder {
    /// One line per rung; no line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ipi = self.those(|how| matches!(how, Stopped::Ipi { .. }));
        let sdei = self.those(|how| matches!(how, Stopped::Sdei { .. }));
        let nmi = self.those(|how| matches!(how, Stopped::PseudoNmi { .. }));
        let itself = self.those(|how| how == Stopped::Itself);
        let not = self.those(|how| how == Stopped::Not);
        let below = self.those(|how| how == Stopped::Below);
        if !below.is_empty() {
            return write!(f, "  the hypervisor stopped CPUs {below}");
        }
        let mut rung = |name: &str, line_end: &str, took: Option<u64>, cpus: &CpuList| {
            write!(
                f,
                "{line_end}  {name:10}  {}  stopped CPUs {cpus}",
                Millis(took)
            )
        };
        rung("IPI", "", self.ipi_us, &ipi)?;
        if !nmi.is_empty() || self.pseudo_nmi_us.is_some() {
            rung("pseudo-NMI", "\n", self.pseudo_nmi_us, &nmi)?;
        }
        if !sdei.is_empty() || self.sdei_us.is_some() {
            rung("SDEI", "\n", self.sdei_us, &sdei)?;
        }
        if !itself.is_empty() {
            write!(f, "\n  {:10}  {:13}  stopped CPUs {itself}", "itself", "")?;
        }
        if !not.is_empty() {
            write!(f, "\n  {:10}  {:13}  left CPUs {not} running", "none", "")?;
        }
        Ok(())
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, after_us) = match self {
            Self::Panicked => return f.write_str("panicked"),
            Self::Restarted => return f.write_str("restarted"),
            Self::Itself => return f.write_str("by itself"),
            Self::Not => return f.write_str("not stopped"),
            Self::Below => return f.write_str("by the hypervisor"),
            Self::Ipi { after_us } => ("IPI", after_us),
            Self::PseudoNmi { after_us } => ("pseudo-NMI", after_us),
            Self::Sdei { after_us } => ("SDEI", after_us),
        };
        write!(f, "{how}")?;
        match after_us {
            Some(micros) => write!(f, ", {:.3} ms", *micros as f64 / 1000.0),
            None => f.write_str(", not measurable"),
        }
    }
}

/// A span of microseconds, as milliseconds in a column.
struct Millis(Option<u64>);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(micros) => write!(f, "{:10.3} ms", micros as f64 / 1000.0),
            None => write!(f, "{:>13}", "unknown"),
        }
    }
}

/// How far the system counter is ahead of the guest's log.
#[derive(Clone, Copy)]
struct Clock {
    ahead_us: u64,
}

impl Clock {
    /// The kernel says "retry stop with SDEI NMI" right before its first signal, which the
    /// hypervisor records: one moment on both clocks.
    fn of(story: &GuestLog, drain: &HvRecords) -> Option<Self> {
        let stopper = story.stopper()?;
        let over = drain.stop_over_us(story).unwrap_or(u64::MAX);
        let signal = drain
            .traces
            .iter()
            .filter(|trace| trace.vcpu == stopper && trace.event == "sdei-signal")
            .filter(|trace| u32::try_from(trace.a).is_ok_and(|cpu| story.retried.contains(cpu)))
            .filter(|trace| trace.time_us <= over)
            .map(|trace| trace.time_us);
        // Backtraces signal too, but earlier or in the capture kernel: the stop's own signals are
        // the last before it was over, one per CPU.
        let mut signals: Vec<u64> = signal.collect();
        signals.sort_unstable();
        let first = signals.len().checked_sub(story.retried.len())?;
        let ahead_us = signals.get(first)?.checked_sub(story.retry_us?)?;
        Some(Self { ahead_us })
    }
}

fn span(from: Option<u64>, to: Option<u64>) -> Option<u64> {
    to?.checked_sub(from?)
}

/// Microseconds from the signal to the entry of the handler that never completed.
fn sdei_latency(cpu: u32, story: &GuestLog, drain: &HvRecords) -> Option<u64> {
    let entered = drain.stopped_in(cpu, story)?.time_us;
    let signalled = drain
        .traces
        .iter()
        .filter(|trace| Some(trace.vcpu) == story.stopper() && trace.event == "sdei-signal")
        .filter(|trace| trace.a == u64::from(cpu) && trace.time_us <= entered)
        .map(|trace| trace.time_us)
        .max()?;
    Some(entered - signalled)
}

/// Whether `cpu`, of which Linux says that it stands still, is not off: those that others stop by an interrupt are.
fn has_stopped_itself(cpu: u32, drain: &HvRecords) -> bool {
    drain.first(cpu, "cpu-off", 0).is_none()
}

/// Microseconds from the beginning of a rung to the CPU_OFF of `cpu`; nothing if that seems to come first, as the
/// two are of different clocks.
fn off_latency(cpu: u32, begin_us: u64, clock: Clock, drain: &HvRecords) -> Option<u64> {
    let begin = begin_us + clock.ahead_us;
    // The line is written a moment after the clock is read, so CPU_OFF may seem to come first.
    const SLACK_US: u64 = 100_000;
    let off = drain.first(cpu, "cpu-off", begin.saturating_sub(SLACK_US))?;
    off.time_us.checked_sub(begin).filter(|span| *span > 0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::evidence::tests::{LOG, drain, story};
    use crate::registers::tests::{frame_line, sample};

    /// The hypervisor's side of `LOG`: CPUs 1 and 3 off at the IPI, CPU 2 entered 40 us after its
    /// signal. The system counter is one second ahead of the guest's log.
    pub fn records() -> Vec<String> {
        let frame = frame_line(2, "running", &sample(2)).replace("t=5000", "t=9700545");
        [
            "@trace vm=0 vcpu=1 t=500 event=started a=0x0 b=0x0",
            "@trace vm=0 vcpu=1 t=7568454 event=cpu-off a=0x0 b=0x0",
            "@trace vm=0 vcpu=3 t=7569454 event=cpu-off a=0x0 b=0x0",
            "@trace vm=0 vcpu=0 t=5000000 event=sdei-signal a=0x2 b=0x0",
            "@trace vm=0 vcpu=0 t=9700505 event=sdei-signal a=0x2 b=0x0",
            "@trace vm=0 vcpu=2 t=9700545 event=sdei-dispatch a=0x0 b=0x200002",
            &frame,
            "@end vm=0",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn signals_of_the_capture_kernel_do_not_move_the_clock() {
        let quiet = Ladder::of(4, &story(LOG), &drain(&records()));
        let mut records = records();
        for (time, event) in [(9_800_000, "pe-mask"), (20_000_000, "sdei-signal")] {
            records.push(format!(
                "@trace vm=0 vcpu=0 t={time} event={event} a=0x2 b=0x0"
            ));
        }
        assert_eq!(Ladder::of(4, &story(LOG), &drain(&records)), quiet);
    }

    #[test]
    fn each_rung_has_its_cpus_and_its_time() {
        let ladder = Ladder::of(4, &story(LOG), &drain(&records()));
        assert_eq!(ladder.ipi_us, Some(2_133_001));
        assert_eq!(ladder.sdei_us, Some(5_296));
        assert_eq!(
            ladder.stopped,
            [
                Stopped::Panicked,
                Stopped::Ipi {
                    after_us: Some(950)
                },
                Stopped::Sdei { after_us: Some(40) },
                Stopped::Ipi {
                    after_us: Some(1950)
                },
            ]
        );
        assert_eq!(
            ladder.to_string(),
            "  IPI           2133.001 ms  stopped CPUs 1,3\n  SDEI             5.296 ms  stopped CPUs 2"
        );
    }

    /// The same of a kernel that has pseudo-NMIs, which reach CPU 3.
    pub fn pseudo_nmi_log() -> String {
        let sent = "[    8.700455] SMP: retry stop with NMI for CPUs 2-3\n[    8.711455] SMP: retry stop with SDEI";
        LOG.replace("[    8.700455] SMP: retry stop with SDEI", sent)
    }

    #[test]
    fn a_pseudo_nmi_is_a_rung_of_its_own() {
        let late: Vec<String> = records()
            .iter()
            .map(|line| {
                line.replace("t=7569454", "t=9702455")
                    .replace("t=97005", "t=97115")
            })
            .collect();
        let log = pseudo_nmi_log().replace("8.705751", "8.716751");
        let ladder = Ladder::of(4, &story(&log), &drain(&late));
        let rungs = (ladder.ipi_us, ladder.pseudo_nmi_us, ladder.sdei_us);
        assert_eq!(rungs, (Some(2_133_001), Some(11_000), Some(5_296)));
        let reached = Stopped::PseudoNmi {
            after_us: Some(1950),
        };
        assert_eq!(ladder.stopped[3], reached);
        assert!(matches!(ladder.stopped[2], Stopped::Sdei { .. }));
        assert!(matches!(ladder.stopped[1], Stopped::Ipi { .. }));
        assert_eq!(
            ladder.to_string(),
            "  IPI           2133.001 ms  stopped CPUs 1\n  pseudo-NMI      11.000 ms  stopped CPUs 3\n  SDEI             5.296 ms  stopped CPUs 2"
        );
        let json = serde_json::to_string(&reached).unwrap();
        assert_eq!(json, r#"{"pseudo-nmi":{"after_us":1950}}"#);
        // All that it reaches is left for SDEI to do: nothing.
        let log = log.replace(
            "[    8.711455] SMP: retry stop with SDEI NMI for CPUs 2\n",
            "",
        );
        let ladder = Ladder::of(4, &story(&log), &drain(&late));
        assert_eq!((ladder.pseudo_nmi_us, ladder.sdei_us), (Some(16_296), None));
        assert_eq!(ladder.stopped[2], Stopped::PseudoNmi { after_us: None });
    }

    #[test]
    fn a_cpu_that_panics_second_has_stopped_itself_unless_it_is_off() {
        let log = LOG.replace("LAB: panic cpu=0", "LAB: panics cpus=0,3");
        let mut lines = records();
        lines.push("@trace vm=0 vcpu=3 t=7569453 event=pe-mask a=0x0 b=0x0".into());
        let off = Ladder::of(4, &story(&log), &drain(&lines));
        assert!(matches!(off.stopped[3], Stopped::Ipi { .. }));
        lines.retain(|line| !line.contains("vcpu=3 t=7569454"));
        let itself = Ladder::of(4, &story(&log), &drain(&lines));
        assert_eq!(itself.stopped[3], Stopped::Itself);
        assert!(itself.to_string().ends_with("stopped CPUs 3"), "{itself}");
        // Of one that was not to panic nothing is known.
        let other = Ladder::of(4, &story(LOG), &drain(&lines));
        assert_eq!(other.stopped[3], Stopped::Ipi { after_us: None });
    }

    #[test]
    fn panic_notifiers_are_no_part_of_a_rung() {
        let said = "[    8.702000] Kernel Offset: 0x1000 from 0x2000\n[    8.705751] Starting";
        let log = LOG.replace("[    8.705751] Starting", said);
        let ladder = Ladder::of(4, &story(&log), &drain(&records()));
        assert_eq!(ladder.sdei_us, Some(1545));
    }

    #[test]
    fn a_time_below_what_the_clocks_tell_is_not_measurable() {
        // Its CPU_OFF seems to come before the stop: the guest's log has the later time.
        let records = records()
            .iter()
            .map(|line| line.replace("t=7568454", "t=7567000"))
            .collect::<Vec<_>>();
        let ladder = Ladder::of(4, &story(LOG), &drain(&records));
        let unknown = Stopped::Ipi { after_us: None };
        assert_eq!(ladder.stopped[1], unknown);
        assert_eq!(unknown.to_string(), "IPI, not measurable");
        let json = serde_json::to_string(&unknown).unwrap();
        assert_eq!(json, r#"{"ipi":{"after_us":null}}"#);
    }

    #[test]
    fn a_cpu_the_kernel_gave_up_on_is_on_no_rung() {
        let log = LOG.replace(
            "retry stop with SDEI NMI for CPUs 2",
            "failed to stop secondary CPUs 2",
        );
        let ladder = Ladder::of(4, &story(&log), &HvRecords::default());
        assert_eq!(ladder.stopped[2], Stopped::Not);
        assert_eq!(ladder.stopped[1], Stopped::Ipi { after_us: None });
        assert_eq!(ladder.ipi_us, Some(2_138_297));
        assert_eq!(ladder.sdei_us, None);
        assert!(ladder.to_string().ends_with("left CPUs 2 running"));
    }
}
