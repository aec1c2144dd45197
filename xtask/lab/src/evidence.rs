//! What the two witnesses of a stop said: the guest on its console, the hypervisor in its records.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::cpulist::CpuList;
use crate::outside::Outside;
use crate::registers::Registers;
use crate::revived::Revived;
use machine::console::Record;

/// What the guest said: Linux in its log, our init in `LAB:` lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuestLog {
    /// CPUs proven to be wedged: a task pinned to them no longer runs.
    pub wedged: CpuList,
    /// The CPU that panicked.
    pub panicked: Option<u32>,
    /// Why, in the kernel's words.
    pub panic: Option<String>,
    /// The CPUs that were to panic at the same time.
    pub panicking: CpuList,
    /// The CPU that restarted the machine.
    pub restarted: Option<u32>,
    /// When the kernel began to stop the others, in microseconds of its log.
    pub stop_us: Option<u64>,
    /// When it turned to pseudo-NMIs, in microseconds of its log.
    pub nmi_us: Option<u64>,
    /// Those it sent one, because the IPI had not stopped them.
    pub nmi_retried: CpuList,
    /// When it turned to SDEI, in microseconds of its log.
    pub retry_us: Option<u64>,
    /// Those it signalled then, because nothing before had stopped them.
    pub retried: CpuList,
    /// Those it could not stop at all.
    pub failed: CpuList,
    /// When the first of its panic notifiers said something, in microseconds of its log.
    pub notified_us: Option<u64>,
    /// When it left for the capture kernel, in microseconds of its log.
    pub left_us: Option<u64>,
    /// Whether the capture kernel came up.
    pub captured: bool,
    /// Whether our init said that the scenario is over.
    pub done: bool,
    /// What our init said went wrong.
    pub failure: Option<String>,
    /// CPUs whose backtrace the kernel printed, and where each stood.
    pub backtraces: Vec<(u32, String)>,
    /// Whether the kernel masks interrupts by their priority.
    pub pseudo_nmi: bool,
    /// How SDEI-stopped CPUs end, if the kernel says that it was told.
    pub fate: Option<String>,
    /// What hardens the kernel, by our init's names for it.
    pub hardening: Vec<String>,
    /// Whether our init is there.
    pub is_up: bool,
    /// How often it came up, but in the capture kernel.
    pub boots: u32,
    /// The CPU of our init, which wedges itself last.
    pub last_to_wedge: Option<u32>,
    /// Whether our init waits for something to be done from outside.
    pub waits: bool,
    /// An SError that a CPU took.
    pub serror: Option<SError>,
    /// What the hypervisor saw of each CPU before it sent that, if it was asked.
    pub outside: BTreeMap<u32, Outside>,
    /// What became of a known pattern in all registers of a CPU that took event 0.
    pub registers: Option<String>,
    /// What our init says of CPUs that it took off and on.
    pub hotplug: Option<String>,
    /// Whether Linux slept, and was woken by its clock.
    pub slept: bool,
    /// Where the function is that CPUs are wedged in, as the kernel has it.
    pub wedge_at: Option<u64>,
    /// What the capture kernel, or that after a restart, found of each CPU.
    pub revived: Vec<Revived>,
    #[serde(skip)]
    backtrace_of: Option<u32>,
    /// ESR_EL1 of an exception for which the kernel has found no stack.
    #[serde(skip)]
    without_stack: Option<u64>,
}

/// What Linux says of an SError.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SError {
    /// The CPU that took it.
    pub cpu: u32,
    /// ESR_EL1.
    pub code: u64,
    /// Where that CPU was.
    pub place: Option<String>,
    /// And its PSTATE there.
    pub pstate: Option<u64>,
}

impl SError {
    /// Of `0, code 0x00000000bf484c47 -- SError`.
    fn parse(text: &str) -> Option<Self> {
        Some(Self {
            cpu: first_number(text)?,
            code: hex(text.split_once("code 0x")?.1)?,
            place: None,
            pstate: None,
        })
    }
}

impl GuestLog {
    /// Takes notice of a line of the guest's console.
    pub fn note(&mut self, line: &str) {
        if let Some(logged) = line.split_once("LAB: log ").map(|(_, rest)| rest) {
            // Out of the dump, and mostly on the console before.
            return self.note_kernel(logged);
        }
        if let Some(lab) = line.split_once("LAB: ").map(|(_, lab)| lab.trim_end()) {
            self.note_lab(lab);
        }
        // The capture kernel, or one after a restart, stops nobody; what it says is not part of the stop.
        if !self.captured && self.boots < 2 {
            self.note_kernel(line);
        }
    }

    /// The CPU that stopped the others.
    pub fn stopper(&self) -> Option<u32> {
        self.panicked.or(self.restarted)
    }

    /// The same of what the first kernel says.
    fn note_kernel(&mut self, line: &str) {
        let after = |mark: &str| line.split_once(mark).map(|(_, rest)| rest.trim());
        if let Some(text) = after("SError Interrupt on CPU") {
            self.serror = self.serror.take().or_else(|| SError::parse(text));
        } else if line.contains("Insufficient stack space to handle exception") {
            self.without_stack = Some(0);
        } else if let (Some(0), Some(text)) = (self.without_stack, after("] ESR: 0x")) {
            // It does not say then which CPU it is, before it shows the registers.
            self.without_stack = hex(text).filter(|_| text.ends_with("-- SError"));
        } else if let Some(cause) = after("Kernel panic - not syncing: ") {
            self.panic.get_or_insert_with(|| cause.to_owned());
        } else if line.contains("SMP: stopping secondary CPUs") {
            self.stop_us = log_time(line);
        } else if line.contains("] sysrq: Resetting") {
            // A restart does not say that it stops CPUs, which it begins with.
            self.stop_us = log_time(line);
        } else if let Some(list) = after("SMP: retry stop with NMI for CPUs ") {
            self.nmi_us = log_time(line);
            self.nmi_retried = first_list(list);
        } else if let Some(list) = after("SMP: retry stop with SDEI NMI for CPUs ") {
            self.retry_us = log_time(line);
            self.retried = first_list(list);
        } else if let Some(list) = after("SMP: failed to stop secondary CPUs ") {
            self.failed = first_list(list);
        } else if line.contains("] Kernel Offset: ") {
            // That of arm64, which every such kernel has.
            self.notified_us = self.notified_us.or_else(|| log_time(line));
        } else if line.contains("Starting crashdump kernel") {
            self.left_us = log_time(line);
        } else if line.contains("Pseudo-NMIs enabled") {
            self.pseudo_nmi = true;
        } else if let Some(fate) = after("sdei_nmi: ending: ") {
            self.fate = Some(fate.to_owned());
        } else if let Some(cpu) = after("NMI backtrace for cpu ") {
            self.backtrace_of = first_number(cpu).filter(|_| !cpu.contains("skipped"));
        } else if line.contains("Call trace:") {
            // The backtrace of the CPU that asks for them has no registers.
            self.backtrace_of = None;
        } else if let Some(pstate) = after("pstate: ") {
            if let (None, Some(serror)) = (self.backtrace_of, &mut self.serror) {
                let digits = pstate.split_ascii_whitespace().next().unwrap_or_default();
                let pstate = u64::from_str_radix(digits, 16).ok();
                serror.pstate = serror.pstate.or(pstate);
            }
        } else if let Some(place) = after("pc : ") {
            if let Some(cpu) = self.backtrace_of.take() {
                self.backtraces.push((cpu, place.to_owned()));
            } else if let Some(serror) = &mut self.serror {
                serror.place.get_or_insert_with(|| place.to_owned());
            }
        } else if let Some((before, _)) = line.split_once(": Watchdog detected hard LOCKUP on cpu ")
        {
            // Where the panic is not followed by a stack dump, this is all that names its CPU.
            self.panicked = before
                .rsplit_once("watchdog: CPU")
                .and_then(|(_, cpu)| first_number(cpu));
        } else if let Some(cpu) = after("] CPU: ").and_then(first_number) {
            if let Some(code) = self.without_stack.take() {
                self.serror.get_or_insert(SError {
                    cpu,
                    code,
                    place: None,
                    pstate: None,
                });
            }
            // The panicking CPU says who it is right after why.
            if self.panic.is_some() && self.stop_us.is_none() {
                self.panicked = Some(cpu);
            }
        }
    }

    fn note_lab(&mut self, lab: &str) {
        let (word, rest) = lab.split_once(' ').unwrap_or((lab, ""));
        let cpu = || {
            rest.split_once("cpu=")
                .and_then(|(_, cpu)| first_number(cpu))
        };
        match word {
            "up" => {
                self.is_up = true;
                self.boots += 1;
            }
            "wedged" => self.wedged.0.extend(cpu()),
            "panic" => self.panicked = cpu(),
            "panics" => {
                let list = rest.split_once("cpus=").map(|(_, list)| list);
                self.panicking = list.map(first_list).unwrap_or_default();
            }
            "restart" => self.restarted = cpu(),
            "wedge" => self.wedge_at = rest.split_once("at=").and_then(|(_, at)| hex(at)),
            "hotplug" => self.hotplug = Some(rest.to_owned()),
            "waits" => self.waits = true,
            "awake" => self.slept = true,
            "last" => self.last_to_wedge = cpu(),
            "capture" => self.captured = true,
            "hardening" => {
                self.hardening = rest.split_ascii_whitespace().map(str::to_owned).collect();
            }
            "registers" => self.registers = Some(rest.to_owned()),
            "cpu" => self.revived.extend(Revived::parse(rest)),
            "done" => self.done = true,
            "fail" => {
                self.failure.get_or_insert_with(|| rest.to_owned());
            }
            _ => {}
        }
    }
}

/// The time a line of the kernel's log begins with, in microseconds.
fn log_time(line: &str) -> Option<u64> {
    let (time, _) = line.split_once('[')?.1.split_once(']')?;
    let (seconds, micros) = time.trim().split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let micros: u64 = (micros.len() == 6).then(|| micros.parse().ok())??;
    Some(seconds * 1_000_000 + micros)
}

/// The number in hexadecimal that `text` begins with.
fn hex(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_hexdigit());
    u64::from_str_radix(&text[..end.unwrap_or(text.len())], 16).ok()
}

fn first_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text[..end.unwrap_or(text.len())].parse().ok()
}

fn first_list(text: &str) -> CpuList {
    let word = text.split_ascii_whitespace().next().unwrap_or_default();
    word.parse().unwrap_or_default()
}

/// Something the hypervisor remembers of a vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// Which vCPU did it.
    pub vcpu: u32,
    /// When, in microseconds of the system counter.
    pub time_us: u64,
    /// What, by the name it has in the record.
    pub event: String,
    /// First detail; docs/console.md says which.
    pub a: u64,
    /// Second detail.
    pub b: u64,
}

/// The context that the hypervisor saved when it dispatched an SDEI event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Into which vCPU.
    pub vcpu: u32,
    /// When, in microseconds of the system counter.
    pub time_us: u64,
    /// Which event.
    pub event: u64,
    /// Whether its handler has not completed it.
    pub running: bool,
    /// What it interrupted.
    pub registers: Registers,
}

/// What the hypervisor recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HvRecords {
    /// What each vCPU did, oldest first per vCPU.
    pub traces: Vec<Trace>,
    /// What was interrupted, newest last per vCPU.
    pub frames: Vec<Frame>,
    /// Whether all of it has been written.
    pub complete: bool,
    /// Of a dump that the hypervisor made: who said which CPUs it has.
    pub cpus_by: Option<String>,
}

impl HvRecords {
    /// Takes notice of a record.
    pub fn note(&mut self, record: &Record) -> Result<()> {
        match record.name.as_str() {
            "trace" => self.traces.push(Trace {
                vcpu: record.index("vcpu")?,
                time_us: record.number("t")?,
                event: record.word("event")?.to_owned(),
                a: record.number("a")?,
                b: record.number("b")?,
            }),
            "frame" => self.frames.push(Frame {
                vcpu: record.index("vcpu")?,
                time_us: record.number("t")?,
                event: record.number("event")?,
                running: match record.word("state")? {
                    "running" => true,
                    "complete" => false,
                    other => bail!("state={other} in the record @frame is unknown"),
                },
                registers: Registers::from_frame(record)?,
            }),
            "end" => self.complete = true,
            "vm-dump" => self.cpus_by = Some(record.word("by")?.to_owned()),
            _ => {}
        }
        Ok(())
    }

    /// When the stop was over: the CPU that panicked, or restarts the machine, masks SDEI on itself when it is done with the others.
    pub fn stop_over_us(&self, story: &GuestLog) -> Option<u64> {
        let mask = self.first(story.stopper()?, "pe-mask", 0)?;
        Some(mask.time_us)
    }

    /// The event 0 that `vcpu` was stopped in: the last it took before the stop was over.
    pub fn stopped_in(&self, vcpu: u32, story: &GuestLog) -> Option<&Frame> {
        let over = self.stop_over_us(story).unwrap_or(u64::MAX);
        self.frames
            .iter()
            .rfind(|frame| frame.vcpu == vcpu && frame.event == 0 && frame.time_us <= over)
    }

    /// How long after the stop was over `vcpu` entered an event 0 that it has never completed, in microseconds; nothing if it was in
    /// time, or never came.
    pub fn too_late_us(&self, vcpu: u32, story: &GuestLog) -> Option<u64> {
        let over = self.stop_over_us(story)?;
        let is_its_own = |frame: &&Frame| frame.vcpu == vcpu && frame.event == 0 && frame.running;
        let entered = self.frames.iter().find(is_its_own)?.time_us;
        entered.checked_sub(over).filter(|late| *late > 0)
    }

    /// When `vcpu` first did `event` at or after `from_us`.
    pub fn first(&self, vcpu: u32, event: &str, from_us: u64) -> Option<&Trace> {
        self.traces
            .iter()
            .filter(|trace| trace.vcpu == vcpu && trace.event == event && trace.time_us >= from_us)
            .min_by_key(|trace| trace.time_us)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::registers::tests::{frame_line, sample};
    use machine::console::Line;

    pub const LOG: &str = "\
[    1.000000] LAB: up
LAB: wedged cpu=2
LAB: panic cpu=0
[    6.562785] Kernel panic - not syncing: sysrq triggered crash
[    6.562790] CPU: 0 UID: 0 PID: 1 Comm: init Not tainted 7.3.4 #1
[    6.567454] SMP: stopping secondary CPUs
[    8.700455] SMP: retry stop with SDEI NMI for CPUs 2
[    8.705751] Starting crashdump kernel...
[    8.707706] Bye!
[    0.000000] Booting Linux on physical CPU 0x0000000000
[    0.900000] LAB: capture up
[    2.000000] SMP: stopping secondary CPUs
LAB: done";

    pub fn story(log: &str) -> GuestLog {
        let mut story = GuestLog::default();
        for line in log.lines() {
            story.note(line);
        }
        story
    }

    pub fn drain(lines: &[String]) -> HvRecords {
        let mut drain = HvRecords::default();
        for line in lines {
            let record = Line::parse(line).record().unwrap().unwrap();
            drain.note(&record).unwrap();
        }
        drain
    }

    #[test]
    fn the_stop_is_read_off_the_first_kernels_log() {
        let story = story(LOG);
        assert_eq!(story.wedged.to_string(), "2");
        assert_eq!(story.panicked, Some(0));
        assert_eq!(story.panic.as_deref(), Some("sysrq triggered crash"));
        assert_eq!(story.stop_us, Some(6_567_454));
        assert_eq!(story.retry_us, Some(8_700_455));
        assert_eq!(story.retried.to_string(), "2");
        assert!(story.failed.is_empty());
        assert_eq!(story.left_us, Some(8_705_751));
        assert!(story.captured && story.done && story.failure.is_none());
    }

    #[test]
    fn what_never_came_to_the_console_is_read_off_the_dump() {
        let story = story(
            "LAB: last cpu=0\n\
             [    0.000000] Booting Linux on physical CPU 0x0000000000\n\
             LAB: capture up cpus=1\n\
             [    1.0] SError Interrupt on CPU7, code 0x1 -- of the capture kernel\n\
             LAB: log [   31.000001] SError Interrupt on CPU0, code 0x00000000bf484c47 -- SError\r\n\
             LAB: log [   31.000002] CPU: 0 UID: 0 PID: 147 Comm: dd Not tainted 6.12\r\n\
             LAB: log [   31.000003] pstate: 204000c5 (nzCv daIF)\r\n\
             LAB: log [   31.000004] pc : chacha_permute+0x34/0x1c0\r\n\
             LAB: log [   31.000005] Kernel panic - not syncing: Asynchronous SError Interrupt\r\n\
             LAB: log [   31.000006] CPU: 0 UID: 0 PID: 147 Comm: dd Not tainted 6.12\r\n\
             LAB: log [   31.000007] SMP: stopping secondary CPUs\r\n\
             LAB: log [   32.100000] SMP: failed to stop secondary CPUs 1-3\r\n\
             LAB: log [   32.100001] Starting crashdump kernel...\r\n\
             LAB: done",
        );
        let serror = story.serror.unwrap();
        assert_eq!((serror.cpu, serror.code), (0, 0xbf48_4c47));
        assert_eq!(serror.pstate, Some(0x2040_00c5));
        assert_eq!(serror.place.as_deref(), Some("chacha_permute+0x34/0x1c0"));
        assert_eq!(story.panicked, Some(0));
        assert_eq!(story.failed.to_string(), "1-3");
        assert_eq!(story.left_us, Some(32_100_001));
        assert!(story.done);
    }

    #[test]
    fn what_hardens_the_kernel_is_what_init_names() {
        let story = story("LAB: hardening kpti pan\r\nLAB: registers cpu=2 events=20 wrong=0\r");
        assert_eq!(story.hardening, ["kpti", "pan"]);
        assert_eq!(story.registers.as_deref(), Some("cpu=2 events=20 wrong=0"));
    }

    #[test]
    fn a_panic_from_an_interrupt_names_its_cpu() {
        let story = story(
            "[ 16.1] LAB: wedged cpu=2\n\
             [   16.100000][    C1] Kernel panic - not syncing: Hard LOCKUP\n\
             [   16.100001][    C1] CPU: 1 UID: 0 PID: 0 Comm: swapper/1\n\
             [   16.100002][    C1] SMP: stopping secondary CPUs\n\
             [   18.100002][    C1] SMP: failed to stop secondary CPUs 0,2-3",
        );
        assert_eq!(story.panicked, Some(1));
        assert_eq!(story.stop_us, Some(16_100_002));
        assert_eq!(story.failed.to_string(), "0,2-3");
    }

    #[test]
    fn the_watchdogs_own_cpu_is_the_one_that_panics() {
        let story = story(
            "[   15.0] watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 2\n\
             [   16.100000] Kernel panic - not syncing: Hard LOCKUP\n\
             [   16.100002] SMP: stopping secondary CPUs",
        );
        assert_eq!(story.panicked, Some(3));
    }

    #[test]
    fn backtraces_say_who_stood_where() {
        let story = story(
            "[    4.8] NMI backtrace for cpu 0\n\
             [    4.9] Call trace:\n\
             [    5.0] NMI backtrace for cpu 2\n\
             [    5.1] CPU: 2 UID: 0 PID: 108 Comm: sh\n\
             [    5.2] pc : lkdtm_HARDLOCKUP+0x4/0x10\n\
             [    5.3] NMI backtrace for cpu 1 skipped: idling at cpu_do_idle+0x8\n\
             [    5.4] pc : someone_else+0x0/0x4",
        );
        let place = "lkdtm_HARDLOCKUP+0x4/0x10".to_owned();
        assert_eq!(story.backtraces, [(2, place)]);
    }

    #[test]
    fn the_last_frame_is_what_a_cpu_was_stopped_in() {
        let old = frame_line(2, "complete", &sample(1));
        let new = frame_line(2, "running", &sample(2));
        let other = frame_line(1, "complete", &sample(3));
        let end = "@end vm=0".to_owned();
        let drain = drain(&[old, new, other, end]);
        let story = GuestLog::default();
        assert_eq!(drain.stopped_in(2, &story).unwrap().registers, sample(2));
        assert_eq!(drain.stopped_in(3, &story), None);
        assert!(drain.complete);
    }

    #[test]
    fn an_event_after_the_stop_is_not_what_a_cpu_was_stopped_in() {
        let at = |time: &str, line: String| line.replace("t=5000", time);
        let drain = drain(&[
            "@trace vm=0 vcpu=0 t=6000 event=pe-mask a=0x0 b=0x0".into(),
            at("t=5500", frame_line(2, "complete", &sample(1))),
            at("t=7000", frame_line(2, "complete", &sample(2))),
        ]);
        let story = story(LOG);
        assert_eq!(drain.stopped_in(2, &story).unwrap().registers, sample(1));
    }

    #[test]
    fn a_record_that_lacks_a_register_is_an_error() {
        let line = frame_line(2, "running", &sample(1)).replace(" x7=", " y7=");
        let record = Line::parse(&line).record().unwrap().unwrap();
        let error = HvRecords::default().note(&record).unwrap_err().to_string();
        assert!(error.contains("`x7`"), "{error}");
    }
}
