//! What exits cost: each held to a ceiling, and with a GICv2 against what it costs with a GICv3.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::Ledger;
use machine::board::Board;

/// How much more a GICv2 may cost, as a ratio of two numbers.
const MOST: (u64, u64) = (3, 2);

/// The most instructions that each may cost, with a GICv3 and with a GICv2: what was reached, and some five in a hundred.
const CEILINGS: [(&str, [u64; 2]); 17] = [
    ("smc_psci_version", [83, 83]),
    ("smc_unknown", [100, 100]),
    ("id_aa64pfr0_read", [118, 118]),
    ("gicd_iidr_read", [119, 119]),
    ("gicd_isenabler_read", [123, 123]),
    ("gicd_isenabler_write", [196, 198]),
    ("uart_fr_read", [2, 2]),
    ("uart_character", [398, 398]),
    ("uart_fr_read_that_exits", [490, 470]),
    ("sgi_to_self", [160, 179]),
    ("sgi_to_spinning", [316, 413]),
    ("sgi_to_wfi", [316, 413]),
    ("virtual_timer_in_wfi", [98, 96]),
    ("virtual_timer_end", [10, 245]),
    ("cpu_on_to_first_instruction", [1110, 1485]),
    ("cpu_off_until_off", [2210, 2210]),
    ("sdei_signal_to_wedged", [745, 760]),
];

/// With QEMU's GICv2 a timer's end exits (docs/decisions/0007-gicv2-list-registers.md), and with a GICv3 it does not. Its
/// ceiling holds it alone.
const SECOND_EXIT: &str = "virtual_timer_end";

/// An SGI to all others, by how many there are: the instructions of one delivery, of which the last may need no more than the
/// first. With a GICv3 only.
const BROADCASTS: [&str; 2] = ["sgi_to_3_others_each", "sgi_to_63_others_each"];

/// Its name in the ledger.
const BROADCAST: &str = "guest/max/the_cost_of_an_sgi_to_63_others_beside_3";

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

    /// A line for the ledger of each comparison whose numbers were measured.
    pub fn enter(&self, ledger: &mut Ledger) {
        self.enter_broadcasts(ledger);
        self.enter_machines(ledger);
    }

    fn enter_broadcasts(&self, ledger: &mut Ledger) {
        let each = BROADCASTS.map(|name| self.0.get(name).and_then(|&[v3, _]| v3));
        let [Some(few), Some(many)] = each else {
            return;
        };
        if !ledger.wants(BROADCAST) {
            return;
        }
        let words = format!("{many} instructions each to 63 others, {few} to 3");
        if many <= few {
            ledger.passed(BROADCAST, Duration::ZERO, &words);
        } else {
            ledger.failed(BROADCAST, Duration::ZERO, &words);
        }
    }

    /// Every number of both machines, if both were measured, or those that are too many.
    fn enter_machines(&self, ledger: &mut Ledger) {
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
        let dear: Vec<_> = both.iter().copied().filter(is_dear).collect();
        if dear.is_empty() {
            ledger.passed(NAME, Duration::ZERO, &words(&both));
        } else {
            let details = format!(
                "more than 1.5 times of GICv3's, or above its ceiling: {}",
                words(&dear)
            );
            ledger.failed(NAME, Duration::ZERO, &details);
        }
    }
}

/// Whether a count is above its ceiling, or more with a GICv2 than it may be beside a GICv3.
fn is_dear(&(name, v3, v2): &(&String, u64, u64)) -> bool {
    let ceiling = CEILINGS.iter().find(|(metric, _)| metric == name);
    let is_above = ceiling.is_some_and(|&(_, [most_v3, most_v2])| v3 > most_v3 || v2 > most_v2);
    is_above || name != SECOND_EXIT && v2 * MOST.1 > v3 * MOST.0
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

    #[test]
    fn an_sgi_to_many_may_cost_no_more_for_each_than_one_to_few() {
        let is_fine = |few: u64, many: u64| {
            let mut counts = Counts::default();
            for (name, value) in BROADCASTS.into_iter().zip([few, many]) {
                counts.note(Board::Virt, &format!("{name} {value} instructions"));
            }
            let mut ledger = Ledger::new(None);
            counts.enter(&mut ledger);
            ledger.close() == ExitCode::SUCCESS
        };
        assert!(is_fine(400, 400));
        assert!(!is_fine(400, 401));
    }

    #[test]
    fn a_second_exit_has_a_ceiling_of_its_own() {
        let v3 = "virtual_timer_end 6 instructions";
        assert!(is_fine(v3, "virtual_timer_end 245 instructions"));
        assert!(!is_fine(v3, "virtual_timer_end 246 instructions"));
        let dear = "virtual_timer_end 11 instructions";
        assert!(!is_fine(dear, "virtual_timer_end 245 instructions"));
    }
}
