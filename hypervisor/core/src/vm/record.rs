//! What the SDEI events of a vCPU interrupted, kept as evidence of a stop.

use super::Vcpu;
use super::faults::Faults;
use crate::sdei::{Interrupted, Priority};
use crate::time::Instant;
use crate::trace::Ring;

/// A dispatch, as it was when it happened.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When.
    pub at: Instant,
    /// Every register of the interrupted context.
    pub interrupted: &'a Interrupted,
    /// The handler has completed.
    pub is_complete: bool,
}

const PRIORITIES: [Priority; 2] = [Priority::Normal, Priority::Critical];

impl Vcpu {
    /// The last dispatch of an earlier life, if there was one, and the last of each priority of this
    /// life, in full.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let before = self.before.iter().map(|(at, interrupted)| Record {
            at: *at,
            interrupted,
            is_complete: true,
        });
        before.chain(self.records_of_this_life())
    }

    fn records_of_this_life(&self) -> impl Iterator<Item = Record<'_>> {
        PRIORITIES
            .into_iter()
            .zip(self.dispatched)
            .filter_map(|(priority, at)| {
                let (interrupted, is_running) = self.sdei.last_interrupted(priority)?;
                Some(Record {
                    at,
                    interrupted,
                    is_complete: !is_running,
                })
            })
    }

    /// Forgets what is remembered; the VM was reset.
    pub fn forget(&mut self) {
        self.trace = Ring::new();
        self.before = None;
        self.sdei.forget();
        self.faults = Faults::default();
    }

    /// A new life begins: keeps the last record of the one before.
    pub(super) fn close_records(&mut self) {
        for (priority, at) in PRIORITIES.into_iter().zip(self.dispatched) {
            let is_newer = self.before.as_ref().is_none_or(|(before, _)| *before <= at);
            if let Some(interrupted) = self.sdei.take_interrupted(priority)
                && is_newer
            {
                self.before = Some((at, interrupted));
            }
        }
    }
}
