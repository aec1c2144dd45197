//! Notices what ends the program: signals, and outputs that nobody reads.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::ending::{Cause, end};
use crate::outputs;

/// What asks a program to end.
const SIGNALS: [i32; 4] = [SIGTERM, SIGHUP, SIGINT, SIGQUIT];

/// Notices all of it from now on.
pub fn begin() {
    end_when_print_fails();
    thread::spawn(|| {
        outputs::wait_until_closed();
        end(Cause::ClosedOutput);
    });
    let ignored = ignored();
    let taken = SIGNALS.into_iter().filter(|signal| !ignored(*signal));
    if let Ok(mut signals) = Signals::new(taken) {
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                end(Cause::Signal(signal));
            }
        });
    }
}

/// Leaves this process alone with them.
pub fn ignore_signals() {
    for signal in SIGNALS {
        // Without, it dies with the program that it watches, and only if that gets the signal, too.
        let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
}

/// Which signals this process was told to ignore, as `nohup` does with SIGHUP: they stay ignored.
fn ignored() -> impl Fn(i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = ignored_in(&status);
    move |signal| mask & (1 << (signal - 1)) != 0
}

/// The set of ignored signals in a text of /proc/PID/status, signal 1 in bit 0.
fn ignored_in(status: &str) -> u64 {
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    digits.map_or(0, |digits| {
        u64::from_str_radix(digits.trim(), 16).unwrap_or(0)
    })
}

/// `print!` and its kin panic when nobody reads; that is an end like others, without a message.
fn end_when_print_fails() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        let is_print = text.is_some_and(|text| text.starts_with("failed printing to "));
        if is_print && outputs::are_closed() {
            end(Cause::ClosedOutput);
        }
        report(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_nohup_ignores_are_read() {
        let mask = ignored_in("Name:\tx\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n");
        assert_eq!(mask, 0x1001);
        assert_eq!(mask & (1 << (SIGHUP - 1)), 1);
        assert_eq!(ignored_in(""), 0);
    }
}
