//! The watchdogs of a guest file, and its NMI.

use hv_abi::watchdog::{Act, LONGEST_MS, Last, SHORTEST_MS};
use serde::Deserialize;

/// What is done when the guest makes no progress.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "Words")]
pub struct Watchdog(pub hv_abi::watchdog::Watchdog);

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    limit: String,
    #[serde(default = "report")]
    one: String,
    #[serde(default = "report")]
    all: String,
}

/// What is done when the guest does not refresh its own watchdog.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Gwdt(pub Act);

impl TryFrom<String> for Gwdt {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let act = Act::of_name(&name);
        Ok(Self(act.ok_or_else(|| format!("no such action: {name}"))?))
    }
}

/// What an NMI does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "NmiWords")]
pub struct Nmi(pub hv_abi::watchdog::Nmi);

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NmiWords {
    #[serde(default)]
    event: u32,
    limit: Option<String>,
    #[serde(default = "report")]
    last: String,
}

impl TryFrom<NmiWords> for Nmi {
    type Error = String;

    fn try_from(words: NmiWords) -> Result<Self, String> {
        let usual = hv_abi::watchdog::Nmi::default();
        let limit_ms = match &words.limit {
            None => usual.limit_ms,
            Some(limit) => milliseconds(limit).ok_or_else(|| format!("no such limit: {limit}"))?,
        };
        Ok(Self(hv_abi::watchdog::Nmi {
            event: words.event,
            limit_ms,
            last: Last::of_name(&words.last)
                .ok_or_else(|| format!("no such end: {}", words.last))?,
        }))
    }
}

fn report() -> String {
    Act::Report.name().to_owned()
}

impl TryFrom<Words> for Watchdog {
    type Error = String;

    fn try_from(words: Words) -> Result<Self, String> {
        let act = |name: &str| Act::of_name(name).ok_or_else(|| format!("no such action: {name}"));
        let limit_ms = milliseconds(&words.limit);
        Ok(Self(hv_abi::watchdog::Watchdog {
            limit_ms: limit_ms.ok_or_else(|| format!("no such limit: {}", words.limit))?,
            one: act(&words.one)?,
            all: act(&words.all)?,
        }))
    }
}

/// `10s` or `500ms`, within what the hypervisor takes.
fn milliseconds(text: &str) -> Option<u32> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u32 = digits.parse().ok().filter(|_| is_number)?;
    let limits = SHORTEST_MS..=LONGEST_MS;
    number.checked_mul(unit).filter(|ms| limits.contains(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_unit() {
        assert_eq!(milliseconds("10s"), Some(10_000));
        assert_eq!(milliseconds("500ms"), Some(500));
        assert_eq!(milliseconds("86400s"), Some(86_400_000));
        for wrong in [
            "10", "s", "9ms", "86401s", "-1s", "1.5s", "10 s", "4294968s",
        ] {
            assert_eq!(milliseconds(wrong), None, "{wrong}");
        }
    }
}
