//! The SDEI events of a guest file.

use hv_abi::sdei;
use serde::Deserialize;

/// An SDEI event that the guest is offered besides event 0.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Event {
    number: u32,
    scope: Scope,
    priority: Priority,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Private,
    Shared,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Priority {
    Normal,
    Critical,
}

impl From<Event> for sdei::Definition {
    fn from(event: Event) -> Self {
        Self {
            number: event.number,
            scope: match event.scope {
                Scope::Private => sdei::Scope::Private,
                Scope::Shared => sdei::Scope::Shared,
            },
            priority: match event.priority {
                Priority::Normal => sdei::Priority::Normal,
                Priority::Critical => sdei::Priority::Critical,
            },
        }
    }
}
