//! The watch over a neighbour, look by look.

use hv_core::id::PcpuId;
use hv_core::stop::watchdog::{Finding, Signs, Watch};
use hv_core::time::Instant;

const LIMIT: u64 = 2000;
const PERIOD: u64 = 500;
const NEVER: u32 = u32::MAX;

fn shows(pcpu: u8, count: u32) -> (PcpuId, Signs) {
    let reported = NEVER;
    (PcpuId(pcpu), Signs { count, reported })
}

fn known_stuck(pcpu: u8, count: u32) -> (PcpuId, Signs) {
    let reported = count;
    (PcpuId(pcpu), Signs { count, reported })
}

/// The findings of a look at each of `times`, the others being what `others` says at that time.
fn look<const N: usize>(
    times: impl Iterator<Item = u64>,
    others: impl Fn(u64) -> [(PcpuId, Signs); N],
) -> Vec<(u64, Finding)> {
    let mut watch = Watch::new(Instant(0), LIMIT);
    let found = times.map(|at| (at, watch.look(Instant(at), others(at).into_iter())));
    found.filter(|(_, what)| *what != Finding::Fine).collect()
}

fn every_period() -> impl Iterator<Item = u64> {
    (1..=12).map(|n| n * PERIOD)
}

#[test]
fn a_pcpu_whose_count_goes_up_is_left_alone() {
    let found = look(every_period(), |at| [shows(1, at as u32)]);
    assert_eq!(found, []);
}

#[test]
fn a_guest_that_runs_for_long_is_rung_and_never_suspected() {
    // It answers each ring, and does nothing else for EL2.
    let mut watch = Watch::new(Instant(0), LIMIT);
    let mut count = 7;
    let mut rings = 0;
    for at in (1..=100).map(|n| n * PERIOD) {
        match watch.look(Instant(at), [shows(1, count)].into_iter()) {
            Finding::Fine => {}
            Finding::Ring(PcpuId(1)) => {
                rings += 1;
                count += 1;
            }
            other => panic!("{other:?} at {at}"),
        }
    }
    assert_eq!(rings, 50, "each second look");
}

#[test]
fn a_stuck_pcpu_is_named_once_its_rings_are_unanswered_for_the_limit() {
    let found = look(every_period().take(7), |_| [shows(1, 7), shows(2, 9)]);
    let one = PcpuId(1);
    let first = 2 * PERIOD;
    let mut expected: Vec<_> = (0..4)
        .map(|n| (first + n * PERIOD, Finding::Ring(one)))
        .collect();
    expected.push((first + LIMIT, Finding::Stuck(one)));
    expected.push((first + LIMIT + PERIOD, Finding::Report(one)));
    assert_eq!(found, expected);
}

#[test]
fn the_one_behind_a_stuck_pcpu_is_watched_by_who_is_before_it() {
    let found = look(every_period(), |_| [known_stuck(1, 7), shows(2, 9)]);
    assert!(found.contains(&(2 * PERIOD + LIMIT, Finding::Stuck(PcpuId(2)))));
    let found = look(every_period(), |_| [known_stuck(1, 7), known_stuck(2, 9)]);
    assert_eq!(found, []);
}

#[test]
fn one_that_was_stuck_and_lives_is_watched_again() {
    let (one, mut signs) = known_stuck(1, 7);
    signs.count += 1;
    let found = look(every_period(), |_| [(one, signs)]);
    assert!(found.contains(&(2 * PERIOD + LIMIT, Finding::Stuck(one))));
}

#[test]
fn looking_more_often_than_due_finds_nothing_sooner() {
    let found = look(1..=2 * PERIOD + LIMIT, |_| [shows(1, 7)]);
    let stuck = found
        .iter()
        .find(|(_, what)| matches!(what, Finding::Stuck(_)));
    assert_eq!(
        stuck,
        Some(&(2 * PERIOD + LIMIT, Finding::Stuck(PcpuId(1))))
    );
    assert_eq!(found.len(), 5);
}

#[test]
fn a_pause_of_the_whole_machine_makes_nobody_suspect() {
    let mut watch = Watch::new(Instant(0), LIMIT);
    let mut count = 0;
    let mut at = 0;
    for _ in 0..100 {
        at += 1000 * LIMIT;
        // The other one gets to run between two looks, and then answers.
        let finding = watch.look(Instant(at), [shows(1, count)].into_iter());
        assert!(matches!(finding, Finding::Fine | Finding::Ring(_)));
        count += u32::from(matches!(finding, Finding::Ring(_)));
    }
}

#[test]
fn nobody_to_watch_is_fine() {
    assert_eq!(look(every_period(), |_| []), []);
    let mut watch = Watch::new(Instant(u64::MAX - 1), u64::MAX);
    let _ = watch.look(Instant(u64::MAX), core::iter::empty());
    assert_eq!(watch.due(), Instant(u64::MAX), "time does not wrap");
    let mut watch = Watch::new(Instant(0), 0);
    let _ = watch.look(Instant(1), core::iter::empty());
    assert_eq!(watch.due(), Instant(2), "no limit is no standstill");
}
