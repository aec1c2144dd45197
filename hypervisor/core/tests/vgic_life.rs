//! The life of an interrupt, one turn at a time.

use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::vgic::{
    Config, Effects, Entry, Frame, ListReg, LrSource, LrState, Physical, Read, Sgi, SpiMask, Vgic,
    hcr,
};

const V0: VcpuId = VcpuId(0);
const V1: VcpuId = VcpuId(1);
const TIMER: IntId = IntId(27);
/// Emulated, level sensitive.
const UART: IntId = IntId(33);
/// Passed through, edge triggered.
const EDGE: IntId = IntId(48);
/// Passed through, level sensitive.
const LEVEL: IntId = IntId(49);

/// Two vCPUs with everything enabled, in group 1, on vCPU 0.
fn vgic() -> Vgic {
    let mut vgic = Vgic::new(&Config {
        mpidrs: &[Mpidr::new(0), Mpidr::new(1)],
        last: VcpuSet::only(V1),
        spis: 64,
        passed_through: &[TIMER, EDGE, LEVEL],
        priority_bits: 5,
        list_regs: 4,
    });
    let mut set = |frame, offset, value| drop(vgic.write(frame, offset, 4, value));
    set(Frame::Distributor, 0x84, 0xffff_ffff);
    set(Frame::Distributor, 0xc0c, 0b10);
    set(Frame::Distributor, 0x104, 0xffff_ffff);
    for vcpu in [V0, V1] {
        set(Frame::Redistributor(vcpu), 0x1_0080, 0xffff_ffff);
        set(Frame::Redistributor(vcpu), 0x1_0100, 0xffff_ffff);
    }
    set(Frame::Distributor, 0, 0b10);
    vgic
}

/// The list registers of one vCPU.
struct Hardware([ListReg; 4]);

impl Hardware {
    fn new() -> Self {
        Self([ListReg::EMPTY; 4])
    }

    fn populate(&mut self, vgic: &mut Vgic, vcpu: VcpuId) -> (Entry, Effects) {
        vgic.populate(vcpu, &mut self.0, 0)
    }

    /// What lies in them: INTID, state, source.
    fn contents(&self) -> Vec<(IntId, LrState, LrSource)> {
        let used = self.0.iter().filter(|lr| lr.state != LrState::Invalid);
        used.map(|lr| (IntId(lr.vintid), lr.state, lr.source))
            .collect()
    }

    fn set(&mut self, intid: IntId, state: LrState) {
        let lr = self.0.iter_mut().find(|lr| lr.vintid == intid.0);
        lr.expect("in a list register").state = state;
    }
}

const SOFTWARE: LrSource = LrSource::Software { eoi: false };
const MAINTAINED: LrSource = LrSource::Software { eoi: true };

fn hardware(intid: IntId) -> LrSource {
    LrSource::Hardware { pintid: intid.0 }
}

fn deactivated(effects: &Effects) -> Vec<IntId> {
    effects.deactivate.iter().collect()
}

fn write_bit(vgic: &mut Vgic, bank: u64, intid: IntId) -> Effects {
    let (frame, base) = if intid.is_private() {
        (Frame::Redistributor(V0), 0x1_0000)
    } else {
        (Frame::Distributor, 0)
    };
    let offset = base + bank + u64::from(intid.0 / 32) * 4;
    vgic.write(frame, offset, 4, 1 << (intid.0 % 32))
}

const ENABLE: u64 = 0x100;
const DISABLE: u64 = 0x180;
const SET_PENDING: u64 = 0x200;
const CLEAR_PENDING: u64 = 0x280;
const CLEAR_ACTIVE: u64 = 0x380;

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

#[test]
fn a_vcpu_that_goes_off_leaves_nothing_behind() {
    let (mut vgic, mut lrs) = (vgic(), Hardware::new());
    let _ = vgic.forward(V0, TIMER);
    let _ = vgic.forward(V0, EDGE);
    let _ = vgic.forward(V0, LEVEL);
    vgic.take_sgis(V0, 1 << 2);
    let _ = lrs.populate(&mut vgic, V0);
    lrs.set(LEVEL, LrState::Active);
    let effects = vgic.reset_vcpu(V0, &mut lrs.0);
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
        let _ = vgic.reset_vcpu(vcpu, &mut lrs.0);
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
