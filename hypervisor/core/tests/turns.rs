//! Guests that write to one wire, by a clock of the test's, slow as where an emulator's host has fewer CPUs than they.

use hv_core::id::VmId;
use hv_core::turns::{MOST, SILENCE_US, TURN_US, Turn, Turns};
use proptest::prelude::*;

/// How often a guest asks, or is asked whether it has a byte, in microseconds.
const STEP_US: u64 = 1000;
/// Bytes of an announcement at most: RS, US, CR, LF, two digits, `>` and a space.
const ANNOUNCEMENT: u64 = 8;

/// What a guest writes, and when.
#[derive(Clone, Debug)]
struct Guest {
    /// Bytes of each of its lines, with their ends; 0 if they have none.
    line: u64,
    /// How long it is from one byte to the next, in microseconds, one after the other.
    gaps: Vec<u64>,
    /// How many bytes it writes.
    bytes: u64,
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    /// Whose each byte on the wire is.
    wire: Vec<(u8, u8)>,
    /// How many announcements there were, and those that broke a line.
    announced: u64,
    broken: u64,
    /// The longest wait of a guest for a turn, in microseconds.
    waited_us: u64,
}

/// Runs all until those of `until` are through.
fn run(guests: &[Guest], until: impl Fn(usize) -> bool) -> Outcome {
    let mut turns = Turns::new();
    turns.share();
    let mut outcome = Outcome {
        wire: Vec::new(),
        announced: 0,
        broken: 0,
        waited_us: 0,
    };
    let mut written = vec![0; guests.len()];
    let mut ready_us = vec![0; guests.len()];
    let is_through = |written: &[u64]| {
        let mut all = guests.iter().zip(written).enumerate();
        all.all(|(number, (guest, &written))| !until(number) || written >= guest.bytes)
    };
    for now_us in (0..).step_by(STEP_US as usize) {
        if is_through(&written) {
            return outcome;
        }
        for (number, guest) in guests.iter().enumerate() {
            if written[number] >= guest.bytes || ready_us[number] > now_us {
                continue;
            }
            let is_end = guest.line > 0 && (written[number] + 1).is_multiple_of(guest.line);
            let byte = if is_end { b'\n' } else { b'a' };
            match turns.take(VmId(number as u8), byte, || now_us) {
                Turn::Wait => continue,
                Turn::Write | Turn::WriteLast => {}
                Turn::Announce { break_line } => {
                    outcome.announced += 1;
                    outcome.broken += u64::from(break_line);
                }
            }
            outcome.wire.push((number as u8, byte));
            outcome.waited_us = outcome.waited_us.max(now_us - ready_us[number]);
            let gap = guest.gaps[written[number] as usize % guest.gaps.len()];
            ready_us[number] = now_us + gap;
            written[number] += 1;
        }
    }
    unreachable!("time does not end")
}

/// The longest that one waits among so many, whose turns take no longer than `turn_us`.
fn bound_us(guests: usize, turn_us: u64) -> u64 {
    // Each turn ends at a look of whoever is next, and one is ready a step before it looks.
    (guests as u64 - 1) * (turn_us + STEP_US) + STEP_US
}

#[test]
fn sixteen_slow_guests_spend_the_wire_on_what_they_say() {
    for gap_ms in [6, 12, 24, 40, 90] {
        let guest = Guest {
            line: 48,
            gaps: vec![gap_ms * 1000],
            bytes: 4 * 48,
        };
        let outcome = run(&vec![guest; 16], |_| true);
        let content = outcome.wire.len() as u64;
        let (announced, broken) = (outcome.announced * ANNOUNCEMENT, outcome.broken);
        assert!(
            2 * announced <= content,
            "{gap_ms} ms: {announced} bytes say whose turn it is for {content}"
        );
        // As long as lines take no longer than a turn they are whole.
        assert!(
            broken == 0 || gap_ms * 47_000 > TURN_US,
            "{gap_ms} ms: {broken} lines are broken"
        );
        let waited_us = outcome.waited_us;
        assert!(
            waited_us <= bound_us(16, TURN_US),
            "{gap_ms} ms: {waited_us} us"
        );
    }
}

#[test]
fn a_host_that_runs_two_of_sixteen_cpus_at_a_time_breaks_no_line() {
    // 20 bytes in each time slice of the host's, and then seven others' slices.
    let mut gaps = vec![0; 19];
    gaps.push(28_000);
    let guest = Guest {
        line: 64,
        gaps,
        bytes: 8 * 64,
    };
    let outcome = run(&vec![guest; 16], |_| true);
    assert_eq!((outcome.announced, outcome.broken), (16 * 8, 0));
}

#[test]
fn whoever_is_silent_floods_or_drips_delays_another_by_no_more_than_the_bound() {
    let worst = [
        // A byte of a line, and then nothing until the turn is over.
        (vec![SILENCE_US * 3], SILENCE_US),
        // All that it can.
        (vec![0], u64::from(MOST) * STEP_US),
        // A byte when its turn is nearly over.
        (vec![SILENCE_US], TURN_US),
    ];
    for (gaps, turn_us) in worst {
        let hostile = Guest {
            line: 0,
            gaps,
            bytes: u64::MAX,
        };
        for guests in [2, 4, 16] {
            let mut all = vec![hostile.clone(); guests];
            all[guests / 2] = Guest {
                line: 40,
                gaps: vec![10],
                bytes: 10 * 40,
            };
            let outcome = run(&all, |number| number == guests / 2);
            let waited_us = outcome.waited_us;
            let bound_us = bound_us(guests, turn_us);
            assert!(
                waited_us <= bound_us && waited_us > bound_us / 2,
                "{guests}: {waited_us} us"
            );
            // Its lines are whole.
            let own = (guests / 2) as u8;
            let mut turns = outcome.wire.chunk_by(|(one, _), (next, _)| one == next);
            let is_whole = |turn: &[(u8, u8)]| turn[0].0 != own || turn.ends_with(&[(own, b'\n')]);
            assert!(turns.all(is_whole), "{guests}: a line is broken");
        }
    }
}

fn a_guest() -> impl Strategy<Value = Guest> {
    let gap = prop_oneof![0..1000_u64, 1000..SILENCE_US, SILENCE_US..3 * SILENCE_US];
    let gaps = prop::collection::vec(gap, 1..20);
    (0..80_u64, gaps, 1..200_u64).prop_map(|(line, gaps, bytes)| Guest { line, gaps, bytes })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nobody_waits_longer_and_nobodys_turn_is_ended_without_need(
        guests in prop::collection::vec(a_guest(), 2..16)
    ) {
        let outcome = run(&guests, |_| true);
        prop_assert!(outcome.waited_us <= bound_us(guests.len(), TURN_US), "{} us", outcome.waited_us);
        // All is written, each guest's bytes in their order.
        for (number, guest) in guests.iter().enumerate() {
            let own = outcome.wire.iter().filter(|(vm, _)| usize::from(*vm) == number);
            let own: Vec<u8> = own.map(|&(_, byte)| byte).collect();
            let ends = own.iter().filter(|&&byte| byte == b'\n').count() as u64;
            prop_assert_eq!(own.len() as u64, guest.bytes);
            prop_assert_eq!(ends, guest.bytes.checked_div(guest.line).unwrap_or(0));
        }
        // Of guests that are never silent for long a turn is a line, or as much as a turn may be.
        let is_quick = |guest: &Guest| guest.gaps.iter().all(|&gap| gap * guest.line < TURN_US / 2);
        let are_quick = guests.iter().all(|guest| {
            is_quick(guest) && (1..u64::from(MOST)).contains(&guest.line)
                && guest.gaps.iter().all(|&gap| gap + STEP_US < SILENCE_US)
                && guest.bytes.is_multiple_of(guest.line)
        });
        prop_assert!(!are_quick || outcome.broken == 0, "{} broken", outcome.broken);
    }
}
