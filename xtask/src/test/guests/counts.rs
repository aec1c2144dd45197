//! What exits cost with a GICv2, held against what they cost with a GICv3.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::Ledger;
use machine::board::Board;

/// How much more a GICv2 may cost, as a ratio of two numbers.
const MOST: (u64, u64) = (3, 2);

/// Its name in the ledger.
const NAME: &str = "guest/icount/gicv2-against-gicv3";

/// Instruction counts by metric: with a GICv3, with a GICv2.
#[derive(Debug, Default)]
pub struct Counts(BTreeMap<String, [Option<u64>; 2]>);

impl Counts {
    /// Takes the metrics of a test that passed, `name value unit, name value unit`.
    pub fn note(&mut self, board: Board, metrics: &str) {
        for metric in metrics.split(", ") {
            let mut words = metric.split(' ');
            let (Some(name), Some(value), Some("instructions")) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let pair = self.0.entry(name.to_owned()).or_default();
            let [v3, v2] = pair;
            let place = if board == Board::VirtGicv2 { v2 } else { v3 };
            *place = value.parse().ok();
        }
    }

    /// One line for the ledger, if both machines were measured: every number of both, or those that are too many.
    pub fn enter(&self, ledger: &mut Ledger) {
        let both = self.0.iter().filter_map(|(name, pair)| match *pair {
            [Some(v3), Some(v2)] => Some((name, v3, v2)),
            _ => None,
        });
        let both: Vec<_> = both.collect();
        if both.is_empty() || !ledger.wants(NAME) {
            return;
        }
        let words = |list: &[(&String, u64, u64)]| {
            let words = list
                .iter()
                .map(|(name, v3, v2)| format!("{name} {v3}/{v2}"));
            words.collect::<Vec<_>>().join(", ")
        };
        let is_dear = |&(_, v3, v2): &(&String, u64, u64)| v2 * MOST.1 > v3 * MOST.0;
        let dear: Vec<_> = both.iter().copied().filter(is_dear).collect();
        if dear.is_empty() {
            ledger.passed(NAME, Duration::ZERO, &words(&both));
        } else {
            let details = format!("more than 1.5 times of GICv3's: {}", words(&dear));
            ledger.failed(NAME, Duration::ZERO, &details);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;

    fn is_fine(v3: &str, v2: &str) -> bool {
        let mut counts = Counts::default();
        counts.note(Board::Virt, v3);
        counts.note(Board::VirtGicv2, v2);
        let mut ledger = Ledger::new(None);
        counts.enter(&mut ledger);
        ledger.close() == ExitCode::SUCCESS
    }

    #[test]
    fn half_as_much_again_is_allowed() {
        let v3 = "a 100 instructions, b 50 instructions";
        assert!(is_fine(v3, "a 150 instructions"));
        assert!(!is_fine(v3, "a 100 instructions, b 76 instructions"));
    }
}
