//! Where a guest's own crash kernel is.

use hv_bundle::parse_crashkernel;
use platform::Range;
use serde::Deserialize;

/// What the key `crashkernel` says.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Crashkernel(pub Range);

impl TryFrom<String> for Crashkernel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let range = parse_crashkernel(&text);
        range.map(Self).map_err(|error| error.to_string())
    }
}
