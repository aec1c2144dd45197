//! Why a devicetree could not be used.

use alloc::string::String;
use core::fmt::{self, Display, Formatter};

/// What is wrong with a devicetree, as one sentence that names the place and the mend, and can be
/// prefixed with whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    place: String,
    what: &'static str,
    mend: &'static str,
}

impl Error {
    /// `place` is the blob or the path of a node, with the property if it is about one.
    #[cold]
    #[inline(never)]
    pub(crate) fn new(place: &str, what: &'static str, mend: &'static str) -> Self {
        Self {
            place: String::from(place),
            what,
            mend,
        }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for part in ["devicetree ", &self.place, " ", self.what, "; ", self.mend] {
            f.write_str(part)?;
        }
        Ok(())
    }
}

impl core::error::Error for Error {}
