//! One request, as text and back.

use core::fmt::{self, Write};

use super::Crc;
use super::hashes::{MOST_PAGES, PAGE};

/// What the hypervisor is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// How many more bytes for the VM's guest can be taken in.
    Room,
    /// Bytes are typed to it. What finds no room is lost.
    Type,
    /// How the VM is, and each of its vCPUs.
    Status,
    /// The registers of a vCPU.
    Registers,
    /// What is in the VM's RAM.
    Memory,
    /// A hash for each page of the VM's RAM, while that is paused ([`super::hashes`]).
    Hashes,
    /// A virtual SError into a vCPU.
    Nmi,
    /// An SDEI event that the VM's configuration defines: a private one on a vCPU, a shared one wherever it is routed.
    Raise,
    /// All vCPUs leave the guest, and stay out.
    Freeze,
    /// The same, and the guest's virtual counter stands still meanwhile.
    FreezeClock,
    /// They go on.
    Thaw,
    /// The VM is reset, as by SYSTEM_RESET.
    Reset,
    /// The VM is switched off, as by SYSTEM_OFF.
    Off,
    /// The VM, which is off, is started.
    Start,
    /// The VM's memory is saved by a kernel that starts beside it, and then it starts again.
    Dump,
}

impl Verb {
    /// All of them, by the letter that stands for each.
    pub const ALL: [(u8, Self); 15] = [
        (b'?', Self::Room),
        (b'i', Self::Type),
        (b's', Self::Status),
        (b'r', Self::Registers),
        (b'm', Self::Memory),
        (b'h', Self::Hashes),
        (b'n', Self::Nmi),
        (b'e', Self::Raise),
        (b'f', Self::Freeze),
        (b'F', Self::FreezeClock),
        (b't', Self::Thaw),
        (b'R', Self::Reset),
        (b'O', Self::Off),
        (b'S', Self::Start),
        (b'D', Self::Dump),
    ];

    /// Whether the guest is another afterwards: what only looks does not have to be kept from being done twice.
    pub const fn acts(self) -> bool {
        let looks = matches!(
            self,
            Self::Room | Self::Status | Self::Registers | Self::Memory | Self::Hashes
        );
        !looks
    }

    /// How long a part of memory may be that it is about, in units of so many bytes; none if it is about none.
    const fn span(self) -> Option<(u16, u64)> {
        match self {
            Self::Memory => Some((MOST, 1)),
            Self::Hashes => Some((MOST_PAGES, PAGE)),
            _ => None,
        }
    }

    fn letter(self) -> u8 {
        let known = Self::ALL.iter().find(|(_, verb)| *verb == self);
        known.map_or(b'?', |(letter, _)| *letter)
    }
}

/// A request to the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Tells its answers and repetitions from those of other requests. Whoever sends requests takes the upper half at random, and
    /// counts in the lower one.
    pub id: u32,
    /// What is to be done.
    pub verb: Verb,
    /// To which VM.
    pub vm: u8,
    /// To which vCPU of that, where it is about one.
    pub vcpu: u8,
    /// What is to be read or hashed, of [`Verb::Memory`] and [`Verb::Hashes`]; empty in any other.
    pub span: Span,
    /// The event of [`Verb::Raise`]; 0 in any other.
    pub event: u32,
    /// What [`Verb::Type`] types; nothing in any other.
    pub typed: Typed,
}

/// A part of a guest's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its first byte, as a guest physical address; of [`Verb::Hashes`] a multiple of [`PAGE`].
    pub ipa: u64,
    /// How many bytes, from 1 to [`MOST`] in a request; of [`Verb::Hashes`] how many pages, from 1 to [`MOST_PAGES`].
    pub length: u16,
}

/// So many bytes are typed by one request at most.
pub const MOST_TYPED: usize = 20;

/// What is typed to a guest at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Typed {
    bytes: [u8; MOST_TYPED],
    length: u8,
}

impl Typed {
    /// Nothing.
    pub const NONE: Self = Self {
        bytes: [0; MOST_TYPED],
        length: 0,
    };

    /// The first of `bytes`, as many as go into one request.
    pub fn of(bytes: &[u8]) -> Self {
        let mut typed = Self::default();
        for (slot, byte) in typed.bytes.iter_mut().zip(bytes) {
            *slot = *byte;
            typed.length += 1;
        }
        typed
    }

    /// They.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }
}

/// So many bytes are read at a time at most: the answer takes a pCPU 100 ms at 115200 baud.
pub const MOST: u16 = 768;

/// A text that is no request, or has been damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARequest;

impl Request {
    /// One that has neither memory, an event nor bytes.
    pub const fn new(id: u32, verb: Verb, vm: u8, vcpu: u8) -> Self {
        Self {
            id,
            verb,
            vm,
            vcpu,
            span: Span { ipa: 0, length: 0 },
            event: 0,
            typed: Typed::NONE,
        }
    }

    /// Reads the text between `@` and LF.
    pub fn parse(text: &[u8]) -> Result<Self, NotARequest> {
        let mut words = Words(text);
        let id = words.number()?;
        let &[letter] = words.next().ok_or(NotARequest)? else {
            return Err(NotARequest);
        };
        let known = Verb::ALL.iter().find(|(known, _)| *known == letter);
        let &(_, verb) = known.ok_or(NotARequest)?;
        let vm = words.number()?;
        let (mut vcpu, mut span, mut event) = (0, Span::default(), 0);
        let mut typed = Typed::default();
        if verb == Verb::Type {
            typed = words.typed()?;
        } else if let Some((most, unit)) = verb.span() {
            span.length = words.number()?;
            span.ipa = words.number()?;
            if !(1..=most).contains(&span.length) || !span.ipa.is_multiple_of(unit) {
                return Err(NotARequest);
            }
        } else {
            vcpu = words.number()?;
            if verb == Verb::Raise {
                event = words.number()?;
            }
        }
        let rest = words.0.len();
        let crc = words.number()?;
        let before = text.len().checked_sub(rest).and_then(|end| text.get(..end));
        if !words.0.is_empty() || before.map(super::crc) != Some(crc) {
            return Err(NotARequest);
        }
        Ok(Self {
            id,
            verb,
            vm,
            vcpu,
            span,
            event,
            typed,
        })
    }
}

/// As it goes over the line, between RS `@` and LF.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut crc = Crc::new();
        self.write_words(&mut crc)?;
        self.write_words(f)?;
        write!(f, "{:x}", crc.value())
    }
}

impl Request {
    /// What its checksum is of.
    fn write_words(&self, to: &mut dyn Write) -> fmt::Result {
        let Self { id, vm, vcpu, .. } = self;
        let verb = char::from(self.verb.letter());
        write!(to, "{id:x} {verb} {vm:x} ")?;
        match self.verb {
            Verb::Memory | Verb::Hashes => {
                let Span { ipa, length } = self.span;
                write!(to, "{length:x} {ipa:x} ")
            }
            Verb::Raise => write!(to, "{vcpu:x} {:x} ", self.event),
            Verb::Type => {
                for byte in self.typed.bytes() {
                    write!(to, "{byte:02x}")?;
                }
                to.write_char(' ')
            }
            _ => write!(to, "{vcpu:x} "),
        }
    }
}

/// Words with one blank between each two.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0;
        if text.is_empty() {
            return None;
        }
        let end = text.iter().position(|&byte| byte == b' ');
        let (word, rest) = match end {
            Some(end) => (text.get(..end)?, text.get(end + 1..)?),
            None => (text, &[][..]),
        };
        self.0 = rest;
        Some(word)
    }

    fn number<N: TryFrom<u64>>(&mut self) -> Result<N, NotARequest> {
        let word = self.next().ok_or(NotARequest)?;
        N::try_from(number(word)?).map_err(|_| NotARequest)
    }

    /// At least one byte, and no more than there is room for.
    fn typed(&mut self) -> Result<Typed, NotARequest> {
        let word = self.next().ok_or(NotARequest)?;
        let mut typed = Typed::default();
        if word.is_empty() || word.len() > 2 * MOST_TYPED || !word.len().is_multiple_of(2) {
            return Err(NotARequest);
        }
        for (slot, digits) in typed.bytes.iter_mut().zip(word.chunks(2)) {
            *slot = number(digits)? as u8;
            typed.length += 1;
        }
        Ok(typed)
    }
}

fn number(word: &[u8]) -> Result<u64, NotARequest> {
    let digits = core::str::from_utf8(word).map_err(|_| NotARequest)?;
    // A sign is no digit of ours.
    if digits.starts_with('+') {
        return Err(NotARequest);
    }
    u64::from_str_radix(digits, 16).map_err(|_| NotARequest)
}
