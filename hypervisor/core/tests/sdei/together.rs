//! Several vCPUs, and what they have in common: shared events and bound interrupts.

use hv_abi::firmware::Firmware;
use hv_abi::sdei::Call;
use hv_core::id::{IntId, VcpuId, VcpuSet};
use hv_core::psci::{self, Endian, Power, Reclaim};
use hv_core::sdei::{Config, Departure, Fate};
use hv_core::time::{Frequency, Instant};

use crate::room::Room;
use crate::vcpu::*;

fn firmware(names: &str) -> Firmware {
    Firmware::parse(names).expect("known names")
}

const S1: u64 = SHARED as u64;
const SC: u64 = SHARED_CRITICAL as u64;
const RM_PE: u64 = 1;

#[test]
fn c043_of_all_who_register_a_shared_event_one_succeeds() {
    let mut room = Room::new();
    let args = |n: u64| [S1, ENTRY, n, 0, 0];
    assert_eq!(room.smc(2, Call::EventRegister, &args(2)), OK);
    for n in [0, 1, 3] {
        assert_eq!(room.smc(n, Call::EventRegister, &args(n as u64)), DENIED);
    }
    assert_eq!(room.smc(1, Call::EventEnable, &[S1]), OK);
    room.smc(3, Call::PeUnmask, &[]);
    room.raise(S1);
    assert_eq!(room.enter(3), Some(SHARED));
    assert_eq!(
        room.pes[3].regs.x[1], 2,
        "the argument of who registered it"
    );
}

#[test]
fn c031_c032_routing_to_a_pe_wants_one_of_the_vm() {
    let mut room = Room::new();
    let register = |room: &mut Room, affinity: u64| {
        room.smc(0, Call::EventRegister, &[S1, ENTRY, 0, RM_PE, affinity])
    };
    for wrong in [2, 1 << 40 | 1, 1 << 25 | 1, u64::MAX] {
        assert_eq!(register(&mut room, wrong), INVALID, "{wrong:#x}");
        assert_eq!(room.status(S1), 0);
    }
    assert_eq!(register(&mut room, SIBLINGS[1] | 1 << 31), OK);
    assert_eq!(room.smc(0, Call::EventGetInfo, &[S1, 3]), 1);
    assert_eq!(room.smc(0, Call::EventGetInfo, &[S1, 4]), 1);
}

#[test]
fn a_shared_event_is_taken_by_exactly_one_of_those_who_may() {
    let mut room = Room::new();
    room.arm(0, S1, 0, 0);
    room.unmask_all();
    assert_eq!(room.raise(S1).map(VcpuSet::len), Some(4), "all must look");
    let taken: Vec<_> = (0..4).filter_map(|n| room.enter(n)).collect();
    assert_eq!(taken, [SHARED]);
    assert_eq!(room.status(S1), 7);
    // Raised again while it runs: once more afterwards, and by anybody.
    room.raise(S1);
    assert!((0..4).all(|n| room.enter(n).is_none()));
    room.complete(0);
    assert_eq!(room.enter(3), Some(SHARED));
}

#[test]
fn c064_routing_decides_where_a_pending_event_goes() {
    let mut room = Room::new();
    room.unmask_all();
    assert_eq!(room.smc(0, Call::EventRegister, &[S1, ENTRY, 0, 0, 0]), OK);
    room.raise(S1);
    let args = [S1, RM_PE, SIBLINGS[2]];
    assert_eq!(room.smc(0, Call::EventRoutingSet, &args), OK);
    assert_eq!(room.smc(0, Call::EventEnable, &[S1]), OK);
    assert_eq!(room.enter(0), None);
    assert_eq!(room.enter(1), None);
    assert_eq!(room.enter(2), Some(SHARED));
    room.complete(2);
    assert!((0..4).all(|n| room.enter(n).is_none()), "once");
}

#[test]
fn c210_an_event_routed_to_a_vcpu_that_is_off_waits_and_can_be_sent_elsewhere() {
    let mut room = Room::new();
    room.arm(0, S1, RM_PE, SIBLINGS[1]);
    room.smc(0, Call::PeUnmask, &[]);
    room.raise(S1);
    assert_eq!(room.enter(0), None);
    assert_eq!(room.enter(1), None, "it is masked, as one that is off");
    assert_eq!(room.smc(0, Call::EventDisable, &[S1]), OK);
    let args = [S1, RM_PE, SIBLINGS[0]];
    assert_eq!(room.smc(0, Call::EventRoutingSet, &args), OK);
    assert_eq!(room.smc(0, Call::EventEnable, &[S1]), OK);
    assert_eq!(room.enter(0), Some(SHARED));
}

#[test]
fn a_critical_shared_event_comes_before_a_normal_private_one_and_over_a_normal_handler() {
    let mut room = Room::new();
    room.arm(0, SC, 0, 0);
    room.arm(0, S1, 0, 0);
    room.on(0, |vcpu| vcpu.make_ready(0));
    room.on(0, |vcpu| vcpu.post(0));
    room.raise(SC);
    room.raise(S1);
    assert_eq!(room.enter(0), Some(SHARED_CRITICAL));
    room.complete(0);
    assert_eq!(room.enter(0), Some(0), "of equal priority its own first");
    room.raise(SC);
    assert_eq!(room.enter(0), Some(SHARED_CRITICAL), "over the normal one");
    room.complete(0);
    assert_eq!(room.enter(0), None);
    room.complete(0);
    assert_eq!(room.enter(0), Some(SHARED));
}

#[test]
fn c205_a_vcpu_that_goes_off_in_a_shared_event_leaves_it_to_others() {
    let mut room = Room::new();
    room.arm(0, S1, 0, 0);
    room.unmask_all();
    room.raise(S1);
    assert_eq!(room.enter(1), Some(SHARED));
    room.raise(S1);
    assert_eq!(room.on(1, Vcpu::turn_off), Departure::Off);
    assert_eq!(room.status(S1), 3);
    assert_eq!(room.enter(2), Some(SHARED), "what was raised meanwhile");
}

#[test]
fn c205_an_unregistered_event_is_gone_when_its_vcpu_goes_off() {
    let mut room = Room::new();
    room.arm(0, S1, 0, 0);
    room.unmask_all();
    room.raise(S1);
    room.enter(1);
    assert_eq!(room.smc(0, Call::EventUnregister, &[S1]), PENDING);
    assert_eq!(room.status(S1), 4);
    let _ = room.on(1, Vcpu::turn_off);
    assert_eq!(room.status(S1), 0);
}

#[test]
fn c209_a_shared_event_that_never_completes_denies_shared_reset_and_is_no_more_registered() {
    let mut room = Room::new();
    room.arm(0, S1, 0, 0);
    room.unmask_all();
    room.raise(S1);
    room.enter(1);
    assert_eq!(room.smc(0, Call::SharedReset, &[]), DENIED);
    assert_eq!(room.smc(0, Call::SharedReset, &[]), DENIED);
    assert_eq!(room.status(S1), 4);
    room.complete(1);
    assert_eq!(room.smc(0, Call::SharedReset, &[]), OK);
}

#[test]
fn c257_a_bound_ppi_is_each_vcpus_own_event() {
    let mut room = Room::new();
    let event = room.bind(TIMER);
    for n in 0..2 {
        room.arm(n, event, 0, 0);
        room.smc(n, Call::PeUnmask, &[]);
    }
    room.interrupt(1, TIMER);
    assert_eq!(room.enter(0), None);
    assert_eq!(room.enter(1), Some(event as u32));
    assert_eq!(room.smc(0, Call::EventStatus, &[event]), 3);
    assert_eq!(room.smc(1, Call::EventStatus, &[event]), 7);
    room.complete(1);
    assert_eq!(room.enter(1), None, "unless it interrupts again");
    room.interrupt(1, TIMER);
    assert_eq!(room.enter(1), Some(event as u32));
}

#[test]
fn a_bound_level_is_looked_at_again_when_its_event_is_enabled() {
    let mut room = Room::new();
    let event = room.bind(TIMER);
    room.smc(0, Call::PeUnmask, &[]);
    assert_eq!(
        room.smc(0, Call::EventRegister, &[event, ENTRY, 0, 0, 0]),
        OK
    );
    room.interrupt(0, TIMER);
    let ended = room.on(0, |vcpu| vcpu.ended.take());
    assert_eq!(ended, None, "nobody waits for it: it stays active");
    assert_eq!(room.smc(0, Call::EventEnable, &[event]), OK);
    let ended = room.on(0, |vcpu| vcpu.ended.take());
    assert_eq!(ended, Some(IntId(TIMER)), "the GIC samples the line");
    assert_eq!(room.enter(0), None);
}

#[test]
fn c258_an_emulated_line_that_stays_up_runs_its_event_again() {
    let mut room = Room::new();
    let event = room.bind(LINE);
    room.arm(0, event, 0, 0);
    room.unmask_all();
    room.set_line(LINE, true);
    assert_eq!(room.enter(2), Some(event as u32));
    room.complete(2);
    assert_eq!(room.enter(3), Some(event as u32), "it is still up");
    room.set_line(LINE, false);
    room.complete(3);
    assert!((0..4).all(|n| room.enter(n).is_none()));
}

#[test]
fn c258_an_emulated_line_that_falls_before_its_event_is_taken_runs_nothing() {
    let mut room = Room::new();
    let event = room.bind(LINE);
    room.arm(0, event, 0, 0);
    room.set_line(LINE, true);
    room.set_line(LINE, false);
    room.unmask_all();
    assert!((0..4).all(|n| room.enter(n).is_none()), "masked meanwhile");
    room.set_line(LINE, true);
    assert_eq!(room.smc(1, Call::EventDisable, &[event]), OK);
    room.set_line(LINE, false);
    assert_eq!(room.smc(1, Call::EventEnable, &[event]), OK);
    assert!(
        (0..4).all(|n| room.enter(n).is_none()),
        "disabled meanwhile"
    );
    room.set_line(LINE, true);
    assert_eq!(room.enter(1), Some(event as u32), "it is up");
    room.set_line(LINE, false);
    room.complete(1);
    assert!((0..4).all(|n| room.enter(n).is_none()));
}

#[test]
fn c254_c261_whoever_binds_an_interrupt_again_gets_the_same_event() {
    let mut room = Room::new();
    for intid in [TIMER, SPI] {
        let event = room.bind(intid);
        for n in 0..4 {
            assert_eq!(
                room.smc(n, Call::InterruptBind, &[intid.into()]),
                event as i64
            );
        }
    }
}

#[test]
fn c259_a_bound_event_that_is_registered_cannot_be_released() {
    let mut room = Room::new();
    for intid in [TIMER, SPI] {
        let event = room.bind(intid);
        room.arm(1, event, 0, 0);
        assert_eq!(room.smc(0, Call::InterruptRelease, &[event]), DENIED);
        assert_eq!(room.smc(1, Call::EventUnregister, &[event]), OK);
        assert_eq!(room.smc(0, Call::InterruptRelease, &[event]), OK);
        assert_eq!(room.smc(0, Call::EventStatus, &[event]), INVALID);
        assert_eq!(room.smc(0, Call::InterruptRelease, &[event]), INVALID);
    }
}

#[test]
fn a_vcpu_that_goes_off_lets_go_of_its_bound_events() {
    let mut room = Room::new();
    let event = room.bind(TIMER);
    room.arm(1, event, 0, 0);
    let _ = room.on(1, Vcpu::turn_off);
    assert_eq!(room.smc(0, Call::InterruptRelease, &[event]), OK);
}

#[test]
fn the_reset_of_a_vm_frees_all_that_was_bound() {
    let mut room = Room::new();
    let spi = room.bind(SPI);
    room.bind(TIMER);
    room.arm(0, spi, 0, 0);
    let World {
        shared_events,
        family,
        ..
    } = &mut room.world;
    let mut freed: Vec<_> = shared_events
        .reset(&family.board)
        .map(|intid| intid.0)
        .collect();
    freed.sort_unstable();
    assert_eq!(freed, [TIMER, SPI]);
    assert_eq!(room.status(spi), INVALID);
}

#[test]
fn a_vcpu_masked_in_its_only_handler_is_parked_and_can_be_reclaimed() {
    let mut room = Room::new();
    room.on(1, |vcpu| vcpu.make_ready(0));
    let power = || Power::new(VcpuId(1));
    let (other, itself) = (VcpuId(0), VcpuId(1));
    let on = psci::Call::CpuOn {
        target: SIBLINGS[1],
        entry: 0,
        context: 0,
    };
    let decide = |room: &Room, caller, reclaim| {
        power().with_reclaim(reclaim).call(
            caller,
            on,
            || Endian::Little,
            &room.world.family,
            |_| true,
            |vcpu| room.world.family.board.is_parked(vcpu),
        )
    };
    let already_on = psci::Decision::Answer(-4i64 as u64);
    assert_eq!(decide(&room, other, Reclaim::Parked), already_on, "it runs");
    room.on(1, |vcpu| vcpu.signal()).expect("ready");
    assert_eq!(
        decide(&room, other, Reclaim::Parked),
        already_on,
        "not masked"
    );
    assert_eq!(room.smc(1, Call::PeMask, &[]), 1);
    assert_eq!(decide(&room, other, Reclaim::Off), already_on);
    assert_eq!(
        decide(&room, itself, Reclaim::Parked),
        already_on,
        "it calls itself"
    );
    assert!(matches!(
        decide(&room, other, Reclaim::Parked),
        psci::Decision::Start(_)
    ));
    room.complete(1);
    assert_eq!(
        decide(&room, other, Reclaim::Parked),
        already_on,
        "completed"
    );
}

#[test]
fn a_vcpu_with_a_critical_handler_over_a_normal_one_is_not_parked() {
    let mut room = Room::new();
    for event in [0, CRITICAL] {
        room.on(1, |vcpu| vcpu.make_ready(event));
    }
    room.on(1, |vcpu| vcpu.signal()).expect("ready");
    room.on(1, |vcpu| vcpu.post(CRITICAL));
    assert_eq!(room.enter(1), Some(CRITICAL));
    assert_eq!(room.smc(1, Call::PeMask, &[]), 1);
    assert!(!room.world.family.board.is_parked(VcpuId(1)));
}

#[test]
fn a_delayed_signal_arrives_at_its_time_and_not_before() {
    let config = Config {
        firmware: firmware("signal-delayed=50"),
        rate: Frequency(1_000_000),
        ..Config::default()
    };
    let mut vcpu = Vcpu::with(&config);
    vcpu.make_ready(0);
    let at = Instant(150);
    assert_eq!(vcpu.pe.post_signal(Instant(100)), Some(at));
    assert_eq!(vcpu.pe.post_signal(Instant(120)), Some(at), "they merge");
    assert!(vcpu.enter().is_none());
    assert_eq!(vcpu.pe.tick(Instant(149)), Some(at));
    assert!(vcpu.enter().is_none());
    assert_eq!(vcpu.pe.tick(at), None);
    assert!(vcpu.enter().is_some());
    assert_eq!(vcpu.pe.tick(Instant(1000)), None);
}

#[test]
fn what_a_fault_did_lasts_until_the_vm_is_reset() {
    let mut vcpu = Vcpu::with(&Config {
        firmware: firmware("masked-signal-deafens"),
        ..Config::default()
    });
    let _ = vcpu.pe.post_signal(Instant(0));
    assert_eq!(vcpu.pe.fate(), Fate::Deaf);
    vcpu.make_ready(0);
    assert!(vcpu.signal().is_none());
    vcpu.restart();
    assert_eq!(vcpu.pe.fate(), Fate::Deaf);
    vcpu.pe.forget();
    vcpu.make_ready(0);
    assert!(vcpu.signal().is_some());
}
