//! The host's end: finds the loader, tells it what is to be loaded, sends what it has not, and has it started.

mod event;

use crate::frame::{self, Decoder, Heard, LONGEST, LONGEST_ON_LINE};
use crate::message::{FromHost, FromLoader, VERSION};
use crate::offer::{Extent, Have, Offer, Part, REACH, Tag};
use crate::{BASE_RATE, Millis};

pub use event::{Event, Failure};
use event::{MOST_MISMATCHES, MOST_RESETS};

/// What is to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// An arm64 Image.
    pub image: &'a [u8],
    /// Its initrd; may be empty.
    pub bundle: &'a [u8],
    /// Its command line; the board's own if it is empty.
    pub bootargs: &'a [u8],
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has answered.
    Seeking,
    /// The rate is being changed.
    Rating(u32),
    /// The loader is told what is to be loaded.
    Offering,
    /// Blocks are sent.
    Sending,
    /// The loader hashes.
    Checking,
    /// The loader is told to start it.
    Going,
    /// It runs.
    Started,
    /// It cannot be done.
    Failed,
}

/// Blocks that may be on their way.
const WINDOW: usize = 16;
/// Until something is said again that was not answered.
const AGAIN: Millis = 700;
/// Until one asks whether anybody is there.
const ASK: Millis = 1000;
/// After so long at a rate that nobody answers at, the old one is better.
const DEAF: Millis = 2500;
/// A loader that was told to start and says no more has done so.
const GONE: Millis = 2000;
/// A loader that is silent for so long is no more.
const SILENT: Millis = 10_000;
/// One that speaks for so long, and gets nowhere, does not hear.
const STUCK: Millis = 20_000;

/// The host.
pub struct Host<'a> {
    decoder: Decoder,
    core: Core<'a>,
}

struct Core<'a> {
    load: Load<'a>,
    offer: Offer<'a>,
    tag: Tag,
    phase: Phase,
    life: Option<u32>,
    have: Have,
    in_flight: [Option<InFlight>; WINDOW],
    sequence: u32,
    rate: u32,
    /// The rate to send at.
    wanted: u32,
    /// Whether something was understood at the present rate.
    rate_works: bool,
    /// Whether the loader has answered something that was said.
    is_met: bool,
    is_verified: bool,
    /// What is to be told next.
    pending: Option<Event>,
    /// When it last got further.
    moved_at: Millis,
    mismatches: u32,
    resets: u32,
    heard_at: Millis,
    said_at: Option<Millis>,
}

/// A block that was sent and may yet arrive.
#[derive(Clone, Copy)]
struct InFlight {
    index: u32,
    sequence: u32,
}

/// Whether a byte was part of a message, as far as can be said.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// It cannot be said yet.
    Open,
    /// All since the last time was a message, or nothing, and this came of it.
    Message(Option<Event>),
    /// All since the last time was none.
    Noise,
}

impl<'a> Host<'a> {
    /// A host that is to have `load` started, and to send it at `rate` baud if the loader can. None if it is
    /// more than anybody could load.
    #[must_use]
    pub fn new(load: Load<'a>, rate: u32, now: Millis) -> Option<Self> {
        let offer = Offer {
            image: Extent::of(load.image)?,
            bundle: Extent::of(load.bundle)?,
            bootargs: load.bootargs,
        };
        FromHost::Offer(offer).write(&mut [0; LONGEST])?;
        Some(Self {
            decoder: Decoder::default(),
            core: Core {
                load,
                offer,
                tag: offer.tag(),
                phase: Phase::Seeking,
                life: None,
                have: Have::default(),
                in_flight: [None; WINDOW],
                sequence: 0,
                rate: BASE_RATE,
                wanted: rate,
                rate_works: true,
                is_met: false,
                is_verified: false,
                pending: None,
                moved_at: now,
                mismatches: 0,
                resets: 0,
                heard_at: now,
                said_at: None,
            },
        })
    }

    /// How far it is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.core.phase
    }

    /// Blocks that are there, of all.
    #[must_use]
    pub const fn progress(&self) -> (u32, u32) {
        (
            self.core.have.next + self.core.have.ahead.count_ones(),
            self.core.offer.blocks(),
        )
    }

    /// Takes a byte from the line.
    pub fn receive(&mut self, now: Millis, byte: u8) -> Took {
        match self.decoder.push(byte) {
            Heard::Nothing if byte == 0 => Took::Message(None),
            Heard::Nothing => Took::Open,
            Heard::Message(message) => Took::Message(match FromLoader::read(message) {
                Some(message) => self.core.hear(now, message),
                None => None,
            }),
            Heard::Noise => Took::Noise,
        }
    }

    /// What the time has brought. To be called again and again.
    pub fn poll(&mut self, now: Millis) -> Option<Event> {
        self.core.poll(now)
    }

    /// The next message for the line, if there is something to say; to be called when the last is written.
    pub fn transmit<'b>(
        &mut self,
        now: Millis,
        line: &'b mut [u8; LONGEST_ON_LINE],
    ) -> Option<&'b [u8]> {
        let mut buffer = [0; LONGEST];
        let message = self.core.say(now)?.write(&mut buffer)?;
        frame::encode(message, line)
    }
}

impl<'a> Core<'a> {
    fn hear(&mut self, now: Millis, message: FromLoader) -> Option<Event> {
        if matches!(self.phase, Phase::Started | Phase::Failed) {
            return None;
        }
        self.heard_at = now;
        self.rate_works = true;
        let before = (self.phase, self.have);
        let event = self.understand(message);
        let is_answer = !matches!(message, FromLoader::Ready { .. });
        if before != (self.phase, self.have) || matches!(event, Some(Event::Checking(_))) {
            self.moved_at = now;
        }
        if is_answer && self.phase != Phase::Failed && !self.is_met {
            self.is_met = true;
            self.pending = event;
            return Some(Event::Found);
        }
        event
    }

    fn understand(&mut self, message: FromLoader) -> Option<Event> {
        match message {
            FromLoader::Ready {
                tag,
                version,
                rates,
                life,
            } => {
                if version != VERSION {
                    return self.fail(Failure::Version(version));
                }
                if !rates {
                    self.wanted = BASE_RATE;
                }
                self.hear_ready(tag, life)
            }
            FromLoader::State {
                tag,
                have,
                sequence,
                idle,
            } if tag == self.tag => {
                match self.phase {
                    Phase::Offering | Phase::Sending | Phase::Checking => {}
                    _ => return None,
                }
                let was = core::mem::replace(&mut self.phase, Phase::Sending);
                self.have = have;
                for place in &mut self.in_flight {
                    // The line keeps the order: what was sent before something that was heard is there or lost.
                    *place = place
                        .filter(|sent| !idle && !have.has(sent.index) && sent.sequence > sequence);
                }
                let resumes = was == Phase::Offering && have.next > 0;
                resumes.then_some(Event::Resumed(have.next))
            }
            FromLoader::Checking(tag, percent) if tag == self.tag => {
                if let Phase::Offering | Phase::Sending = self.phase {
                    self.phase = Phase::Checking;
                    self.have = Have {
                        next: self.offer.blocks(),
                        ahead: 0,
                    };
                }
                Some(Event::Checking(percent))
            }
            FromLoader::Verified(tag) if tag == self.tag => {
                if let Phase::Rating(_) | Phase::Going = self.phase {
                    return None;
                }
                self.turn_to(match self.rate {
                    BASE_RATE => Phase::Going,
                    _ => Phase::Rating(BASE_RATE),
                });
                let first = !core::mem::replace(&mut self.is_verified, true);
                first.then_some(Event::Verified)
            }
            FromLoader::Mismatch(tag, part) if tag == self.tag => {
                self.mismatches += 1;
                self.have = Have::default();
                self.in_flight = [None; WINDOW];
                self.turn_to(Phase::Sending);
                if self.mismatches >= MOST_MISMATCHES {
                    return self.fail(Failure::Corrupt(part));
                }
                Some(Event::Mismatch(part))
            }
            FromLoader::Going(tag, left) if tag == self.tag && self.phase == Phase::Going => {
                (left == 0).then(|| {
                    self.phase = Phase::Started;
                    Event::Started
                })
            }
            FromLoader::Refused(tag, why) if tag == self.tag => self.fail(Failure::Refused(why)),
            FromLoader::Rate(rate) => {
                let Phase::Rating(to) = self.phase else {
                    return None;
                };
                self.turn_to(if self.is_verified {
                    Phase::Going
                } else {
                    Phase::Offering
                });
                if rate != to {
                    self.wanted = rate;
                    return Some(Event::Slow(to));
                }
                self.set_rate(to);
                Some(Event::Rate(to))
            }
            _ => None,
        }
    }

    fn hear_ready(&mut self, tag: Tag, life: u32) -> Option<Event> {
        let known = self.life.replace(life);
        let is_reset = known.is_some_and(|known| known != life);
        if is_reset {
            self.resets += 1;
            if self.resets >= MOST_RESETS {
                return self.fail(Failure::Resets);
            }
        }
        let has_forgotten = match self.phase {
            Phase::Sending | Phase::Checking | Phase::Going => tag != self.tag,
            _ => false,
        };
        if is_reset || has_forgotten || self.phase == Phase::Seeking {
            self.have = Have::default();
            self.in_flight = [None; WINDOW];
            self.is_verified = false;
            self.turn_to(if self.wanted == self.rate {
                Phase::Offering
            } else {
                Phase::Rating(self.wanted)
            });
        }
        is_reset.then_some(Event::Reset)
    }

    fn poll(&mut self, now: Millis) -> Option<Event> {
        if let Some(event) = self.pending.take() {
            return Some(event);
        }
        let silence = now.saturating_sub(self.heard_at);
        match self.phase {
            Phase::Seeking | Phase::Started | Phase::Failed => None,
            Phase::Going if silence >= GONE && self.said_at.is_some() => {
                self.phase = Phase::Started;
                Some(Event::Started)
            }
            _ if silence >= SILENT => self.fail(Failure::Silent),
            _ if now.saturating_sub(self.moved_at) >= STUCK => self.fail(Failure::Deaf),
            _ if self.rate != BASE_RATE && silence >= DEAF => {
                if !self.rate_works {
                    self.wanted = BASE_RATE;
                }
                let (rate, works) = (self.rate, self.rate_works);
                self.set_rate(BASE_RATE);
                self.heard_at = now;
                self.moved_at = now;
                self.turn_to(Phase::Seeking);
                Some(if works {
                    Event::Rate(BASE_RATE)
                } else {
                    Event::Slow(rate)
                })
            }
            _ => None,
        }
    }

    /// What is to be said now.
    fn say(&mut self, now: Millis) -> Option<FromHost<'a>> {
        let since = self
            .said_at
            .map_or(Millis::MAX, |at| now.saturating_sub(at));
        let silence = now.saturating_sub(self.heard_at);
        let tag = self.tag;
        let message = match self.phase {
            Phase::Seeking if since >= ASK => FromHost::Hello,
            Phase::Rating(rate) if since >= AGAIN => FromHost::Rate(rate),
            Phase::Offering if since >= AGAIN => FromHost::Offer(self.offer),
            Phase::Going if since >= AGAIN => FromHost::Go(tag),
            Phase::Sending => match self.next_block() {
                Some(block) => block,
                None if since >= ASK && silence >= ASK => FromHost::Hello,
                None => return None,
            },
            Phase::Checking if since >= ASK && silence >= ASK => FromHost::Hello,
            _ => return None,
        };
        self.said_at = Some(now);
        Some(message)
    }

    fn next_block(&mut self) -> Option<FromHost<'a>> {
        let in_flight = self.in_flight;
        let place = self.in_flight.iter_mut().find(|place| place.is_none())?;
        let end = self.have.next.saturating_add(1 + REACH);
        let flies = |index| in_flight.iter().flatten().any(|sent| sent.index == index);
        let index = (self.have.next..end.min(self.offer.blocks()))
            .find(|&index| !self.have.has(index) && !flies(index))?;
        let bytes = self.offer.place(index)?;
        let part = match bytes.part {
            Part::Image => self.load.image,
            Part::Bundle => self.load.bundle,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        *place = Some(InFlight { index, sequence });
        Some(FromHost::Block {
            tag: self.tag,
            index,
            sequence,
            bytes: part.get(bytes.bytes)?,
        })
    }

    /// The next phase, in which there is something to say at once.
    fn turn_to(&mut self, phase: Phase) {
        self.phase = phase;
        self.said_at = None;
    }

    fn set_rate(&mut self, rate: u32) {
        self.rate_works = rate == BASE_RATE;
        self.rate = rate;
    }

    fn fail(&mut self, why: Failure) -> Option<Event> {
        self.phase = Phase::Failed;
        Some(Event::Failed(why))
    }
}
