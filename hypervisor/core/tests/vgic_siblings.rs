//! What one vCPU does to an interrupt that another has, and what resets leave.

#[path = "support/turns.rs"]
mod turns;

use hv_core::id::{IntId, VcpuSet};
use hv_core::vgic::{Frame, Leftovers, LrSource, LrState, Physical, Read, Sgi, SpiMask, Vgic};
use turns::*;

/// GICD_ISPENDR.
const SET_PENDING: u64 = 0x200;
/// GICD_ICPENDR.
const CLEAR_PENDING: u64 = 0x280;
/// GICD_ICACTIVER.
const CLEAR_ACTIVE: u64 = 0x380;

#[test]
fn a_group_0_sgi_register_reaches_group_0_only() {
    let mut vgic = vgic();
    let sgi = Sgi {
        intid: IntId(2),
        targets: VcpuSet::only(V1),
    };
    assert!(vgic.send_sgi_group0(sgi).is_empty());
    let _ = vgic.write(Frame::Redistributor(V1), 0x1_0080, 4, !(1 << 2));
    let _ = vgic.write(Frame::Distributor, 0, 4, 0b11);
    assert_eq!(vgic.send_sgi_group0(sgi).kick, VcpuSet::only(V1));
    let mut lrs = Hardware::new();
    let _ = lrs.populate(&mut vgic, V1);
    assert!(!lrs.0[0].group1);
}

#[test]
fn a_sibling_clears_what_is_active_elsewhere_at_the_next_fold() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    lrs.set(EDGE, LrState::Active);
    let effects = write_bit(&mut vgic, CLEAR_ACTIVE, EDGE);
    assert_eq!(
        (deactivated(&effects), effects.kick),
        (vec![], VcpuSet::only(V0))
    );
    let (_, effects) = lrs.populate(&mut vgic, V0);
    assert_eq!(deactivated(&effects), [EDGE]);
    assert_eq!(lrs.contents(), []);
}

#[test]
fn a_sibling_clears_what_is_pending_elsewhere_at_the_next_fold() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(
        write_bit(&mut vgic, CLEAR_PENDING, EDGE).kick,
        VcpuSet::only(V0)
    );
    let (_, effects) = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
    assert_eq!(deactivated(&effects), [EDGE]);
}

#[test]
fn rwp_reads_1_until_a_disabled_interrupt_is_out_of_its_list_register() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let rwp = |vgic: &mut Vgic| match vgic.read(V1, Frame::Distributor, 0, 4) {
        Read::Value(ctlr) => ctlr >> 31,
        Read::Again { .. } => panic!("GICD_CTLR is always at hand"),
    };
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    let effects = write_bit(&mut vgic, DISABLE, EDGE);
    assert_eq!(effects.kick, VcpuSet::only(V0));
    assert_eq!(rwp(&mut vgic), 1);
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
    assert_eq!(rwp(&mut vgic), 0);
}

/// Linux's `synchronize_hardirq` on another CPU.
#[test]
fn a_poll_of_the_active_state_follows_the_hardware() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    for (state, expected) in [
        (LrState::Pending, 0),
        (LrState::Active, 1 << 16),
        (LrState::Invalid, 0),
    ] {
        lrs.set(EDGE, state);
        let load = |vgic: &mut Vgic| vgic.read(V1, Frame::Distributor, 0x304, 4);
        let kick = VcpuSet::only(V0);
        assert_eq!(load(&mut vgic), Read::Again { kick });
        assert_eq!(load(&mut vgic), Read::Again { kick }, "still not folded");
        let _ = lrs.populate(&mut vgic, V0);
        assert_eq!(load(&mut vgic), Read::Value(expected));
    }
    assert_eq!(
        vgic.read(V1, Frame::Distributor, 0x304, 4),
        Read::Value(0),
        "in no list register, so there is nobody to ask"
    );
}

#[test]
fn an_answer_does_not_outlive_what_the_reader_does_in_between() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    let mut others = Hardware::new();
    let load = |vgic: &mut Vgic| vgic.read(V1, Frame::Distributor, 0x304, 4);
    let kick = VcpuSet::only(V0);
    assert_eq!(load(&mut vgic), Read::Again { kick });
    let _ = others.populate(&mut vgic, V1);
    let _ = lrs.populate(&mut vgic, V0);
    let _ = others.populate(&mut vgic, V1);
    lrs.set(EDGE, LrState::Active);
    assert_eq!(load(&mut vgic), Read::Again { kick });
}

#[test]
fn a_pending_spi_follows_its_route() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    let offset = 0x6000 + 8 * u64::from(EDGE.0);
    let effects = vgic.write(Frame::Distributor, offset, 8, 1);
    let route = Physical::Route { spi: EDGE, to: V1 };
    assert_eq!(effects.phys, Some(route));
    assert_eq!(effects.kick, VcpuSet::only(V0), "who has it");
    let (_, effects) = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), []);
    assert_eq!(effects.kick, VcpuSet::only(V1), "who gets it");
    let mut others = Hardware::new();
    let _ = others.populate(&mut vgic, V1);
    assert_eq!(
        others.contents(),
        [(EDGE, LrState::Pending, hardware(EDGE))]
    );
}

#[test]
fn an_active_spi_ends_where_it_was_taken() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    lrs.set(EDGE, LrState::Active);
    let offset = 0x6000 + 8 * u64::from(EDGE.0);
    let _ = vgic.write(Frame::Distributor, offset, 8, 1);
    let (_, effects) = lrs.populate(&mut vgic, V0);
    assert!(effects.kick.is_empty());
    assert_eq!(lrs.contents(), [(EDGE, LrState::Active, hardware(EDGE))]);
}

#[test]
fn an_edge_that_waits_for_another_vcpu_is_handed_over_at_the_end() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    lrs.set(EDGE, LrState::Active);
    let offset = 0x6000 + 8 * u64::from(EDGE.0);
    let _ = vgic.write(Frame::Distributor, offset, 8, 1);
    let _ = write_bit(&mut vgic, SET_PENDING, EDGE);
    let _ = lrs.populate(&mut vgic, V0);
    let maintained = LrSource::Software { eoi: true };
    assert_eq!(lrs.contents(), [(EDGE, LrState::Active, maintained)]);
    lrs.set(EDGE, LrState::Invalid);
    let (_, effects) = lrs.populate(&mut vgic, V0);
    assert_eq!(effects.kick, VcpuSet::only(V1));
    let mut others = Hardware::new();
    let _ = others.populate(&mut vgic, V1);
    assert_eq!(
        others.contents(),
        [(EDGE, LrState::Pending, hardware(EDGE))]
    );
}

#[test]
fn a_vcpu_that_goes_off_leaves_nothing_behind() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, TIMER);
    let _ = vgic.forward(V0, EDGE);
    let _ = vgic.forward(V0, LEVEL);
    vgic.take_sgis(V0, 1 << 2);
    let _ = lrs.populate(&mut vgic, V0);
    lrs.set(LEVEL, LrState::Active);
    let effects = vgic.reset_vcpu(V0, &mut lrs.0, Leftovers::Dropped);
    assert_eq!(deactivated(&effects), [TIMER]);
    assert_eq!(lrs.contents(), []);
    let own = Frame::Redistributor(V0);
    for (offset, expected) in [(0x1_0100, 0), (0x1_0200, 0), (0x1_0300, 0), (0x14, 0b110)] {
        assert_eq!(vgic.read(V1, own, offset, 4), Read::Value(expected));
    }
    // The SPIs are what they were: one pending, and it can go elsewhere; one active.
    assert_eq!(
        vgic.read(V1, Frame::Distributor, 0x204, 4),
        Read::Value(1 << 16)
    );
    assert_eq!(
        vgic.read(V1, Frame::Distributor, 0x304, 4),
        Read::Value(1 << 17)
    );
    let offset = 0x6000 + 8 * u64::from(EDGE.0);
    let effects = vgic.write(Frame::Distributor, offset, 8, 1);
    assert_eq!(effects.kick, VcpuSet::only(V1));
    let _ = lrs.populate(&mut vgic, V0);
    assert_eq!(lrs.contents(), [], "nobody is left to end it");
    let effects = write_bit(&mut vgic, CLEAR_ACTIVE, LEVEL);
    assert_eq!(deactivated(&effects), [LEVEL]);
}

#[test]
fn a_reset_distributor_is_as_new() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, EDGE);
    let _ = vgic.set_line(UART, None, true);
    let _ = lrs.populate(&mut vgic, V0);
    for vcpu in [V0, V1] {
        let _ = vgic.reset_vcpu(vcpu, &mut lrs.0, Leftovers::Dropped);
    }
    for block in vgic.spi_blocks() {
        let effects = vgic.reset_spis(block);
        let mask = SpiMask {
            block,
            bits: 0b11 << 16,
        };
        let expected = (block == 1).then_some(Physical::Reset(mask));
        assert_eq!(effects.phys, expected);
        assert!(effects.kick.is_empty());
    }
    for offset in [0x84, 0x104, 0x304, 0xc0c] {
        assert_eq!(vgic.read(V0, Frame::Distributor, offset, 4), Read::Value(0));
    }
    let pending = vgic.read(V0, Frame::Distributor, 0x204, 4);
    assert_eq!(
        pending,
        Read::Value(1 << 1),
        "the UART's line is still high"
    );
    assert_eq!(vgic.read(V0, Frame::Distributor, 0, 4), Read::Value(0x50));
}
