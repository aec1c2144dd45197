//! SDEI of one vCPU: its events, what is pending, what runs, and what is next.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hv_abi::firmware::{Fault, Firmware};
use hv_abi::sdei::{EVENT_SIGNALLED, FIRST_BOUND_PRIVATE, MAX_EVENTS, Priority, Scope};

use super::board::{self, Board, Shown};
use super::config::{Config, SLOTS, slots};
use super::handler::Handler;
use super::level::{Index, Level};
use crate::entry::Features;
use crate::id::{MAX_VCPUS, VcpuId};
use crate::time::Instant;

/// SDEI of one vCPU.
#[derive(Clone, Debug)]
pub struct Pe {
    pub(super) me: VcpuId,
    pub(super) firmware: Firmware,
    pub(super) features: Features,
    pub(super) is_masked: bool,
    /// There may be something to take: the question asked on every guest entry is this one load.
    pub(super) is_alert: bool,
    /// What [`Pe::dispatch`] takes next, kept up to date by [`Pe::settle`].
    pub(super) next: Option<Index>,
    /// The priorities a shared event may have to be taken now, as bits; kept up to date likewise.
    pub(super) open: u8,
    /// Event 0, the platform's private events, and one for each private bind slot.
    pub(super) events: Box<[Event]>,
    /// Which of them are pending: bit n is the n-th.
    pub(super) pending: u64,
    /// How many of them are no bind slots.
    pub(super) fixed: u8,
    /// The interrupted contexts; a critical one lies above a normal one.
    pub(super) levels: [Level; 2],
    pub(super) fate: Fate,
    /// SIGNALs made so far, for a firmware that loses some.
    pub(super) signals: u32,
    /// Ticks that a firmware takes to deliver a signal.
    pub(super) delay: u64,
    /// When a signal that a firmware delays arrives.
    pub(super) delayed: Option<Instant>,
}

/// What a firmware's fault has done to the vCPU, until the VM is reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    #[default]
    Sound,
    /// It runs, and takes neither interrupts nor events.
    Deaf,
    /// It never runs again.
    Stuck,
}

/// What comes of CPU_OFF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Departure {
    /// The vCPU is off.
    Off,
    /// It is lost in firmware: neither on nor off, and nobody is told.
    Lost,
}

/// Event 0 is always the first.
const SIGNALLED: Index = Index(0);

/// One private event of this PE.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) number: u32,
    pub(super) priority: Priority,
    pub(super) handler: Handler,
}

impl Event {
    fn new(number: u32, priority: Priority) -> Self {
        Self {
            number,
            priority,
            handler: Handler::default(),
        }
    }
}

impl Pe {
    /// The SDEI of vCPU `me` as it is when the vCPU starts: nothing registered, everything masked.
    /// `features` are those of the PE it runs on.
    pub fn new(me: VcpuId, features: Features, config: &Config<'_>) -> Self {
        let defined = config.of_scope(Scope::Private);
        let mut events: Vec<_> = core::iter::once((EVENT_SIGNALLED, Priority::Normal))
            .chain(defined.map(|event| (event.number, event.priority)))
            .map(|(number, priority)| Event::new(number, priority))
            .collect();
        let fixed = events.len() as u8;
        let slots = slots(config.firmware) as u32;
        events.extend(
            (0..slots).map(|slot| Event::new(FIRST_BOUND_PRIVATE + slot, Priority::Normal)),
        );
        Self {
            me,
            firmware: config.firmware,
            features,
            is_masked: true,
            is_alert: false,
            next: None,
            open: 0,
            fixed,
            events: events.into(),
            pending: 0,
            levels: Default::default(),
            fate: Fate::Sound,
            signals: 0,
            delay: config.rate.ticks_in_us(config.firmware.delay_us.into()),
            delayed: None,
        }
    }

    /// Forgets all private registrations, triggers and interrupted contexts, and masks (DEN0054 6.3). What it
    /// has in common with others is [`Pe::retire`]'s.
    pub(super) fn reset(&mut self) {
        for event in &mut self.events {
            event.handler = Handler::default();
        }
        self.pending = 0;
        for level in &mut self.levels {
            level.running = None;
        }
        self.is_masked = true;
        self.delayed = None;
        self.settle();
    }

    /// The vCPU wakes from a suspend that took its power: everything stays, but it is masked.
    pub fn wake(&mut self, board: &Board) {
        self.is_masked = true;
        self.settle();
        self.show(board);
    }

    /// Forgets what was last interrupted and what faults have done: the VM was reset.
    pub fn forget(&mut self) {
        self.levels = Default::default();
        self.fate = Fate::Sound;
        self.signals = 0;
        self.settle();
    }

    /// A sibling has signalled this vCPU: makes event 0 pending. Signals merge until the handler starts
    /// (DEN0054 5.1.16.1). Without a handler the signal is dropped. If a firmware delays it, the answer is
    /// when to [`Pe::tick`].
    pub fn post_signal(&mut self, now: Instant) -> Option<Instant> {
        if self.delay == 0 {
            self.take_signal();
            return None;
        }
        Some(*self.delayed.get_or_insert(now.after(self.delay)))
    }

    /// Takes a delayed signal, if its time has come; if not, the answer is when it will have.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let at = self.delayed?;
        if now < at {
            return Some(at);
        }
        self.delayed = None;
        self.take_signal();
        None
    }

    pub(super) fn take_signal(&mut self) {
        let Some(event) = self.event(SIGNALLED) else {
            return;
        };
        let is_disabled = event.handler.is_registered() && !event.handler.is_enabled();
        if self.is_masked && self.firmware.has(Fault::MaskedSignalDeafens) {
            self.suffer(Fate::Deaf);
        } else if is_disabled && self.firmware.has(Fault::DisabledSignalLivelocks) {
            self.suffer(Fate::Stuck);
        } else {
            self.trigger(SIGNALLED);
        }
    }

    /// Whether it has registered and enabled this private event, and is not in its handler.
    pub fn takes(&self, number: u32) -> bool {
        let event = self.find(number).and_then(|index| self.event(index));
        event.is_some_and(|event| event.handler.is_ready())
    }

    /// When the signal arrives that a firmware delays.
    pub fn delayed(&self) -> Option<Instant> {
        self.delayed
    }

    /// Makes a private event of the platform pending, as [`Self::post_signal`] does event 0. `event` is its
    /// place among the private events of the VM's definition, as [`super::SharedEvents::take_raised`] gives it.
    pub fn post(&mut self, event: u8) {
        if event < self.fixed.saturating_sub(1) {
            self.trigger(Index(event + 1));
        }
    }

    /// Whether [`Self::due`] is worth asking.
    #[inline]
    pub fn is_alert(&self) -> bool {
        self.is_alert
    }

    /// Shared events may be due: somebody has rung.
    pub fn look(&mut self) {
        self.is_alert = true;
    }

    /// Whether this PE takes no event at present.
    pub fn is_masked(&self) -> bool {
        self.is_masked
    }

    /// What a firmware's fault has done to it.
    #[inline]
    pub fn fate(&self) -> Fate {
        self.fate
    }

    /// The event whose handler runs, the innermost if there are two.
    pub fn running(&self) -> Option<u32> {
        self.innermost()?.running.map(|running| running.number)
    }

    /// What its siblings may know of it.
    fn shown(&self) -> Shown {
        let is_on = self.fate == Fate::Sound && !self.is_masked;
        let signalled = self.event(SIGNALLED);
        let running = self.levels.iter().filter(|level| level.running.is_some());
        Shown {
            is_signallable: is_on && signalled.is_some_and(|event| event.handler.is_enabled()),
            is_parked: self.is_masked && running.count() == 1,
        }
    }

    /// Tells the siblings.
    pub fn show(&self, board: &Board) {
        board.show(self.me, self.shown());
    }

    pub(super) fn suffer(&mut self, fate: Fate) {
        self.fate = fate;
        self.settle();
    }

    pub(super) fn trigger(&mut self, index: Index) {
        if let Some(event) = self.event(index)
            && event.handler.is_registered()
        {
            self.set_pending(index, true);
            self.next = self.find_next();
            self.is_alert = true;
        }
    }

    pub(super) fn is_pending(&self, index: Index) -> bool {
        self.pending & index.bit() != 0
    }

    pub(super) fn set_pending(&mut self, index: Index, is_pending: bool) {
        if is_pending {
            self.pending |= index.bit();
        } else {
            self.pending &= !index.bit();
        }
    }

    /// Decides anew which event is next. Due after every change of a handler, a trigger, the mask or the
    /// levels. A PE that has opened has to look whether a shared event waits.
    pub(super) fn settle(&mut self) {
        let [normal, critical] = &self.levels;
        let is_closed = self.is_masked || self.fate != Fate::Sound || critical.running.is_some();
        self.open = match (is_closed, &normal.running) {
            (true, _) => 0,
            (false, Some(_)) => board::bit(Priority::Critical),
            (false, None) => board::bit(Priority::Normal) | board::bit(Priority::Critical),
        };
        self.next = self.find_next();
        self.is_alert = true;
    }

    /// Dispatch conditions of DEN0054 6.1: pending, registered, enabled, not running, PE unmasked, and
    /// nothing of its own or a higher priority running. Critical comes before normal.
    fn find_next(&self) -> Option<Index> {
        let mut next = None;
        let mut left = self.pending;
        while left != 0 {
            let index = Index(left.trailing_zeros() as u8);
            left &= left - 1;
            let Some(event) = self.event(index) else {
                break;
            };
            if !event.handler.is_ready() || self.open & board::bit(event.priority) == 0 {
                continue;
            }
            match event.priority {
                Priority::Critical => return Some(index),
                Priority::Normal if next.is_none() => next = Some(index),
                Priority::Normal => {}
            }
        }
        next
    }

    /// Finds event 0 or one of the platform's private events.
    pub(super) fn find(&self, number: u32) -> Option<Index> {
        let mut fixed = (0..self.fixed).zip(&self.events);
        let (index, _) = fixed.find(|(_, event)| event.number == number)?;
        Some(Index(index))
    }

    /// The event of a private bind slot.
    pub(super) fn slot(&self, slot: usize) -> Index {
        Index(self.fixed.saturating_add(slot as u8))
    }

    pub(super) fn event(&self, index: Index) -> Option<&Event> {
        self.events.get(usize::from(index.0))
    }

    pub(super) fn event_mut(&mut self, index: Index) -> Option<&mut Event> {
        self.events.get_mut(usize::from(index.0))
    }
}

const _: () = assert!(MAX_EVENTS + SLOTS < u64::BITS as usize && MAX_VCPUS <= 256);
