//! What NMIs come to, rung by rung, and how each vCPU was when the last one began.

use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;

use anyhow::Result;
use serde::Serialize;

use super::answers::{VcpuAnswer, unasked};
use super::{Operator, Pending, REPEAT, lock};
use crate::console::{Line, Record};

/// What a rung has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rung {
    /// Of which VM.
    pub vm: u64,
    /// On which vCPU.
    pub vcpu: u32,
    /// `event`, `serror` or `last`; `guest` once an NMI has been ended by the guest's own end or reset.
    pub rung: String,
    /// `unregistered`, `works`, `taken`, `pending`, `frozen` or `reported`; of `guest`, `reset` or `off`.
    pub answer: String,
}

impl Rung {
    /// Of a record, if it tells of one.
    ///
    /// # Errors
    ///
    /// If the record is not as it should be.
    pub fn read(record: &Record) -> Result<Option<Self>> {
        let of_guest = |answer: &str| (0, "guest".to_owned(), answer.to_owned());
        let (vcpu, rung, answer) = match record.name.as_str() {
            "vm-nmi" => (
                record.index("vcpu")?,
                record.word("rung")?.to_owned(),
                record.word("answer")?.to_owned(),
            ),
            "vm-reset" => of_guest("reset"),
            "vm-off" => of_guest("off"),
            _ => return Ok(None),
        };
        Ok(Some(Self {
            vm: record.number("vm")?,
            vcpu,
            rung,
            answer,
        }))
    }

    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        let is_last = ["works", "frozen", "reported"].contains(&self.answer.as_str());
        is_last || self.rung == "guest"
    }
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.rung.as_str() {
            "guest" if self.answer == "reset" => return f.write_str("the guest is reset"),
            "guest" => return f.write_str("the guest is switched off"),
            "event" => "the SDEI event",
            "serror" => "the SError",
            _ => "nothing has helped",
        };
        let came = match self.answer.as_str() {
            "unregistered" => ", which the guest has not registered and enabled",
            "works" => " works: the guest panics, starts another kernel or stops its CPUs",
            "taken" => " was delivered, and the guest does nothing about it",
            "pending" => " waits: PSTATE.A is set",
            "frozen" => ": the guest is paused",
            _ => "",
        };
        write!(f, "NMI on vCPU {}: {what}{came}", self.vcpu)
    }
}

/// What has been heard of them.
#[derive(Default)]
pub(super) struct Heard {
    /// The last ones, of all NMIs.
    rungs: VecDeque<Rung>,
    /// How many there were before those.
    forgotten: usize,
    /// How each vCPU was when it was last put on record without being asked, by VM and number.
    pub recorded: BTreeMap<(u64, u8), VcpuAnswer>,
}

/// So many are kept: a guest may reset itself for ever.
const MOST: usize = 1000;

impl Heard {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.forgotten + self.rungs.len()
    }

    /// Those behind the first `known`.
    pub fn since(&self, known: usize) -> Vec<Rung> {
        let known = known.saturating_sub(self.forgotten);
        self.rungs.iter().skip(known).cloned().collect()
    }

    /// Takes notice of a line; whether a rung has come to something.
    pub fn hear(&mut self, line: &Line) -> bool {
        if let Some((vm, vcpu, answer)) = unasked(line) {
            self.recorded.insert((vm, vcpu), answer);
            return false;
        }
        let record = line.record().and_then(Result::ok);
        let rung = record.and_then(|record| Rung::read(&record).ok().flatten());
        let is_new = rung.is_some();
        self.rungs.extend(rung);
        if self.rungs.len() > MOST {
            self.rungs.pop_front();
            self.forgotten += 1;
        }
        is_new
    }
}

impl Operator {
    /// What rungs of NMIs have come to, but for the first `known`: waits a moment if there is nothing yet. Whether the machine
    /// has ended, too.
    pub fn rungs(&self, known: usize) -> (Vec<Rung>, bool) {
        let is_waiting = |pending: &mut Pending| pending.nmis.count() <= known && !pending.is_over;
        let pending = lock(&self.shared.pending);
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(pending, REPEAT, is_waiting);
        let pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        (pending.nmis.since(known), pending.is_over)
    }

    /// How many rungs have come to something.
    pub fn known_rungs(&self) -> usize {
        lock(&self.shared.pending).nmis.count()
    }

    /// How each vCPU of a VM was when it was last put on record without being asked, which is before an NMI.
    pub fn recorded(&self, vm: u64) -> BTreeMap<u8, VcpuAnswer> {
        let pending = lock(&self.shared.pending);
        let of_vm = pending
            .nmis
            .recorded
            .iter()
            .filter(|((of, _), _)| *of == vm);
        of_vm
            .map(|(&(_, vcpu), answer)| (vcpu, answer.clone()))
            .collect()
    }
}
