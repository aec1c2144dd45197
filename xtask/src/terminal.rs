//! The user's terminal, handed to the guest.

use std::io::{self, IsTerminal, Read};

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use supervisor::AtEnd;

use machine::operator::Operator;
use machine::qemu::Leave;

/// A terminal in raw mode, put back when dropped or when a signal ends us; nothing at all if standard input is no
/// terminal.
pub struct Terminal {
    put_back: Option<AtEnd>,
}

impl Terminal {
    /// Puts the terminal into raw mode, if standard input is one.
    pub fn take() -> Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self { put_back: None });
        }
        let before = tcgetattr(&stdin).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("cannot set the terminal")?;
        let put_back = supervisor::at_end(move || {
            // At once: one that is held (Ctrl-S) would keep us. Nothing is left to try if it has gone away.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
        });
        Ok(Self {
            put_back: Some(put_back),
        })
    }

    /// Whether there is a terminal, which then needs CR LF at line ends.
    pub fn is_raw(&self) -> bool {
        self.put_back.is_some()
    }
}

/// Copies standard input to the guest until it ends; with `keys`, Ctrl-A X leaves the session.
pub fn forward(guest: Operator, keys: bool, session: Leave) {
    std::thread::spawn(move || {
        if copy(io::stdin().lock(), |bytes| guest.type_bytes(bytes), keys) {
            session.leave();
        }
    });
}

/// Copies until the end of input; true if the user asked to leave.
fn copy(mut input: impl Read, mut guest: impl FnMut(&[u8]) -> Result<()>, keys: bool) -> bool {
    let mut escape = Escape::default();
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = input.read(&mut buffer) {
        let bytes = &buffer[..count];
        let (bytes, leave) = if keys {
            escape.filter(bytes)
        } else {
            (bytes.to_vec(), false)
        };
        if guest(&bytes).is_err() {
            break;
        }
        if leave {
            return true;
        }
    }
    false
}

/// Ctrl-A X leaves, Ctrl-A Ctrl-A is one Ctrl-A for the guest.
#[derive(Default)]
pub struct Escape {
    armed: bool,
}

const CTRL_A: u8 = 1;

impl Escape {
    /// What of `bytes` is for the guest, and whether the user asked to leave.
    pub fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut guest = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (std::mem::take(&mut self.armed), byte) {
                (true, b'x' | b'X') => return (guest, true),
                (true, CTRL_A) => guest.push(CTRL_A),
                (true, byte) => guest.extend([CTRL_A, byte]),
                (false, CTRL_A) => self.armed = true,
                (false, byte) => guest.push(byte),
            }
        }
        (guest, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(input: &[u8], guest: &mut Vec<u8>, keys: bool) -> bool {
        let take = |bytes: &[u8]| {
            guest.extend(bytes);
            Ok(())
        };
        copy(input, take, keys)
    }

    #[test]
    fn ctrl_a_x_leaves_and_ctrl_a_twice_is_one() {
        let mut guest = Vec::new();
        assert!(copied(b"ls\x01\x01\x01b\x01xlost", &mut guest, true));
        assert_eq!(guest, b"ls\x01\x01b");
    }

    #[test]
    fn the_two_keys_may_arrive_apart() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"a\x01"), (b"a".to_vec(), false));
        assert_eq!(escape.filter(b"x"), (b"".to_vec(), true));
    }

    #[test]
    fn a_pipe_passes_every_byte() {
        let mut guest = Vec::new();
        assert!(!copied(b"\x01x\x00\xff", &mut guest, false));
        assert_eq!(guest, b"\x01x\x00\xff");
    }
}
