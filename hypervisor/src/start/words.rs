//! The hypervisor's own command line, as `hv_abi::cmdline` reads it.

use hv_abi::cmdline::{self, Setting, Unknown, Wrong};
use platform::Machine;

use crate::stop::{self, Afterwards};
use crate::{fault_injection, log, operator, run, watchdog};

/// Obeys the words of our own command line, and names those that say nothing. A machine that `has_crashed` just now does
/// not break again.
#[inline(never)]
pub fn obey(machine: &Machine, has_crashed: bool) {
    let line = machine.bootargs.as_bytes();
    for word in cmdline::words(line) {
        let said = word.escape_ascii();
        match cmdline::setting(word) {
            Ok(Setting::Crash { reset }) => stop::set_after_crash(if reset {
                Afterwards::Reset
            } else {
                Afterwards::Halt
            }),
            Ok(Setting::Stop { off }) => stop::set_off_wanted(off),
            Ok(Setting::Watchdog(mode, limit)) => watchdog::configure(mode, limit),
            Ok(Setting::Operator(access)) => operator::allow(access),
            Ok(Setting::TraceCalls) => run::trace_calls(),
            Ok(Setting::Fault(_)) if has_crashed => {}
            Ok(Setting::Fault(_)) => {
                if !fault_injection::configure(word, machine.cpus.len()) {
                    log!(
                        "command line: `{said}` injects faults, which only the test image does; load hypervisor-fault-injection.img; ignored"
                    );
                }
            }
            // They are named together: a loader may have many of its own.
            Err(Wrong::Unknown) => {}
            Err(wrong) => log!("command line: `{said}` {wrong}; ignored"),
        }
    }
    if let Some(unknown) = Unknown::of(line) {
        log!(
            "command line: {unknown}: not known and ignored; known are {}",
            cmdline::KNOWN
        );
    }
}
