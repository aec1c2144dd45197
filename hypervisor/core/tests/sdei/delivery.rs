//! When an event is taken and what the handler finds.

use hv_abi::sdei::Call;

use hv_core::time::Instant;

use crate::vcpu::*;

#[test]
fn c070_a_signal_to_oneself_is_taken_before_the_next_instruction() {
    let mut vcpu = Vcpu::ready();
    let pc = vcpu.regs.pc;
    assert_eq!(vcpu.smc(Call::EventSignal, &[0, 0]), OK);
    assert_eq!(vcpu.signalled, None, "nobody else is concerned");
    let interrupted = vcpu.enter().expect("due at once");
    assert_eq!(interrupted.pc, pc + 4);
    assert_eq!(interrupted.x[0], 0);
    vcpu.complete();
    assert_eq!((vcpu.regs.pc, vcpu.regs.x[0]), (pc + 4, 0));
}

#[test]
fn c071_the_handler_finds_event_argument_pc_pstate_and_the_rest_as_interrupted() {
    let mut vcpu = Vcpu::ready();
    vcpu.regs.x = core::array::from_fn(|n| 0xdead_0000_0000_0000 + n as u64);
    vcpu.regs.pstate = PSTATE;
    let before = vcpu.regs.clone();
    vcpu.signal().expect("ready");
    assert_eq!(vcpu.regs.x[..4], [0, ARGUMENT, before.pc, PSTATE]);
    assert_eq!(vcpu.regs.x[4..], before.x[4..]);
    assert_eq!(vcpu.regs.pc, ENTRY);
}

#[test]
fn record_of_a_dispatch_is_the_whole_interrupted_context() {
    let mut vcpu = Vcpu::ready();
    vcpu.regs.x = core::array::from_fn(|n| 0xdead_0000_0000_0000 + n as u64);
    let before = vcpu.regs.clone();
    let interrupted = vcpu.signal().expect("ready");
    assert_eq!(interrupted.event, 0);
    assert_eq!(interrupted.x, before.x);
    assert_eq!(
        (interrupted.pc, interrupted.pstate),
        (before.pc, before.pstate)
    );
    assert_eq!(interrupted.sp, vcpu.el1.sp);
}

#[test]
fn c073_c074_context_reads_what_was_interrupted() {
    let mut vcpu = Vcpu::ready();
    vcpu.regs.x = core::array::from_fn(|n| 0x7700 + n as u64);
    vcpu.signal().expect("ready");
    vcpu.regs.x = [0; 31];
    for n in 0..18 {
        assert_eq!(vcpu.smc(Call::EventContext, &[n]), 0x7700 + n as i64);
    }
    for n in [18, 0x100, 0xffff_ffff] {
        assert_eq!(vcpu.smc(Call::EventContext, &[n]), INVALID);
    }
    assert_eq!(vcpu.smc(Call::EventContext, &[1 << 32]), 0x7700);
}

#[test]
fn c075_context_outside_a_handler_is_denied_but_a_wrong_register_invalid() {
    let mut vcpu = Vcpu::ready();
    assert_eq!(vcpu.smc(Call::EventContext, &[0]), DENIED);
    assert_eq!(vcpu.smc(Call::EventContext, &[18]), INVALID);
}

#[test]
fn c076_the_handler_runs_at_el1h_masked_from_every_mode() {
    for pstate in [0x0, 0x10, 0x30, 0x4, 0x3c4, 0x5, 0x3c5] {
        let mut vcpu = Vcpu::ready();
        vcpu.regs.pstate = pstate;
        let interrupted = vcpu.signal().expect("ready");
        assert_eq!(interrupted.pstate, pstate);
        assert_eq!(vcpu.regs.pstate, 0x3c5, "from {pstate:#x}");
    }
}

#[test]
fn c084_entry_and_complete_leave_el1_alone() {
    let mut vcpu = Vcpu::ready();
    let el1 = vcpu.el1.clone();
    vcpu.signal().expect("ready");
    assert_eq!(vcpu.el1, el1);
    vcpu.complete();
    assert_eq!(vcpu.el1, el1);
}

#[test]
fn c095_enable_takes_what_is_pending() {
    let mut vcpu = Vcpu::new();
    vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 0, 0]);
    vcpu.smc(Call::PeUnmask, &[]);
    assert!(vcpu.signal().is_none());
    assert_eq!(vcpu.smc(Call::EventEnable, &[0]), OK);
    let interrupted = vcpu.enter().expect("pending");
    assert_eq!(interrupted.x[0], 0, "ENABLE has answered before");
    vcpu.complete();
    assert!(vcpu.enter().is_none(), "once");
}

#[test]
fn c096_c167_unmask_takes_what_is_pending() {
    let mut vcpu = Vcpu::ready();
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 1);
    assert!(vcpu.signal().is_none());
    assert_eq!(vcpu.status(0), 3);
    assert_eq!(vcpu.smc(Call::PeUnmask, &[]), OK);
    assert!(vcpu.enter().is_some());
}

#[test]
fn c097_c165_a_signal_before_there_is_a_handler_is_dropped() {
    let mut vcpu = Vcpu::new();
    assert_eq!(vcpu.smc(Call::EventSignal, &[0, 0]), OK);
    assert!(vcpu.enter().is_none());
    vcpu.make_ready(0);
    assert!(vcpu.enter().is_none());
}

#[test]
fn c098_c166_a_signal_to_a_disabled_event_waits_for_enable() {
    let mut vcpu = Vcpu::ready();
    vcpu.smc(Call::EventDisable, &[0]);
    assert!(vcpu.signal().is_none());
    vcpu.smc(Call::EventEnable, &[0]);
    assert!(vcpu.enter().is_some());
    vcpu.complete();
    assert!(vcpu.enter().is_none());
}

#[test]
fn c099_signals_merge_until_one_is_taken() {
    let mut vcpu = Vcpu::ready();
    let _ = vcpu.pe.post_signal(Instant(0));
    let _ = vcpu.pe.post_signal(Instant(0));
    assert!(vcpu.enter().is_some());
    vcpu.complete();
    assert!(vcpu.enter().is_none());
}

#[test]
fn c100_disable_between_trigger_and_unmask_keeps_the_trigger() {
    let mut vcpu = Vcpu::ready();
    vcpu.smc(Call::PeMask, &[]);
    let _ = vcpu.pe.post_signal(Instant(0));
    vcpu.smc(Call::EventDisable, &[0]);
    vcpu.smc(Call::PeUnmask, &[]);
    assert!(vcpu.enter().is_none());
    vcpu.smc(Call::EventEnable, &[0]);
    assert!(vcpu.enter().is_some());
}

#[test]
fn c122_c168_signals_to_a_running_handler_run_it_once_more() {
    let mut vcpu = Vcpu::ready();
    vcpu.signal().expect("ready");
    for _ in 0..3 {
        assert!(vcpu.signal().is_none());
    }
    vcpu.complete();
    let again = vcpu.enter().expect("pending");
    assert_eq!((again.pc, again.pstate), (PC + 12, PSTATE));
    vcpu.complete();
    assert!(vcpu.enter().is_none());
}

#[test]
fn c147_nothing_is_delivered_while_masked_and_each_once_after() {
    let mut vcpu = Vcpu::with_events();
    for event in [0, NORMAL, CRITICAL] {
        vcpu.make_ready(event);
    }
    vcpu.smc(Call::PeMask, &[]);
    for event in [0, NORMAL, CRITICAL, NORMAL] {
        assert!(vcpu.raise(event).is_none());
        assert_eq!(vcpu.status(event), 3);
    }
    vcpu.smc(Call::PeUnmask, &[]);
    for event in [CRITICAL, 0, NORMAL] {
        assert_eq!(vcpu.enter().expect("pending").event, event);
        vcpu.complete();
    }
    assert!(vcpu.enter().is_none());
}

#[test]
fn c170_signal_from_an_unregistered_handler_is_accepted() {
    let mut vcpu = Vcpu::ready();
    vcpu.signal().expect("ready");
    assert_eq!(vcpu.smc(Call::EventUnregister, &[0]), PENDING);
    assert_eq!(vcpu.smc(Call::EventSignal, &[0, 1]), OK);
    assert_eq!(vcpu.smc(Call::EventSignal, &[0, 0]), OK);
    vcpu.complete();
    vcpu.make_ready(0);
    assert!(vcpu.enter().is_none(), "there was no handler to signal");
}

#[test]
fn c200_c202_c204_a_vcpu_turned_off_in_its_handlers_starts_clean() {
    let mut vcpu = Vcpu::with_events();
    for event in [0, NORMAL, CRITICAL] {
        vcpu.make_ready(event);
    }
    vcpu.signal().expect("ready");
    vcpu.raise(CRITICAL).expect("preempts");
    vcpu.signal();
    vcpu.raise(NORMAL);
    vcpu.restart();
    assert!(vcpu.enter().is_none());
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 0);
    assert_eq!(vcpu.smc(Call::EventComplete, &[0]), DENIED);
    for event in [0, NORMAL, CRITICAL] {
        assert_eq!(vcpu.status(event), 0);
        vcpu.make_ready(event);
        assert!(vcpu.enter().is_none(), "no old trigger");
        assert!(vcpu.raise(event).is_some());
        vcpu.complete();
        assert!(vcpu.raise(event).is_some(), "twice");
        vcpu.complete();
    }
}

#[test]
fn c233_a_trigger_does_not_survive_unregister_and_reset() {
    for call in [Call::EventUnregister, Call::PrivateReset] {
        let mut vcpu = Vcpu::ready();
        vcpu.smc(Call::PeMask, &[]);
        let _ = vcpu.pe.post_signal(Instant(0));
        assert_eq!(vcpu.smc(call, &[0]), OK);
        vcpu.make_ready(0);
        assert!(vcpu.enter().is_none(), "{call:?}");
    }
}
