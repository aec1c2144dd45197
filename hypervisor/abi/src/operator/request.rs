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
    /// A virtual SError into a vCPU.
    Nmi,
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
    pub const ALL: [(u8, Self); 8] = [
        (b'?', Self::Room),
        (b's', Self::Status),
        (b'r', Self::Registers),
        (b'n', Self::Nmi),
        (b'f', Self::Freeze),
        (b't', Self::Thaw),
        (b'R', Self::Reset),
        (b'O', Self::Off),
    ];

    /// Whether the guest is another afterwards: what only looks does not have to be kept from being done twice.
    pub const fn acts(self) -> bool {
        !matches!(self, Self::Room | Self::Status | Self::Registers)
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
}

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
        let [vm, vcpu] = [words.number()?, words.number()?];
        let rest = words.0.len();
        let crc = words.number()?;
        let before = text.len().checked_sub(rest).and_then(|end| text.get(..end));
        if !words.0.is_empty() || before.map(super::crc) != Some(crc) {
            return Err(NotARequest);
        }
        let byte = |number: u32| u8::try_from(number).map_err(|_| NotARequest);
        Ok(Self {
            id,
            verb,
            vm: byte(vm)?,
            vcpu: byte(vcpu)?,
        })
    }
}

/// As it goes over the line, between RS `@` and LF.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, vm, vcpu, .. } = self;
        let verb = char::from(self.verb.letter());
        let mut crc = Crc::new();
        write!(crc, "{id:x} {verb} {vm:x} {vcpu:x} ")?;
        write!(f, "{id:x} {verb} {vm:x} {vcpu:x} {:x}", crc.value())
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

    fn number(&mut self) -> Result<u32, NotARequest> {
        let word = self.next().ok_or(NotARequest)?;
        let digits = core::str::from_utf8(word).map_err(|_| NotARequest)?;
        // A sign is no digit of ours.
        if digits.starts_with('+') {
            return Err(NotARequest);
        }
        u32::from_str_radix(digits, 16).map_err(|_| NotARequest)
    }
}
