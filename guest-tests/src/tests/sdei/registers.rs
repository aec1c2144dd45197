//! A spinning CPU's registers across events, and across kicks that deliver nothing.

use hv_abi::sdei::Call;

use super::*;
use crate::harness::needs_sdei;
use crate::rt::patterns::{self, Across, Context};
use crate::rt::sdei::{End, Slot};
use crate::rt::{exception, gic};

const SEED: u64 = 0x0f1e_2d3c_4b5a_6978;
/// Events that hit the spinning loop before it ends.
const EVENTS: u64 = 100;

/// Whether the handler sees the patterns, in registers and by CONTEXT. Only counts in the loop.
fn sees_patterns(slot: &Slot) -> bool {
    let pattern = Context::pattern(SEED);
    let registers = (4..31).all(|n| slot.x(n) == pattern.x[n]);
    let context =
        (0..18).all(|n| sdei::call(Call::EventContext, &[n as u64]) as u64 == pattern.x[n]);
    let flags = slot.pstate() & 0xf000_0000 == pattern.nzcv && slot.state()[0] == pattern.nzcv;
    registers && context && flags
}

fn spin_until_enough(slot: &Slot) -> End {
    if slot.pc() != patterns::spin_here() {
        return End::Complete(0);
    }
    NOTES[1].add(1);
    if !sees_patterns(slot) {
        NOTES[2].add(1);
    }
    if NOTES[1].get() >= EVENTS {
        return End::Resume(patterns::spin_end());
    }
    End::Complete(0)
}

guest_test!(
    c072_events_into_a_spinning_cpu_keep_every_register,
    cpus = 2,
    boot = shared,
    icount = false,
    timeout = 40
);
fn c072_events_into_a_spinning_cpu_keep_every_register() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        sdei::set_hook(1, Some(spin_until_enough));
        note(1, 0);
        note(2, 0);
        if sdei::get_ready() {
            READY.raise();
        }
        let before = Context::pattern(SEED);
        let after = patterns::run(Across::Spin, &before);
        note(3, i64::from(after.first_difference(&before, &[]).is_some()));
        ENOUGH.raise();
    })?;
    signal_until_enough()?;
    expect_eq!(noted(1) as u64, EVENTS);
    expect_eq!(noted(2), 0, "events whose handler saw other registers");
    expect_eq!(noted(3), 0, "the loop ended with other registers");
    Ok(())
}

guest_test!(kicks_that_deliver_nothing_keep_every_register, cpus = 2);
fn kicks_that_deliver_nothing_keep_every_register() -> TestResult {
    needs_sdei()?;
    start_target(|| {
        // Registered, enabled and masked: every signal makes this CPU exit, and no handler runs.
        let fine = sdei::get_ready() && sdei::mask() == 1;
        exception::set_hook(Some(|frame, _| {
            if ENOUGH.is_up() && frame.elr == patterns::spin_here() {
                frame.elr = patterns::spin_end();
            }
            exception::Source::Silence
        }));
        if fine {
            READY.raise();
        }
        let before = Context::pattern(SEED);
        let after = sysreg::with_interrupts(|| patterns::run(Across::Spin, &before));
        note(0, i64::from(after.first_difference(&before, &[]).is_some()));
        note(1, sdei::slot(1).runs() as i64);
    })?;
    crate::rt::sync::watch_for_ms(5);
    for _ in 0..2000 {
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
    }
    ENOUGH.raise();
    let off = eventually(|| {
        gic::send_sgi_to(cpu::affinity(1), 3);
        cpu::is_off(1)
    });
    expect_that!(off);
    expect_eq!([noted(0), noted(1)], [0, 0]);
    Ok(())
}
