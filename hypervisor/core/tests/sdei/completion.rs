//! How a handler ends.

use hv_abi::sdei::Call;

use crate::vcpu::*;

/// Where Linux resumes to have an interrupt of EL1 handled.
const RESUME: u64 = VBAR + 0x280;

#[test]
fn c110_c111_without_a_handler_completing_is_denied_whatever_the_arguments() {
    let mut vcpu = Vcpu::ready();
    for argument in [0, 1, 77, RESUME, RESUME + 1, u64::MAX] {
        assert_eq!(vcpu.smc(Call::EventComplete, &[argument]), DENIED);
        assert_eq!(vcpu.smc(Call::EventCompleteAndResume, &[argument]), DENIED);
    }
}

#[test]
fn c112_c123_complete_takes_any_status_and_ignores_the_registers() {
    let mut vcpu = Vcpu::ready();
    let before = vcpu.regs.clone();
    vcpu.signal().expect("ready");
    vcpu.regs.x[..18].fill(u64::MAX);
    vcpu.leave(Call::EventComplete, &[77]);
    assert_eq!(vcpu.regs, before);
    assert_eq!(vcpu.status(0), 3);
}

#[test]
fn c080_c081_c086_complete_restores_every_bit_of_pstate() {
    // AArch32 Thumb in an IT block; EL1t; stepping, IL, BTYPE, and bits that nobody has assigned.
    for pstate in [0x0600_fc30, 0x3c4, 0x0030_0c05, !0] {
        let mut vcpu = Vcpu::ready();
        vcpu.regs.pstate = pstate;
        vcpu.signal().expect("ready");
        vcpu.regs.pstate = 0x3c5;
        vcpu.complete();
        assert_eq!(vcpu.regs.pstate, pstate);
    }
}

#[test]
fn c118_registers_from_x18_on_stay_as_the_handler_left_them() {
    for (call, argument) in [
        (Call::EventComplete, 0),
        (Call::EventCompleteAndResume, RESUME),
    ] {
        let mut vcpu = Vcpu::ready();
        let before = vcpu.regs.clone();
        vcpu.signal().expect("ready");
        vcpu.regs.x.fill(0x1234);
        vcpu.leave(call, &[argument]);
        assert_eq!(vcpu.regs.x[..18], before.x[..18]);
        assert_eq!(vcpu.regs.x[18..], [0x1234; 13]);
    }
}

#[test]
fn c113_resuming_at_what_cannot_be_code_is_invalid_and_the_handler_runs_on() {
    let mut vcpu = Vcpu::ready();
    let before = vcpu.regs.clone();
    vcpu.signal().expect("ready");
    for address in [0, RESUME + 1, RESUME + 2, 0x8000_0000_0000_0000] {
        let answer = vcpu.smc(Call::EventCompleteAndResume, &[address]);
        assert_eq!(answer, INVALID, "{address:#x}");
    }
    assert_eq!(vcpu.status(0), 7);
    vcpu.complete();
    assert_eq!(vcpu.regs, before);
}

#[test]
fn c114_c115_resume_looks_like_an_exception_taken_by_the_interrupted_context() {
    // EL1 with interrupts on, EL0, AArch32 EL0.
    for pstate in [0x6000_0005, 0x8000_0000, 0x2000_0030] {
        let mut vcpu = Vcpu::ready();
        vcpu.regs.pstate = pstate;
        let before = vcpu.regs.clone();
        vcpu.signal().expect("ready");
        vcpu.regs.x[..18].fill(9);
        vcpu.leave(Call::EventCompleteAndResume, &[RESUME]);
        assert_eq!(vcpu.regs.x, before.x);
        assert_eq!(vcpu.regs.pc, RESUME);
        assert_eq!(vcpu.regs.pstate, 0x3c5 | pstate & 0xf000_0000);
        assert_eq!((vcpu.el1.elr, vcpu.el1.spsr), (before.pc, pstate));
        assert_eq!((vcpu.el1.esr, vcpu.el1.far), (0xe3, 0xe4));
        assert_eq!(vcpu.status(0), 3);
    }
}

#[test]
fn c117_after_a_resume_the_event_fires_again() {
    let mut vcpu = Vcpu::ready();
    vcpu.signal().expect("ready");
    vcpu.leave(Call::EventCompleteAndResume, &[RESUME]);
    let interrupted = vcpu.signal().expect("completed");
    assert_eq!(interrupted.pc, RESUME);
}

#[test]
fn c119_a_handler_that_disabled_its_event_completes_to_registered() {
    let mut vcpu = Vcpu::ready();
    vcpu.signal().expect("ready");
    assert_eq!(vcpu.smc(Call::EventDisable, &[0]), OK);
    assert_eq!(vcpu.status(0), 5);
    vcpu.complete();
    assert_eq!(vcpu.status(0), 1);
}

#[test]
fn c120_unregister_while_running_takes_effect_at_complete() {
    let mut vcpu = Vcpu::ready();
    let x5 = vcpu.regs.x[5] as i64;
    vcpu.signal().expect("ready");
    assert_eq!(vcpu.smc(Call::EventUnregister, &[0]), PENDING);
    assert_eq!(vcpu.status(0), 4);
    assert_eq!(vcpu.smc(Call::EventContext, &[5]), x5);
    assert_eq!(vcpu.smc(Call::EventEnable, &[0]), DENIED);
    assert_eq!(vcpu.smc(Call::EventDisable, &[0]), DENIED);
    assert_eq!(vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 0, 0]), DENIED);
    assert_eq!(vcpu.smc(Call::EventUnregister, &[0]), PENDING);
    vcpu.complete();
    assert_eq!(vcpu.status(0), 0);
    assert_eq!(vcpu.smc(Call::EventRegister, &[0, ENTRY, 0, 0, 0]), OK);
}

#[test]
fn c121_complete_twice_is_denied() {
    let mut vcpu = Vcpu::ready();
    vcpu.signal().expect("ready");
    vcpu.complete();
    assert_eq!(vcpu.smc(Call::EventComplete, &[0]), DENIED);
}

#[test]
fn c188_a_handler_that_masks_and_never_completes_is_left_in_peace() {
    let mut vcpu = Vcpu::ready();
    vcpu.signal().expect("ready");
    assert_eq!(vcpu.smc(Call::PeMask, &[]), 1);
    assert!(vcpu.signal().is_none());
    assert_eq!(vcpu.status(0), 7);
}

#[test]
fn c226_c227_private_reset_within_a_handler_is_denied_but_resets_the_rest() {
    let mut vcpu = Vcpu::with_events();
    for event in [0, NORMAL, CRITICAL] {
        vcpu.make_ready(event);
    }
    vcpu.signal().expect("ready");
    assert_eq!(vcpu.smc(Call::PrivateReset, &[]), DENIED);
    assert_eq!(vcpu.status(0), 4);
    assert_eq!(vcpu.status(NORMAL), 0);
    assert_eq!(vcpu.status(CRITICAL), 0);
    assert_eq!(vcpu.smc(Call::PrivateReset, &[]), DENIED);
    vcpu.complete();
    assert_eq!(vcpu.status(0), 0);
    assert_eq!(vcpu.smc(Call::PrivateReset, &[]), OK);
}

#[test]
fn c276_no_call_makes_a_pstate_of_its_arguments() {
    let mut vcpu = Vcpu::ready();
    vcpu.signal().expect("ready");
    // The handler claims to have been interrupted at EL2h.
    vcpu.regs.x.fill(0x3c9);
    vcpu.leave(Call::EventComplete, &[0x3c9, 0x3c9, 0x3c9, 0x3c9]);
    assert_eq!(vcpu.regs.pstate, PSTATE);
}
