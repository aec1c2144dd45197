//! A boot of Linux watched to its end, alone on the machine or among several guests.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::evidence::{GuestLog, HvRecords};
use crate::instant::{self, TRUTH, WEDGED, Witness};
use crate::intervention::Intervention;
use crate::plan::{Plan, Scenario};
use crate::stood::{self, Stood};
use machine::console::{GuestLines, Record};
use machine::control::{self, Control};
use machine::ending::{Ending, Watch};
use machine::operator::{Direct, Operator};
use machine::qemu::{Event, Machine, Session};

/// What was seen of a run.
#[derive(Debug)]
pub struct GuestRun {
    /// What the guest said.
    pub story: GuestLog,
    /// What the hypervisor recorded.
    pub drain: HvRecords,
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
    pub elapsed: Duration,
    /// The guest's lines that matter, from the first on, up to [`MOST_LINES`].
    pub lines: Vec<String>,
    /// The last lines of the console.
    pub tail: Vec<String>,
    /// Where each CPU stood when the time was over, if it was.
    pub stood: Option<Vec<Stood>>,
}

/// So many lines of a guest are kept: those of a run that goes as it should are some dozens.
pub const MOST_LINES: usize = 2000;

/// What was seen of a machine.
#[derive(Debug)]
pub struct Seen {
    /// Of each guest that had a plan.
    pub runs: Vec<GuestRun>,
    /// What the hypervisor has said of others that ended or crashed.
    pub disturbed: Vec<String>,
    /// What was seen of the crash kernel's first moment, if that was to be known.
    pub instant: Option<Result<instant::Seen>>,
}

/// Whether a line of the guest's console belongs to the story.
pub fn matters(line: &str) -> bool {
    const MARKS: [&str; 10] = [
        "sdei: ",
        "sdei_nmi: ",
        "Kernel panic",
        "SMP: ",
        "SError Interrupt",
        "Insufficient stack space",
        "hard LOCKUP",
        "NMI backtrace for cpu",
        "Starting crashdump kernel",
        "qemu: ",
    ];
    // Of the kernel's log in its dump as of the console.
    line.contains("LAB: ") && !line.contains("LAB: log ")
        || MARKS.iter().any(|mark| line.contains(mark))
}

/// How long the guest may take to switch itself off once its init has said that it is done; after
/// sysrq-l the way out is a reboot with a wedged CPU, whose IPI rung takes long.
const LEAVE: Duration = Duration::from_secs(60);

/// How long it may take once its init has said that it failed; with a wedged CPU it can only reboot.
const GIVE_UP: Duration = Duration::from_secs(5);

/// So long before the time is over it is asked where each CPU stands.
const LAST_LOOK: Duration = Duration::from_secs(10);

/// Boots `machine`, whose guests from number `first` on are those of `plans`, with any others around them, and watches until it
/// ends; `show` is given the guests' lines as they come, with the number of each.
pub fn watch(
    (first, plans): (u8, &[&Plan]),
    machine: &Machine,
    timeout: Duration,
    log: &Path,
    mut show: impl FnMut(u8, &str),
) -> Result<Seen> {
    // What is looked for in memory is far away over the line.
    let is_asked = |plan: &&Plan| {
        let looks = matches!(plan.scenario, Scenario::Assisted | Scenario::NestedPanic);
        plan.oracle || looks
    };
    let is_asked = plans.iter().any(is_asked);
    let (mut session, monitor) = if is_asked {
        let (session, monitor) = machine.start_with_monitor(Some(timeout), false)?;
        (session, Some(monitor))
    } else {
        (machine.start(Some(timeout))?, None)
    };
    let log_file =
        File::create(log).with_context(|| format!("cannot write the log {}", log.display()))?;
    session.log_to(log_file);
    let mut ends = Watch::default();
    let mut lines: BTreeMap<u8, GuestLines> = BTreeMap::new();
    let input = session.take_input().context("QEMU has no input")?;
    let operator = Operator::new(input, false);
    let mut witness = None;
    if let Some(monitor) = monitor {
        let direct = Direct::new(Arc::new(Mutex::new(monitor)), BTreeMap::new())?;
        operator.reach_ram(direct);
        let folder = log.parent().context("the log has no folder")?;
        witness = Some(Witness::of(folder));
    }
    // Whoever cannot be reached by it, as its path is too long, is judged all the same.
    let _control = Control::open(&log.with_file_name(control::NAME), &operator).ok();
    let mut watched: Vec<Watched<'_>> = (first..)
        .zip(plans)
        .map(|(vm, plan)| Watched::new(plan, operator.of(vm), log))
        .collect();
    let mut disturbed = Vec::new();
    let last_look = Instant::now() + timeout.saturating_sub(LAST_LOOK.min(timeout / 10));
    let mut looks = Vec::new();
    let timed_out = loop {
        let until = looks.is_empty().then_some(last_look);
        let Some(event) = session.next_event_until(until)? else {
            looks.extend(watched.iter().map(Watched::look));
            continue;
        };
        match event {
            Event::Guest { vm, bytes } => {
                operator.hear_guest(vm, &bytes);
                for line in lines.entry(vm).or_default().push(&bytes) {
                    show(vm, &line);
                    let place = vm.checked_sub(first).map(usize::from);
                    let Some(own) = place.and_then(|place| watched.get_mut(place)) else {
                        continue;
                    };
                    let had_failed = own.story.failure.is_some();
                    let was_done = own.story.done;
                    own.hear(&line, &session);
                    if own.story.failure.is_some() && !had_failed {
                        session.shorten(GIVE_UP);
                    } else if own.is_again() {
                        session.leave().leave();
                    } else if own.story.done && !was_done && watched.iter().all(Watched::is_over) {
                        session.shorten(LEAVE);
                    }
                }
            }
            Event::Line(line) => {
                operator.hear(&line);
                if let Some(record) = line.record().transpose()? {
                    if let Some(witness) = &mut witness {
                        witness.note(&record, &operator, session.leave())?;
                    }
                    let vm = record.number("vm").unwrap_or(u64::from(first));
                    let place = vm.checked_sub(u64::from(first)).map(|place| place as usize);
                    let ends = ["vm-off", "vm-reset", "vm-lost", "vm-fault", "vm-panic"];
                    match place.and_then(|place| watched.get_mut(place)) {
                        Some(own) => own.note(&record)?,
                        None if ends.contains(&record.name.as_str()) => {
                            disturbed.push(line.text.clone());
                        }
                        None => {}
                    }
                }
                ends.follow(&line, &mut session)?;
            }
            Event::Complaint(text) => show(0, &format!("qemu: {text}")),
            Event::Ended(_) | Event::Left => break false,
            Event::TimedOut => break true,
        }
    };
    operator.end();
    let mut stood = looks
        .into_iter()
        .map(|look| look.join().ok().filter(|_| timed_out));
    // What was answered is not what the machine said last.
    let said = session.tail().into_iter();
    let tail: Vec<String> = said.filter(|line| !line.contains("] @answer ")).collect();
    let (ending, elapsed) = (ends.ending(timed_out), session.elapsed());
    let mut run = |own: Watched<'_>| {
        let (story, drain, lines) = own.end();
        GuestRun {
            story,
            drain,
            lines,
            ending: ending.clone(),
            elapsed,
            tail: tail.clone(),
            stood: stood.next().flatten(),
        }
    };
    Ok(Seen {
        runs: watched.into_iter().map(&mut run).collect(),
        disturbed,
        instant: witness.map(Witness::end),
    })
}

/// One of the guests.
struct Watched<'a> {
    plan: &'a Plan,
    operator: Operator,
    /// Where its memory is saved when all of its CPUs are wedged, if it is to be.
    memory: Option<PathBuf>,
    story: GuestLog,
    drain: HvRecords,
    lines: Vec<String>,
    intervention: Option<Intervention>,
    /// The watchdog has found all CPUs wedged.
    has_barked: bool,
}

impl<'a> Watched<'a> {
    fn new(plan: &'a Plan, operator: Operator, log: &Path) -> Self {
        let name = match plan.scenario {
            // From then on it stands still.
            Scenario::Assisted => TRUTH,
            _ => WEDGED,
        };
        Self {
            plan,
            operator,
            memory: plan.oracle.then(|| log.with_file_name(name)),
            story: GuestLog::default(),
            drain: HvRecords::default(),
            lines: Vec::new(),
            intervention: None,
            has_barked: false,
        }
    }

    fn hear(&mut self, line: &str, session: &Session) {
        self.story.note(line);
        if matters(line) && self.lines.len() < MOST_LINES {
            self.lines.push(line.to_owned());
        }
        if let Some(way) = self.plan.way()
            && self.story.is_up
        {
            let (operator, leave) = (&self.operator, session.leave());
            let begin = || Intervention::begin(operator, way, self.memory.clone(), leave);
            let intervention = self.intervention.get_or_insert_with(begin);
            let is_nested = self.plan.scenario == Scenario::NestedPanic;
            if self.story.last_to_wedge == Some(self.plan.panic)
                || self.story.waits
                || is_nested && self.story.stop_us.is_some()
            {
                intervention.go_on();
            }
        }
    }

    /// Asks where each of its CPUs stands, in a thread of its own: the answers come while the machine is watched.
    fn look(&self) -> JoinHandle<Vec<Stood>> {
        let (operator, cpus) = (self.operator.clone(), self.plan.cpus);
        std::thread::spawn(move || stood::look(&operator, cpus))
    }

    /// Whether it has nothing to do but to switch itself off.
    fn is_over(&self) -> bool {
        self.story.done && self.plan.scenario != Scenario::Assisted
    }

    /// Whether the hypervisor has started it anew, after its capture kernel was done.
    const fn is_again(&self) -> bool {
        matches!(self.plan.scenario, Scenario::Assisted) && self.story.boots > 1
    }

    fn note(&mut self, record: &Record) -> Result<()> {
        self.drain.note(record)?;
        self.has_barked |= record.name == "vm-late" && record.number("all")? != 0;
        Ok(())
    }

    fn end(mut self) -> (GuestLog, HvRecords, Vec<String>) {
        let story = &mut self.story;
        match self.intervention.map(Intervention::end) {
            None if self.has_barked => story.wedged.0.extend([self.plan.panic]),
            None | Some(Ok(None)) => {}
            Some(Ok(Some(outside))) if !self.plan.wedges_all() => story.outside = outside,
            // It did not stand still, and there is a dump.
            Some(Err(_)) if self.plan.scenario == Scenario::NestedPanic && story.done => {}
            // Those were wedged when the operator looked.
            Some(Ok(Some(outside))) => {
                story.wedged.0.extend([self.plan.panic]);
                story.wedged.0.extend(outside.keys());
                story.outside = outside;
            }
            Some(Err(error)) => {
                story.failure.get_or_insert(format!("{error:#}"));
            }
        }
        (self.story, self.drain, self.lines)
    }
}
