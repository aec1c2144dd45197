//! Packets of GDB's remote serial protocol (GDB manual, appendix E.1): `$`, text, `#`, and a checksum of two digits.

use std::fmt::Write as _;
use std::io::{Read, Write};

use anyhow::{Result, ensure};

/// A longer packet is none; `qSupported` says it.
pub const LONGEST: usize = 0x4000;

/// What a debugger has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A packet.
    Packet(String),
    /// Ctrl-C.
    Interrupt,
    /// It has hung up.
    End,
}

/// The way to a debugger.
pub struct Packets<S> {
    stream: S,
    /// Each packet is acknowledged, until both agree that none is.
    pub acknowledges: bool,
}

impl<S: Read + Write> Packets<S> {
    /// Over `stream`.
    pub const fn over(stream: S) -> Self {
        Self {
            stream,
            acknowledges: true,
        }
    }

    /// What comes next. A packet that was damaged is asked for again.
    pub fn next(&mut self) -> Result<Input> {
        loop {
            match self.byte()? {
                None => return Ok(Input::End),
                Some(3) => return Ok(Input::Interrupt),
                Some(b'$') => {}
                // Acknowledgements; over TCP nothing is lost.
                Some(_) => continue,
            }
            let mut text = Vec::new();
            loop {
                match self.byte()? {
                    None => return Ok(Input::End),
                    Some(b'#') => break,
                    Some(byte) => text.push(byte),
                }
                ensure!(
                    text.len() <= LONGEST,
                    "the debugger sends a packet without end"
                );
            }
            let mut digits = [0; 2];
            for digit in &mut digits {
                match self.byte()? {
                    None => return Ok(Input::End),
                    Some(byte) => *digit = byte,
                }
            }
            let sum = str::from_utf8(&digits).ok();
            let sum = sum.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            let is_sound = sum == Some(checksum(&text));
            if self.acknowledges {
                self.stream.write_all(if is_sound { b"+" } else { b"-" })?;
            }
            if is_sound {
                return Ok(Input::Packet(String::from_utf8_lossy(&text).into_owned()));
            }
        }
    }

    /// Sends one.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let sum = checksum(text.as_bytes());
        self.stream
            .write_all(format!("${text}#{sum:02x}").as_bytes())?;
        Ok(self.stream.flush()?)
    }

    fn byte(&mut self) -> Result<Option<u8>> {
        let mut byte = [0];
        Ok(match self.stream.read(&mut byte)? {
            0 => None,
            _ => Some(byte[0]),
        })
    }
}

fn checksum(text: &[u8]) -> u8 {
    text.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Bytes as two digits each.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of what is sent, and what is answered.
    struct Wire(&'static [u8], Vec<u8>);

    impl Read for Wire {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(bytes)
        }
    }

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn packets_are_taken_and_damaged_ones_asked_for_again() {
        let mut packets = Packets::over(Wire(b"+$qC#b4$qC#b5\x03$?#3f$m", Vec::new()));
        let mut all = Vec::new();
        loop {
            match packets.next().unwrap() {
                Input::End => break,
                input => all.push(input),
            }
        }
        let packet = |text: &str| Input::Packet(text.to_owned());
        assert_eq!(all, [packet("qC"), Input::Interrupt, packet("?")]);
        packets.send("OK").unwrap();
        assert_eq!(packets.stream.1, b"+-+$OK#9a");
        packets.acknowledges = false;
        assert_eq!(hex(&[0, 0xfe]), "00fe");
    }

    #[test]
    fn a_packet_without_end_is_an_error() {
        let bytes: &'static [u8] = vec![b'$'; 2 * LONGEST].leak();
        assert!(Packets::over(Wire(bytes, Vec::new())).next().is_err());
    }
}
