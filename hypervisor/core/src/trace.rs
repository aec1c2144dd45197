//! What happened to a vCPU lately: a fixed ring of typed events, always on, never printed while the
//! guest runs.

use crate::time::Instant;

/// One thing that happened. `a` and `b` are the words a record prints for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It asked for another vCPU to be started at an entry point.
    CpuOn {
        /// Index of the target vCPU.
        target: u8,
        /// Where it starts.
        entry: u64,
    },
    /// It began to run at this entry point.
    Started {
        /// Where.
        entry: u64,
    },
    /// It asked to be switched off.
    CpuOff,
    /// It signalled event 0 to a vCPU.
    SdeiSignal {
        /// Index of the target vCPU.
        target: u8,
    },
    /// An event was dispatched into it.
    SdeiDispatch {
        /// The event.
        event: u32,
        /// The interrupted pc.
        pc: u64,
    },
    /// A handler completed (SDEI_EVENT_COMPLETE).
    SdeiComplete,
    /// A handler completed and resumed elsewhere (SDEI_EVENT_COMPLETE_AND_RESUME).
    SdeiResume {
        /// Where.
        pc: u64,
    },
    /// It masked SDEI on itself.
    PeMask,
    /// It unmasked SDEI on itself.
    PeUnmask,
    /// It suspended the system, all others being off.
    SystemSuspend,
    /// It asked for the VM to be switched off.
    SystemOff,
    /// It asked for the VM to be reset.
    SystemReset,
}

impl Event {
    /// The event's name and its two words, as `@trace` records print them.
    pub const fn words(self) -> (&'static str, u64, u64) {
        match self {
            Self::CpuOn { target, entry } => ("cpu-on", target as u64, entry),
            Self::Started { entry } => ("started", 0, entry),
            Self::CpuOff => ("cpu-off", 0, 0),
            Self::SdeiSignal { target } => ("sdei-signal", target as u64, 0),
            Self::SdeiDispatch { event, pc } => ("sdei-dispatch", event as u64, pc),
            Self::SdeiComplete => ("sdei-complete", 0, 0),
            Self::SdeiResume { pc } => ("sdei-resume", 0, pc),
            Self::PeMask => ("pe-mask", 0, 0),
            Self::PeUnmask => ("pe-unmask", 0, 0),
            Self::SystemSuspend => ("system-suspend", 0, 0),
            Self::SystemOff => ("system-off", 0, 0),
            Self::SystemReset => ("system-reset", 0, 0),
        }
    }
}

/// How many events a vCPU remembers.
pub const DEPTH: usize = 64;

/// The last [`DEPTH`] events of a vCPU.
#[derive(Clone, Debug)]
pub struct Ring {
    entries: [Option<(Instant, Event)>; DEPTH],
    next: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            entries: [None; DEPTH],
            next: 0,
        }
    }

    /// Remembers an event, forgetting the oldest when full.
    pub fn push(&mut self, now: Instant, event: Event) {
        if let Some(entry) = self.entries.get_mut(self.next) {
            *entry = Some((now, event));
        }
        self.next = (self.next + 1) % DEPTH;
    }

    /// What is remembered, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (Instant, Event)> + '_ {
        let (newer, older) = self.entries.split_at(self.next);
        older.iter().chain(newer).flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_in_order() {
        let mut ring = Ring::new();
        for n in 0..DEPTH as u64 + 3 {
            ring.push(Instant(n), Event::CpuOff);
        }
        let times: alloc::vec::Vec<u64> = ring.iter().map(|(at, _)| at.0).collect();
        assert_eq!(times.len(), DEPTH);
        assert_eq!(times.first(), Some(&3));
        assert!(times.is_sorted());
    }
}
