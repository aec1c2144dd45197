//! What one vCPU does to an interrupt that another has, and what resets leave.

use hv_core::id::{IntId, VcpuSet};
use hv_core::vgic::LrState;
use hv_testbed::{Built, DISTRIBUTOR};

use crate::scene::*;

const CTLR: u64 = DISTRIBUTOR;
/// ICC_SGI0R_EL1 (S3_0_C12_C11_7).
const SGI0R: (u8, u8) = (11, 7);

fn route(intid: IntId) -> u64 {
    DISTRIBUTOR + ROUTE + 8 * u64::from(intid.0)
}

#[test]
fn a_group_0_sgi_register_reaches_group_0_only() {
    let mut scene = scene();
    scene.write_register(0, SGI0R, 2 << 24 | 0b10);
    assert_eq!(scene.rung(), VcpuSet::EMPTY);
    scene.store(0, own(1) + 0x80, 4, !(1 << 2));
    scene.store(0, CTLR, 4, 0b11);
    scene.settle();
    scene.write_register(0, SGI0R, 2 << 24 | 0b10);
    assert_eq!(scene.rung(), only(1));
    scene.interrupt(1);
    assert!(!scene.interface(1).get(0).group1);
}

#[test]
fn a_sibling_clears_what_is_active_elsewhere_at_the_next_fold() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.take(EDGE);
    scene.write_bit(1, CLEAR_ACTIVE, EDGE);
    assert!(scene.wire(EDGE).active);
    assert_eq!(scene.rung(), only(0));
    scene.interrupt(0);
    assert!(!scene.wire(EDGE).active);
    assert_eq!(scene.contents(0), []);
}

#[test]
fn a_sibling_clears_what_is_pending_elsewhere_at_the_next_fold() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.write_bit(1, CLEAR_PENDING, EDGE);
    assert_eq!(scene.rung(), only(0));
    scene.interrupt(0);
    assert_eq!(scene.contents(0), []);
    assert!(!scene.wire(EDGE).active);
}

#[test]
fn rwp_reads_1_until_a_disabled_interrupt_is_out_of_its_list_register() {
    let mut scene = scene();
    let rwp = |scene: &mut Scene| {
        let ctlr = scene.load(1, CTLR, 4);
        ctlr.expect("GICD_CTLR is always at hand") >> 31
    };
    scene.fire(EDGE);
    scene.write_bit(1, DISABLE, EDGE);
    assert_eq!(scene.rung(), only(0));
    assert_eq!(rwp(&mut scene), 1);
    scene.interrupt(0);
    assert_eq!(scene.contents(0), []);
    assert_eq!(rwp(&mut scene), 0);
}

/// Linux's `synchronize_hardirq` on another CPU.
#[test]
fn a_poll_of_the_active_state_follows_the_hardware() {
    let mut scene = scene();
    scene.fire(EDGE);
    let load = |scene: &mut Scene| scene.load(1, DISTRIBUTOR + ACTIVE + 4, 4);
    for (step, expected) in [0, 1 << 16, 0].into_iter().enumerate() {
        match step {
            0 => {}
            1 => scene.take(EDGE),
            _ => scene.finish(),
        }
        assert_eq!(load(&mut scene), None);
        assert_eq!(scene.rung(), only(0));
        assert_eq!(load(&mut scene), None, "still not folded");
        scene.interrupt(0);
        assert_eq!(load(&mut scene), Some(expected));
    }
    assert_eq!(
        load(&mut scene),
        Some(0),
        "in no list register, so there is nobody to ask"
    );
}

#[test]
fn an_answer_does_not_outlive_what_the_reader_does_in_between() {
    let mut scene = scene();
    scene.fire(EDGE);
    let load = |scene: &mut Scene| scene.load(1, DISTRIBUTOR + ACTIVE + 4, 4);
    assert_eq!(load(&mut scene), None);
    scene.interrupt(0);
    scene.send_sgi(0, 1, 0b10);
    scene.interrupt(1);
    scene.take(EDGE);
    assert_eq!(load(&mut scene), None);
    assert_eq!(scene.rung(), only(0));
}

#[test]
fn a_pending_spi_follows_its_route() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.store(1, route(EDGE), 8, 1);
    assert_eq!(scene.wire(EDGE).route, 1);
    assert_eq!(scene.rung(), only(0), "who has it");
    scene.interrupt(0);
    assert_eq!(scene.contents(0), []);
    assert_eq!(scene.rung(), only(1), "who gets it");
    scene.interrupt(1);
    assert_eq!(
        scene.contents(1),
        [(EDGE, LrState::Pending, hardware(EDGE))]
    );
}

#[test]
fn an_active_spi_ends_where_it_was_taken() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.take(EDGE);
    scene.store(1, route(EDGE), 8, 1);
    scene.interrupt(0);
    assert_eq!(scene.rung(), VcpuSet::EMPTY);
    assert_eq!(scene.contents(0), [(EDGE, LrState::Active, hardware(EDGE))]);
}

#[test]
fn an_edge_that_waits_for_another_vcpu_is_handed_over_at_the_end() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.take(EDGE);
    scene.store(1, route(EDGE), 8, 1);
    scene.write_bit(1, SET_PENDING, EDGE);
    scene.interrupt(0);
    assert_eq!(scene.contents(0), [(EDGE, LrState::Active, MAINTAINED)]);
    scene.finish();
    scene.interrupt(0);
    assert_eq!(scene.rung(), only(1));
    scene.interrupt(1);
    assert_eq!(
        scene.contents(1),
        [(EDGE, LrState::Pending, hardware(EDGE))]
    );
}

#[test]
fn a_vcpu_that_goes_off_leaves_nothing_behind() {
    let mut scene = scene();
    scene.fire(LEVEL);
    scene.take(LEVEL);
    scene.fire(TIMER);
    scene.fire(EDGE);
    scene.send_sgi(1, 2, 0b01);
    scene.interrupt(0);
    assert_eq!(scene.contents(0).len(), 4);
    scene.level(TIMER, false);
    scene.level(LEVEL, false);
    scene.turn_off(0);
    assert!(!scene.wire(TIMER).active);
    assert_eq!(scene.contents(0), []);
    let waker = own(0) - 0x1_0000 + 0x14;
    for (ipa, expected) in [
        (own(0) + ENABLE, 0),
        (own(0) + SET_PENDING, 0),
        (own(0) + ACTIVE, 0),
        (waker, 0b110),
    ] {
        assert_eq!(scene.load(1, ipa, 4), Some(expected), "{ipa:#x}");
    }
    // The SPIs are what they were: one pending, and it can go elsewhere; one active.
    let shared = |scene: &mut Scene, bank| scene.load(1, DISTRIBUTOR + bank + 4, 4);
    assert_eq!(shared(&mut scene, SET_PENDING), Some(1 << 16));
    assert_eq!(shared(&mut scene, ACTIVE), Some(1 << 17));
    scene.store(1, route(EDGE), 8, 1);
    assert_eq!(
        scene.contents(1),
        [(EDGE, LrState::Pending, hardware(EDGE))]
    );
    scene.turn_on(1, 0);
    assert_eq!(scene.contents(0), [], "nobody is left to end it");
    scene.write_bit(1, CLEAR_ACTIVE, LEVEL);
    assert!(!scene.wire(LEVEL).active);
}

#[test]
fn a_reset_distributor_is_as_new() {
    let mut scene = scene();
    scene.fire(EDGE);
    scene.line(1, true);
    scene.interrupt(0);
    assert_eq!(scene.contents(0).len(), 2);
    scene.reset(1);
    for intid in [EDGE, LEVEL] {
        let fresh = hv_testbed::Wire {
            taken: scene.wire(intid).taken,
            ..hv_testbed::Wire::default()
        };
        assert_eq!(scene.wire(intid), fresh);
    }
    assert_eq!(scene.rung(), VcpuSet::EMPTY);
    for offset in [0x84, 0x104, 0x304, 0xc0c] {
        assert_eq!(scene.load(0, DISTRIBUTOR + offset, 4), Some(0));
    }
    let pending = scene.load(0, DISTRIBUTOR + SET_PENDING + 4, 4);
    assert_eq!(
        pending,
        Some(0),
        "the UART is as new, too, and its line is low"
    );
    assert_eq!(scene.load(0, CTLR, 4), Some(0x50));
}

#[test]
fn an_sgi_to_63_others_takes_no_lock_that_two_vcpus_share() {
    const VCPUS: u8 = 64;
    const SGI1R: (u8, u8) = (11, 5);
    const TO_ALL_OTHERS: u64 = 1 << 40 | 5 << 24;
    let mut machine = Built::new(VCPUS).start();
    machine.store(0, CTLR, 4, 0b10);
    for vcpu in 0..VCPUS {
        if vcpu != 0 {
            machine.turn_on(0, vcpu);
        }
        machine.store(vcpu, own(vcpu) + 0x80, 4, u64::MAX);
        machine.store(vcpu, own(vcpu) + ENABLE, 4, 0xffff);
    }
    machine.settle();
    // One lock at most: its own, when it comes for the first time.
    for most in [1, 0] {
        let before = machine.locks(0);
        machine.write_register(0, SGI1R, TO_ALL_OTHERS);
        assert_eq!(machine.locks(0), before, "by the sender");
        for vcpu in 1..VCPUS {
            let before = machine.locks(vcpu);
            machine.interrupt(vcpu);
            let taken = machine.locks(vcpu) - before;
            assert!(taken <= most, "{taken} by vCPU {vcpu}");
            let taken = machine.acknowledge(vcpu).map(|taken| taken.intid);
            assert_eq!(taken, Some(IntId(5)), "vCPU {vcpu}");
            machine.end(vcpu);
        }
    }
}
