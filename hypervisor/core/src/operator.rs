//! What comes over the console's line, between the UART and those it is for: each guest's typed bytes wait for it, and of
//! what an operator asks nothing is done twice.

use hv_abi::console::RS;
use hv_abi::operator::{Access, Demux, Input, Request, Typed, Verb};

use crate::id::VmId;

/// So many bytes that were typed to a guest wait at most. Whoever types more at a time asks before how many there is room for
/// ([`hv_abi::operator::Verb::Room`]).
pub const HELD: usize = 1024;

/// What has come over the line with a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Nothing that is whole.
    Nothing,
    /// These bytes are for the guest of this VM, if there is one.
    Typed(VmId, Typed),
    /// An operator asks something.
    Request(Asked),
}

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

/// The operator's line: what becomes of each byte that comes over it, and of each request.
#[derive(Debug)]
pub struct OperatorLine {
    demux: Demux,
    access: Access,
    /// Whose the bytes are that are typed as they are.
    focus: VmId,
    /// A program has said of some whose they are, so those are nobody's: what damage has made of its requests is not typed.
    is_program: bool,
    /// The last request that acts.
    last: Option<u32>,
}

impl OperatorLine {
    /// Of a line over which nothing has come.
    pub const fn new() -> Self {
        Self {
            demux: Demux::new(),
            access: Access::Full,
            focus: VmId(0),
            is_program: false,
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

    /// A byte has come.
    #[must_use]
    pub fn push(&mut self, byte: u8) -> Came {
        match self.demux.push(byte) {
            Input::Nothing | Input::Damaged => Came::Nothing,
            Input::Channel(number) => {
                (self.focus, self.is_program) = (VmId(number), false);
                Came::Nothing
            }
            Input::Guest(byte) => self.plain(&[byte]),
            Input::GuestAfterRs(byte) => self.plain(&[RS, byte]),
            Input::Request(request) => Came::Request(self.ask(request)),
        }
    }

    fn plain(&self, bytes: &[u8]) -> Came {
        match self.is_program {
            true => Came::Nothing,
            false => Came::Typed(self.focus, Typed::of(bytes)),
        }
    }

    fn ask(&mut self, request: Request) -> Asked {
        if request.verb == Verb::Type {
            self.is_program = true;
        }
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
}

impl Default for OperatorLine {
    fn default() -> Self {
        Self::new()
    }
}

/// What was typed to a guest that has not read it: a ring.
#[derive(Clone, Debug)]
pub struct TypeAhead {
    bytes: [u8; HELD],
    first: usize,
    count: usize,
}

impl TypeAhead {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            bytes: [0; HELD],
            first: 0,
            count: 0,
        }
    }

    /// What finds no room is lost.
    pub fn hold(&mut self, typed: &Typed) {
        for &byte in typed.bytes() {
            if self.count < HELD
                && let Some(slot) = self.bytes.get_mut((self.first + self.count) % HELD)
            {
                *slot = byte;
                self.count += 1;
            }
        }
    }

    /// The next typed byte.
    #[must_use]
    pub fn take(&mut self) -> Option<u8> {
        if self.count == 0 {
            return None;
        }
        let byte = self.bytes.get(self.first).copied();
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

impl Default for TypeAhead {
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
