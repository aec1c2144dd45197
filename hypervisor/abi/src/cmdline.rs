//! Words of the hypervisor's own command line (`/chosen bootargs` of the machine's devicetree): what each sets, and
//! what is wrong with one that sets nothing. The hypervisor obeys them, and the tools that write them ask the same
//! questions before.

mod faults;

use core::fmt;

use crate::operator::Access;

pub use faults::{Fault, NoFault, PLACES, WAYS, fault};

/// What a word sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `crash=`: whether the machine is reset after a crash, or stays as it is.
    Crash {
        /// It is reset.
        reset: bool,
    },
    /// `stop=`: whether a pCPU that has stopped is switched off, or sleeps.
    Stop {
        /// It is switched off.
        off: bool,
    },
    /// `watchdog=`: what is done about a pCPU that is stuck, and after how many milliseconds, if that is said.
    Watchdog(OnStuck, Option<u32>),
    /// `operator=`: what the operator may do.
    Operator(Access),
    /// `trace=calls`: each call of each guest is told of on the console.
    TraceCalls,
    /// The name of a word that injects a fault, which only the test image obeys: see [`fault`].
    Fault(&'static str),
}

/// What is done about a pCPU that is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OnStuck {
    /// It is reported where it is.
    Report = 0,
    /// The machine is stopped.
    Stop = 1,
    /// Nobody looks.
    Off = 2,
}

/// Why a word sets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No word begins like it.
    Unknown,
    /// Its name is known and what it says is not; this is what it takes.
    Value(&'static str),
}

/// The words that every image knows.
pub const KNOWN: &str = "crash=halt|reset, stop=park|off, operator=full|read|off, trace=calls and watchdog=report|stop|off, with :MILLISECONDS";

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "is not known; known are {KNOWN}"),
            Self::Value(takes) => write!(f, "is malformed; write {takes}"),
        }
    }
}

/// The words of a command line, in order; of one that stands there several times, the last.
pub fn words(line: &[u8]) -> Words<'_> {
    Words(line)
}

/// See [`words`].
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (word, rest) = first(self.0)?;
            self.0 = rest;
            if !has(rest, word) {
                return Some(word);
            }
        }
    }
}

/// The first word of `line`, and what is behind it.
#[inline(never)]
fn first(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii_start();
    let (word, rest) = split(line, |byte| byte.is_ascii_whitespace());
    (!word.is_empty()).then_some((word, rest.unwrap_or_default()))
}

/// Whether `word` stands in `line`.
fn has(mut line: &[u8], word: &[u8]) -> bool {
    while let Some((other, rest)) = first(line) {
        if other == word {
            return true;
        }
        line = rest;
    }
    false
}

/// What is before the first byte that `is_mark`, and what is behind it, if there is one.
fn split(item: &[u8], is_mark: impl Fn(u8) -> bool) -> (&[u8], Option<&[u8]>) {
    let at = item.iter().position(|&byte| is_mark(byte));
    match at.and_then(|at| item.split_at_checked(at)) {
        Some((before, behind)) => (before, behind.get(1..)),
        None => (item, None),
    }
}

/// The same at the first `mark`.
#[inline(never)]
fn split_at(item: &[u8], mark: u8) -> (&[u8], Option<&[u8]>) {
    split(item, |byte| byte == mark)
}

/// Words without more to read.
const FIXED: [(&str, Setting); 8] = [
    ("crash=halt", Setting::Crash { reset: false }),
    ("crash=reset", Setting::Crash { reset: true }),
    ("stop=park", Setting::Stop { off: false }),
    ("stop=off", Setting::Stop { off: true }),
    ("operator=full", Setting::Operator(Access::Full)),
    ("operator=read", Setting::Operator(Access::Read)),
    ("operator=off", Setting::Operator(Access::Off)),
    ("trace=calls", Setting::TraceCalls),
];

/// How the others begin, and what they are to be.
const NAMES: [(&str, Result<Setting, Wrong>); 8] = [
    ("crash=", Err(Wrong::Value("crash=halt or crash=reset"))),
    ("stop=", Err(Wrong::Value("stop=park or stop=off"))),
    (
        "operator=",
        Err(Wrong::Value("operator=full, operator=read or operator=off")),
    ),
    ("trace=", Err(Wrong::Value("trace=calls"))),
    (
        WATCHDOG,
        Err(Wrong::Value(
            "watchdog=report, stop or off, the first two with :MILLISECONDS from 1 on, if wanted",
        )),
    ),
    ("break=", Ok(Setting::Fault("break"))),
    ("wedge=", Ok(Setting::Fault("wedge"))),
    ("probe=", Ok(Setting::Fault("probe"))),
];

const WATCHDOG: &str = "watchdog=";

/// What `word` sets.
///
/// # Errors
///
/// If it is unknown or malformed. What follows the name of a fault is not looked at.
#[inline(never)]
pub fn setting(word: &[u8]) -> Result<Setting, Wrong> {
    if let Some((_, set)) = FIXED.iter().find(|(fixed, _)| fixed.as_bytes() == word) {
        return Ok(*set);
    }
    if let Some(set) = word.strip_prefix(WATCHDOG.as_bytes()).and_then(watchdog) {
        return Ok(set);
    }
    let named = NAMES
        .iter()
        .find(|(name, _)| word.starts_with(name.as_bytes()));
    named.map_or(Err(Wrong::Unknown), |(_, set)| *set)
}

fn watchdog(value: &[u8]) -> Option<Setting> {
    let (mode, limit) = match split_at(value, b':') {
        (mode, Some(limit)) => (mode, Some(number(limit).filter(|&limit| limit != 0)?)),
        (mode, None) => (mode, None),
    };
    let mode = match mode {
        b"report" => OnStuck::Report,
        b"stop" => OnStuck::Stop,
        b"off" if limit.is_none() => OnStuck::Off,
        _ => return None,
    };
    Some(Setting::Watchdog(mode, limit))
}

/// The words of a command line that nobody knows; displayed as a list of them.
#[derive(Clone, Copy, Debug)]
pub struct Unknown<'a>(&'a [u8]);

impl<'a> Unknown<'a> {
    /// Those of `line`, if there are any.
    pub fn of(line: &'a [u8]) -> Option<Self> {
        let unknown = Self(line);
        unknown.words().next().map(|_| unknown)
    }

    fn words(self) -> impl Iterator<Item = &'a [u8]> {
        words(self.0).filter(|word| setting(word) == Err(Wrong::Unknown))
    }
}

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for word in self.words() {
            write!(f, "{before}`{}`", word.escape_ascii())?;
            before = ", ";
        }
        Ok(())
    }
}

/// A decimal number, if `digits` is one that fits.
#[inline(never)]
fn number(digits: &[u8]) -> Option<u32> {
    let digit = |sum: u32, byte: &u8| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    };
    let number = digits.iter().try_fold(0, digit);
    number.filter(|_| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn each_word_sets_what_it_says() {
        for (word, set) in [
            ("crash=halt", Setting::Crash { reset: false }),
            ("crash=reset", Setting::Crash { reset: true }),
            ("stop=park", Setting::Stop { off: false }),
            ("stop=off", Setting::Stop { off: true }),
            ("watchdog=report", Setting::Watchdog(OnStuck::Report, None)),
            ("watchdog=off", Setting::Watchdog(OnStuck::Off, None)),
            (
                "watchdog=stop:500",
                Setting::Watchdog(OnStuck::Stop, Some(500)),
            ),
            ("break=panic@2", Setting::Fault("break")),
            ("wedge=1:spin", Setting::Fault("wedge")),
            ("probe=0:1", Setting::Fault("probe")),
        ] {
            assert_eq!(setting(word.as_bytes()), Ok(set), "{word}");
        }
    }

    #[test]
    fn what_nobody_knows_is_unknown() {
        for word in [
            "brake=panic",
            "breaks=panic",
            "crash",
            "=halt",
            "",
            "CRASH=halt",
            "console=ttyAMA0",
        ] {
            assert_eq!(setting(word.as_bytes()), Err(Wrong::Unknown), "{word}");
        }
        assert!(Wrong::Unknown.to_string().contains("crash=halt|reset"));
    }

    #[test]
    fn what_is_malformed_is_told_what_it_takes() {
        for word in [
            "crash=",
            "crash=rest",
            "stop=halt",
            "watchdog=",
            "watchdog=stop:",
            "watchdog=stop:0",
            "watchdog=stop:abc",
            "watchdog=stop:-1",
            "watchdog=stop:+1",
            "watchdog=stop:4294967296",
            "watchdog=off:5",
            "watchdog=halt",
        ] {
            let Err(wrong @ Wrong::Value(takes)) = setting(word.as_bytes()) else {
                panic!("{word} is not malformed");
            };
            let name = word.split_once('=').unwrap().0;
            assert!(takes.starts_with(name), "{word}: {takes}");
            assert!(wrong.to_string().contains(takes), "{wrong}");
        }
    }

    #[test]
    fn a_word_counts_once_and_where_it_stands_last() {
        let all = |line: &'static str| -> Vec<_> {
            words(line.as_bytes())
                .map(|word| str::from_utf8(word).unwrap())
                .collect()
        };
        assert_eq!(all(" a  b\ta\n"), ["b", "a"]);
        assert_eq!(all("ab a"), ["ab", "a"]);
        assert!(all(" ").is_empty());
    }

    #[test]
    fn unknown_words_are_listed_once_each() {
        assert!(Unknown::of(b"crash=halt stop=what wedge=x").is_none());
        let unknown = Unknown::of(b"quiet crash=halt brake=panic quiet \x1b[2J").unwrap();
        assert_eq!(unknown.to_string(), "`brake=panic`, `quiet`, `\\x1b[2J`");
    }

    #[test]
    fn a_number_is_digits_that_fit_and_nothing_else() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"4294967295"), Some(u32::MAX));
        for wrong in ["", "4294967296", "-1", "+1", "1 ", "0x1", "12a"] {
            assert_eq!(number(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
