//! DEN0054 6.1.2, table 13, as literal rows against what a guest gets.

use hv_abi::sdei::Call;
use hv_core::sdei::handler::{Entry, Handler, Registration};

use crate::vcpu::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Register,
    Enable,
    Disable,
    Unregister,
    Context,
    Complete,
    CompleteAndResume,
    /// The event fires.
    Dispatch,
}

use Action::*;

/// A call that does not come back with an answer because it succeeds.
const GONE: i64 = 1;
/// Whether the event fires: entered or left pending.
const ENTERED: i64 = 2;
const WAITS: i64 = 3;

/// (EVENT_STATUS, action, answer, EVENT_STATUS afterwards)
#[rustfmt::skip]
const TABLE: [(i64, Action, i64, i64); 48] = [
    // unregistered
    (0, Register,          OK,      1),
    (0, Enable,            DENIED,  0),
    (0, Disable,           DENIED,  0),
    (0, Unregister,        DENIED,  0),
    (0, Context,           DENIED,  0),
    (0, Complete,          DENIED,  0),
    (0, CompleteAndResume, DENIED,  0),
    (0, Dispatch,          WAITS,   0),
    // registered
    (1, Register,          DENIED,  1),
    (1, Enable,            OK,      3),
    (1, Disable,           OK,      1),
    (1, Unregister,        OK,      0),
    (1, Context,           DENIED,  1),
    (1, Complete,          DENIED,  1),
    (1, CompleteAndResume, DENIED,  1),
    (1, Dispatch,          WAITS,   1),
    // enabled
    (3, Register,          DENIED,  3),
    (3, Enable,            OK,      3),
    (3, Disable,           OK,      1),
    (3, Unregister,        OK,      0),
    (3, Context,           DENIED,  3),
    (3, Complete,          DENIED,  3),
    (3, CompleteAndResume, DENIED,  3),
    (3, Dispatch,          ENTERED, 7),
    // enabled and running
    (7, Register,          DENIED,  7),
    (7, Enable,            OK,      7),
    (7, Disable,           OK,      5),
    (7, Unregister,        PENDING, 4),
    (7, Context,           OK,      7),
    (7, Complete,          GONE,    3),
    (7, CompleteAndResume, GONE,    3),
    (7, Dispatch,          WAITS,   7),
    // disabled and running
    (5, Register,          DENIED,  5),
    (5, Enable,            OK,      7),
    (5, Disable,           OK,      5),
    (5, Unregister,        PENDING, 4),
    (5, Context,           OK,      5),
    (5, Complete,          GONE,    1),
    (5, CompleteAndResume, GONE,    1),
    (5, Dispatch,          WAITS,   5),
    // unregister pending
    (4, Register,          DENIED,  4),
    (4, Enable,            DENIED,  4),
    (4, Disable,           DENIED,  4),
    (4, Unregister,        PENDING, 4),
    (4, Context,           OK,      4),
    (4, Complete,          GONE,    0),
    (4, CompleteAndResume, GONE,    0),
    (4, Dispatch,          WAITS,   4),
];

/// Event 0 in the state that EVENT_STATUS calls `status`, PE unmasked.
fn in_state(status: i64) -> Vcpu {
    let mut vcpu = Vcpu::new();
    vcpu.smc(Call::PeUnmask, &[]);
    if status != 0 {
        vcpu.smc(Call::EventRegister, &[0, ENTRY, ARGUMENT, 0, 0]);
    }
    if matches!(status, 3 | 7 | 5 | 4) {
        vcpu.smc(Call::EventEnable, &[0]);
    }
    if matches!(status, 7 | 5 | 4) {
        vcpu.signal().expect("an enabled event fires");
    }
    match status {
        5 => vcpu.smc(Call::EventDisable, &[0]),
        4 => vcpu.smc(Call::EventUnregister, &[0]),
        _ => OK,
    };
    assert_eq!(vcpu.status(0), status);
    vcpu
}

fn perform(vcpu: &mut Vcpu, action: Action) -> i64 {
    let entry = VBAR + 0x280;
    match action {
        Register => vcpu.smc(Call::EventRegister, &[0, ENTRY, ARGUMENT, 0, 0]),
        Enable => vcpu.smc(Call::EventEnable, &[0]),
        Disable => vcpu.smc(Call::EventDisable, &[0]),
        Unregister => vcpu.smc(Call::EventUnregister, &[0]),
        // x0 as interrupted: the answer of the last call before.
        Context => vcpu.smc(Call::EventContext, &[0]),
        Complete if vcpu.pe.running().is_none() => vcpu.smc(Call::EventComplete, &[0]),
        CompleteAndResume if vcpu.pe.running().is_none() => {
            vcpu.smc(Call::EventCompleteAndResume, &[entry])
        }
        Complete => {
            vcpu.leave(Call::EventComplete, &[0]);
            GONE
        }
        CompleteAndResume => {
            vcpu.leave(Call::EventCompleteAndResume, &[entry]);
            GONE
        }
        Dispatch if vcpu.signal().is_some() => ENTERED,
        Dispatch => WAITS,
    }
}

#[test]
fn every_action_in_every_state_answers_and_leads_where_the_table_says() {
    for (state, action, answer, next) in TABLE {
        let mut vcpu = in_state(state);
        assert_eq!(perform(&mut vcpu, action), answer, "{action:?} in {state}");
        assert_eq!(vcpu.status(0), next, "after {action:?} in {state}");
    }
}

#[test]
fn table_has_every_state_with_every_action_once() {
    let actions = [
        Register,
        Enable,
        Disable,
        Unregister,
        Context,
        Complete,
        CompleteAndResume,
        Dispatch,
    ];
    for state in [0, 1, 3, 7, 5, 4] {
        for action in actions {
            let rows = TABLE.iter().filter(|row| (row.0, row.1) == (state, action));
            assert_eq!(rows.count(), 1, "{action:?} in {state}");
        }
    }
}

#[test]
fn c042_calls_that_are_always_available_answer_alike_in_every_state() {
    for state in [0, 1, 3, 7, 5, 4] {
        let mut vcpu = in_state(state);
        assert_eq!(vcpu.smc(Call::Version, &[]) >> 48, 1);
        assert_eq!(vcpu.smc(Call::EventGetInfo, &[0, 2]), 0);
        assert_eq!(vcpu.smc(Call::Features, &[0]), 4 << 16 | 4);
        let bound = vcpu.smc(Call::InterruptBind, &[32]);
        assert_eq!(bound, 0x4000_0100);
        assert_eq!(vcpu.smc(Call::InterruptRelease, &[bound as u64]), OK);
        assert_eq!(vcpu.smc(Call::InterruptRelease, &[0]), INVALID);
        assert_eq!(vcpu.smc(Call::EventRoutingSet, &[0, 0, 0]), INVALID);
        assert_eq!(vcpu.smc(Call::EventSignal, &[0, 1]), OK);
        assert_eq!(vcpu.smc(Call::SharedReset, &[]), OK);
        assert_eq!(vcpu.smc(Call::PeMask, &[]), 1);
        assert_eq!(vcpu.smc(Call::PeUnmask, &[]), OK);
        assert_eq!(vcpu.status(0), state);
    }
}

#[test]
fn a_handler_starts_only_if_it_is_enabled_and_idle() {
    let registration = Registration {
        entry: Entry::Absolute(ENTRY),
        argument: ARGUMENT,
    };
    let mut handler = Handler::default();
    assert_eq!(handler.start(), None);
    assert_eq!(handler.register(registration), Ok(()));
    assert_eq!(handler.start(), None);
    assert_eq!(handler.enable(), Ok(()));
    assert_eq!(handler.start(), Some(registration));
    assert_eq!(handler.start(), None, "it runs already");
    handler.finish();
    assert_eq!(handler.start(), Some(registration));
}
