//! How the program ends before its time: once, and in order.

use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::{end_children, outputs};

/// Why the program ends.
#[derive(Clone, Copy)]
pub enum Cause {
    /// This signal.
    Signal(i32),
    /// Nobody reads its output any more.
    ClosedOutput,
}

/// What a shell shows of a program that SIGPIPE has ended.
const CLOSED_OUTPUT: i32 = 141;

static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// What is to be undone, the newest last.
static ACTS: Mutex<Vec<(u64, Act)>> = Mutex::new(Vec::new());

type Act = Box<dyn FnOnce() + Send>;

fn acts() -> MutexGuard<'static, Vec<(u64, Act)>> {
    // An act that panicked is no longer in the list.
    ACTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something to be undone: when this is dropped, or when the program ends before.
#[must_use]
pub struct AtEnd(u64);

/// Has `act` done when the answer is dropped, or when a signal or a closed output ends the program, after its children.
/// It is not done if the program is killed. It must not print.
pub fn at_end(act: impl FnOnce() + Send + 'static) -> AtEnd {
    let mut acts = acts();
    let number = acts.last().map_or(0, |(last, _)| last + 1);
    acts.push((number, Box::new(act)));
    AtEnd(number)
}

impl AtEnd {
    /// Lets things be.
    pub fn cancel(self) {
        acts().retain(|(number, _)| *number != self.0);
    }
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        // With the list held, so that the program does not end in the middle of it.
        let mut acts = acts();
        if let Some(at) = acts.iter().position(|(number, _)| *number == self.0) {
            let (_, act) = acts.remove(at);
            act();
        }
    }
}

/// To be called before the end of a child is told, and before an error is: if the program is ending anyway, it answers
/// never, since that end is the cause.
pub fn settle() {
    if IS_ENDING.load(Ordering::SeqCst) {
        wait_for_the_end();
    }
    if outputs::are_closed() {
        end(Cause::ClosedOutput);
    }
}

/// Ends the program: its children, what is to be undone, itself.
pub fn end(cause: Cause) -> ! {
    if IS_ENDING.swap(true, Ordering::SeqCst) {
        wait_for_the_end();
    }
    end_children();
    let mut acts = acts();
    while let Some((_, act)) = acts.pop() {
        act();
    }
    if let Cause::Signal(signal) = cause {
        // It does not come back, so that whoever waits for us sees the signal.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    exit(CLOSED_OUTPUT)
}

fn wait_for_the_end() -> ! {
    loop {
        thread::park();
    }
}
