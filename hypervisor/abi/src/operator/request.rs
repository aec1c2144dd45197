//! One request, as text and back.

use core::fmt::{self, Write};

use super::Crc;

/// What the hypervisor is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// How many more bytes for the guest can be taken in.
    Room,
    /// How the VM is, and each of its vCPUs.
    Status,
    /// The registers of a vCPU.
    Registers,
    /// What is in the VM's RAM.
    Memory,
    /// A virtual SError into a vCPU.
    Nmi,
    /// An SDEI event that the VM's configuration defines: a private one on a vCPU, a shared one wherever it is routed.
    Raise,
    /// All vCPUs leave the guest, and stay out.
    Freeze,
    /// They go on.
    Thaw,
    /// The VM is reset, as by SYSTEM_RESET.
    Reset,
    /// The VM is switched off, as by SYSTEM_OFF.
    Off,
}

impl Verb {
    /// All of them, by the letter that stands for each.
    pub const ALL: [(u8, Self); 10] = [
        (b'?', Self::Room),
        (b's', Self::Status),
        (b'r', Self::Registers),
        (b'm', Self::Memory),
        (b'n', Self::Nmi),
        (b'e', Self::Raise),
        (b'f', Self::Freeze),
        (b't', Self::Thaw),
        (b'R', Self::Reset),
        (b'O', Self::Off),
    ];

    /// Whether the guest is another afterwards: what only looks does not have to be kept from being done twice.
    pub const fn acts(self) -> bool {
        let looks = matches!(
            self,
            Self::Room | Self::Status | Self::Registers | Self::Memory
        );
        !looks
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
    /// What is to be read, of [`Verb::Memory`]; empty in any other.
    pub span: Span,
    /// The event of [`Verb::Raise`]; 0 in any other.
    pub event: u32,
}

/// A part of a guest's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its first byte, as a guest physical address.
    pub ipa: u64,
    /// How many bytes; from 1 to [`MOST`] in a request.
    pub length: u16,
}

/// So many bytes are read at a time at most: the answer takes a pCPU 100 ms at 115200 baud.
pub const MOST: u16 = 768;

/// A text that is no request, or has been damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARequest;

impl Request {
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
        if verb == Verb::Memory {
            span.length = words.number()?;
            span.ipa = words.number()?;
            if !(1..=MOST).contains(&span.length) {
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
            Verb::Memory => {
                let Span { ipa, length } = self.span;
                write!(to, "{length:x} {ipa:x} ")
            }
            Verb::Raise => write!(to, "{vcpu:x} {:x} ", self.event),
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
        let digits = core::str::from_utf8(word).map_err(|_| NotARequest)?;
        // A sign is no digit of ours.
        if digits.starts_with('+') {
            return Err(NotARequest);
        }
        let number = u64::from_str_radix(digits, 16).map_err(|_| NotARequest)?;
        N::try_from(number).map_err(|_| NotARequest)
    }
}
