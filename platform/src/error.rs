//! Why a devicetree could not be used.

use alloc::string::String;
use core::fmt::{self, Display, Formatter};

use dtoolkit::error::FdtParseError;

/// What is wrong with a devicetree, as one sentence that names the place and the mend, and can be
/// prefixed with whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The blob is no devicetree, or a damaged one.
    Malformed(FdtParseError),
    /// A node or property is missing or makes no sense.
    Unusable {
        /// The path of the node, with the property if it is about one.
        place: String,
        /// What is wrong there.
        what: &'static str,
        /// What to do about it.
        mend: &'static str,
    },
}

impl Error {
    #[cold]
    #[inline(never)]
    pub(crate) fn new(place: &str, what: &'static str, mend: &'static str) -> Self {
        Self::Unusable {
            place: String::from(place),
            what,
            mend,
        }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => {
                f.write_str("devicetree blob is damaged: ")?;
                error.fmt(f)?;
                f.write_str("; have the loader hand it over unaltered")
            }
            Self::Unusable { place, what, mend } => {
                for part in ["devicetree ", place, " ", what, "; ", mend] {
                    f.write_str(part)?;
                }
                Ok(())
            }
        }
    }
}

impl core::error::Error for Error {}
