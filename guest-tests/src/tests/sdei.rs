//! SDEI (DEN0054), event 0. Names that begin with c and a number are items of the conformance list.

mod bound;
mod calls;
mod complete;
mod cycles;
mod delivery;
mod discovery;
mod firmware;
mod hostile;
mod mask;
mod nesting;
mod power;
mod pstate;
mod races;
mod reclaim;
mod registers;
mod reset;
mod shared;
mod sharing;
mod signal;
mod storm;
mod user;
mod waits;

use hv_abi::sdei::Status;

use crate::harness::TestResult;
use crate::rt::sync::{Cell64, Flag, eventually};
use crate::rt::{cpu, sdei, sysreg};

const SUCCESS: i64 = Status::Success as i64;
const NOT_SUPPORTED: i64 = Status::NotSupported as i64;
const INVALID: i64 = Status::InvalidParameters as i64;
const DENIED: i64 = Status::Denied as i64;
const PENDING: i64 = Status::Pending as i64;
const OUT_OF_RESOURCE: i64 = Status::OutOfResource as i64;

/// STATUS values (DEN0054 5.1.9).
const REGISTERED: i64 = 1;
const ENABLED: i64 = 3;
const RUNNING: i64 = 7;
const DISABLED_RUNNING: i64 = 5;
const UNREGISTER_PENDING: i64 = 4;

/// An event that does not exist.
const UNKNOWN_EVENT: u64 = 0x1_0000;

/// What handlers and other CPUs saw, for the test to judge.
static NOTES: [Cell64; 32] = [const { Cell64::new(NOTHING) }; 32];
/// A note nobody wrote.
const NOTHING: u64 = 0xdead_0000_dead_0000;

fn note(n: usize, value: i64) {
    NOTES[n].set(value as u64);
}

fn noted(n: usize) -> i64 {
    NOTES[n].get() as i64
}

fn forget_notes() {
    for note in &NOTES {
        note.set(NOTHING);
    }
}

/// Registers, enables and unmasks on this CPU, with nothing noted yet.
fn get_ready() -> TestResult {
    forget_notes();
    expect_eq!(sdei::register(), SUCCESS);
    expect_eq!(sdei::enable(), SUCCESS);
    expect_eq!(sdei::unmask(), SUCCESS);
    Ok(())
}

/// Signals this CPU and expects the handler to have run once more.
fn run_handler_here() -> TestResult {
    let me = sysreg::cpu_index();
    let before = sdei::slot(me).runs();
    expect_eq!(sdei::signal(cpu::affinity(me)), SUCCESS);
    expect_eq!(sdei::slot(me).runs(), before + 1);
    Ok(())
}

/// CPU 1 got ready, or failed to.
static READY: Flag = Flag::new();
/// CPU 1 may go.
static ENOUGH: Flag = Flag::new();

/// Starts CPU 1 with `work`, which raises `READY`.
fn start_target(work: fn()) -> TestResult {
    READY.lower();
    ENOUGH.lower();
    forget_notes();
    expect_eq!(cpu::start(1, work), 0);
    expect_that!(READY.wait(), "CPU 1 did not get ready");
    Ok(())
}

/// Lets CPU 1 go and waits until it is off.
fn release_target() -> TestResult {
    ENOUGH.raise();
    expect_that!(cpu::wait_off(1));
    Ok(())
}

/// Signals CPU 1, one event after the other, until it had enough and is off.
fn signal_until_enough() -> TestResult {
    while !ENOUGH.is_up() {
        let before = sdei::slot(1).runs();
        expect_eq!(sdei::signal(cpu::affinity(1)), SUCCESS);
        let more = eventually(|| ENOUGH.is_up() || sdei::slot(1).runs() > before);
        expect_that!(more, "after {} runs", sdei::slot(1).runs());
    }
    expect_that!(cpu::wait_off(1));
    Ok(())
}

/// Work of CPU 1: gets ready and spins, everything but the event masked.
fn spin_ready() {
    if sdei::get_ready() {
        READY.raise();
    }
    while !ENOUGH.is_up() {
        core::hint::spin_loop();
    }
}

/// Waits until CPU `index` has entered its handler `count` times. What the hook does may be yet to come: who expects that
/// waits for what it notes.
fn entered(index: usize, count: u64) -> bool {
    eventually(|| sdei::slot(index).runs() >= count)
}
