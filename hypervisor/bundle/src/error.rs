//! Why a bundle, a configuration or a kernel could not be used.

use alloc::string::String;
use core::fmt::{self, Display, Formatter};

use crate::Compression;

/// What is wrong, as one sentence that names the thing and the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bundle ends before its own header says so.
    CutShort {
        /// Bytes there are.
        has: u64,
        /// Bytes there should be.
        needs: u64,
    },
    /// A devicetree (a bundle is one too) is damaged or incomplete.
    Devicetree {
        /// Whose it is.
        whose: &'static str,
        /// What is wrong with it.
        error: platform::Error,
    },
    /// A part of the bundle is not what its hash was made from.
    Altered {
        /// Which part.
        place: String,
    },
    /// Something is missing, unknown or out of range.
    Invalid {
        /// The path or key.
        place: String,
        /// What is wrong with it.
        what: &'static str,
        /// What to do about it.
        mend: &'static str,
    },
    /// The kernel is compressed.
    Compressed(Compression),
    /// The kernel is something that cannot be started.
    NotAKernel {
        /// What it is.
        is: &'static str,
        /// What to give instead.
        mend: &'static str,
    },
    /// A part does not fit the guest's memory.
    NoRoom {
        /// The part.
        part: &'static str,
        /// Bytes it takes.
        size: u64,
        /// Bytes of memory the guest has.
        memory: u64,
    },
    /// The memory that is held back for a capture kernel is too little.
    DumpTooSmall {
        /// Bytes of it.
        has: u64,
        /// Bytes it takes at least.
        needs: u64,
    },
    /// The guest wants more of something than the machine has.
    TooMany {
        /// The key of the configuration.
        key: &'static str,
        /// What it asks for.
        wanted: u64,
        /// What there is.
        available: u64,
    },
}

impl Error {
    #[cold]
    #[inline(never)]
    pub(crate) fn invalid(place: &str, what: &'static str, mend: &'static str) -> Self {
        Self::Invalid {
            place: String::from(place),
            what,
            mend,
        }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutShort { has, needs } => write!(
                f,
                "the guest bundle is cut short: {has} of {needs} bytes; make or copy it again"
            ),
            Self::Devicetree { whose, error } => write!(f, "{whose} {error}"),
            Self::Altered { place } => write!(
                f,
                "the guest bundle is altered: {place} does not match its hash; make or copy it again"
            ),
            Self::Invalid { place, what, mend } => write!(f, "{place} {what}; {mend}"),
            Self::Compressed(how) => write!(
                f,
                "the kernel is compressed ({}); unpack it first",
                how.name()
            ),
            Self::NotAKernel { is, mend } => write!(f, "the kernel is {is}; {mend}"),
            Self::NoRoom { part, size, memory } => write!(
                f,
                "the guest's {} MiB of memory have no room for its {part} of {} KiB; give it more memory",
                memory >> 20,
                size.div_ceil(1024)
            ),
            Self::DumpTooSmall { has, needs } => write!(
                f,
                "dump memory has {} MiB, and its kernel, initrd and header with room to run need at least {} MiB; hold more back",
                has >> 20,
                needs >> 20
            ),
            Self::TooMany {
                key,
                wanted,
                available,
            } => write!(
                f,
                "the guest wants {key} = {wanted}, but the machine has {available}; ask for less or start a larger machine"
            ),
        }
    }
}

impl core::error::Error for Error {}
