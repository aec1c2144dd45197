//! Words of the hypervisor's own command line (`/chosen bootargs` of the machine's devicetree): what each sets, and
//! what is wrong with one that sets nothing. The hypervisor obeys them, and the tools that write them ask the same
//! questions before.

mod faults;

use core::fmt;

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
pub const KNOWN: &str =
    "crash=halt|reset, stop=park|off and watchdog=report|stop|off, with :MILLISECONDS";

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "is not known; known are {KNOWN}"),
            Self::Value(takes) => write!(f, "is malformed; write {takes}"),
        }
    }
}

/// The words of a command line, in order; of one that stands there several times, the last.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    let after = |word: &str| word.as_ptr().addr() - line.as_ptr().addr() + word.len();
    line.split_ascii_whitespace().filter(move |word| {
        let rest = line.get(after(word)..).unwrap_or_default();
        !rest.split_ascii_whitespace().any(|other| other == *word)
    })
}

/// What `word` sets.
///
/// # Errors
///
/// If it is unknown or malformed. What follows the name of a fault is not looked at.
pub fn setting(word: &str) -> Result<Setting, Wrong> {
    let (name, value) = word.split_once('=').ok_or(Wrong::Unknown)?;
    match (name, value) {
        ("crash", "halt") => Ok(Setting::Crash { reset: false }),
        ("crash", "reset") => Ok(Setting::Crash { reset: true }),
        ("crash", _) => Err(Wrong::Value("crash=halt or crash=reset")),
        ("stop", "park") => Ok(Setting::Stop { off: false }),
        ("stop", "off") => Ok(Setting::Stop { off: true }),
        ("stop", _) => Err(Wrong::Value("stop=park or stop=off")),
        ("watchdog", value) => watchdog(value).ok_or(Wrong::Value(
            "watchdog=report, watchdog=stop or watchdog=off, the first two with :MILLISECONDS behind, from 1 on, if wanted",
        )),
        _ => {
            let name = ["break", "wedge", "probe"].into_iter().find(|it| *it == name);
            name.map(Setting::Fault).ok_or(Wrong::Unknown)
        }
    }
}

fn watchdog(value: &str) -> Option<Setting> {
    let (mode, limit) = match value.split_once(':') {
        Some((mode, limit)) => (mode, Some(number(limit).filter(|&limit| limit != 0)?)),
        None => (value, None),
    };
    let mode = match mode {
        "report" => OnStuck::Report,
        "stop" => OnStuck::Stop,
        "off" if limit.is_none() => OnStuck::Off,
        _ => return None,
    };
    Some(Setting::Watchdog(mode, limit))
}

/// The words of a command line that nobody knows; displayed as a list of them.
#[derive(Clone, Copy, Debug)]
pub struct Unknown<'a>(&'a str);

impl<'a> Unknown<'a> {
    /// Those of `line`, if there are any.
    pub fn of(line: &'a str) -> Option<Self> {
        let unknown = Self(line);
        unknown.words().next().map(|_| unknown)
    }

    fn words(self) -> impl Iterator<Item = &'a str> {
        words(self.0).filter(|word| setting(word) == Err(Wrong::Unknown))
    }
}

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for word in self.words() {
            write!(f, "{before}`{}`", word.escape_default())?;
            before = ", ";
        }
        Ok(())
    }
}

/// A decimal number, if `digits` is one that fits.
fn number(digits: &str) -> Option<u32> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
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
            assert_eq!(setting(word), Ok(set), "{word}");
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
            assert_eq!(setting(word), Err(Wrong::Unknown), "{word}");
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
            let Err(wrong @ Wrong::Value(takes)) = setting(word) else {
                panic!("{word} is not malformed");
            };
            let name = word.split_once('=').unwrap().0;
            assert!(takes.starts_with(name), "{word}: {takes}");
            assert!(wrong.to_string().contains(takes), "{wrong}");
        }
    }

    #[test]
    fn a_word_counts_once_and_where_it_stands_last() {
        let all = |line| words(line).collect::<Vec<_>>();
        assert_eq!(all(" a  b\ta\n"), ["b", "a"]);
        assert_eq!(all("ab a"), ["ab", "a"]);
        assert!(all(" ").is_empty());
    }

    #[test]
    fn unknown_words_are_listed_once_each() {
        assert!(Unknown::of("crash=halt stop=what wedge=x").is_none());
        let unknown = Unknown::of("quiet crash=halt brake=panic quiet \u{1b}[2J").unwrap();
        assert_eq!(unknown.to_string(), "`brake=panic`, `quiet`, `\\u{1b}[2J`");
    }

    #[test]
    fn a_number_is_digits_that_fit_and_nothing_else() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("4294967295"), Some(u32::MAX));
        for wrong in ["", "4294967296", "-1", "+1", "1 ", "0x1", "12a"] {
            assert_eq!(number(wrong), None, "{wrong:?}");
        }
    }
}
