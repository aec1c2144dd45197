//! Whom an affinity names and whom an SGI reaches.

use hv_core::id::{IntId, Mpidr, VcpuId, VcpuSet};
use hv_core::vgic::Affinities;
use proptest::prelude::*;

fn set(vcpus: &[u8]) -> VcpuSet {
    let mut set = VcpuSet::EMPTY;
    for &vcpu in vcpus {
        set.insert(VcpuId(vcpu));
    }
    set
}

/// As QEMU's `virt` numbers them with a GICv3: 16 to a cluster.
fn virt(count: u64) -> Affinities {
    let mpidrs: Vec<_> = (0..count)
        .map(|n| Mpidr::new(((n / 16) << 8) + n % 16))
        .collect();
    Affinities::new(&mpidrs)
}

#[test]
fn a_target_list_names_the_vcpus_of_one_cluster() {
    let virt = virt(20);
    let sgi = virt.sgi(VcpuId(0), 5 << 24 | 0b1010);
    assert_eq!(sgi.intid, IntId(5));
    assert_eq!(sgi.targets, set(&[1, 3]));
    assert_eq!(
        virt.sgi(VcpuId(0), 1 << 16 | 0xffff).targets,
        set(&[16, 17, 18, 19])
    );
}

#[test]
fn a_sender_can_name_itself() {
    assert_eq!(virt(4).sgi(VcpuId(2), 0b100).targets, set(&[2]));
}

#[test]
fn the_routing_mode_bit_means_everybody_else() {
    let sgi = virt(4).sgi(VcpuId(2), 1 << 40 | 7 << 24 | 0xffff);
    assert_eq!((sgi.intid, sgi.targets), (IntId(7), set(&[0, 1, 3])));
}

#[test]
fn every_one_of_128_vcpus_can_be_reached() {
    let virt = virt(128);
    let sgi = virt.sgi(VcpuId(127), 1 << 40);
    assert_eq!(sgi.targets.len(), 127);
    assert_eq!(virt.all().len(), 128);
}

#[test]
fn the_range_selector_reaches_high_aff0() {
    let affinities =
        Affinities::new(&[Mpidr::new(0), Mpidr::new(0x25), Mpidr::new(0x12_0003_0425)]);
    assert_eq!(
        affinities.sgi(VcpuId(0), 2 << 44 | 1 << 5).targets,
        set(&[1])
    );
    let value = 0x12u64 << 48 | 0x03 << 32 | 0x04 << 16 | 2 << 44 | 1 << 5;
    assert_eq!(affinities.sgi(VcpuId(0), value).targets, set(&[2]));
}

#[test]
fn an_affinity_nobody_has_reaches_nobody() {
    assert_eq!(
        virt(4).sgi(VcpuId(0), 9 << 16 | 0xffff).targets,
        VcpuSet::EMPTY
    );
    assert_eq!(virt(4).find(Mpidr::new(4)), None);
}

proptest! {
    #[test]
    fn every_vcpu_is_found_by_its_affinity(raws in proptest::collection::hash_set(0u64..0x40_0000, 1..128)) {
        let mpidrs: Vec<_> = raws.iter().map(|&raw| Mpidr::new((raw & 0x3f_0000) << 16 | raw & 0xffff)).collect();
        let affinities = Affinities::new(&mpidrs);
        for (n, &mpidr) in mpidrs.iter().enumerate() {
            let first = mpidrs.iter().position(|&other| other == mpidr);
            prop_assert_eq!(affinities.find(mpidr).map(VcpuId::index), first);
            prop_assert_eq!(affinities.mpidr(VcpuId(n as u8)), Some(mpidr));
        }
    }

    #[test]
    fn an_sgi_reaches_exactly_those_it_names(
        raws in proptest::collection::hash_set(0u64..0x4000, 1..128),
        value: u64,
        from in 0u8..128,
    ) {
        let mpidrs: Vec<_> = raws.iter().map(|&raw| Mpidr::new(raw)).collect();
        // Aff3, Aff2 and the high bits of Aff1 are mostly 0, or next to nothing would match.
        let value = value & !(0xff << 48 | 0xff << 32 | 0xc0 << 16);
        let sgi = Affinities::new(&mpidrs).sgi(VcpuId(from), value);
        for (n, mpidr) in mpidrs.iter().enumerate() {
            let vcpu = VcpuId(n as u8);
            let named = if value >> 40 & 1 != 0 {
                vcpu.0 != from
            } else {
                u64::from(mpidr.aff(1)) == value >> 16 & 0xff
                    && u64::from(mpidr.aff(0) >> 4) == value >> 44 & 0xf
                    && value >> (mpidr.aff(0) & 0xf) & 1 != 0
            };
            prop_assert_eq!(sgi.targets.contains(vcpu), named);
        }
    }
}
