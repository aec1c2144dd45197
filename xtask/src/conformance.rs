//! `cargo xtask conformance`: which test holds the hypervisor to which item of the conformance list.
//!
//! The items are in `conformance/items.txt`; the tests are found in the sources by their names. What comes of it
//! is docs/conformance.md, and `cargo xtask test` fails while that is not what this makes.

mod items;
mod scan;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use debian::paths;
use items::{Entry, Item, Number, Proof};
use scan::{Found, Kind};

/// Write docs/conformance.md: for each item of the SDEI conformance list the tests that check it.
///
/// A test checks the items whose numbers its name begins with: `c120_...`, `c131_c132_...`. It is an error if
/// an item has neither a test nor a reason, if it has both, or if a test names an item that does not exist.
#[derive(Args)]
pub struct Conformance {}

impl Conformance {
    /// Writes it. `runs` are the names of the tests that `cargo xtask test` has besides those in the sources.
    pub fn execute(self, runs: Vec<String>) -> Result<ExitCode> {
        let root = paths::root();
        let list = List::read(root, runs)?;
        let path = root.join(DOCUMENT);
        fs::write(&path, list.text()).with_context(|| format!("cannot write {DOCUMENT}"))?;
        println!("{DOCUMENT}: {}", list.count());
        Ok(ExitCode::SUCCESS)
    }
}

/// What is written.
const DOCUMENT: &str = "docs/conformance.md";
/// The items.
const ITEMS: &str = include_str!("conformance/items.txt");

/// Whether the document is what the tests, and the `runs` of `cargo xtask test`, make of it; says how many items
/// there are.
pub fn check(root: &Path, runs: Vec<String>) -> Result<String> {
    let list = List::read(root, runs)?;
    let written = fs::read_to_string(root.join(DOCUMENT)).unwrap_or_default();
    ensure!(
        written == list.text(),
        "{DOCUMENT} is not what the tests say; run `cargo xtask conformance`"
    );
    Ok(list.count())
}

/// The items, each with the tests that were found for it.
struct List {
    entries: Vec<Entry>,
    tests: BTreeMap<Number, Vec<Found>>,
    /// The tests of `cargo xtask test` that an item may name.
    runs: Vec<String>,
}

impl List {
    fn read(root: &Path, runs: Vec<String>) -> Result<Self> {
        let list = Self {
            entries: items::parse(ITEMS)?,
            tests: by_number(scan::tests(root)?),
            runs,
        };
        let faults = list.faults();
        if !faults.is_empty() {
            bail!("{}", faults.join("\n"));
        }
        Ok(list)
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Item(item) => Some(item),
            Entry::Heading(_) => None,
        })
    }

    fn tests(&self, number: Number) -> &[Found] {
        self.tests.get(&number).map_or(&[], Vec::as_slice)
    }

    /// What keeps the list from being true.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (number, tests) in &self.tests {
            if !self.items().any(|item| item.number == *number) {
                let name = &tests[0].name;
                faults.push(format!("the test {name} names {number}, which is no item"));
            }
        }
        for item in self.items() {
            let number = item.number;
            let tested = !self.tests(number).is_empty();
            match &item.proof {
                Proof::Tests(runs) => {
                    if !tested && runs.is_empty() {
                        faults.push(format!("{number} has neither a test nor a reason"));
                    }
                    for name in runs {
                        if !self.runs.contains(name) {
                            faults.push(format!("{number} names {name}, which no test is called"));
                        }
                    }
                }
                Proof::Absent(_) | Proof::Open(_) if tested => faults.push(format!(
                    "{number} has a test and a reason why it has none; drop the reason"
                )),
                Proof::Absent(_) | Proof::Open(_) => {}
            }
        }
        faults
    }

    fn count(&self) -> String {
        let proofs = || self.items().map(|item| &item.proof);
        let tested = proofs().filter(|p| matches!(p, Proof::Tests(_))).count();
        let absent = proofs().filter(|p| matches!(p, Proof::Absent(_))).count();
        let open = proofs().filter(|p| matches!(p, Proof::Open(_))).count();
        let all = tested + absent + open;
        format!("{all} items: {tested} tested, {absent} that do not apply, {open} open")
    }

    fn text(&self) -> String {
        let mut text = String::from(
            "# Conformance\n\n\
             What a virtual SDEI dispatcher is held to, and the tests that do it. `cargo xtask conformance` writes this\n\
             page from the names of the tests, which begin with the numbers of the items, and `cargo xtask test` fails while\n\
             it is not up to date. Guest tests run in a guest under the hypervisor in QEMU; host tests check the rules as\n\
             values; runs are other tests of `cargo xtask test`, which boot Linux or stop the hypervisor. \"Does not apply\" says what we do not have, \"open\" what is not tested yet.\n",
        );
        let _ = write!(text, "\n{}.\n", self.count());
        for entry in &self.entries {
            let _ = match entry {
                Entry::Heading(heading) => {
                    write!(
                        text,
                        "\n## {heading}\n\n| item | what | checked by |\n|---|---|---|\n"
                    )
                }
                Entry::Item(item) => {
                    writeln!(
                        text,
                        "| {} | {} | {} |",
                        item.number,
                        item.what,
                        self.proof(item)
                    )
                }
            };
        }
        text
    }

    /// The last column: tests, or the reason.
    fn proof(&self, item: &Item) -> String {
        let runs = match &item.proof {
            Proof::Absent(why) => return format!("does not apply: {why}"),
            Proof::Open(why) => return format!("open: {why}"),
            Proof::Tests(runs) => runs,
        };
        let tests = self.tests(item.number).iter().map(|test| {
            let kind = match test.kind {
                Kind::Guest => "guest",
                Kind::Host => "host",
            };
            format!("{kind} `{}::{}`", test.path, test.name)
        });
        let runs = runs.iter().map(|name| format!("run `{name}`"));
        tests.chain(runs).collect::<Vec<_>>().join("<br>")
    }
}

fn by_number(found: Vec<Found>) -> BTreeMap<Number, Vec<Found>> {
    let mut tests: BTreeMap<Number, Vec<Found>> = BTreeMap::new();
    for test in found {
        for number in scan::numbers(&test.name) {
            tests.entry(number).or_default().push(test.clone());
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &str, names: &[(&str, Kind)]) -> List {
        let found = names.iter().map(|&(name, kind)| Found {
            name: name.into(),
            path: "a.rs".into(),
            kind,
        });
        List {
            entries: items::parse(items).unwrap(),
            tests: by_number(found.collect()),
            runs: vec!["linux/sysrq-l".into()],
        }
    }

    #[test]
    fn an_item_without_test_and_reason_is_a_fault_and_so_is_one_with_both() {
        let items = "# A\nC001 one\nC002 two\nC003 three\n    absent: because\n";
        let missing = list(items, &[("c001_x", Kind::Host)]);
        assert_eq!(missing.faults(), ["C002 has neither a test nor a reason"]);
        let both = list(
            items,
            &[("c001_c002_x", Kind::Host), ("c003_y", Kind::Guest)],
        );
        assert_eq!(both.faults().len(), 1, "{:?}", both.faults());
        let unknown = list(
            items,
            &[("c001_c002_x", Kind::Host), ("c004_y", Kind::Guest)],
        );
        assert_eq!(
            unknown.faults(),
            ["the test c004_y names C004, which is no item"]
        );
    }

    #[test]
    fn a_run_counts_only_if_there_is_one_of_that_name() {
        assert!(
            list("# A\nC294 x\n    run: linux/sysrq-l\n", &[])
                .faults()
                .is_empty()
        );
        let wrong = list("# A\nC294 x\n    run: linux/nonsense\n", &[]);
        assert_eq!(
            wrong.faults(),
            ["C294 names linux/nonsense, which no test is called"]
        );
    }

    #[test]
    fn each_item_is_a_row_with_all_its_tests() {
        let items = "# A\nC001 one\n    run: linux/sysrq-l\nC002 two\n    open: later\n";
        let text = list(items, &[("c001_x", Kind::Host), ("c001_y", Kind::Guest)]).text();
        let row =
            "| C001 | one | host `a.rs::c001_x`<br>guest `a.rs::c001_y`<br>run `linux/sysrq-l` |\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| C002 | two | open: later |\n"));
        assert!(text.contains("2 items: 1 tested, 0 that do not apply, 1 open"));
    }

    #[test]
    fn the_items_can_be_read() {
        assert!(items::parse(ITEMS).unwrap().len() > 240);
    }
}
