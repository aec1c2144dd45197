//! The register files, as any guest may use them.

use hv_core::id::{IntId, Mpidr};
use hv_core::vgic::{LrSource, LrState};
use hv_testbed::{Built, DISTRIBUTOR, Machine, REDISTRIBUTORS};
use proptest::prelude::*;

const PASSED_THROUGH: [IntId; 3] = [IntId(27), IntId(40), IntId(1019)];

fn machine(spis: u32, vcpus: u8) -> Machine {
    let built = Built {
        mpidrs: (0..vcpus.into())
            .map(|n: u64| Mpidr::new(n | 0x12_0000_0000))
            .collect(),
        spis,
        passed_through: PASSED_THROUGH.to_vec(),
        ..Built::new(vcpus)
    };
    built.start()
}

/// Where the registers of vCPU `n`'s redistributor begin.
const fn redistributor(n: u8) -> u64 {
    REDISTRIBUTORS + 0x2_0000 * n as u64
}

fn load(machine: &mut Machine, ipa: u64, size: u8) -> u64 {
    let value = machine.load(0, ipa, size);
    value.unwrap_or_else(|| panic!("{ipa:#x} waits for a sibling"))
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
        let typer = load(&mut machine(spis, 1), DISTRIBUTOR + 0x4, 4);
        assert_eq!(typer & 0x1f, lines, "{spis} SPIs");
    }
}

#[test]
fn spi_1019_is_the_last() {
    let mut machine = machine(988, 1);
    machine.store(0, DISTRIBUTOR + 0x100 + 31 * 4, 4, 0xffff_ffff);
    let enabled = load(&mut machine, DISTRIBUTOR + 0x100 + 31 * 4, 4);
    assert_eq!(enabled, 0x0fff_ffff);
    for (intid, expected) in [(1019, 7), (1020, 0)] {
        let route = DISTRIBUTOR + 0x6000 + 8 * intid;
        machine.store(0, route, 8, 7);
        assert_eq!(load(&mut machine, route, 8), expected);
    }
}

#[test]
fn a_redistributor_names_its_vcpu() {
    let mut machine = machine(32, 3);
    let frame = redistributor(1);
    assert_eq!(load(&mut machine, frame + 0x8, 8), 0x1200_0001_0000_0100);
    assert_eq!(load(&mut machine, frame + 0xc, 4), 0x1200_0001);
    assert_eq!(load(&mut machine, redistributor(2) + 0x8, 4), 0x0000_0210);
}

#[test]
fn the_distributor_has_no_private_interrupts() {
    let mut machine = machine(32, 1);
    for offset in [0x80, 0x100, 0x200, 0x300, 0x400, 0xc00, 0xc04, 0x6000] {
        machine.store(0, DISTRIBUTOR + offset, 4, 0xffff_ffff);
        let value = load(&mut machine, DISTRIBUTOR + offset, 4);
        assert_eq!(value, 0, "{offset:#x}");
        if offset != 0xc00 {
            let own = load(&mut machine, redistributor(0) + 0x1_0000 + offset, 4);
            assert_eq!(own, 0, "{offset:#x}");
        }
    }
}

#[test]
fn sgis_are_edge_triggered_for_good() {
    let mut machine = machine(32, 1);
    let trigger = redistributor(0) + 0x1_0c00;
    machine.store(0, trigger, 4, 0);
    assert_eq!(load(&mut machine, trigger, 4), 0xaaaa_aaaa);
    machine.store(0, trigger + 4, 4, 0xffff_ffff);
    assert_eq!(load(&mut machine, trigger + 4, 4), 0xaaaa_aaaa);
}

#[test]
fn a_route_can_be_written_by_halves_and_has_no_routing_mode() {
    let mut machine = machine(32, 2);
    let route = DISTRIBUTOR + 0x6000 + 8 * 40;
    let target = |machine: &Machine| machine.physical().wire(IntId(40), 0).route;
    machine.store(0, route, 4, 0x8000_0001);
    assert_eq!(target(&machine), 0, "0.0.0.1 is nobody here");
    machine.store(0, route + 4, 4, 0x12);
    assert_eq!(target(&machine), 1);
    assert_eq!(load(&mut machine, route, 8), 0x12_0000_0001);
}

#[test]
fn sizes_the_architecture_does_not_have_do_nothing() {
    let mut machine = machine(32, 1);
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
        machine.store(0, DISTRIBUTOR + offset, size, u64::MAX);
        let value = load(&mut machine, DISTRIBUTOR + offset, size);
        assert_eq!(value, 0, "{offset:#x} by {size}");
    }
    for offset in [0x104, 0x420] {
        assert_eq!(load(&mut machine, DISTRIBUTOR + offset, 4), 0);
    }
}

#[test]
fn a_sibling_can_write_a_redistributor() {
    let mut machine = machine(32, 2);
    machine.turn_on(0, 1);
    machine.store(0, DISTRIBUTOR, 4, 0b11);
    let theirs = redistributor(1) + 0x1_0000;
    machine.store(0, theirs + 0x100, 4, 1 << 20);
    machine.settle();
    machine.store(0, theirs + 0x200, 4, 1 << 20);
    assert!(machine.rung().contains(hv_core::id::VcpuId(1)));
    machine.interrupt(1);
    assert_eq!(machine.interface(1).get(0).vintid, 20);
}

fn any_access() -> impl Strategy<Value = (bool, Option<u8>, u64, u8, u64)> {
    let offset = prop_oneof![
        4 => 0u64..0x1000,
        2 => 0x6000u64..0x8000,
        4 => 0x1_0000u64..0x1_1000,
        1 => 0xff00u64..0x1_0000,
        1 => any::<u64>(),
    ];
    let size = prop::sample::select(&[1u8, 2, 4, 8][..]);
    let value = prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        (0u32..64).prop_map(|n| 1 << n)
    ];
    (any::<bool>(), prop::option::of(0u8..5), offset, size, value)
}

/// The guest has made of what is in its list registers whatever it can, and has ended some that were in none.
fn stir(machine: &Machine, vcpu: u8, raw: u64) {
    let mut interface = machine.interface(vcpu);
    for index in 0..interface.list_regs() {
        let mut lr = interface.get(index);
        let bits = raw >> (2 * index) & 3;
        let is_hardware = matches!(lr.source, LrSource::Hardware { .. });
        if lr.state == LrState::Invalid || is_hardware && bits == 3 {
            continue;
        }
        lr.state = LrState::new(bits & 1 != 0, bits & 2 != 0);
        if let (LrSource::Hardware { pintid }, LrState::Invalid) = (lr.source, lr.state) {
            machine.physical().deactivate(IntId(pintid), vcpu);
        }
        let word = interface.spell(lr);
        interface.set(index, word);
    }
    let hcr = interface.hcr();
    interface.set_hcr(hcr & !(0x1f << 27) | (raw >> 32 & 0x1f) << 27);
}

proptest! {
    #![proptest_config(crate::props::config(300))]

    /// Any access of any guest, with list registers that hold what any guest can make of them.
    #[test]
    fn no_access_panics(
        accesses in prop::collection::vec((any_access(), any::<u64>(), 0u8..4, 0u32..1100), 0..200),
        align: bool,
    ) {
        let mut machine = machine(988, 4);
        for n in 1..4 {
            machine.turn_on(0, n);
        }
        for ((store, vcpu, offset, size, value), raw, me, intid) in accesses {
            let base = vcpu.map_or(DISTRIBUTOR, redistributor);
            let offset = if align { offset & !(u64::from(size) - 1) } else { offset };
            // What is beyond 48 bits no guest can name.
            let ipa = base.wrapping_add(offset) & 0xffff_ffff_ffff;
            if store {
                machine.store(me, ipa, size, value);
            } else if let Some(value) = machine.load(me, ipa, size) {
                let is_abort = machine.regs(me).pc & 0x7ff == 0x200;
                prop_assert!(is_abort || size >= 8 || value >> (8 * u32::from(size)) == 0, "{:#x}", value);
            }
            stir(&machine, me, raw);
            let fires = PASSED_THROUGH[(raw % 3) as usize];
            machine.physical().wire_mut(fires, me).level = raw & 8 != 0;
            machine.physical().wire_mut(fires, me).pending |= raw & 16 != 0;
            machine.store(me, hv_testbed::UART + 0x38, 4, raw & 32);
            machine.write_register(me, (11, 1), intid.into());
            if intid % 50 == 0 {
                machine.turn_off(me);
                machine.turn_on((me + 1) % 4, me);
            }
            if intid % 100 == 1 {
                machine.reset(me);
                for n in 1..4 {
                    machine.turn_on(0, n);
                }
            }
            // No more than once: what such a guest does to its list registers may have maintenance asked for without end.
            if machine.is_interrupted(me) {
                machine.exit(me, hv_testbed::Exit::Interrupt);
            }
        }
    }
}
