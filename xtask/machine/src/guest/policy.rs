//! What a guest file says of the guest's life.

use hv_abi::policy::{After, Policy};
use serde::Deserialize;

use super::Options;

/// When a guest is started.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the machine.
    Boot,
    /// By the operator.
    Manual,
}

/// What becomes of a guest that has ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Then(After);

impl TryFrom<String> for Then {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let after = After::of_name(&name).map(Self);
        after.ok_or_else(|| format!("nothing called {name} becomes of a guest"))
    }
}

impl Options {
    /// As the bundle has it.
    pub fn policy(&self) -> Policy {
        let usual = Policy::USUAL;
        Policy {
            is_manual: self.start == Some(Start::Manual),
            on_off: self.on_off.map_or(usual.on_off, |then| then.0),
            on_reset: self.on_reset.map_or(usual.on_reset, |then| then.0),
            on_crash: self.on_crash.map(|then| then.0),
        }
    }
}
