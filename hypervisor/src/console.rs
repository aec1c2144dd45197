//! The machine's UART, shared by the guest's console and our own lines (framing: `hv_abi::console`).
//!
//! Two ways in: under the lock, and the emergency way past it, for a pCPU that dies while somebody else,
//! or it itself, holds the lock.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use hv_abi::console::{RS, US};
use hv_core::id::VmId;
use hv_core::patience::Patience;
use hv_core::time::Instant;
use hv_core::turns::{Turn, Turns};
use hv_drivers::pace::Pace;

use crate::patience::{self, Mutex, MutexGuard};
use crate::{percpu, sysregs, uart};

/// Of every byte, whichever way.
static PACE: Pace = Pace::new();
/// How long the last bytes may take to leave the machine, in microseconds: 32 at 300 baud.
const FLUSH_US: u64 = 1_100_000;

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    turns: Turns::new(),
});

/// Counts what may end a turn: a line's end, and each guest that begins to wait.
static CHANGES: AtomicU32 = AtomicU32::new(0);
/// How often a guest that waits polls [`CHANGES`] briefly before it asks again, since a turn ends by time, too: some hundred
/// microseconds. Who asks looks at the counter, which emulated CPUs share a lock for: 15 that asked every few microseconds
/// kept the sixteenth from its turn for longer than a turn lasts.
const POLLS: u32 = 100;

struct Console {
    turns: Turns,
}

impl Console {
    fn put(&mut self, byte: u8) {
        if let Some(mut uart) = uart::get() {
            PACE.put(&mut uart, byte, waiting);
        }
    }
}

/// How long a wait has been that begins when this is first asked, in microseconds.
fn waiting() -> impl FnMut() -> u64 {
    let mut patience = None;
    move || {
        let rate = sysregs::counter_frequency();
        let patience = patience.get_or_insert_with(|| Patience::at(rate));
        Instant(patience.look(sysregs::now())).as_us(rate)
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
        Ok(())
    }
}

/// More than one guest writes from now on.
pub fn share() {
    lock().turns.share();
}

/// Writes a byte of a guest's, when it is its turn.
pub fn write_guest(vm: VmId, byte: u8) {
    let mut console = lock();
    let turn = console.turns.take(vm, byte, now_us);
    if turn != Turn::Write {
        console = change_turns(console, turn, vm, byte);
    }
    if byte == RS {
        console.put(RS);
    }
    console.put(byte);
}

/// Does what a guest's `turn` asks for before the byte is written: waits, says whose bytes follow, or lets others know that its
/// line ends.
#[cold]
#[inline(never)]
fn change_turns(
    mut console: MutexGuard<'static, Console>,
    mut turn: Turn,
    vm: VmId,
    byte: u8,
) -> MutexGuard<'static, Console> {
    if turn == Turn::Wait {
        CHANGES.fetch_add(1, Ordering::Relaxed);
    }
    while turn == Turn::Wait {
        let seen = CHANGES.load(Ordering::Relaxed);
        drop(console);
        wait_for_change(seen);
        console = lock();
        turn = console.turns.take(vm, byte, now_us);
    }
    if let Turn::Announce { break_line } = turn {
        announce(&mut console, vm, break_line);
    }
    if byte == b'\n' {
        CHANGES.fetch_add(1, Ordering::Relaxed);
    }
    console
}

/// Others may print for longer than the watchdog waits, each a line: who waits for them is not stuck. One that never lets go shows no
/// life itself.
fn lock() -> MutexGuard<'static, Console> {
    CONSOLE.lock_meanwhile(percpu::beat)
}

/// Waits without the lock until something has changed since `seen`, or for a while: whoever has the lock may be kept from its
/// pCPU, where an emulator's host runs others. Others' turns end, so who waits for its own is not stuck.
fn wait_for_change(seen: u32) {
    for _ in 0..POLLS {
        let has_changed = || (CHANGES.load(Ordering::Relaxed) != seen).then_some(());
        percpu::beat();
        if patience::briefly(has_changed).is_some() {
            break;
        }
    }
}

/// Says whose bytes follow.
#[cold]
fn announce(console: &mut Console, vm: VmId, break_line: bool) {
    let (rs, us, number) = (RS as char, US as char, vm.0);
    let line_break = if break_line { "\r\n" } else { "" };
    // The UART cannot fail.
    let _ = write!(console, "{rs}{us}{line_break}{number}> ");
}

fn now_us() -> u64 {
    sysregs::now().as_us(sysregs::counter_frequency())
}

/// Lets received bytes interrupt, or not.
pub fn set_receive(on: bool) {
    let _console = lock();
    if let Some(mut uart) = uart::get() {
        uart.set_receive(on);
    }
}

/// Takes a received byte; one that has not come in whole is lost.
pub fn read() -> Option<u8> {
    let _console = lock();
    uart::get()?.read()?.whole()
}

/// Runs `then` with the console locked, or without that if it cannot be had within `limit_us`.
pub fn hold(limit_us: u64, then: impl FnOnce()) {
    let _console = CONSOLE.lock_within(limit_us);
    then();
}

/// Writes one framed line of ours. Use `log!`.
#[inline(never)]
pub fn write_line(text: fmt::Arguments<'_>) {
    write_line_of(percpu::index(), text);
    percpu::beat();
}

/// The same, of a pCPU whose number is known.
pub fn write_line_of(pcpu: u8, text: fmt::Arguments<'_>) {
    let mut console = lock();
    let break_line = console.turns.interrupt();
    CHANGES.fetch_add(1, Ordering::Relaxed);
    frame(&mut *console, pcpu, break_line, text);
}

fn frame(to: &mut impl Write, pcpu: u8, break_line: bool, text: fmt::Arguments<'_>) {
    let us = now_us();
    let (seconds, micros) = (us / 1_000_000, us % 1_000_000);
    let rs = RS as char;
    let line_break = if break_line { "\r\n" } else { "" };
    // The UART cannot fail.
    let _ = write!(
        to,
        "{rs}{line_break}[{seconds:5}.{micros:06} p{pcpu}] {text}\r\n"
    );
}

/// Logs one line: `log!("gic: {n} list registers")`.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {
        $crate::console::write_line(format_args!($($argument)*))
    };
}

/// A line written past the lock, by `to`, which ends in [`put_past_lock`]: for reports of what is stuck, where the
/// lock may be held for ever and a garbled line is better than none.
pub fn write_past_lock(to: &mut impl Write, text: fmt::Arguments<'_>) {
    frame(to, percpu::index(), true, text);
}

/// Writes byte by byte into the registers, whoever has the lock.
pub fn put_past_lock(text: &str) {
    if let Some(mut uart) = uart::get() {
        let bytes = text.bytes();
        bytes.for_each(|byte| PACE.put(&mut uart, byte, waiting));
    }
}

/// Waits until what was written has left the machine, unless its line is stuck.
pub fn flush() {
    if let Some(uart) = uart::get() {
        let mut waited = waiting();
        while !uart.is_idle() && waited() < FLUSH_US {}
    }
}
