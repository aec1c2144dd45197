//! Any sequence of calls, raises, interrupts and CPU_OFFs of several vCPUs: the machine and `company.rs` agree on
//! every answer, every status, and on who enters which handler.

use hv_abi::sdei::Call;
use hv_core::id::VcpuId;
use hv_core::sdei::Departure;
use proptest::prelude::*;

use crate::company::{BOUND_PPI, BOUND_SPI, COMMON, Company, PRIVATE};
use crate::room::Room;
use crate::vcpu::*;

#[derive(Clone, Debug)]
enum Step {
    Call(usize, Call, [u64; 5]),
    /// The platform raises an event, a private one on this vCPU.
    Raise(usize, u32),
    /// The PPI or the SPI fires at this vCPU.
    Interrupt(usize, bool),
    Off(usize),
}

/// Numbers of events, and one of none.
fn event() -> impl Strategy<Value = u64> {
    let numbers = PRIVATE.iter().chain(&COMMON).copied().map(u64::from);
    let numbers: Vec<u64> = numbers.chain([9]).collect();
    prop_oneof![3 => proptest::sample::select(numbers), 1 => Just(u64::from(SHARED))]
}

fn affinity() -> impl Strategy<Value = u64> {
    prop_oneof![8 => proptest::sample::select(SIBLINGS.to_vec()), 1 => Just(7)]
}

fn step() -> impl Strategy<Value = Step> {
    use Call::*;
    let on_event = proptest::sample::select(vec![
        EventEnable,
        EventEnable,
        EventDisable,
        EventUnregister,
        EventStatus,
        InterruptRelease,
    ]);
    let plain = proptest::sample::select(vec![
        PeMask,
        PeUnmask,
        PeUnmask,
        PeUnmask,
        EventComplete,
        EventComplete,
        EventComplete,
        EventComplete,
        PrivateReset,
        SharedReset,
    ]);
    let intids = vec![u64::from(TIMER), u64::from(SPI), 5, 29, 1020];
    let args = prop_oneof![
        4 => (event(), 0..4_u64, affinity()).prop_map(|(event, flags, affinity)| {
            (EventRegister, [event, ENTRY, ARGUMENT ^ event, flags, affinity])
        }),
        6 => (on_event, event()).prop_map(|(call, event)| (call, [event, 0, 0, 0, 0])),
        5 => plain.prop_map(|call| (call, [0; 5])),
        2 => (event(), 0..3_u64, affinity())
            .prop_map(|(event, mode, to)| (EventRoutingSet, [event, mode, to, 0, 0])),
        1 => (event(), 0..6_u64).prop_map(|(event, info)| (EventGetInfo, [event, info, 0, 0, 0])),
        2 => affinity().prop_map(|to| (EventSignal, [0, to, 0, 0, 0])),
        2 => proptest::sample::select(intids).prop_map(|intid| (InterruptBind, [intid, 0, 0, 0, 0])),
    ];
    let raised = [
        NORMAL,
        CRITICAL,
        SHARED,
        SHARED,
        SHARED_CRITICAL,
        SHARED_CRITICAL,
    ];
    let n = 0..SIBLINGS.len();
    prop_oneof![
        16 => (n.clone(), args).prop_map(|(n, (call, args))| Step::Call(n, call, args)),
        5 => (n.clone(), proptest::sample::select(raised.to_vec()))
            .prop_map(|(n, event)| Step::Raise(n, event)),
        3 => (n.clone(), any::<bool>()).prop_map(|(n, spi)| Step::Interrupt(n, spi)),
        1 => n.prop_map(Step::Off),
    ]
}

/// vCPU `n` goes back to its guest, as it does after whatever it was that made it leave.
fn enter_all(room: &mut Room, company: &mut Company, n: usize) {
    loop {
        let pc = room.pes[n].regs.pc;
        let taken = room.enter(n);
        assert_eq!(taken, company.next(n), "what vCPU {n} enters");
        let Some(event) = taken else { break };
        let argument = company.enter(n, event);
        let regs = &room.pes[n].regs;
        assert_eq!(regs.x[..3], [u64::from(event), argument, pc]);
    }
}

fn take(room: &mut Room, company: &mut Company, step: Step) {
    match step {
        Step::Call(n, call, args) => {
            let before = room.pes[n].regs.clone();
            room.on(n, |vcpu| vcpu.ended = None);
            match company.call(n, call, args) {
                Some(answer) => assert_eq!(room.smc(n, call, &args), answer, "{n}: {call:?}"),
                None => room.complete(n),
            }
            assert_eq!(room.pes[n].ended.is_some(), company.ended, "{n}: {call:?}");
            let regs = &room.pes[n].regs;
            assert_eq!(regs.x[18..], before.x[18..]);
            if let Some(VcpuId(target)) = room.pes[n].signalled.take() {
                company.trigger(target.into(), 0);
                room.on(target.into(), |vcpu| vcpu.post(0));
            }
            enter_all(room, company, n);
        }
        Step::Raise(n, event) => {
            company.trigger(n, event);
            if PRIVATE.contains(&event) {
                room.on(n, |vcpu| vcpu.post(event));
            } else {
                room.raise(event.into());
            }
        }
        Step::Interrupt(n, spi) => {
            let (event, intid) = if spi {
                (BOUND_SPI, SPI)
            } else {
                (BOUND_PPI, TIMER)
            };
            if company.interrupt(n, event) {
                room.interrupt(n, intid);
                enter_all(room, company, n);
            }
        }
        Step::Off(n) => {
            company.turn_off(n);
            assert_eq!(room.on(n, Vcpu::turn_off), Departure::Off);
        }
    }
}

fn expect_equal_statuses(room: &mut Room, company: &mut Company) {
    for n in 0..SIBLINGS.len() {
        let regs = room.pes[n].regs.clone();
        let all: &[u32] = if n == 0 { &COMMON } else { &[] };
        for &event in PRIVATE.iter().chain(all) {
            let status = company.call(n, Call::EventStatus, [event.into(), 0, 0, 0, 0]);
            let found = room.smc(n, Call::EventStatus, &[event.into()]);
            assert_eq!(Some(found), status, "event {event:#x} on vCPU {n}");
        }
        room.pes[n].regs = regs;
        let is_parked = room.world.family.board.is_parked(VcpuId(n as u8));
        assert_eq!(is_parked, company.is_parked(n), "what vCPU {n} shows");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn several_vcpus_and_their_model_agree_on_any_sequence(
        steps in prop::collection::vec((step(), 0..SIBLINGS.len()), 1..150),
    ) {
        let mut room = Room::new();
        let mut company = Company::new(&SIBLINGS);
        for (step, next) in steps {
            take(&mut room, &mut company, step);
            // Somebody, sooner or later, leaves the guest and looks.
            enter_all(&mut room, &mut company, next);
            expect_equal_statuses(&mut room, &mut company);
        }
        for n in 0..SIBLINGS.len() {
            enter_all(&mut room, &mut company, n);
        }
    }
}
