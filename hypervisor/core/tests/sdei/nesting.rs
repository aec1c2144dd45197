//! Normal and critical events over one another.

use hv_abi::sdei::Call;

use crate::vcpu::*;

fn ready() -> Vcpu {
    let mut vcpu = Vcpu::with_events();
    for event in [0, NORMAL, CRITICAL] {
        vcpu.make_ready(event);
    }
    vcpu
}

#[test]
fn c130_c186_a_normal_handler_is_not_interrupted_by_a_normal_event() {
    let mut vcpu = ready();
    vcpu.signal().expect("ready");
    assert!(vcpu.raise(NORMAL).is_none());
    vcpu.complete();
    assert_eq!(vcpu.enter().expect("pending").event, NORMAL);
}

#[test]
fn c131_c132_c133_a_critical_event_interrupts_a_normal_handler_and_ends_first() {
    let mut vcpu = ready();
    vcpu.regs.x = core::array::from_fn(|n| 0x100 + n as u64);
    let before = vcpu.regs.clone();
    vcpu.signal().expect("ready");
    vcpu.regs.x = core::array::from_fn(|n| 0x200 + n as u64);
    vcpu.regs.pc = ENTRY + 0x40;

    let interrupted = vcpu.raise(CRITICAL).expect("preempts");
    assert_eq!(interrupted.pc, ENTRY + 0x40);
    assert_eq!(vcpu.regs.x[2], ENTRY + 0x40);
    assert_eq!(vcpu.pe.running(), Some(CRITICAL));
    assert_eq!(vcpu.smc(Call::EventContext, &[17]), 0x211);

    vcpu.complete();
    assert_eq!(vcpu.pe.running(), Some(0));
    assert_eq!(vcpu.regs.pc, ENTRY + 0x40);
    assert_eq!(vcpu.smc(Call::EventContext, &[17]), 0x111);

    vcpu.complete();
    // The handlers left x18 and up as their own test pattern.
    assert_eq!(vcpu.regs.x[..18], before.x[..18]);
    assert_eq!((vcpu.regs.pc, vcpu.regs.pstate), (before.pc, before.pstate));
    assert_eq!(vcpu.pe.running(), None);
}

#[test]
fn c134_c187_nothing_interrupts_a_critical_handler() {
    let mut vcpu = ready();
    vcpu.raise(CRITICAL).expect("ready");
    for event in [0, NORMAL, CRITICAL] {
        assert!(vcpu.raise(event).is_none());
    }
    vcpu.complete();
    assert_eq!(vcpu.enter().expect("pending").event, CRITICAL);
}

#[test]
fn c135_at_unmask_the_critical_event_comes_first() {
    let mut vcpu = ready();
    vcpu.smc(Call::PeMask, &[]);
    vcpu.signal();
    vcpu.raise(CRITICAL);
    vcpu.smc(Call::PeUnmask, &[]);
    assert_eq!(vcpu.enter().expect("pending").event, CRITICAL);
    assert!(vcpu.enter().is_none());
    vcpu.complete();
    assert_eq!(vcpu.enter().expect("pending").event, 0);
}

#[test]
fn c136_the_mask_holds_back_critical_events_within_a_normal_handler() {
    let mut vcpu = ready();
    vcpu.signal().expect("ready");
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 1);
    assert!(vcpu.raise(CRITICAL).is_none());
    vcpu.smc(Call::PeUnmask, &[]);
    assert_eq!(vcpu.enter().expect("unmasked").event, CRITICAL);
}

#[test]
fn c138_a_critical_handler_that_resumes_leaves_the_normal_one_to_complete() {
    let mut vcpu = ready();
    let before = vcpu.regs.clone();
    vcpu.signal().expect("ready");
    vcpu.raise(CRITICAL).expect("preempts");
    vcpu.leave(Call::EventCompleteAndResume, &[ENTRY + 0x800]);
    assert_eq!(vcpu.regs.pc, ENTRY + 0x800);
    assert_eq!(vcpu.el1.elr, ENTRY);
    assert_eq!(vcpu.pe.running(), Some(0));
    vcpu.complete();
    assert_eq!(vcpu.regs, before);
    assert_eq!((vcpu.status(0), vcpu.status(CRITICAL)), (3, 3));
}

#[test]
fn c139_the_interrupted_handler_can_be_unregistered_from_the_critical_one() {
    let mut vcpu = ready();
    vcpu.signal().expect("ready");
    vcpu.raise(CRITICAL).expect("preempts");
    assert_eq!(vcpu.smc(Call::EventUnregister, &[0]), PENDING);
    vcpu.complete();
    assert_eq!(vcpu.status(0), 4);
    vcpu.complete();
    assert_eq!(vcpu.status(0), 0);
}

#[test]
fn c169_a_signal_to_oneself_from_a_critical_handler_waits_for_its_end() {
    let mut vcpu = ready();
    vcpu.raise(CRITICAL).expect("ready");
    assert_eq!(vcpu.smc(Call::EventSignal, &[0, 0]), OK);
    assert!(vcpu.enter().is_none());
    vcpu.complete();
    assert_eq!(vcpu.enter().expect("pending").event, 0);
}
