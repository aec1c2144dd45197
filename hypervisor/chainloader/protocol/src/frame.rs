//! A message on the line: `0 COBS(message, checksum) 0`.
//!
//! COBS (Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1997) leaves no zero in what it encodes, so
//! that a zero always ends whatever was before it: after lost bytes and amid text the next message is
//! found. The checksum is the first 8 bytes of the message's SHA-256.

use sha2::{Digest, Sha256};

/// The longest message in bytes.
pub const LONGEST: usize = 16 + 1024;

/// Bytes of the checksum.
const CHECK: usize = 8;

/// The longest a message gets on the line, both zeroes included.
pub const LONGEST_ON_LINE: usize = 2 + LONGEST + CHECK + (LONGEST + CHECK) / 254 + 1;

/// A block of SHA-256.
const STEP: usize = 64;

/// The message as it goes onto the line; none if it is longer than [`LONGEST`] or `line` is too short.
#[must_use]
pub fn encode<'a>(message: &[u8], line: &'a mut [u8]) -> Option<&'a [u8]> {
    if message.len() > LONGEST {
        return None;
    }
    let hash = Sha256::digest(message);
    let check = hash.iter().take(CHECK);
    // The place of the byte that says how far the next zero is, and how many bytes there are since.
    let mut code_at = 1;
    let mut code = 1u8;
    let mut at = 2;
    *line.first_mut()? = 0;
    for &byte in message.iter().chain(check) {
        if byte != 0 {
            *line.get_mut(at)? = byte;
            at += 1;
            code += 1;
        }
        if byte == 0 || code == u8::MAX {
            *line.get_mut(code_at)? = code;
            code_at = at;
            at += 1;
            code = 1;
        }
    }
    *line.get_mut(code_at)? = code;
    *line.get_mut(at)? = 0;
    line.get(..=at)
}

/// What a byte brought to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Nothing yet.
    Nothing,
    /// A message.
    Message(&'a [u8]),
    /// What is no message, or was one once.
    Noise,
}

/// Takes messages from the line, a byte at a time. The work is spread over the bytes, since a UART
/// waits for nobody.
#[derive(Clone)]
pub struct Decoder {
    /// What was decoded since the last zero; aligned so that blocks can be copied by words.
    buffer: Aligned,
    length: usize,
    /// How much of it has been hashed.
    hashed: usize,
    hasher: Sha256,
    /// Bytes until the next code byte.
    left: u8,
    /// Whether a zero was taken out where the next code byte stands.
    zero_due: bool,
    /// Whether there was anything since the last zero.
    begun: bool,
    /// Whether it is too long to be a message.
    overlong: bool,
}

#[derive(Clone)]
#[repr(align(16))]
struct Aligned([u8; LONGEST + CHECK]);

impl Default for Decoder {
    fn default() -> Self {
        Self {
            buffer: Aligned([0; LONGEST + CHECK]),
            length: 0,
            hashed: 0,
            hasher: Sha256::new(),
            left: 0,
            zero_due: false,
            begun: false,
            overlong: false,
        }
    }
}

impl Decoder {
    /// Takes the next byte of the line.
    pub fn push(&mut self, byte: u8) -> Heard<'_> {
        if byte == 0 {
            return self.end();
        }
        self.begun = true;
        if self.left == 0 {
            if self.zero_due {
                self.keep(0);
            }
            self.left = byte - 1;
            // A code of 255 stands for 254 bytes and no zero.
            self.zero_due = byte != u8::MAX;
        } else {
            self.left -= 1;
            self.keep(byte);
        }
        Heard::Nothing
    }

    fn keep(&mut self, byte: u8) {
        match self.buffer.0.get_mut(self.length) {
            Some(place) => {
                *place = byte;
                self.length += 1;
            }
            None => self.overlong = true,
        }
        let next = self.hashed + STEP;
        if self.length >= next + CHECK {
            let step = self.buffer.0.get(self.hashed..next);
            self.hasher.update(step.unwrap_or_default());
            self.hashed = next;
        }
    }

    fn end(&mut self) -> Heard<'_> {
        let (length, hashed) = (self.length, self.hashed);
        let is_whole = self.left == 0 && !self.overlong && length >= CHECK;
        let begun = core::mem::take(&mut self.begun);
        self.length = 0;
        self.hashed = 0;
        self.left = 0;
        self.zero_due = false;
        self.overlong = false;
        let mut hasher = core::mem::take(&mut self.hasher);
        if !begun {
            return Heard::Nothing;
        }
        if !is_whole {
            return Heard::Noise;
        }
        let (message, check) = self.buffer.0.split_at(length - CHECK);
        hasher.update(message.get(hashed..).unwrap_or_default());
        let hash = hasher.finalize();
        if hash.iter().zip(check).take(CHECK).all(|(a, b)| a == b) {
            Heard::Message(message)
        } else {
            Heard::Noise
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use proptest::prelude::*;

    fn heard(decoder: &mut Decoder, line: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut all = Vec::new();
        for &byte in line {
            match decoder.push(byte) {
                Heard::Nothing => {}
                Heard::Message(message) => all.push(Some(message.to_vec())),
                Heard::Noise => all.push(None),
            }
        }
        all
    }

    fn on_line(message: &[u8]) -> Vec<u8> {
        let mut line = [0xaa; LONGEST_ON_LINE];
        encode(message, &mut line).expect("room").to_vec()
    }

    proptest! {
        #[test]
        fn what_goes_onto_the_line_comes_off_it(
            messages in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..=LONGEST), 1..4),
        ) {
            let mut decoder = Decoder::default();
            for message in messages {
                let line = on_line(&message);
                prop_assert!(!line[1..line.len() - 1].contains(&0));
                prop_assert_eq!(heard(&mut decoder, &line), [Some(message)]);
            }
        }

        #[test]
        fn after_anything_at_all_the_next_message_is_found(
            noise in prop::collection::vec(any::<u8>(), 0..3000),
            message in prop::collection::vec(any::<u8>(), 0..LONGEST),
        ) {
            let mut decoder = Decoder::default();
            let before = heard(&mut decoder, &noise);
            prop_assert!(before.iter().all(Option::is_none));
            let after = heard(&mut decoder, &on_line(&message));
            prop_assert_eq!(after.last(), Some(&Some(message)));
        }

        #[test]
        fn a_damaged_message_is_noise(
            message in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
            lose in any::<bool>(),
        ) {
            let mut line = on_line(&message);
            let at = 1 + at.index(line.len() - 2);
            if lose {
                line.remove(at);
            } else {
                line[at] ^= flip;
            }
            let mut decoder = Decoder::default();
            let heard = heard(&mut decoder, &line);
            prop_assert!(heard.iter().all(Option::is_none), "{:?}", heard);
        }
    }

    #[test]
    fn text_between_messages_is_noise_once() {
        let mut decoder = Decoder::default();
        let mut line = b"hello\r\n".to_vec();
        line.extend(on_line(b"message"));
        assert_eq!(
            heard(&mut decoder, &line),
            [None, Some(b"message".to_vec())]
        );
        assert_eq!(heard(&mut decoder, &[0, 0, 0]), []);
    }

    #[test]
    fn a_message_too_long_is_not_sent() {
        let mut line = [0; 2 * LONGEST_ON_LINE];
        assert!(encode(&[1; LONGEST + 1], &mut line).is_none());
        assert!(encode(&[1; LONGEST], &mut line).is_some());
        assert!(encode(&[1; 100], &mut line[..100]).is_none());
    }
}
