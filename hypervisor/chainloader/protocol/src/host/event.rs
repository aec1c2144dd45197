//! What comes of loading.

use core::fmt;

use crate::message::{Refusal, VERSION};
use crate::offer::Part;

/// After so many the board's memory is to blame.
pub(super) const MOST_MISMATCHES: u32 = 3;
/// After so many the board's power is to blame.
pub(super) const MOST_RESETS: u32 = 8;

/// What has come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The loader has answered what was said to it.
    Found,
    /// Set the line to so many baud.
    Rate(u32),
    /// So many baud cannot be had, or the line does not carry them: set it to [`crate::BASE_RATE`].
    Slow(u32),
    /// So many blocks are already there.
    Resumed(u32),
    /// The board was reset, and begins anew.
    Reset,
    /// A part is not in memory as it was sent, and is sent again.
    Mismatch(Part),
    /// So many percent have been hashed.
    Checking(u8),
    /// All is in memory as it is to be.
    Verified,
    /// It runs.
    Started,
    /// It cannot be done.
    Failed(Failure),
}

/// Why it cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The loader speaks another version of the protocol.
    Version(u8),
    /// The loader will not.
    Refused(Refusal),
    /// A part was not in memory as sent, again and again.
    Corrupt(Part),
    /// The loader has fallen silent.
    Silent,
    /// The loader speaks, but does not hear.
    Deaf,
    /// The board was reset too often.
    Resets,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(
                f,
                "the loader on the card speaks version {version} of the protocol, and this is version {VERSION}; \
                 write the card anew"
            ),
            Self::Refused(why) => write!(f, "the loader refuses: {why}"),
            Self::Corrupt(part) => {
                let part = match part {
                    Part::Image => "image",
                    Part::Bundle => "bundle",
                };
                write!(
                    f,
                    "the {part} arrived whole {MOST_MISMATCHES} times and was otherwise in memory each time; \
                     the board's memory or its power is bad"
                )
            }
            Self::Silent => write!(f, "the loader has fallen silent in the middle of it"),
            Self::Deaf => write!(
                f,
                "the loader speaks, but hears nothing of what is sent to it: \
                 the wire to the board's pin 10 (GPIO 15) is the first to look at"
            ),
            Self::Resets => write!(
                f,
                "the board was reset {MOST_RESETS} times in the middle of it"
            ),
        }
    }
}
