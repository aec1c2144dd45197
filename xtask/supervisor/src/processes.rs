//! Processes that have a word in their environment.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that was alive when it was found. Nobody else gets its number as long as this is held.
pub struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// Those that have `variable` set to `value`, or to that and a dot and more. One that has ended and has not been
    /// waited for has no environment any more.
    pub fn all_with(variable: &str, value: &str) -> Vec<Self> {
        let Ok(processes) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let numbers = processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Pid::from_raw);
        numbers
            .filter_map(|pid| {
                let is_one = || is_held(&about(pid, "environ"), variable, value);
                let open = || pidfd_open(pid, PidfdFlags::empty()).ok();
                let descriptor = is_one().then(open)??;
                // The second look is at the process that the descriptor stands for.
                is_one().then_some(Self { pid, descriptor })
            })
            .collect()
    }

    /// Its command line, each word ended by a zero byte; nothing if it has ended.
    pub fn command_line(&self) -> Vec<u8> {
        about(self.pid, "cmdline")
    }

    /// Sends it a signal, if it has not ended.
    pub fn signal(&self, signal: Signal) {
        // It fails only for one that has ended.
        let _ = pidfd_send_signal(&self.descriptor, signal);
    }

    /// Whether it has ended, or ends before `until`.
    pub fn ends_before(&self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            let mut waited = [PollFd::new(&self.descriptor, PollFlags::IN)];
            match poll(&mut waited, left.as_ref()) {
                Ok(count) => return count > 0,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// The file `name` of a process; nothing if it has ended or belongs to somebody else.
fn about(pid: Pid, name: &str) -> Vec<u8> {
    fs::read(format!("/proc/{}/{name}", pid.as_raw_nonzero())).unwrap_or_default()
}

/// Whether `environment`, strings that end in zeroes, has `variable` set so.
fn is_held(environment: &[u8], variable: &str, value: &str) -> bool {
    environment.split(|byte| *byte == 0).any(|word| {
        let rest = word
            .strip_prefix(variable.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .and_then(|rest| rest.strip_prefix(value.as_bytes()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
    })
}

#[cfg(test)]
mod tests {
    use super::is_held;

    #[test]
    fn a_child_is_ours_by_the_whole_word_and_so_are_those_of_our_children() {
        let holds = |environment: &[u8]| is_held(environment, "OF", "12-3");
        assert!(holds(b"A=b\0OF=12-3\0"));
        assert!(holds(b"OF=12-3.15-4\0A=b\0"));
        assert!(!holds(b"OF=12-34\0"));
        assert!(!holds(b"OF=1.12-3\0"));
        assert!(!holds(b"XOF=12-3\0A=OF=12-3\0"));
        assert!(!holds(b""));
    }
}
