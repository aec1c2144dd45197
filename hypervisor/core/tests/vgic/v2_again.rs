//! What comes again to a vCPU with a GICv2: SGIs from one sender or another, and a timer whose end EL2 has to see.

use hv_core::vgic::Leftovers;

use crate::v2::{LAST, SPENDSGIR, Scene, TIMER, WAITS, booted, like, set_up};

/// vCPU 0 takes an interrupt and ends it.
fn serve(scene: &mut Scene) -> Option<u8> {
    scene.interrupt(0);
    let taken = scene.acknowledge(0)?;
    scene.end(0);
    Some(taken.sender)
}

#[test]
fn an_sgi_that_came_again_from_another_sender_is_that_senders() {
    for is_taken in [false, true] {
        let mut scene = booted();
        scene.send(1, 1 << 16 | 5);
        assert_eq!(serve(&mut scene), Some(1));
        let before = scene.locks(0);
        scene.send(2, 1 << 16 | 5);
        scene.interrupt(0);
        assert_eq!(scene.locks(0), before, "the short way takes no lock");
        if is_taken {
            assert_eq!(scene.acknowledge(0).map(|taken| taken.sender), Some(2));
        }
        // The read folds.
        let senders = if is_taken { 0 } else { 1 << 2 };
        assert_eq!(scene.read(0, SPENDSGIR + 4), senders << 8);
        scene.interrupt(0);
        assert_eq!(scene.contents(0)[0].sender, 2);
    }
}

#[test]
fn an_sgi_of_several_senders_goes_the_general_way_and_comes_from_each() {
    let mut scene = booted();
    scene.send(1, 1 << 16 | 5);
    assert_eq!(serve(&mut scene), Some(1));
    scene.send(1, 1 << 16 | 5);
    scene.send(2, 1 << 16 | 5);
    scene.interrupt(0);
    assert_eq!(scene.contents(0)[0].source, WAITS);
    assert_eq!(serve(&mut scene), Some(1));
    scene.interrupt(0);
    assert_eq!(scene.contents(0)[0].source, LAST);
    assert_eq!(serve(&mut scene), Some(2));
    assert_eq!(serve(&mut scene), None);
}

/// A timer of a machine that does not look at its line again, which the guest has ended; EL2 has taken the maintenance
/// interrupt for that, without a lock.
fn ended_the_short_way() -> Scene {
    let mut scene = set_up(like(3, false, Leftovers::Dropped));
    scene.fire(0, TIMER);
    assert_eq!(scene.contents(0)[0].source, WAITS);
    assert!(scene.acknowledge(0).is_some());
    scene.physical().wire_mut(TIMER, 0).level = false;
    scene.end(0);
    assert!(scene.physical().wire(TIMER, 0).active);
    let before = scene.locks(0);
    scene.interrupt(0);
    assert_eq!(scene.locks(0), before, "the short way takes no lock");
    assert!(!scene.physical().wire(TIMER, 0).active);
    assert!(!scene.is_interrupted(0));
    scene
}

#[test]
fn a_timer_that_ended_the_short_way_is_over() {
    let mut scene = ended_the_short_way();
    assert_eq!(scene.read(0, 0x200), 0);
    assert_eq!(scene.read(0, 0x300), 0);
    assert_eq!(serve(&mut scene), None);
}

#[test]
fn a_timer_that_ended_the_short_way_comes_again_by_either_way() {
    for is_folded in [false, true] {
        let mut scene = ended_the_short_way();
        if is_folded {
            assert_eq!(scene.read(0, 0x300), 0);
        }
        scene.fire(0, TIMER);
        assert_eq!(scene.contents(0)[0].source, WAITS);
        assert!(scene.acknowledge(0).is_some());
        assert_eq!(scene.read(0, 0x300), 1 << TIMER.0, "active");
        scene.physical().wire_mut(TIMER, 0).level = false;
        scene.end(0);
        scene.interrupt(0);
        assert!(!scene.physical().wire(TIMER, 0).active);
        assert_eq!(scene.read(0, 0x300), 0);
    }
}
