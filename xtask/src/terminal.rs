//! The user's terminal, handed to the guest in focus.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Read};

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use supervisor::AtEnd;

use hv_abi::operator::Verb;
use machine::control;
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

/// Copies standard input to the guest in focus, which is `guest` at first, until it ends; with `keys`, Ctrl-A X leaves the session,
/// and others reach the guest from outside, or another has the focus.
pub fn forward(guest: Operator, keys: bool, session: Leave) {
    std::thread::spawn(move || {
        let guest = RefCell::new(guest);
        let order = |key| {
            let said = obey(&mut guest.borrow_mut(), key);
            eprint!("xtask: {said}\r\n");
        };
        let typed = |bytes: &[u8]| {
            let guest = guest.borrow();
            match guest.type_bytes(bytes) {
                // What cannot be typed to one of several leaves the others.
                Err(error) if guest.are_several() && !guest.is_over() => {
                    let line_end = if keys { "\r\n" } else { "\n" };
                    eprint!("xtask: {error:#}{line_end}");
                    Ok(())
                }
                done => done,
            }
        };
        let escape = Escape {
            are_several: guest.borrow().are_several(),
            ..Escape::default()
        };
        if copy(io::stdin().lock(), typed, order, keys.then_some(escape)) {
            session.leave();
        }
    });
}

/// Copies until the end of input; true if the user asked to leave.
fn copy(
    mut input: impl Read,
    mut guest: impl FnMut(&[u8]) -> Result<()>,
    mut order: impl FnMut(Key),
    mut keys: Option<Escape>,
) -> bool {
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = input.read(&mut buffer) {
        let bytes = &buffer[..count];
        let Some(escape) = &mut keys else {
            if guest(bytes).is_err() {
                break;
            }
            continue;
        };
        for typed in escape.split(bytes) {
            match typed {
                Typed::Bytes(bytes) => {
                    if guest(&bytes).is_err() {
                        return false;
                    }
                }
                Typed::Key(Key::Leave) => return true,
                Typed::Key(key) => order(key),
            }
        }
    }
    false
}

/// Does what a key says; what came of it.
fn obey(guest: &mut Operator, key: Key) -> String {
    if let Key::Focus(_) | Key::Next = key {
        return focus(guest, key);
    }
    let ask = |verb, done: &str| guest.ask(verb, 0).map(|_| done.to_owned());
    let done = match key {
        Key::Leave | Key::Help | Key::Focus(_) | Key::Next => Ok(help(guest)),
        Key::Nmi => guest
            .ask(Verb::Status, 0)
            .and_then(|status| control::nmi_target(&status))
            .and_then(|vcpu| guest.ask(Verb::Nmi, vcpu).map(|_| vcpu))
            .map(|vcpu| format!("vCPU {vcpu} takes an SError")),
        Key::Freeze => ask(Verb::Freeze, "the guest is paused; Ctrl-A T has it go on"),
        Key::Thaw => ask(Verb::Thaw, "the guest goes on"),
        Key::Reset => ask(Verb::Reset, "the guest is reset"),
    };
    done.unwrap_or_else(|error| format!("{error:#}"))
}

/// Has another guest be the one that typed bytes and keys are for.
fn focus(guest: &mut Operator, key: Key) -> String {
    let guests = guest.guests();
    let number = match key {
        Key::Focus(number) => number,
        _ => guest.vm().wrapping_add(1) % guests.len().max(1) as u8,
    };
    match guests.get(usize::from(number)) {
        Some((vm, name)) => {
            *guest = guest.of(*vm);
            format!("what you type goes to {name} (guest {vm})")
        }
        None => format!(
            "there is no guest {number}; there are 0 to {}",
            guests.len().saturating_sub(1)
        ),
    }
}

fn help(guest: &Operator) -> String {
    if !guest.are_several() {
        return HELP.to_owned();
    }
    let guests = guest.guests().into_iter();
    let all: Vec<String> = guests.map(|(vm, name)| format!("{vm} {name}")).collect();
    let (keys, all, own) = (FOCUS_HELP, all.join(", "), guest.name());
    format!("{HELP}; {keys}. Guests: {all}; what you type goes to {own}")
}

/// Where there are several guests.
const FOCUS_HELP: &str =
    "0 to 9 has what you type and these keys be for that guest, Tab for the next one";

/// What the keys do, as `cargo xtask ctl` does.
const HELP: &str = "after Ctrl-A: X leaves, N sends an NMI, F pauses the guest (freeze), T has it go on (thaw), R resets it, Ctrl-A sends one to it";

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Bytes for the guest.
    Bytes(Vec<u8>),
    /// A key after Ctrl-A.
    Key(Key),
}

/// A key after Ctrl-A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// X: the user leaves.
    Leave,
    /// N: an SError into a vCPU.
    Nmi,
    /// F: the guest stands still.
    Freeze,
    /// T: it goes on.
    Thaw,
    /// R: it is reset.
    Reset,
    /// ?: what there is.
    Help,
    /// A digit: the guest of this number has the focus.
    Focus(u8),
    /// Tab: the next guest has it.
    Next,
}

impl Key {
    /// Of those that there are with `several` guests, or with one.
    const fn of(byte: u8, several: bool) -> Option<Self> {
        Some(match byte.to_ascii_lowercase() {
            b'x' => Self::Leave,
            b'n' => Self::Nmi,
            b'f' => Self::Freeze,
            b't' => Self::Thaw,
            b'r' => Self::Reset,
            b'?' => Self::Help,
            b'0'..=b'9' if several => Self::Focus(byte - b'0'),
            b'\t' if several => Self::Next,
            _ => return None,
        })
    }
}

/// Ctrl-A and a key is for us, Ctrl-A Ctrl-A is one Ctrl-A for the guest.
#[derive(Default)]
pub struct Escape {
    armed: bool,
    /// There are several guests.
    are_several: bool,
}

const CTRL_A: u8 = 1;

impl Escape {
    /// What `bytes` are for the guest and for us, in their order.
    pub fn split(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut all = Vec::new();
        let mut guest = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match (std::mem::take(&mut self.armed), byte) {
                (true, CTRL_A) => guest.push(CTRL_A),
                (true, byte) => match Key::of(byte, self.are_several) {
                    Some(key) => {
                        if !guest.is_empty() {
                            all.push(Typed::Bytes(std::mem::take(&mut guest)));
                        }
                        all.push(Typed::Key(key));
                    }
                    None => guest.extend([CTRL_A, byte]),
                },
                (false, CTRL_A) => self.armed = true,
                (false, byte) => guest.push(byte),
            }
        }
        if !guest.is_empty() {
            all.push(Typed::Bytes(guest));
        }
        all
    }

    /// Where there is nobody but the guest to reach: what of `bytes` is for it, and whether the user asked to leave.
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
        copied_with(input, guest, &mut Vec::new(), keys)
    }

    fn copied_with(input: &[u8], guest: &mut Vec<u8>, orders: &mut Vec<Key>, keys: bool) -> bool {
        let take = |bytes: &[u8]| {
            guest.extend(bytes);
            Ok(())
        };
        copy(
            input,
            take,
            |key| orders.push(key),
            keys.then(Escape::default),
        )
    }

    #[test]
    fn ctrl_a_x_leaves_and_ctrl_a_twice_is_one() {
        let mut guest = Vec::new();
        assert!(copied(b"ls\x01\x01\x01b\x01xlost", &mut guest, true));
        assert_eq!(guest, b"ls\x01\x01b");
    }

    #[test]
    fn keys_reach_the_guest_from_outside_and_others_are_the_guests() {
        let (mut guest, mut orders) = (Vec::new(), Vec::new());
        let input = b"a\x01n\x01F\x01tb\x01R\x01?\x01qc";
        assert!(!copied_with(input, &mut guest, &mut orders, true));
        assert_eq!(guest, b"ab\x01qc");
        assert_eq!(
            orders,
            [Key::Nmi, Key::Freeze, Key::Thaw, Key::Reset, Key::Help]
        );
        let mut escape = Escape::default();
        assert_eq!(escape.split(b"a\x01"), [Typed::Bytes(b"a".to_vec())]);
        assert_eq!(
            escape.split(b"nb"),
            [Typed::Key(Key::Nmi), Typed::Bytes(b"b".to_vec())]
        );
        assert!(Key::of(b'q', true).is_none());
    }

    #[test]
    fn nobody_to_ask_is_said() {
        let mut operator = Operator::new(Vec::new(), true);
        assert!(obey(&mut operator, Key::Nmi).contains("bare machine"));
        assert_eq!(obey(&mut operator, Key::Help), HELP);
    }

    #[test]
    fn of_several_guests_one_has_the_focus() {
        let mut operator = Operator::new(Vec::new(), false);
        operator.expect(&["main".to_owned(), "other".to_owned()]);
        let mut obey = |key| (obey(&mut operator, key), operator.vm());
        let said = |(text, vm): (String, u8)| (text, vm);
        assert_eq!(
            said(obey(Key::Focus(1))),
            ("what you type goes to other (guest 1)".to_owned(), 1)
        );
        assert_eq!(obey(Key::Next).1, 0);
        assert_eq!(obey(Key::Next).1, 1);
        assert_eq!(
            said(obey(Key::Focus(7))),
            ("there is no guest 7; there are 0 to 1".to_owned(), 1)
        );
        let help = obey(Key::Help).0;
        assert!(
            help.ends_with("Guests: 0 main, 1 other; what you type goes to other"),
            "{help}"
        );
        // The keys are those of several guests alone.
        let split = |are_several| {
            let mut escape = Escape {
                are_several,
                ..Escape::default()
            };
            escape.split(b"\x011a\x01\t")
        };
        let keys = [
            Typed::Key(Key::Focus(1)),
            Typed::Bytes(b"a".to_vec()),
            Typed::Key(Key::Next),
        ];
        assert_eq!(split(true), keys);
        assert_eq!(split(false), [Typed::Bytes(b"\x011a\x01\t".to_vec())]);
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
