//! The life of an interrupt, one turn at a time.

use hv_core::id::{IntId, VcpuSet};
use hv_core::vgic::{LrState, hcr};
use hv_testbed::DISTRIBUTOR;

use crate::scene::*;

#[test]
fn a_vcpu_needs_to_populate_when_and_only_when_something_concerns_it() {
    let mut scene = scene();
    assert_eq!(scene.rung(), VcpuSet::EMPTY);
    scene.physical().wire_mut(TIMER, 1).level = true;
    scene.interrupt(1);
    assert_eq!(
        scene.contents(1),
        [(TIMER, LrState::Pending, hardware(TIMER))]
    );
    assert_eq!(scene.rung(), VcpuSet::EMPTY, "it is nobody else's");
    // The distributor sent it to pCPU 1 before the guest routed it elsewhere.
    *scene.physical().wire_mut(EDGE, 0) = hv_testbed::Wire {
        pending: true,
        route: 1,
        ..scene.wire(EDGE)
    };
    scene.interrupt(1);
    assert_eq!(scene.rung(), only(0), "routed there");
    scene.send_sgi(1, 3, 0b01);
    assert_eq!(scene.contents(0), []);
    scene.interrupt(0);
    let there: Vec<IntId> = scene.contents(0).iter().map(|it| it.0).collect();
    assert_eq!(there, [IntId(3), EDGE]);
    assert_eq!(scene.interface(0).hcr(), hcr::EN | hcr::TDIR);
    assert_eq!(scene.rung(), VcpuSet::EMPTY);
}

#[test]
fn what_list_registers_hold_out_of_a_reset_is_no_interrupt() {
    let scene = scene();
    for n in [0, 1] {
        assert_eq!(scene.contents(n), []);
    }
}

#[test]
fn an_sgi_that_comes_again_while_active_is_pending_and_active() {
    let mut scene = scene();
    scene.send_sgi(1, 5, 0b01);
    scene.interrupt(0);
    assert_eq!(scene.contents(0), [(IntId(5), LrState::Pending, SOFTWARE)]);
    scene.take(IntId(5));
    scene.send_sgi(1, 5, 0b01);
    scene.interrupt(0);
    let both = (IntId(5), LrState::PendingActive, SOFTWARE);
    assert_eq!(scene.contents(0), [both]);
}

#[test]
fn an_sgi_that_comes_again_while_pending_is_one() {
    let mut scene = scene();
    for _ in 0..2 {
        scene.send_sgi(1, 5, 0b01);
        scene.interrupt(0);
    }
    scene.take(IntId(5));
    scene.finish();
    assert_eq!(scene.contents(0), []);
    scene.write_bit(0, ENABLE, IntId(5));
    assert_eq!(scene.contents(0), []);
}

#[test]
fn a_guest_eoi_ends_a_passed_through_interrupt_without_us() {
    let mut scene = scene();
    scene.fire(TIMER);
    assert_eq!(
        scene.contents(0),
        [(TIMER, LrState::Pending, hardware(TIMER))]
    );
    let entries = scene.entries(0);
    scene.take(TIMER);
    scene.finish();
    assert!(!scene.wire(TIMER).active && !scene.is_interrupted(0));
    assert_eq!(scene.entries(0), entries);
    scene.write_bit(0, ENABLE, TIMER);
    assert_eq!(scene.contents(0), []);
}

#[test]
fn it_can_fire_again_before_anybody_folded() {
    let mut scene = scene();
    for intid in [TIMER, EDGE] {
        for _ in 0..2 {
            scene.fire(intid);
            assert_eq!(
                scene.contents(0),
                [(intid, LrState::Pending, hardware(intid))]
            );
            scene.take(intid);
            scene.finish();
        }
        assert!(!scene.wire(intid).active);
    }
}

#[test]
fn made_pending_while_active_it_is_ended_by_maintenance() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.take(EDGE);
    scene.write_bit(0, SET_PENDING, EDGE);
    assert_eq!(
        scene.contents(0),
        [(EDGE, LrState::PendingActive, MAINTAINED)]
    );
    scene.finish();
    scene.take(EDGE);
    scene.finish();
    assert!(scene.wire(EDGE).active && scene.is_interrupted(0));
    scene.interrupt(0);
    assert!(!scene.wire(EDGE).active);
}

#[test]
fn a_physical_interrupt_nobody_wants_is_deactivated_at_once() {
    let mut scene = scene();
    for intid in [STRAY, UART, IntId(1019)] {
        let wire = hv_testbed::Wire {
            enabled: true,
            edge: true,
            pending: true,
            ..hv_testbed::Wire::default()
        };
        // What the guest has there is an emulated device's.
        scene.physical().add(intid, wire);
        scene.interrupt(0);
        assert!(!scene.wire(intid).active && scene.wire(intid).taken == 1);
        assert_eq!(scene.contents(0), []);
    }
}

#[test]
fn a_line_still_high_at_the_end_is_delivered_again() {
    let mut scene = scene();
    scene.line(1, true);
    scene.interrupt(0);
    assert_eq!(scene.contents(0), [(UART, LrState::Pending, MAINTAINED)]);
    scene.take(UART);
    scene.write_bit(0, ENABLE, UART);
    assert_eq!(scene.contents(0), [(UART, LrState::Active, MAINTAINED)]);
    scene.finish();
    scene.interrupt(0);
    assert_eq!(scene.contents(0), [(UART, LrState::Pending, MAINTAINED)]);
}

#[test]
fn a_line_that_drops_in_the_handler_costs_no_maintenance() {
    let mut scene = scene();
    scene.line(1, true);
    scene.interrupt(0);
    scene.take(UART);
    scene.line(1, false);
    assert_eq!(scene.rung(), only(0));
    scene.interrupt(0);
    assert_eq!(scene.contents(0), [(UART, LrState::Active, SOFTWARE)]);
    scene.finish();
    assert!(!scene.is_interrupted(0));
}

#[test]
fn a_line_that_drops_before_the_acknowledge_takes_its_interrupt_along() {
    let mut scene = scene();
    scene.line(1, true);
    scene.interrupt(0);
    scene.line(1, false);
    scene.interrupt(0);
    assert_eq!(scene.contents(0), []);
}

/// PPI 27 stays enabled on the machine whatever the guest does.
#[test]
fn a_timer_that_fires_while_disabled_is_sampled_again_when_enabled() {
    let mut scene = scene();
    scene.write_bit(0, DISABLE, TIMER);
    assert!(scene.wire(TIMER).enabled, "a PPI is not mirrored");
    scene.fire(TIMER);
    assert!(
        scene.wire(TIMER).active,
        "held, so that it does not fire again"
    );
    assert_eq!(scene.contents(0), []);
    scene.level(TIMER, false);
    scene.write_bit(0, ENABLE, TIMER);
    assert!(!scene.wire(TIMER).active);
    assert_eq!(scene.contents(0), [], "no stale interrupt");
    scene.fire(TIMER);
    assert_eq!(
        scene.contents(0),
        [(TIMER, LrState::Pending, hardware(TIMER))]
    );
}

#[test]
fn a_level_disabled_while_in_a_list_register_is_sampled_again_when_enabled() {
    let mut scene = scene();
    scene.fire(LEVEL);
    scene.write_bit(0, DISABLE, LEVEL);
    assert!(!scene.wire(LEVEL).enabled);
    assert_eq!(scene.contents(0), []);
    scene.write_bit(0, ENABLE, LEVEL);
    let wire = scene.wire(LEVEL);
    assert!(wire.enabled && !wire.active);
    assert_eq!(scene.contents(0), [], "it is to fire again");
    scene.interrupt(0);
    assert_eq!(
        scene.contents(0),
        [(LEVEL, LrState::Pending, hardware(LEVEL))]
    );
}

#[test]
fn an_edge_disabled_while_pending_is_kept() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.write_bit(0, DISABLE, EDGE);
    assert!(scene.wire(EDGE).active);
    assert_eq!(scene.contents(0), []);
    scene.write_bit(1, ENABLE, EDGE);
    assert_eq!(scene.rung(), only(0));
    scene.interrupt(0);
    assert_eq!(
        scene.contents(0),
        [(EDGE, LrState::Pending, hardware(EDGE))]
    );
}

#[test]
fn a_level_that_becomes_an_edge_is_kept() {
    let mut scene = scene();
    scene.fire(LEVEL);
    scene.store(0, DISTRIBUTOR + 0xc0c, 4, 0b1010);
    assert!(scene.wire(LEVEL).edge);
    assert_eq!(
        scene.contents(0),
        [(LEVEL, LrState::Pending, hardware(LEVEL))]
    );
}

#[test]
fn what_fires_while_its_group_is_off_comes_when_it_is_on() {
    let mut scene = scene();
    scene.store(0, DISTRIBUTOR, 4, 0);
    scene.fire(EDGE);
    assert!(scene.wire(EDGE).active);
    assert_eq!(scene.contents(0), []);
    scene.store(1, DISTRIBUTOR, 4, 0b10);
    assert_eq!(scene.rung(), only(0));
    scene.interrupt(0);
    assert_eq!(
        scene.contents(0),
        [(EDGE, LrState::Pending, hardware(EDGE))]
    );
}

#[test]
fn clearing_a_pending_edge_lets_go_of_the_wire() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.physical().wire_mut(EDGE, 0).pending = true;
    scene.write_bit(0, CLEAR_PENDING, EDGE);
    let wire = scene.wire(EDGE);
    assert!(!wire.active && !wire.pending);
}

#[test]
fn the_most_urgent_get_the_list_registers_and_the_rest_follow() {
    let mut scene = scene();
    for n in 0..6u64 {
        scene.store(0, own(0) + 0x400 + n, 1, 0x80 - 8 * n);
    }
    for n in 0..6 {
        scene.send_sgi(1, n, 0b01);
    }
    scene.interrupt(0);
    assert_eq!(scene.interface(0).hcr(), hcr::EN | hcr::TDIR | hcr::NPIE);
    let sgis = |scene: &Scene| -> Vec<u32> { scene.contents(0).iter().map(|it| it.0.0).collect() };
    assert_eq!(sgis(&scene), [5, 4, 3, 2]);
    for n in [5, 4, 3, 2] {
        scene.take(IntId(n));
        scene.finish();
    }
    scene.interrupt(0);
    assert_eq!(scene.interface(0).hcr(), hcr::EN | hcr::TDIR);
    assert_eq!(sgis(&scene), [1, 0]);
}

/// A guest with EOImode 1 may have any number of active ones; a pending one must still get through.
#[test]
fn active_interrupts_never_fill_every_list_register() {
    for (has_eoi_mode, has_tdir) in [(false, true), (true, true), (true, false)] {
        let mut scene = scene_where(|built| built.has_tdir = has_tdir);
        scene.interface(0).set_eoi_mode(has_eoi_mode);
        assert!(!scene.interface(0).traps_all());
        let urgency = [3, 2, 1, 0, 9];
        for (n, priority) in urgency.into_iter().zip([0x80, 0x70, 0x60, 0x50, 0x40]) {
            scene.store(0, own(0) + 0x400 + n, 1, priority);
        }
        for n in [3, 2, 1, 0] {
            scene.send_sgi(1, n, 0b01);
            scene.interrupt(0);
            scene.take(IntId(n));
        }
        scene.send_sgi(1, 9, 0b01);
        scene.interrupt(0);
        let trap = if has_tdir { hcr::TDIR } else { hcr::TC };
        let hcr = hcr::EN | trap | hcr::LRENPIE;
        assert_eq!(scene.interface(0).hcr(), hcr);
        assert_eq!(scene.contents(0)[3], (IntId(9), LrState::Pending, SOFTWARE));
        let active = |scene: &mut Scene| scene.poll(0, own(0) + ACTIVE, 4);
        scene.take(IntId(9));
        // The guest deactivates the one that had to give way, by EOI (counted) or by ICC_DIR_EL1 (trapped).
        let mut left = 1 << 9 | 0b1111;
        for n in [9, 0, 1, 2, 3] {
            let ended = scene.end(0).expect("it is active");
            assert_eq!(ended.intid, IntId(n));
            if has_eoi_mode {
                assert_eq!(active(&mut scene), left, "{n}");
                scene.deactivate(0, ended);
            }
            scene.interrupt(0);
            left &= !(1 << n);
            assert_eq!(active(&mut scene), left, "{n}");
        }
        assert!(
            !scene.interface(0).traps_all(),
            "all are in list registers again"
        );
    }
}
