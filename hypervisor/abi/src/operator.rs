//! How an operator speaks to the hypervisor over the console's UART, beside the bytes that are typed to a guest.
//!
//! A byte goes to a guest, but for [`RS`], which opens one of these:
//!
//! | after RS | meaning |
//! | --- | --- |
//! | `.` | a byte RS for the guest |
//! | RS | nothing: what follows means the same |
//! | a digit | bytes outside of requests are for the guest of this number from here on; 0 at the start |
//! | `@`, a [`Request`], LF | a request to the hypervisor |
//!
//! A sender begins a request with RS and `@` twice each and ends it with LF twice ([`OPENING`], [`END`]): the second ones mean
//! nothing, so whichever single byte the line loses, none of the request is typed to the guest, and nothing typed is taken for it.
//!
//! Anything else after RS goes to the guest together with RS, so that a terminal without a program behind it can type every
//! byte. A request is text, `id verb vm vcpu crc`, `id m vm length ipa crc` for [`Verb::Memory`], `id h vm pages ipa crc` for
//! [`Verb::Hashes`], `id e vm vcpu event crc` for
//! [`Verb::Raise`], or `id i vm bytes crc` for [`Verb::Type`]: all numbers are hexadecimal, without blanks at either end, and bytes are two digits
//! each; [`crc`] is of all before it, the blank included. A request that is damaged or too long is dropped without a word, and its sender repeats it
//! until it is answered. Answers are records of the console (`docs/console.md`).
//!
//! Where there are several guests, a program types by [`Verb::Type`]: each piece names its guest and has a checksum, so nothing that the line loses or
//! adds has a byte typed to another guest; from the first on, bytes outside of requests are nobody's. The digit after RS is for people, who see what
//! becomes of it.

mod base64;
pub mod hashes;
mod request;

pub use base64::{Base64, from_base64};
pub use request::{MOST, MOST_TYPED, NotARequest, Request, Span, Typed, Verb};

use crate::console::RS;

/// The longest text of a request, in bytes, from `@` to LF, both excluded.
pub const LONGEST: usize = 64;

/// What follows RS in front of a request.
pub const REQUEST: u8 = b'@';

/// What follows RS where that is for the guest.
pub const LITERAL: u8 = b'.';

/// What a request begins with.
pub const OPENING: [u8; 4] = [RS, RS, REQUEST, REQUEST];

/// What it ends with.
pub const END: [u8; 2] = *b"\n\n";

/// What a guest's ESR_EL1 says in its lower 25 bits after [`Verb::Nmi`], where the CPU lets a hypervisor choose (FEAT_RAS): IDS, so a
/// syndrome that is nobody's but ours, and "HLG" (DDI0487 D24.2, ESR_EL1 and VSESR_EL2).
pub const NMI_SYNDROME: u64 = 1 << 24 | 0x48_4c47;

/// The reflected polynomial of CRC-32 (ISO-HDLC).
const POLYNOMIAL: u32 = 0xedb8_8320;

/// What the operator may do, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// All there is.
    #[default]
    Full,
    /// Type to guests, and look at them.
    Read,
    /// Type to guests.
    Off,
}

impl Access {
    /// Whether this may be done.
    pub const fn allows(self, verb: Verb) -> bool {
        match self {
            Self::Full => true,
            Self::Read => !verb.acts() || matches!(verb, Verb::Type),
            Self::Off => matches!(verb, Verb::Room | Verb::Type),
        }
    }
}

/// CRC-32 (ISO-HDLC) of what is written into it. Bit by bit: what is sent is short, and a table is not.
#[derive(Clone, Copy, Debug)]
pub struct Crc(u32);

impl Crc {
    /// Of nothing yet.
    pub const fn new() -> Self {
        Self(!0)
    }

    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 ^= u32::from(byte);
            for _ in 0..8 {
                let carry = if self.0 & 1 == 0 { 0 } else { POLYNOMIAL };
                self.0 = self.0 >> 1 ^ carry;
            }
        }
    }

    /// The checksum.
    #[must_use]
    pub const fn value(self) -> u32 {
        !self.0
    }
}

impl Default for Crc {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Write for Crc {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.update(text.as_bytes());
        Ok(())
    }
}

/// The checksum of one text.
#[must_use]
pub fn crc(text: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(text);
    crc.value()
}

/// What has come over the line with a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A byte for a guest.
    Guest(u8),
    /// Two bytes for a guest: RS, and this one.
    GuestAfterRs(u8),
    /// Bytes that follow are for the guest of this number.
    Channel(u8),
    /// A request that is whole.
    Request(Request),
    /// A request that is not: it was damaged, too long, or no request.
    Damaged,
    /// Nothing yet.
    Nothing,
}

/// Takes apart what comes over the line.
#[derive(Clone, Copy, Debug)]
pub struct Demux {
    state: State,
    /// The request so far.
    text: [u8; LONGEST],
    length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Guest,
    AfterRs,
    Request,
    /// Behind a request, whose end may come twice.
    AfterRequest,
    /// Of a request that cannot be one any more: until its end.
    Dropping,
}

impl Demux {
    /// At the start of the line.
    pub const fn new() -> Self {
        Self {
            state: State::Guest,
            text: [0; LONGEST],
            length: 0,
        }
    }

    /// What `byte` makes of what has come so far.
    pub fn push(&mut self, byte: u8) -> Input {
        let (state, input) = match (self.state, byte) {
            (State::AfterRequest, b'\n') => (State::Guest, Input::Nothing),
            (State::Guest | State::AfterRequest | State::AfterRs, RS) => {
                (State::AfterRs, Input::Nothing)
            }
            (State::Guest | State::AfterRequest, byte) => (State::Guest, Input::Guest(byte)),
            (State::AfterRs, LITERAL) => (State::Guest, Input::Guest(RS)),
            (State::AfterRs, REQUEST) => {
                self.length = 0;
                (State::Request, Input::Nothing)
            }
            (State::AfterRs, digit @ b'0'..=b'9') => (State::Guest, Input::Channel(digit & 0xf)),
            (State::AfterRs, byte) => (State::Guest, Input::GuestAfterRs(byte)),
            // The end of this one is lost, and another begins: no request has RS in it.
            (State::Request | State::Dropping, RS) => (State::AfterRs, Input::Damaged),
            (State::Request, REQUEST) if self.length == 0 => (State::Request, Input::Nothing),
            (State::Request, b'\n') => (State::AfterRequest, self.end()),
            (State::Dropping, b'\n') => (State::AfterRequest, Input::Damaged),
            (State::Request, byte) => match self.text.get_mut(self.length) {
                Some(slot) => {
                    *slot = byte;
                    self.length += 1;
                    (State::Request, Input::Nothing)
                }
                None => (State::Dropping, Input::Nothing),
            },
            (State::Dropping, _) => (State::Dropping, Input::Nothing),
        };
        self.state = state;
        input
    }

    fn end(&self) -> Input {
        let text = self.text.get(..self.length).unwrap_or_default();
        Request::parse(text).map_or(Input::Damaged, Input::Request)
    }
}

impl Default for Demux {
    fn default() -> Self {
        Self::new()
    }
}
