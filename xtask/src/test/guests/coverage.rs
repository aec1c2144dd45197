//! Which tests ran in some boot.

use std::collections::{BTreeMap, BTreeSet};

use super::counts::Counts;
use machine::protocol::Outcome;

/// Which tests ran somewhere. A test may skip where the machine or the configuration is not what it
/// needs, but not everywhere.
#[derive(Default)]
pub struct Coverage {
    ran: BTreeSet<String>,
    skipped: BTreeMap<String, String>,
    /// What was measured.
    pub counts: Counts,
    /// Both machines were booted; if not, what is about one GIC alone is no gap.
    pub is_on_all: bool,
}

impl Coverage {
    /// Takes notice of an outcome.
    pub fn note(&mut self, test: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Skipped(why) => {
                self.skipped.insert(test.to_owned(), why.clone());
            }
            Outcome::Passed(_) | Outcome::Failed(_) => {
                self.ran.insert(test.to_owned());
            }
        }
    }

    /// Tests that ran nowhere, and why not.
    pub fn gaps(&self) -> impl Iterator<Item = (&str, &str)> {
        let skipped = self.skipped.iter();
        let gaps = skipped.filter(|(test, why)| {
            !self.ran.contains(*test) && (self.is_on_all || !why.starts_with("with a GICv"))
        });
        gaps.map(|(test, why)| (test.as_str(), why.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_skips_everywhere_is_a_gap() {
        let mut coverage = Coverage::default();
        let skipped = Outcome::Skipped("SDEI is on".into());
        coverage.note("a", &skipped);
        coverage.note("b", &skipped);
        coverage.note("b", &Outcome::Passed(String::new()));
        coverage.note("c", &Outcome::Skipped("with a GICv3: no".into()));
        let gaps: Vec<_> = coverage.gaps().collect();
        assert_eq!(gaps, [("a", "SDEI is on")]);
        coverage.is_on_all = true;
        assert_eq!(coverage.gaps().count(), 2);
    }
}
