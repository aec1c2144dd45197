//! What the test guest is offered.

use hv_abi::sdei::{Definition, Priority, Scope};
use hv_bundle::GuestConfig;

/// What it is offered in most boots. The extra events and the call that raises them are always there: they
/// are nothing to a guest that does not use them.
pub fn offered(words: &str) -> GuestConfig {
    use Priority::{Critical, Normal};
    let event = |number, scope, priority| Definition {
        number,
        scope,
        priority,
    };
    GuestConfig {
        bootargs: words.to_owned(),
        sdei: true,
        debug_calls: true,
        events: vec![
            event(0x100, Scope::Private, Normal),
            event(0x101, Scope::Private, Critical),
            event(0x102, Scope::Private, Critical),
            event(0x200, Scope::Shared, Normal),
            event(0x201, Scope::Shared, Normal),
            event(0x202, Scope::Shared, Critical),
        ],
        ..GuestConfig::default()
    }
}
