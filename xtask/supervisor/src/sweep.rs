//! Ends processes: asks them, and kills those that do not listen.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::processes::Process;

/// How long a process may take to end itself before it is killed: QEMU writes out its disks, make removes what is
/// half done.
const GRACE: Duration = Duration::from_secs(5);
/// How long a killed process is waited for: the kernel may hold one in a call for longer.
const DYING: Duration = Duration::from_secs(5);

/// Ends every process that has `variable` set to `value`, or to that and a dot and more; answers when they are gone.
pub fn end_all(variable: &str, value: &str) {
    let kill_from = Instant::now() + GRACE;
    loop {
        let found = Process::all_with(variable, value);
        if found.is_empty() {
            return;
        }
        let is_asked = Instant::now() < kill_from;
        for process in &found {
            if is_asked {
                process.signal(Signal::TERM);
                // One that is stopped takes it when it goes on.
                process.signal(Signal::CONT);
            } else {
                process.signal(Signal::KILL);
            }
        }
        let until = if is_asked {
            kill_from
        } else {
            Instant::now() + DYING
        };
        let are_gone = found.iter().all(|process| process.ends_before(until));
        if !are_gone && !is_asked {
            return;
        }
    }
}
