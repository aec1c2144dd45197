//! What exits cost: each held to a ceiling, and with a GICv2 against what it costs with a GICv3.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::Ledger;
use machine::board::Board;

/// How much more a GICv2 may cost, as a ratio of two numbers.
const MOST: (u64, u64) = (3, 2);

/// The most instructions that each may cost, with a GICv3 and with a GICv2: what was reached, and some five in a hundred.
const CEILINGS: [(&str, [u64; 2]); 16] = [
    ("smc_psci_version", [180, 180]),
    ("smc_unknown", [240, 240]),
    ("id_aa64pfr0_read", [350, 350]),
    ("gicd_iidr_read", [195, 195]),
    ("gicd_isenabler_read", [260, 257]),
    ("gicd_isenabler_write", [630, 640]),
    ("uart_fr_read", [2, 2]),
    ("uart_character", [380, 380]),
    ("uart_fr_read_that_exits", [425, 416]),
    ("sgi_to_self", [390, 470]),
    ("sgi_to_spinning", [575, 670]),
    ("sgi_to_wfi", [575, 670]),
    ("virtual_timer_in_wfi", [225, 250]),
    ("virtual_timer_end", [10, 300]),
    ("cpu_on_to_first_instruction", [4350, 4430]),
    ("sdei_signal_to_wedged", [880, 900]),
];

/// With QEMU's GICv2 a timer's end exits (docs/decisions/0007-gicv2-list-registers.md), and with a GICv3 it does not. Its
/// ceiling holds it alone.
const SECOND_EXIT: &str = "virtual_timer_end";

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
    fn a_second_exit_has_a_ceiling_of_its_own() {
        let v3 = "virtual_timer_end 6 instructions";
        assert!(is_fine(v3, "virtual_timer_end 300 instructions"));
        assert!(!is_fine(v3, "virtual_timer_end 301 instructions"));
        let dear = "virtual_timer_end 11 instructions";
        assert!(!is_fine(dear, "virtual_timer_end 300 instructions"));
    }
}
