//! The list of items, as text.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};

/// The number of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub u16);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C{:03}", self.0)
    }
}

/// A line of the list.
#[derive(Debug)]
pub enum Entry {
    /// What the following items are about.
    Heading(String),
    /// An item.
    Item(Item),
}

/// Something the hypervisor is held to.
#[derive(Debug)]
pub struct Item {
    /// Its number.
    pub number: Number,
    /// What is expected.
    pub what: String,
    /// How that is checked, or why not.
    pub proof: Proof,
}

/// How an item is checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// By tests that are found by their names, and by these further tests of `cargo xtask test`.
    Tests(Vec<String>),
    /// It does not apply, for this reason.
    Absent(String),
    /// It is not checked yet, for this reason.
    Open(String),
}

/// Reads the list. Numbers ascend.
pub fn parse(text: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut last = None;
    for (line, text) in (1..).zip(text.lines()) {
        parse_line(text, &mut entries, &mut last)
            .with_context(|| format!("line {line} of the items: `{text}`"))?;
    }
    Ok(entries)
}

fn parse_line(text: &str, entries: &mut Vec<Entry>, last: &mut Option<Number>) -> Result<()> {
    if let Some(proof) = text.strip_prefix("    ") {
        let Some(Entry::Item(item)) = entries.last_mut() else {
            bail!("it stands below no item");
        };
        return add_proof(item, proof);
    }
    if text.is_empty() || text.starts_with("//") {
        return Ok(());
    }
    if let Some(heading) = text.strip_prefix("# ") {
        entries.push(Entry::Heading(heading.into()));
        return Ok(());
    }
    let (number, what) = text.split_once(' ').context("it is no item")?;
    let digits = number.strip_prefix('C').context("it has no number")?;
    let number = Number(digits.parse().context("its number is none")?);
    ensure!(*last < Some(number), "its number is out of order");
    ensure!(!what.contains('|'), "a `|` ends a column of the document");
    *last = Some(number);
    entries.push(Entry::Item(Item {
        number,
        what: what.into(),
        proof: Proof::Tests(Vec::new()),
    }));
    Ok(())
}

fn add_proof(item: &mut Item, text: &str) -> Result<()> {
    let (kind, words) = text.split_once(": ").context("it says nothing")?;
    match (kind, &mut item.proof) {
        ("run", Proof::Tests(runs)) => runs.push(words.into()),
        ("absent", Proof::Tests(runs)) if runs.is_empty() => {
            item.proof = Proof::Absent(words.into());
        }
        ("open", Proof::Tests(runs)) if runs.is_empty() => item.proof = Proof::Open(words.into()),
        ("run" | "absent" | "open", _) => bail!("it contradicts what stands above it"),
        _ => bail!("it is neither a run nor a reason"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_refused() {
        for wrong in [
            "nonsense",
            "X001 what",
            "Cabc what",
            "C002 b\nC001 a",
            "C001 a\nC001 a",
            "C001 a | b",
            "    absent: why",
            "C001 a\n    absent: why\n    run: linux/kdump",
            "C001 a\n    somehow: yes",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
