//! The calls that a guest makes of two firmwares, and what each answered.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

/// A call without when it was and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who called.
    vcpu: u64,
    /// Its name, arguments and answer.
    text: String,
}

/// What a call may be given that is another address on each boot.
const ADDRESSES: [&str; 4] = ["entry", "address", "argument", "context"];
/// Below, nothing is taken for an address.
const LOWEST: u64 = 0x1_0000;

impl Call {
    /// That of a line of `run --trace=json-lines`; nothing of any other line.
    pub fn of(line: &str) -> Option<Result<Self>> {
        let value: Value = line
            .starts_with('{')
            .then(|| serde_json::from_str(line).ok())??;
        value.get("function")?;
        Some(
            Self::read(&value)
                .with_context(|| format!("this halligan does not know the call {line}")),
        )
    }

    fn read(value: &Value) -> Result<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let arguments = value.get("arguments").and_then(Value::as_object);
        let arguments = arguments
            .context("it has no arguments")?
            .iter()
            .map(|(name, value)| {
                let value = value.as_str().unwrap_or_default();
                let number = value
                    .strip_prefix("0x")
                    .map(|digits| u64::from_str_radix(digits, 16));
                match number {
                    Some(Ok(LOWEST..)) if ADDRESSES.contains(&name.as_str()) => format!("{name} #"),
                    _ => format!("{name} {value}"),
                }
            });
        let arguments: Vec<String> = arguments.collect();
        let name = text("name")
            .or(text("function"))
            .context("it has no function")?;
        let answer = match text("answer") {
            Some(answer) => format!("= {answer}"),
            None => "does not return".to_owned(),
        };
        Ok(Self {
            vcpu: value
                .get("vcpu")
                .and_then(Value::as_u64)
                .context("it has no vcpu")?,
            text: format!("{}({}) {answer}", name, arguments.join(", ")),
        })
    }
}

/// What is different, vCPU by vCPU: among several, who calls first is chance.
#[derive(Debug, Serialize)]
pub struct Comparison {
    schema: u32,
    firmware: [String; 2],
    vcpus: Vec<Vcpu>,
    /// Whether nothing is different.
    pub same: bool,
}

/// The calls of a vCPU.
#[derive(Debug, Serialize)]
struct Vcpu {
    vcpu: u64,
    /// How many calls both have in the same order.
    same: usize,
    /// Those that only one has, in order.
    changes: Vec<Change>,
    #[serde(skip)]
    shown: String,
}

/// A call that one has at this place, and the other has not.
#[derive(Debug, Serialize)]
struct Change {
    /// Whose: a or b.
    of: &'static str,
    call: String,
}

impl Comparison {
    /// Compares what a guest called under the first firmware with what it called under the second.
    pub fn of(firmware: [&str; 2], a: &[Call], b: &[Call]) -> Self {
        let mut calls: BTreeMap<u64, [String; 2]> = BTreeMap::new();
        for (side, all) in [a, b].into_iter().enumerate() {
            for call in all {
                let texts = calls.entry(call.vcpu).or_default();
                if let Some(text) = texts.get_mut(side) {
                    *text += &call.text;
                    text.push('\n');
                }
            }
        }
        let vcpus: Vec<Vcpu> = calls
            .into_iter()
            .map(|(vcpu, [a, b])| Vcpu::of(vcpu, firmware, &a, &b))
            .collect();
        Self {
            schema: super::SCHEMA,
            firmware: firmware.map(str::to_owned),
            same: vcpus.iter().all(|vcpu| vcpu.changes.is_empty()),
            vcpus,
        }
    }
}

impl Vcpu {
    fn of(vcpu: u64, [first, second]: [&str; 2], a: &str, b: &str) -> Self {
        let diff = TextDiff::from_lines(a, b);
        let mut same = 0;
        let mut changes = Vec::new();
        for change in diff.iter_all_changes() {
            let of = match change.tag() {
                ChangeTag::Equal => {
                    same += 1;
                    continue;
                }
                ChangeTag::Delete => "a",
                ChangeTag::Insert => "b",
            };
            let call = change.value().trim_end().to_owned();
            changes.push(Change { of, call });
        }
        let shown = diff.unified_diff().header(first, second).to_string();
        Self {
            vcpu,
            same,
            changes,
            shown,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for vcpu in &self.vcpus {
            let (number, same) = (vcpu.vcpu, vcpu.same);
            match vcpu.changes.len() {
                0 => writeln!(f, "CPU {number}: the same {same} calls and answers")?,
                changes => write!(
                    f,
                    "CPU {number}: {same} calls are the same, {changes} are not\n{}",
                    vcpu.shown
                )?,
            }
        }
        match self.same {
            true => writeln!(f, "the calls are the same"),
            false => writeln!(f, "the calls are not the same"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(vcpu: u32, name: &str, arguments: &str, answer: &str) -> Call {
        let answer = if answer.is_empty() {
            "null".to_owned()
        } else {
            format!("\"{answer}\"")
        };
        let line = format!(
            "{{\"version\":1,\"vm\":0,\"vcpu\":{vcpu},\"conduit\":\"smc\",\"function\":\"0xc4000021\",\"name\":{name},\"arguments\":{{{arguments}}},\"x0\":\"0x0\",\"answer\":{answer},\"us\":3}}"
        );
        Call::of(&line).unwrap().unwrap()
    }

    #[test]
    fn a_call_is_its_name_its_arguments_and_its_answer() {
        let register = call(
            0,
            "\"SDEI_EVENT_REGISTER\"",
            "\"event\":\"0x0\",\"entry\":\"0x40080024\",\"argument\":\"0x5de1\"",
            "SUCCESS",
        );
        // In JSON the names have no order.
        assert_eq!(
            register.text,
            "SDEI_EVENT_REGISTER(argument 0x5de1, entry #, event 0x0) = SUCCESS"
        );
        let off = call(1, "\"CPU_OFF\"", "", "");
        assert_eq!(
            (off.vcpu, off.text.as_str()),
            (1, "CPU_OFF() does not return")
        );
        assert_eq!(
            call(0, "null", "\"x1\":\"0x99999999\"", "1").text,
            "0xc4000021(x1 0x99999999) = 1"
        );
        for line in ["", "xtask: build", "{not JSON", "{\"event\":\"end\"}"] {
            assert!(Call::of(line).is_none(), "{line}");
        }
        assert!(Call::of("{\"function\":\"0x1\"}").unwrap().is_err());
    }

    #[test]
    fn an_answer_that_is_another_is_told_and_the_order_of_cpus_is_not() {
        let (on, off) = (
            call(0, "\"CPU_ON\"", "", "SUCCESS"),
            call(1, "\"CPU_OFF\"", "", ""),
        );
        let denied = call(0, "\"CPU_ON\"", "", "DENIED");
        let same = Comparison::of(
            ["spec", "tfa"],
            &[on.clone(), off.clone()],
            &[off.clone(), on.clone()],
        );
        assert!(same.same);
        assert_eq!(
            same.to_string(),
            "CPU 0: the same 1 calls and answers\nCPU 1: the same 1 calls and answers\nthe calls are the same\n"
        );
        let other = Comparison::of(["spec", "tfa"], &[on, off.clone()], &[denied, off]);
        assert!(!other.same);
        let text = other.to_string();
        for part in [
            "--- spec\n+++ tfa\n",
            "-CPU_ON() = SUCCESS\n",
            "+CPU_ON() = DENIED\n",
            "CPU 1: the same",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let json = serde_json::to_value(&other).unwrap();
        assert_eq!(json["vcpus"][0]["changes"][1]["of"], "b");
        assert_eq!(json["vcpus"][0]["changes"][1]["call"], "CPU_ON() = DENIED");
    }

    #[test]
    fn a_cpu_that_only_one_has_is_different() {
        let on = call(3, "\"CPU_ON\"", "", "SUCCESS");
        let comparison = Comparison::of(["a", "b"], &[], &[on]);
        assert!(
            !comparison.same
                && comparison
                    .to_string()
                    .contains("CPU 3: 0 calls are the same, 1 are not")
        );
    }
}
