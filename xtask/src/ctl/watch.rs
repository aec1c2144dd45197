//! `ctl watch`: how the vCPUs are, again and again.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::shown;
use machine::control::Address;

/// How often, and how many times; without end if it is not said.
pub struct Pace {
    /// Between two looks.
    pub every: Duration,
    /// So many looks.
    pub looks: Option<u64>,
}

/// Shows a table that is drawn anew on a terminal, and elsewhere a line for each change, until the machine ends.
pub fn watch(address: &Address, pace: &Pace, json: bool) -> Result<()> {
    let mut client = address.connect()?;
    let redraws = stdout().is_terminal() && !json;
    let began = Instant::now();
    let (mut seen, mut drawn, mut looks) = (Seen::default(), 0, 0);
    loop {
        let Ok(told) = client.execute("x-halligan-status", json!({})) else {
            println!("the machine has ended");
            return Ok(());
        };
        let mut out = stdout().lock();
        let time = began.elapsed().as_secs_f64();
        let text = match (json, redraws) {
            (true, _) => format!("{told}\n"),
            (false, true) => {
                let table = shown::status(&told);
                let before = std::mem::replace(&mut drawn, table.lines().count());
                // Up to where the last one began, and all from there on gone (ECMA-48 8.3.12, 8.3.39).
                let up = if before > 0 {
                    format!("\x1b[{before}F\x1b[J")
                } else {
                    String::new()
                };
                format!("{up}{table}")
            }
            (false, false) => seen
                .changes(&told)
                .iter()
                .map(|line| format!("{time:8.1} {line}\n"))
                .collect(),
        };
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("cannot write to standard output")?;
        drop(out);
        looks += 1;
        if pace.looks.is_some_and(|most| looks >= most) {
            return Ok(());
        }
        std::thread::sleep(pace.every);
    }
}

/// What was said last of the VM and of each vCPU.
#[derive(Default)]
struct Seen(BTreeMap<u64, String>);

impl Seen {
    /// A line for what is another than before: where a vCPU is in its code does not count.
    fn changes(&mut self, told: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        let mut see = |key: u64, what: String, line: String| {
            if self.0.get(&key) != Some(&what) {
                self.0.insert(key, what);
                lines.push(line);
            }
        };
        let state = told["vm"]["state"].as_str().unwrap_or("?");
        see(u64::MAX, state.to_owned(), format!("the guest is {state}"));
        for vcpu in told["vcpus"].as_array().into_iter().flatten() {
            let number = vcpu["vcpu"].as_u64().unwrap_or_default();
            let mut place = vcpu.clone();
            place["pc"] = 0.into();
            // Nor how long it has been late.
            if place["late"].is_object() {
                place["late"]["ms"] = 0.into();
            }
            // Nor do the flags of the last comparison.
            see(number, shown::one(&place), shown::one(vcpu));
        }
        for vcpu in told["missing"].as_array().into_iter().flatten() {
            let line = shown::missing(vcpu);
            see(vcpu.as_u64().unwrap_or_default(), line.clone(), line);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: &str, first: (&str, u64, u64)) -> Value {
        let (how, pc, pstate) = first;
        json!({
            "vm": { "state": state, "vcpus": 2 },
            "vcpus": [{ "vcpu": 0, "state": how, "pc": pc, "pstate": pstate, "has_serror": false  }],
            "missing": [1],
        })
    }

    #[test]
    fn a_change_is_a_line_and_a_pc_is_none() {
        let mut seen = Seen::default();
        let first = seen.changes(&told("running", ("on", 0x1000, 0x5)));
        assert_eq!(first.len(), 3, "{first:?}");
        assert!(first[1].ends_with("at EL1, nothing masked"), "{first:?}");
        assert_eq!(
            seen.changes(&told("running", ("on", 0x2000, 0x6000_0005)))
                .len(),
            0
        );
        let masked = seen.changes(&told("running", ("on", 0x2000, 0xc5)));
        assert!(
            masked[0].contains("IF masked") && masked.len() == 1,
            "{masked:?}"
        );
        assert_eq!(
            seen.changes(&told("paused", ("on", 0x2000, 0xc5))),
            ["the guest is paused"]
        );
    }
}
