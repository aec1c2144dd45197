//! The register files, as any guest may use them.

use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::vgic::{Config, Frame, ListReg, Physical, Read, Vgic};
use proptest::prelude::*;

fn vgic(spis: u32, vcpus: u64) -> Vgic {
    let mpidrs: Vec<_> = (0..vcpus).map(|n| Mpidr::new(n | 0x12_0000_0000)).collect();
    Vgic::new(&Config {
        mpidrs: &mpidrs,
        last: VcpuSet::only(VcpuId(vcpus as u8 - 1)),
        spis,
        passed_through: &[IntId(27), IntId(40), IntId(1019)],
        priority_bits: 5,
        list_regs: 4,
        model: hv_core::vgic::Model::V3,
    })
}

fn load(vgic: &mut Vgic, frame: Frame, offset: u64, size: u8) -> u64 {
    match vgic.read(VcpuId(0), frame, offset, size) {
        Read::Value(value) => value,
        Read::Again { kick } => panic!("{offset:#x} waits for {kick:?}"),
    }
}

#[test]
fn the_distributor_tells_how_many_interrupts_there_are() {
    for (spis, lines) in [
        (0, 1),
        (1, 1),
        (32, 1),
        (33, 2),
        (256, 8),
        (988, 31),
        (5000, 31),
    ] {
        let typer = load(&mut vgic(spis, 1), Frame::Distributor, 0x4, 4);
        assert_eq!(typer & 0x1f, lines, "{spis} SPIs");
    }
}

#[test]
fn spi_1019_is_the_last() {
    let mut vgic = vgic(988, 1);
    let _ = vgic.write(Frame::Distributor, 0x100 + 31 * 4, 4, 0xffff_ffff);
    assert_eq!(
        load(&mut vgic, Frame::Distributor, 0x100 + 31 * 4, 4),
        0x0fff_ffff
    );
    let _ = vgic.write(Frame::Distributor, 0x6000 + 8 * 1019, 8, 7);
    assert_eq!(load(&mut vgic, Frame::Distributor, 0x6000 + 8 * 1019, 8), 7);
    let _ = vgic.write(Frame::Distributor, 0x6000 + 8 * 1020, 8, 7);
    assert_eq!(load(&mut vgic, Frame::Distributor, 0x6000 + 8 * 1020, 8), 0);
}

#[test]
fn a_redistributor_names_its_vcpu() {
    let mut vgic = vgic(32, 3);
    let frame = Frame::Redistributor(VcpuId(1));
    assert_eq!(load(&mut vgic, frame, 0x8, 8), 0x1200_0001_0000_0100);
    assert_eq!(load(&mut vgic, frame, 0xc, 4), 0x1200_0001);
    let last = Frame::Redistributor(VcpuId(2));
    assert_eq!(load(&mut vgic, last, 0x8, 4), 0x0000_0210);
}

#[test]
fn the_distributor_has_no_private_interrupts() {
    let mut vgic = vgic(32, 1);
    for offset in [0x80, 0x100, 0x200, 0x300, 0x400, 0xc00, 0xc04, 0x6000] {
        let _ = vgic.write(Frame::Distributor, offset, 4, 0xffff_ffff);
        assert_eq!(
            load(&mut vgic, Frame::Distributor, offset, 4),
            0,
            "{offset:#x}"
        );
        let own = Frame::Redistributor(VcpuId(0));
        if offset != 0xc00 {
            assert_eq!(load(&mut vgic, own, 0x1_0000 + offset, 4), 0, "{offset:#x}");
        }
    }
}

#[test]
fn sgis_are_edge_triggered_for_good() {
    let mut vgic = vgic(32, 1);
    let own = Frame::Redistributor(VcpuId(0));
    let _ = vgic.write(own, 0x1_0c00, 4, 0);
    assert_eq!(load(&mut vgic, own, 0x1_0c00, 4), 0xaaaa_aaaa);
    let _ = vgic.write(own, 0x1_0c04, 4, 0xffff_ffff);
    assert_eq!(load(&mut vgic, own, 0x1_0c04, 4), 0xaaaa_aaaa);
}

#[test]
fn a_route_can_be_written_by_halves_and_has_no_routing_mode() {
    let mut vgic = vgic(32, 2);
    let offset = 0x6000 + 8 * 40;
    let effects = vgic.write(Frame::Distributor, offset, 4, 0x8000_0001);
    assert_eq!(effects.phys, None, "0.0.0.1 is nobody here");
    let effects = vgic.write(Frame::Distributor, offset + 4, 4, 0x12);
    let spi = IntId(40);
    let to = VcpuId(1);
    assert_eq!(effects.phys, Some(Physical::Route { spi, to }));
    assert_eq!(
        load(&mut vgic, Frame::Distributor, offset, 8),
        0x12_0000_0001
    );
}

#[test]
fn sizes_the_architecture_does_not_have_do_nothing() {
    let mut vgic = vgic(32, 1);
    for (offset, size) in [
        (0x104, 1),
        (0x104, 8),
        (0x104, 2),
        (0x420, 2),
        (0x420, 8),
        (0x102, 4),
        (0x0, 8),
        (0x6140, 2),
    ] {
        let _ = vgic.write(Frame::Distributor, offset, size, u64::MAX);
        assert_eq!(
            load(&mut vgic, Frame::Distributor, offset, size),
            0,
            "{offset:#x} by {size}"
        );
    }
    for offset in [0x104, 0x420] {
        assert_eq!(load(&mut vgic, Frame::Distributor, offset, 4), 0);
    }
}

#[test]
fn a_sibling_can_write_a_redistributor() {
    let mut vgic = vgic(32, 2);
    let _ = vgic.write(Frame::Distributor, 0, 4, 0b11);
    let theirs = Frame::Redistributor(VcpuId(1));
    let _ = vgic.write(theirs, 0x1_0100, 4, 1 << 20);
    let effects = vgic.write(theirs, 0x1_0200, 4, 1 << 20);
    assert_eq!(effects.kick, VcpuSet::only(VcpuId(1)));
}

fn any_access() -> impl Strategy<Value = (bool, Option<u8>, u64, u8, u64)> {
    let offset = prop_oneof![
        4 => 0u64..0x1000,
        2 => 0x6000u64..0x8000,
        4 => 0x1_0000u64..0x1_1000,
        1 => 0xff00u64..0x1_0000,
        1 => any::<u64>(),
    ];
    let size = prop_oneof![8 => prop::sample::select(&[1u8, 2, 4, 8][..]), 1 => any::<u8>()];
    let value = prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        (0u32..64).prop_map(|n| 1 << n)
    ];
    (any::<bool>(), prop::option::of(0u8..5), offset, size, value)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Any access of any guest, with list registers that hold anything.
    #[test]
    fn no_access_panics(
        accesses in prop::collection::vec((any_access(), any::<u64>(), 0u8..5, 0u32..1100), 0..200),
        align: bool,
    ) {
        let mut vgic = vgic(988, 4);
        for ((store, vcpu, offset, size, value), raw, me, intid) in accesses {
            let me = VcpuId(me);
            let frame = vcpu.map_or(Frame::Distributor, |vcpu| Frame::Redistributor(VcpuId(vcpu)));
            let offset = if align { offset & !(u64::from(size.max(1)) - 1) } else { offset };
            if store {
                let effects = vgic.write(frame, offset, size, value);
                prop_assert!(effects.deactivate.iter().all(|it| it.0 < 1020));
                prop_assert!(effects.kick.0 < 1 << 4);
            } else if let Read::Value(value) = vgic.read(me, frame, offset, size) {
                prop_assert!(size >= 8 || value >> (8 * u32::from(size)) == 0, "{:#x}", value);
            }
            let mut lrs = [ListReg::decode_v3(raw); 4];
            let _ = vgic.populate(me, &mut lrs, raw as u32);
            let _ = vgic.forward(me, IntId(intid));
            let _ = vgic.set_line(IntId(intid), Some(me), raw & 1 != 0);
            let _ = vgic.deactivate(me, IntId(intid));
            let _ = vgic.reset_spis(intid);
        }
    }
}
