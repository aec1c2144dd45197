//! What comes over the console's line, between the UART and those it is for: typed bytes wait here for the guest, and of
//! what an operator asks nothing is done twice.

use hv_abi::console::RS;
use hv_abi::operator::{Access, Demux, Input, Request};

/// So many typed bytes wait at most. Whoever types more at a time asks before how many there is room for
/// ([`hv_abi::operator::Verb::Room`]).
pub const HELD: usize = 1024;

/// A request as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// It acts, and has been done before: its sender has not had the answer.
    pub is_again: bool,
    /// The operator may not.
    pub is_refused: bool,
}

/// The line.
#[derive(Debug)]
pub struct Inlet {
    demux: Demux,
    access: Access,
    /// Typed bytes, a ring.
    held: [u8; HELD],
    first: usize,
    count: usize,
    /// The last request that acts.
    last: Option<u32>,
}

impl Inlet {
    /// Of a line over which nothing has come.
    pub const fn new() -> Self {
        Self {
            demux: Demux::new(),
            access: Access::Full,
            held: [0; HELD],
            first: 0,
            count: 0,
            last: None,
        }
    }

    /// Says what the operator may do.
    pub fn allow(&mut self, access: Access) {
        self.access = access;
    }

    /// The operator may do what this says, and no more than before.
    pub fn confine(&mut self, access: Access) {
        self.access = self.access.max(access);
    }

    /// A byte has come. The request that it completes, if it does.
    #[must_use]
    pub fn push(&mut self, byte: u8) -> Option<Asked> {
        match self.demux.push(byte) {
            // There is one guest.
            Input::Nothing | Input::Damaged | Input::Channel(_) => {}
            Input::Guest(byte) => self.hold(byte),
            Input::GuestAfterRs(byte) => {
                self.hold(RS);
                self.hold(byte);
            }
            Input::Request(request) => return Some(self.ask(request)),
        }
        None
    }

    fn ask(&mut self, request: Request) -> Asked {
        let is_refused = !self.access.allows(request.verb);
        let acts = request.verb.acts() && !is_refused;
        let is_again = acts && self.last == Some(request.id);
        if acts {
            self.last = Some(request.id);
        }
        Asked {
            request,
            is_again,
            is_refused,
        }
    }

    /// A typed byte that finds no room is lost.
    fn hold(&mut self, byte: u8) {
        if self.count < HELD
            && let Some(slot) = self.held.get_mut((self.first + self.count) % HELD)
        {
            *slot = byte;
            self.count += 1;
        }
    }

    /// The next typed byte.
    #[must_use]
    pub fn take(&mut self) -> Option<u8> {
        if self.count == 0 {
            return None;
        }
        let byte = self.held.get(self.first).copied();
        self.first = (self.first + 1) % HELD;
        self.count -= 1;
        byte
    }

    /// How many more typed bytes there is room for.
    #[must_use]
    pub const fn room(&self) -> usize {
        HELD - self.count
    }
}

impl Default for Inlet {
    fn default() -> Self {
        Self::new()
    }
}

/// What a vCPU is asked to tell of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Of the request.
    pub id: u32,
    /// All its registers.
    pub in_full: bool,
}

impl Question {
    /// For the record, though nobody has asked: all of it.
    pub const UNASKED: Self = Self {
        id: 0,
        in_full: true,
    };

    const IS_THERE: u64 = 1 << 32;
    const IN_FULL: u64 = 1 << 33;

    /// As one word, which is not 0.
    #[must_use]
    pub const fn word(self) -> u64 {
        let in_full = if self.in_full { Self::IN_FULL } else { 0 };
        self.id as u64 | Self::IS_THERE | in_full
    }

    /// Of such a word; none of 0.
    #[must_use]
    pub const fn of_word(word: u64) -> Option<Self> {
        if word & Self::IS_THERE == 0 {
            return None;
        }
        Some(Self {
            id: word as u32,
            in_full: word & Self::IN_FULL != 0,
        })
    }
}
