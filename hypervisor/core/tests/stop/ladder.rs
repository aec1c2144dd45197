//! The ladder, step by step.

use hv_core::id::{PcpuId, PcpuSet};
use hv_core::patience::Patience;
use hv_core::stop::ladder::{Decision, Fate, Ladder};
use hv_core::stop::words::{Claim, Slot, SlotState, Stopper};
use hv_core::stop::{LIMITS, StoppedBy, Ticks};
use hv_core::time::{Frequency, Instant};

const LIMITS_IN_TICKS: Ticks = Ticks {
    first: 10,
    last: 100,
    patience: Patience::new(20),
};

fn set(pcpus: &[u8]) -> PcpuSet {
    let mut set = PcpuSet::EMPTY;
    pcpus.iter().for_each(|&pcpu| set.insert(PcpuId(pcpu)));
    set
}

/// pCPUs 1, 2, ... that are online, armed or not.
fn slots(armed: &[bool]) -> Vec<Slot> {
    let slots: Vec<Slot> = armed.iter().map(|_| Slot::default()).collect();
    for (slot, &armed) in slots.iter().zip(armed) {
        assert!(!slot.come_online(armed).is_asked());
    }
    slots
}

fn ladder(slots: &[Slot]) -> Ladder {
    let asked = (1..).map(PcpuId).zip(slots.iter().map(Slot::ask));
    Ladder::new(asked, LIMITS_IN_TICKS)
}

/// Looks every 10 ticks from `from` to `to`, both included, and finds nothing to do; nobody has parked.
fn wait(ladder: &mut Ladder, from: u64, to: u64) {
    for now in (from..=to).step_by(10) {
        let decision = ladder.poll(Instant(now), PcpuSet::EMPTY);
        assert_eq!(decision, Decision::Wait, "at {now}");
    }
}

#[test]
fn who_answers_the_sgi_is_not_signalled() {
    let slots = slots(&[true, true]);
    let mut ladder = ladder(&slots);
    let at = Instant;
    assert_eq!(
        ladder.poll(at(0), PcpuSet::EMPTY),
        Decision::Ring(set(&[1, 2]))
    );
    assert_eq!(ladder.poll(at(0), set(&[1])), Decision::Wait);
    assert_eq!(ladder.poll(at(9), set(&[1])), Decision::Wait);
    assert_eq!(ladder.poll(at(10), set(&[1])), Decision::Signal(set(&[2])));
    assert_eq!(ladder.poll(at(11), set(&[1])), Decision::Wait);
    assert_eq!(ladder.poll(at(12), set(&[1, 2])), Decision::Done);
}

#[test]
fn everybody_answering_ends_it_at_once() {
    let slots = slots(&[true, true]);
    let mut ladder = ladder(&slots);
    let _ = ladder.poll(Instant(0), PcpuSet::EMPTY);
    assert_eq!(ladder.poll(Instant(1), set(&[1, 2])), Decision::Done);
}

#[test]
fn nobody_to_stop_is_done_without_a_ring() {
    assert_eq!(ladder(&[]).poll(Instant(0), PcpuSet::EMPTY), Decision::Done);
}

#[test]
fn without_the_second_rung_the_first_has_the_long_limit() {
    let slots = slots(&[false, false]);
    let mut ladder = ladder(&slots);
    let _ = ladder.poll(Instant(0), PcpuSet::EMPTY);
    wait(&mut ladder, 0, 90);
    assert_eq!(ladder.poll(Instant(99), set(&[1])), Decision::Wait);
    assert_eq!(ladder.poll(Instant(100), set(&[1])), Decision::Done);
    assert_eq!(
        ladder.fate(PcpuId(2), slots[1].state()),
        Fate::Deaf,
        "it is named, not forgotten"
    );
}

#[test]
fn a_pcpu_that_was_never_armed_is_never_signalled() {
    let slots = slots(&[true, false]);
    let mut ladder = ladder(&slots);
    let _ = ladder.poll(Instant(0), PcpuSet::EMPTY);
    wait(&mut ladder, 0, 0);
    assert_eq!(
        ladder.poll(Instant(10), PcpuSet::EMPTY),
        Decision::Signal(set(&[1]))
    );
}

#[test]
fn c315_nobody_is_signalled_who_is_absent_or_masks_events_or_has_parked() {
    for kinds in 0..1 << 12 {
        // Of each of four: online, armed, parked.
        let bits = |pcpu: usize| [0, 1, 2].map(|bit| kinds >> (3 * pcpu + bit) & 1 != 0);
        let slots: Vec<Slot> = (0..4).map(|_| Slot::default()).collect();
        for (pcpu, slot) in slots.iter().enumerate() {
            let [is_online, is_armed, is_parked] = bits(pcpu);
            if is_online {
                let _ = slot.come_online(is_armed);
                assert!(!is_parked || slot.park(StoppedBy::Itself));
            }
        }
        let mut ladder = ladder(&slots);
        let mut signalled = PcpuSet::EMPTY;
        for now in (0..=150).step_by(5) {
            if let Decision::Signal(set) = ladder.poll(Instant(now), PcpuSet::EMPTY) {
                assert!(signalled.is_empty(), "one rung signals once");
                signalled = set;
            }
        }
        for pcpu in 0..4 {
            let reachable = bits(pcpu) == [true, true, false];
            let id = PcpuId(pcpu as u8 + 1);
            assert_eq!(signalled.contains(id), reachable, "{id:?} of {kinds:#o}");
        }
    }
}

#[test]
fn whom_firmware_refuses_to_signal_is_not_waited_for() {
    let slots = slots(&[true, true]);
    let mut ladder = ladder(&slots);
    let _ = ladder.poll(Instant(0), PcpuSet::EMPTY);
    wait(&mut ladder, 0, 0);
    let _ = ladder.poll(Instant(10), PcpuSet::EMPTY);
    for slot in &slots {
        let _ = slot.mark_signalled();
    }
    ladder.note_refusal(PcpuId(1));
    assert_eq!(ladder.poll(Instant(11), PcpuSet::EMPTY), Decision::Wait);
    assert_eq!(ladder.poll(Instant(12), set(&[2])), Decision::Done);
    assert_eq!(ladder.fate(PcpuId(1), slots[0].state()), Fate::Refused);
}

#[test]
fn a_late_answer_counts_until_the_report() {
    let slots = slots(&[true]);
    let mut ladder = ladder(&slots);
    let _ = ladder.poll(Instant(0), PcpuSet::EMPTY);
    wait(&mut ladder, 0, 0);
    let _ = ladder.poll(Instant(10), PcpuSet::EMPTY);
    let _ = slots[0].mark_signalled();
    wait(&mut ladder, 10, 100);
    assert_eq!(ladder.poll(Instant(110), PcpuSet::EMPTY), Decision::Done);
    assert_eq!(ladder.fate(PcpuId(1), slots[0].state()), Fate::Lost);
    assert!(slots[0].park(StoppedBy::Sdei));
    let fate = ladder.fate(PcpuId(1), slots[0].state());
    assert_eq!(fate, Fate::Stopped(StoppedBy::Sdei));
}

#[test]
fn nobody_is_given_up_while_the_stopper_does_not_run_either() {
    let slots = slots(&[true]);
    let mut ladder = ladder(&slots);
    let _ = ladder.poll(Instant(0), PcpuSet::EMPTY);
    wait(&mut ladder, 0, 0);
    let signal = ladder.poll(Instant(1000), PcpuSet::EMPTY);
    assert_eq!(signal, Decision::Signal(set(&[1])));
    // However long EL3 takes to signal, and the host to let the stopper look: one look is no wait.
    for now in [5000, 10_000, 15_000, 20_000, 25_000] {
        let decision = ladder.poll(Instant(now), PcpuSet::EMPTY);
        assert_eq!(decision, Decision::Wait, "at {now}");
    }
    assert_eq!(ladder.poll(Instant(30_000), PcpuSet::EMPTY), Decision::Done);
}

#[test]
fn who_comes_up_during_the_stop_finds_itself_asked() {
    let slot = Slot::<core::sync::atomic::AtomicU32>::default();
    let asked: SlotState = slot.ask();
    assert!(!asked.is_online());
    let mut ladder = Ladder::new([(PcpuId(1), asked)].into_iter(), LIMITS_IN_TICKS);
    assert!(ladder.targets().is_empty());
    assert_eq!(ladder.poll(Instant(0), PcpuSet::EMPTY), Decision::Done);
    assert_eq!(ladder.fate(PcpuId(1), slot.state()), Fate::Offline);
    assert!(slot.come_online(true).is_asked());
}

#[test]
fn a_ladder_climbed_again_signals_nobody_twice() {
    let slots = slots(&[true, true]);
    let mut first = ladder(&slots);
    let _ = first.poll(Instant(0), PcpuSet::EMPTY);
    wait(&mut first, 0, 0);
    let _ = first.poll(Instant(10), PcpuSet::EMPTY);
    let _ = slots[0].mark_signalled();
    let mut again = ladder(&slots);
    let none = PcpuSet::EMPTY;
    assert_eq!(
        again.poll(Instant(20), none),
        Decision::Ring(set(&[1, 2])),
        "it may have failed before it rang"
    );
    wait(&mut again, 20, 20);
    assert_eq!(
        again.poll(Instant(30), none),
        Decision::Signal(set(&[2])),
        "1 was signalled before"
    );
}

#[test]
fn only_the_first_way_to_park_counts() {
    let slots = slots(&[true]);
    assert!(slots[0].park(StoppedBy::Ipi));
    assert!(!slots[0].park(StoppedBy::Sdei));
    assert_eq!(slots[0].state().parked(), Some(StoppedBy::Ipi));
}

#[test]
fn the_first_claim_wins_and_the_winner_knows_itself_again() {
    let stopper = Stopper::<core::sync::atomic::AtomicU32>::default();
    assert_eq!(stopper.who(), None);
    assert_eq!(stopper.claim(PcpuId(127)), Claim::Mine);
    assert_eq!(stopper.claim(PcpuId(0)), Claim::Theirs(PcpuId(127)));
    assert_eq!(stopper.claim(PcpuId(127)), Claim::Again);
    assert_eq!(stopper.who(), Some(PcpuId(127)));
}

#[test]
fn the_limits_leave_room_in_50_ms_for_all_to_be_stuck() {
    let ticks = LIMITS.in_ticks(Frequency(62_500_000));
    assert!(ticks.first <= 25 * 62_500);
    assert_eq!((ticks.first, ticks.last), (1_250_000, 31_250_000));
}
