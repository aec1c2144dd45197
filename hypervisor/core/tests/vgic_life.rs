//! The life of an interrupt, one turn at a time.

#[path = "support/turns.rs"]
mod turns;

use hv_core::id::{IntId, VcpuSet};
use hv_core::vgic::{Frame, LrSource, LrState, Physical, Read, SpiMask, hcr};
use turns::*;

const SOFTWARE: LrSource = LrSource::Software { eoi: false };
const MAINTAINED: LrSource = LrSource::Software { eoi: true };

// GICD_ISENABLER and its neighbours (IHI0069 12.9).
const ENABLE: u64 = 0x100;
const SET_PENDING: u64 = 0x200;
const CLEAR_PENDING: u64 = 0x280;

#[test]
fn a_vcpu_needs_to_populate_when_and_only_when_something_concerns_it() {
    let mut vgic = vgic();
    let mut lrs = Hardware::new();
    for vcpu in [V0, V1] {
        let _ = lrs.populate(&mut vgic, vcpu);
        assert!(!vgic.needs_populate(vcpu));
    }
    assert_eq!(vgic.forward(V1, TIMER).kick, VcpuSet::only(V1));
    assert!(vgic.needs_populate(V1) && !vgic.needs_populate(V0));
    assert_eq!(
        vgic.forward(V1, EDGE).kick,
        VcpuSet::only(V0),
        "routed there"
    );
    vgic.take_sgis(V0, 1 << 3);
    assert!(vgic.needs_populate(V0));
    let (entry, effects) = lrs.populate(&mut vgic, V0);
    assert!(effects.is_empty() && !vgic.needs_populate(V0));
    assert_eq!((entry.used, entry.hcr), (2, hcr::EN | hcr::TDIR));
}

#[test]
fn an_sgi_that_comes_again_while_active_is_pending_and_active() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    vgic.take_sgis(V0, 1 << 5);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(IntId(5), LrState::Pending, SOFTWARE)]);
    lrs.set(IntId(5), LrState::Active);
    vgic.take_sgis(V0, 1 << 5);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(
        lrs.contents(),
        [(IntId(5), LrState::PendingActive, SOFTWARE)]
    );
}

#[test]
fn an_sgi_that_comes_again_while_pending_is_one() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    vgic.take_sgis(V0, 1 << 5);
    let _ = lrs.populate(&mut vgic, V0);
    vgic.take_sgis(V0, 1 << 5);
    let _ = lrs.populate(&mut vgic, V0);
    lrs.set(IntId(5), LrState::Invalid);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
}

#[test]
fn a_guest_eoi_ends_a_passed_through_interrupt_without_us() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, TIMER);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(TIMER, LrState::Pending, hardware(TIMER))]);
    lrs.set(TIMER, LrState::Invalid);
    let (_, effects) = lrs.populate(&mut vgic, V0);
    assert_eq!(deactivated(&effects), []);
    assert_eq!(lrs.contents(), []);
}

#[test]
fn it_can_fire_again_before_anybody_folded() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    for intid in [TIMER, EDGE] {
        let _ = vgic.forward(V0, intid);
        let _ = lrs.populate(&mut vgic, V0);
        lrs.set(intid, LrState::Invalid);
        let _ = vgic.forward(V0, intid);
        let _ = lrs.populate(&mut vgic, V0);
        assert_eq!(lrs.contents(), [(intid, LrState::Pending, hardware(intid))]);
        lrs.set(intid, LrState::Invalid);
        let _ = lrs.populate(&mut vgic, V0);
    }
}

#[test]
fn made_pending_while_active_it_is_ended_by_maintenance() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    lrs.set(EDGE, LrState::Active);
    let _ = vgic.fold(V0, &lrs.0, 0);
    let _ = write_bit(&mut vgic, SET_PENDING, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(EDGE, LrState::PendingActive, MAINTAINED)]);
    lrs.set(EDGE, LrState::Invalid);
    let (_, effects) = lrs.populate(&mut vgic, V0);
    assert_eq!(deactivated(&effects), [EDGE]);
}

#[test]
fn a_physical_interrupt_nobody_wants_is_deactivated_at_once() {
    let mut vgic = vgic();
    assert_eq!(deactivated(&vgic.forward(V0, UART)), [UART]);
    assert_eq!(deactivated(&vgic.forward(V0, IntId(1019))), [IntId(1019)]);
}

#[test]
fn a_line_still_high_at_the_end_is_delivered_again() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.set_line(UART, None, true);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(UART, LrState::Pending, MAINTAINED)]);
    lrs.set(UART, LrState::Active);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(UART, LrState::Active, MAINTAINED)]);
    lrs.set(UART, LrState::Invalid);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(UART, LrState::Pending, MAINTAINED)]);
}

#[test]
fn a_line_that_drops_in_the_handler_costs_no_maintenance() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.set_line(UART, None, true);
    let _ = lrs.populate(&mut vgic, V0);
    lrs.set(UART, LrState::Active);
    assert_eq!(vgic.set_line(UART, None, false).kick, VcpuSet::only(V0));
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(UART, LrState::Active, SOFTWARE)]);
}

#[test]
fn a_line_that_drops_before_the_acknowledge_takes_its_interrupt_along() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.set_line(UART, None, true);
    let _ = lrs.populate(&mut vgic, V0);
    let _ = vgic.set_line(UART, None, false);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
}

/// PPI 27 stays enabled on the machine whatever the guest does.
#[test]
fn a_timer_that_fires_while_disabled_is_sampled_again_when_enabled() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let effects = write_bit(&mut vgic, DISABLE, TIMER);
    assert_eq!(effects.phys, None, "a PPI is not mirrored");
    let effects = vgic.forward(V0, TIMER);
    assert!(effects.is_empty(), "held, so that it does not fire again");
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
    let effects = write_bit(&mut vgic, ENABLE, TIMER);
    assert_eq!(deactivated(&effects), [TIMER]);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [], "no stale interrupt");
    let _ = vgic.forward(V0, TIMER);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(TIMER, LrState::Pending, hardware(TIMER))]);
}

#[test]
fn a_level_disabled_while_in_a_list_register_is_sampled_again_when_enabled() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, LEVEL);
    let _ = lrs.populate(&mut vgic, V0);
    let _ = vgic.fold(V0, &lrs.0, 0);
    let mask = SpiMask {
        block: 1,
        bits: 1 << 17,
    };
    let effects = write_bit(&mut vgic, DISABLE, LEVEL);
    assert_eq!(effects.phys, Some(Physical::Disable(mask)));
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
    let effects = write_bit(&mut vgic, ENABLE, LEVEL);
    assert_eq!(effects.phys, Some(Physical::Enable(mask)));
    assert_eq!(deactivated(&effects), [LEVEL]);
}

#[test]
fn an_edge_disabled_while_pending_is_kept() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let effects = write_bit(&mut vgic, DISABLE, EDGE);
    assert_eq!(deactivated(&effects), []);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
    let effects = write_bit(&mut vgic, ENABLE, EDGE);
    assert_eq!(effects.kick, VcpuSet::only(V0));
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(EDGE, LrState::Pending, hardware(EDGE))]);
}

#[test]
fn a_level_that_becomes_an_edge_is_kept() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, LEVEL);
    let _ = vgic.write(Frame::Distributor, 0xc0c, 4, 0b1010);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(LEVEL, LrState::Pending, hardware(LEVEL))]);
}

#[test]
fn what_fires_while_its_group_is_off_comes_when_it_is_on() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.write(Frame::Distributor, 0, 4, 0);
    assert!(vgic.forward(V0, EDGE).is_empty());
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
    let effects = vgic.write(Frame::Distributor, 0, 4, 0b10);
    assert_eq!(effects.kick, VcpuSet::only(V0));
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [(EDGE, LrState::Pending, hardware(EDGE))]);
}

#[test]
fn clearing_a_pending_edge_lets_go_of_the_wire() {
    let mut vgic = vgic();
    let _ = vgic.forward(V0, EDGE);
    let effects = write_bit(&mut vgic, CLEAR_PENDING, EDGE);
    assert_eq!(deactivated(&effects), [EDGE]);
    let mask = SpiMask {
        block: 1,
        bits: 1 << 16,
    };
    assert_eq!(effects.phys, Some(Physical::ClearPending(mask)));
}

#[test]
fn the_most_urgent_get_the_list_registers_and_the_rest_follow() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    for n in 0..6u64 {
        let offset = 0x1_0400 + n;
        let _ = vgic.write(Frame::Redistributor(V0), offset, 1, 0x80 - 8 * n);
    }
    vgic.take_sgis(V0, 0b11_1111);
    let (entry, _) = lrs.populate(&mut vgic, V0);
    assert_eq!(entry.hcr, hcr::EN | hcr::TDIR | hcr::NPIE);
    let sgis = |lrs: &Hardware| lrs.contents().iter().map(|it| it.0.0).collect::<Vec<_>>();
    assert_eq!(sgis(&lrs), [5, 4, 3, 2]);
    for n in 2..6 {
        lrs.set(IntId(n), LrState::Invalid);
    }
    let (entry, _) = lrs.populate(&mut vgic, V0);
    assert_eq!(entry.hcr, hcr::EN | hcr::TDIR);
    assert_eq!(sgis(&lrs), [1, 0]);
}

/// A guest with EOImode 1 may have any number of active ones; a pending one must still get through.
#[test]
fn active_interrupts_never_fill_every_list_register() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    for n in 0..4 {
        vgic.take_sgis(V0, 1 << n);
        let _ = lrs.populate(&mut vgic, V0);
        lrs.set(IntId(n), LrState::Active);
    }
    vgic.take_sgis(V0, 1 << 9);
    let (entry, _) = lrs.populate(&mut vgic, V0);
    assert_eq!(entry.hcr, hcr::EN | hcr::TDIR | hcr::LRENPIE);
    assert_eq!(lrs.contents()[3], (IntId(9), LrState::Pending, SOFTWARE));
    // The guest deactivates the one that had to give way, by EOI (counted) or by ICC_DIR_EL1 (trapped).
    let mut other = vgic.clone();
    let _ = vgic.populate(V0, &mut lrs.0.clone(), 1);
    let _ = other.fold(V0, &lrs.0, 0);
    let _ = other.deactivate(V0, IntId(3));
    for vgic in [&mut vgic, &mut other] {
        let load = vgic.read(V0, Frame::Redistributor(V0), 0x1_0300, 4);
        assert_eq!(load, Read::Value(0b0111));
    }
}
