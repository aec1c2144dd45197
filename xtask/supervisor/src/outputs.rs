//! Whether anybody reads what the program prints.

use std::io;
use std::os::fd::AsFd;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether standard output or standard error is a pipe that nobody reads.
pub fn are_closed() -> bool {
    look(Some(&Timespec::default())).is_some_and(|seen| seen.iter().any(is_closed))
}

/// Answers once one of them is.
pub fn wait_until_closed() {
    loop {
        match look(None) {
            Some(seen) if seen.iter().any(is_closed) => return,
            // A terminal that hangs up sends a signal; it is no pipe.
            Some(_) => loop {
                thread::park();
            },
            None => {}
        }
    }
}

fn is_closed(seen: &PollFlags) -> bool {
    seen.contains(PollFlags::ERR) && !seen.intersects(PollFlags::HUP | PollFlags::NVAL)
}

/// What is amiss with them, as soon as something is or the time is over; nothing if a signal comes between.
fn look(limit: Option<&Timespec>) -> Option<[PollFlags; 2]> {
    let (output, errors) = (io::stdout(), io::stderr());
    let (output, errors) = (output.as_fd(), errors.as_fd());
    // Asked for nothing, poll tells of errors alone.
    let mut outputs = [&output, &errors].map(|output| PollFd::new(output, PollFlags::empty()));
    poll(&mut outputs, limit).ok()?;
    Some(outputs.map(|output| output.revents()))
}
