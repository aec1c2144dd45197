//! The board's end: takes blocks until all are there, hashes what its memory then holds, and starts it.

use sha2::{Digest, Sha256};

use crate::frame::{self, Decoder, Heard, LONGEST, LONGEST_ON_LINE};
use crate::message::{FromHost, FromLoader, NO_TAG, Refusal, VERSION};
use crate::offer::{BLOCK, Extent, Have, LONGEST_BOOTARGS, Offer, Part, Tag};
use crate::{BASE_RATE, Millis};

/// What the machine below the loader can do.
pub trait Board {
    /// Bytes there are for a part.
    fn room(&self, part: Part) -> u32;
    /// Writes into a part's memory; within its room.
    fn write(&mut self, part: Part, offset: usize, bytes: &[u8]);
    /// Reads a part's memory; within its room.
    fn read(&self, part: Part, offset: usize, bytes: &mut [u8]);
    /// Tells the devicetree of the bundle and of the command line; the parts, in the order of [`Part::ALL`], have so many
    /// bytes.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    fn prepare(&mut self, sizes: [u32; 2], bootargs: &[u8]) -> Result<(), Refusal>;
}

/// What is to be done now. Each is said once, when all that was to be written before it has been taken.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Set the line to so many baud.
    Rate(u32),
    /// Start the image.
    Start,
}

/// Between two messages without a cause.
const BEACON: Millis = 500;
/// With nothing on the line for so long, nothing is on its way.
const IDLE: Millis = 300;
/// With nothing understood for so long, the rate is wrong.
const DEAF: Millis = 3000;
/// Nobody wants a lower rate.
const SLOWEST: u32 = 1200;
/// How often it is said that the image is being started.
const GOODBYES: u8 = 3;
/// Where an arm64 Image says that it is one, how far from a 2 MiB boundary it goes, and how much memory
/// it takes (Linux, Documentation/arch/arm64/booting.rst).
const HEADER: usize = 64;

/// The loader.
pub struct Loader<B> {
    decoder: Decoder,
    core: Core<B>,
}

struct Core<B> {
    board: B,
    life: u32,
    fastest: u32,
    offer: Option<Accepted>,
    stage: Stage,
    have: Have,
    sequence: u32,
    queue: Queue,
    rate: u32,
    /// What is to be done once the queue is empty.
    due: Action,
    said_at: Millis,
    byte_at: Millis,
    understood_at: Millis,
}

/// An offer that fits, kept.
struct Accepted {
    tag: Tag,
    image: Extent,
    bundle: Extent,
    bootargs: [u8; LONGEST_BOOTARGS],
    length: usize,
}

impl Accepted {
    fn of(offer: &Offer<'_>) -> Option<Self> {
        let mut bootargs = [0; LONGEST_BOOTARGS];
        let length = offer.bootargs.len();
        bootargs.get_mut(..length)?.copy_from_slice(offer.bootargs);
        Some(Self {
            tag: offer.tag(),
            image: offer.image,
            bundle: offer.bundle,
            bootargs,
            length,
        })
    }

    fn offer(&self) -> Offer<'_> {
        Offer {
            image: self.image,
            bundle: self.bundle,
            bootargs: self.bootargs.get(..self.length).unwrap_or_default(),
        }
    }
}

#[derive(Clone)]
enum Stage {
    /// Blocks are missing.
    Receiving,
    /// A part is being hashed, and so much of it has been.
    Checking(Part, u32, Sha256),
    /// It can be started.
    Verified,
    /// It is being started.
    Going,
}

impl<B: Board> Loader<B> {
    /// A loader without anything. `life` is another number after a reset; `fastest` is the highest rate that
    /// [`Action::Rate`] can set, 0 if it can set none.
    pub fn new(board: B, life: u32, fastest: u32, now: Millis) -> Self {
        Self {
            decoder: Decoder::default(),
            core: Core {
                board,
                life,
                fastest,
                offer: None,
                stage: Stage::Receiving,
                have: Have::default(),
                sequence: 0,
                queue: Queue::default(),
                rate: BASE_RATE,
                due: Action::None,
                said_at: now,
                byte_at: now,
                understood_at: now,
            },
        }
    }

    /// What it loads into.
    pub fn board(&mut self) -> &mut B {
        &mut self.core.board
    }

    /// Takes a byte from the line.
    pub fn receive(&mut self, now: Millis, byte: u8) {
        self.core.byte_at = now;
        if let Heard::Message(message) = self.decoder.push(byte)
            && let Some(message) = FromHost::read(message)
        {
            self.core.understood_at = now;
            self.core.answer(now, &message);
        }
    }

    /// The next byte for the line.
    pub fn transmit(&mut self) -> Option<u8> {
        self.core.queue.pop()
    }

    /// Does a little of what takes long, speaks up if it is time, and says what is to be done. To be called
    /// again and again, when there is nothing to transmit.
    pub fn poll(&mut self, now: Millis) -> Action {
        self.core.poll(now)
    }
}

impl<B: Board> Core<B> {
    fn poll(&mut self, now: Millis) -> Action {
        if !self.queue.is_empty() {
            return Action::None;
        }
        if self.due != Action::None {
            return core::mem::replace(&mut self.due, Action::None);
        }
        if self.rate != BASE_RATE && now.saturating_sub(self.understood_at) >= DEAF {
            self.rate = BASE_RATE;
            self.understood_at = now;
            return Action::Rate(BASE_RATE);
        }
        if let Stage::Checking(..) = self.stage {
            self.check(now);
        }
        if now.saturating_sub(self.said_at) >= BEACON {
            let is_idle = now.saturating_sub(self.byte_at) >= IDLE;
            match (&self.offer, &self.stage) {
                (Some(_), Stage::Receiving) if is_idle => self.say_state(now, true),
                (Some(_), Stage::Receiving | Stage::Going) => {}
                _ => self.say_stage(now),
            }
        }
        Action::None
    }

    fn tag(&self) -> Tag {
        self.offer.as_ref().map_or(NO_TAG, |offer| offer.tag)
    }

    fn answer(&mut self, now: Millis, message: &FromHost<'_>) {
        if let Stage::Going = self.stage {
            return;
        }
        match *message {
            FromHost::Hello => self.say_ready(now),
            FromHost::Offer(offer) => self.consider(now, &offer),
            FromHost::Block {
                tag,
                index,
                sequence,
                bytes,
            } => {
                if tag == self.tag() {
                    self.sequence = self.sequence.max(sequence);
                    self.take(now, index, bytes);
                } else {
                    self.say_ready(now);
                }
            }
            FromHost::Rate(rate) => {
                if (SLOWEST..=self.fastest).contains(&rate) {
                    self.say(now, FromLoader::Rate(rate));
                    self.rate = rate;
                    self.due = Action::Rate(rate);
                } else {
                    self.say(now, FromLoader::Rate(self.rate));
                }
            }
            FromHost::Go(tag) => match self.stage {
                Stage::Verified if tag == self.tag() => {
                    self.stage = Stage::Going;
                    for left in (0..GOODBYES).rev() {
                        self.say(now, FromLoader::Going(tag, left));
                    }
                    self.due = Action::Start;
                }
                _ => self.say_ready(now),
            },
        }
    }

    fn consider(&mut self, now: Millis, offer: &Offer<'_>) {
        let tag = offer.tag();
        if tag != self.tag() {
            let fits = Part::ALL
                .iter()
                .all(|&part| offer.extent(part).size <= self.board.room(part));
            let kept = Accepted::of(offer).filter(|_| fits);
            let why = if offer.image.size < HEADER as u32 {
                Some(Refusal::NoImage)
            } else if kept.is_none() {
                Some(Refusal::TooLarge)
            } else {
                None
            };
            if let Some(why) = why {
                self.say(now, FromLoader::Refused(tag, why));
                return;
            }
            self.offer = kept;
            self.have = Have::default();
            self.stage = Stage::Receiving;
        }
        self.sequence = 0;
        self.say_stage(now);
    }

    fn take(&mut self, now: Millis, index: u32, bytes: &[u8]) {
        let Some(accepted) = &self.offer else { return };
        let offer = accepted.offer();
        let blocks = offer.blocks();
        if let Stage::Receiving = self.stage
            && let Some(place) = offer.place(index)
            && place.bytes.len() == bytes.len()
            && self.have.reaches(index)
            && !self.have.has(index)
        {
            self.board.write(place.part, place.bytes.start, bytes);
            self.have.add(index);
            if self.have.next >= blocks {
                self.stage = Stage::Checking(Part::Image, 0, Sha256::new());
            }
        }
        self.say_stage(now);
    }

    /// Hashes a little more.
    fn check(&mut self, now: Millis) {
        let Some(accepted) = &self.offer else { return };
        let Stage::Checking(part, done, hasher) = &mut self.stage else {
            return;
        };
        let extent = *accepted.offer().extent(*part);
        let left = extent.size.saturating_sub(*done);
        if left > 0 {
            let mut bytes = [0; BLOCK];
            let count = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            let offset = usize::try_from(*done).unwrap_or(usize::MAX);
            if let Some(bytes) = bytes.get_mut(..count) {
                self.board.read(*part, offset, bytes);
                hasher.update(bytes);
            }
            *done = done.saturating_add(BLOCK as u32).min(extent.size);
            return;
        }
        let (part, tag) = (*part, accepted.tag);
        if *core::mem::take(hasher).finalize() != extent.hash {
            self.have = Have::default();
            self.stage = Stage::Receiving;
            self.say(now, FromLoader::Mismatch(tag, part));
        } else if part == Part::Image {
            self.stage = Stage::Checking(Part::Bundle, 0, Sha256::new());
        } else {
            match self.prepare() {
                Ok(()) => self.stage = Stage::Verified,
                Err(why) => {
                    self.offer = None;
                    self.have = Have::default();
                    self.stage = Stage::Receiving;
                    self.say(now, FromLoader::Refused(tag, why));
                    return;
                }
            }
            self.say_stage(now);
        }
    }

    /// That the image is one that can be started where it is, and that the devicetree is told.
    fn prepare(&mut self) -> Result<(), Refusal> {
        let Some(accepted) = &self.offer else {
            return Err(Refusal::NoImage);
        };
        let mut header = [0; HEADER];
        self.board.read(Part::Image, 0, &mut header);
        let field = |at: usize| -> u64 {
            let bytes = header.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
        };
        if header.get(0x38..0x3c) != Some(b"ARM\x64") || field(0x08) != 0 {
            return Err(Refusal::NoImage);
        }
        if field(0x10) > u64::from(self.board.room(Part::Image)) {
            return Err(Refusal::TooLarge);
        }
        let offer = accepted.offer();
        let sizes = [offer.image.size, offer.bundle.size];
        self.board.prepare(sizes, offer.bootargs)
    }

    fn say_ready(&mut self, now: Millis) {
        let ready = FromLoader::Ready {
            tag: self.tag(),
            version: VERSION,
            rates: self.fastest >= SLOWEST,
            life: self.life,
        };
        self.say(now, ready);
    }

    fn say_state(&mut self, now: Millis, idle: bool) {
        let state = FromLoader::State {
            tag: self.tag(),
            have: self.have,
            sequence: self.sequence,
            idle,
        };
        self.say(now, state);
    }

    /// Says how far it is.
    fn say_stage(&mut self, now: Millis) {
        let Some(accepted) = &self.offer else {
            return self.say_ready(now);
        };
        let tag = accepted.tag;
        match &self.stage {
            Stage::Receiving => self.say_state(now, false),
            Stage::Checking(part, done, _) => {
                let offer = accepted.offer();
                let before = match part {
                    Part::Image => 0,
                    Part::Bundle => u64::from(offer.image.size),
                };
                let all = u64::from(offer.image.size) + u64::from(offer.bundle.size);
                let percent = (before + u64::from(*done)) * 100 / all.max(1);
                let percent = u8::try_from(percent).unwrap_or(100);
                self.say(now, FromLoader::Checking(tag, percent));
            }
            Stage::Verified => self.say(now, FromLoader::Verified(tag)),
            Stage::Going => {}
        }
    }

    fn say(&mut self, now: Millis, message: FromLoader) {
        self.said_at = now;
        let (mut buffer, mut line) = ([0; LONGEST], [0; LONGEST_ON_LINE]);
        if let Some(bytes) = message.write(&mut buffer)
            && let Some(line) = frame::encode(bytes, &mut line)
        {
            self.queue.push(line);
        }
    }
}

/// What is to be transmitted: whole messages, or nothing of them.
struct Queue {
    bytes: [u8; 256],
    first: usize,
    length: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            bytes: [0; 256],
            first: 0,
            length: 0,
        }
    }
}

impl Queue {
    /// Adds a message; if there is no room it is lost, as it could be on the line.
    fn push(&mut self, message: &[u8]) {
        if self.length + message.len() > self.bytes.len() {
            return;
        }
        for &byte in message {
            let at = (self.first + self.length) % self.bytes.len();
            if let Some(place) = self.bytes.get_mut(at) {
                *place = byte;
            }
            self.length += 1;
        }
    }

    fn pop(&mut self) -> Option<u8> {
        self.length = self.length.checked_sub(1)?;
        let byte = self.bytes.get(self.first).copied();
        self.first = (self.first + 1) % self.bytes.len();
        byte
    }

    const fn is_empty(&self) -> bool {
        self.length == 0
    }
}
