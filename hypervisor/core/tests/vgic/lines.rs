//! Level-sensitive interrupts are pending while their line is up, and only then (IHI0069 4.1, 12.9, GICD_ISPENDR): what
//! of that holds for those that are passed through, whose line only the physical GIC sees.

use hv_core::id::IntId;
use hv_core::vgic::LrState;
use hv_testbed::DISTRIBUTOR;

use crate::scene::*;

fn is_pending(scene: &mut Scene, me: u8, intid: IntId) -> bool {
    scene.poll_bit(me, SET_PENDING, intid, 0)
}

#[test]
fn a_disabled_interrupt_reads_as_pending_while_its_line_is_up() {
    for intid in [TIMER, LEVEL] {
        let mut scene = scene();
        scene.write_bit(0, DISABLE, intid);
        for level in [true, false, true, false] {
            scene.level(intid, level);
            scene.interrupt(0);
            for bank in [SET_PENDING, CLEAR_PENDING] {
                assert_eq!(scene.poll_bit(0, bank, intid, 0), level, "{intid:?}");
            }
            assert_eq!(scene.contents(0), []);
        }
        assert!(!scene.wire(intid).active, "what has dropped is not held");
    }
}

#[test]
fn one_whose_group_is_off_reads_as_pending_while_its_line_is_up() {
    for intid in [TIMER, LEVEL] {
        let mut scene = scene();
        scene.store(0, DISTRIBUTOR, 4, 0);
        for level in [true, false, true] {
            scene.level(intid, level);
            scene.interrupt(0);
            assert_eq!(is_pending(&mut scene, 0, intid), level, "{intid:?}");
        }
        scene.store(0, DISTRIBUTOR, 4, 0b10);
        scene.interrupt(0);
        assert_eq!(
            scene.contents(0),
            [(intid, LrState::Pending, hardware(intid))]
        );
    }
}

#[test]
fn one_that_the_guest_masks_reads_as_pending_while_its_line_is_up() {
    for (me, intid) in [(0, TIMER), (0, LEVEL), (1, TIMER), (1, LEVEL)] {
        let mut scene = scene();
        for level in [true, false, true] {
            scene.level(intid, level);
            scene.interrupt(0);
            assert_eq!(is_pending(&mut scene, me, intid), level, "{intid:?}");
        }
        scene.settle();
        scene.take(intid);
    }
}

#[test]
fn an_active_one_whose_line_is_still_up_is_pending_too() {
    for intid in [TIMER, LEVEL] {
        let mut scene = scene();
        scene.fire(intid);
        scene.take(intid);
        assert!(is_pending(&mut scene, 0, intid));
        scene.level(intid, false);
        assert!(!is_pending(&mut scene, 0, intid));
        assert_eq!(
            scene.contents(0),
            [(intid, LrState::Active, hardware(intid))]
        );
        scene.finish();
        assert!(!scene.wire(intid).active && !scene.is_interrupted(0));
    }
}

/// ISPENDR holds an interrupt pending whatever its line does, until it is taken or ICPENDR is written.
#[test]
fn one_that_was_made_pending_does_not_depend_on_its_line() {
    for intid in [TIMER, LEVEL] {
        let mut scene = scene();
        scene.fire(intid);
        scene.write_bit(0, SET_PENDING, intid);
        scene.level(intid, false);
        assert!(is_pending(&mut scene, 0, intid));
        scene.write_bit(0, CLEAR_PENDING, intid);
        assert!(!is_pending(&mut scene, 0, intid));
        scene.level(intid, true);
        scene.interrupt(0);
        scene.write_bit(0, CLEAR_PENDING, intid);
        assert!(is_pending(&mut scene, 0, intid), "its line is up");
    }
}

#[test]
fn a_line_that_drops_before_it_is_taken_takes_its_interrupt_along_at_an_exit_that_looks() {
    for intid in [TIMER, LEVEL] {
        for chance in 0..3 {
            let mut scene = scene();
            scene.fire(intid);
            scene.level(intid, false);
            match chance {
                // A store to the GIC, a kick, an interrupt that gets its list register by the general way.
                0 => scene.store(0, own(0) + 0x400, 1, 0x80),
                1 => {
                    scene.write_bit(1, SET_PENDING, IntId(6));
                    scene.interrupt(0);
                }
                _ => scene.fire(EDGE),
            }
            let is_there = scene.interface(0).find(intid).is_some();
            assert!(!is_there, "{intid:?} at {chance}: {:?}", scene.contents(0));
            assert!(!scene.wire(intid).active);
            scene.fire(intid);
            assert!(scene.interface(0).find(intid).is_some(), "it comes again");
        }
    }
}

#[test]
fn a_line_that_drops_while_its_interrupt_waits_for_a_list_register_takes_it_along() {
    for intid in [TIMER, LEVEL] {
        let mut scene = scene_where(|built| built.list_regs = 1);
        scene.send_sgi(1, 3, 0b01);
        scene.interrupt(0);
        scene.fire(intid);
        let sgi = [(IntId(3), LrState::Pending, SOFTWARE)];
        assert_eq!(
            scene.contents(0),
            sgi,
            "it is as urgent, and of a lower number"
        );
        scene.level(intid, false);
        scene.take(IntId(3));
        scene.finish();
        scene.interrupt(0);
        assert_eq!(scene.contents(0), []);
        assert!(!scene.wire(intid).active);
    }
}

/// What cannot be had without an exit: nobody looks at the line between two instructions of the guest.
#[test]
fn a_line_that_drops_without_an_exit_is_delivered_once() {
    for intid in [TIMER, LEVEL] {
        let mut scene = scene();
        scene.fire(intid);
        scene.level(intid, false);
        scene.take(intid);
        scene.finish();
        scene.interrupt(0);
        assert_eq!(scene.acknowledge(0), None);
    }
}

/// QEMU's GICv3 has latches alone in GICD_ISPENDR.
#[test]
fn where_the_distributor_does_not_tell_the_last_known_state_stands() {
    let mut scene = scene_where(|built| built.tells_lines = false);
    scene.fire(LEVEL);
    scene.level(LEVEL, false);
    assert!(is_pending(&mut scene, 0, LEVEL));
    scene.take(LEVEL);
    scene.finish();
    assert!(!is_pending(&mut scene, 0, LEVEL));
    // Of private ones the redistributor tells.
    scene.fire(TIMER);
    scene.level(TIMER, false);
    assert!(!is_pending(&mut scene, 0, TIMER));
}
