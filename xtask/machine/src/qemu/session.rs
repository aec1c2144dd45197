//! A running QEMU: what comes out of it, one happening after the other, until it ends or the time is over.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::console::{GuestLines, Line, Part, Splitter};

/// What happened next on a running machine.
#[derive(Debug)]
pub enum Event {
    /// A guest wrote these bytes.
    Guest {
        /// The number of its VM.
        vm: u8,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The hypervisor said something.
    Line(Line),
    /// QEMU itself said something.
    Complaint(String),
    /// QEMU ended.
    Ended(ExitStatus),
    /// The time is over; QEMU has been killed.
    TimedOut,
    /// The user left; QEMU has been killed.
    Left,
}

/// A running machine.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    received: Receiver<Received>,
    sender: Sender<Received>,
    /// Pipes from QEMU that are still open.
    pipes: u32,
    splitter: Splitter,
    parts: VecDeque<Part>,
    started: Instant,
    deadline: Option<Instant>,
    /// The end of the time that was given at the start, and whether it came before anything else ended the session.
    limit: Option<Instant>,
    has_timed_out: bool,
    /// When the machine is ended unless its guest says something before.
    quiet_until: Option<Instant>,
    log: Option<File>,
    tail: Tail,
}

enum Received {
    Output(Vec<u8>),
    Complaint(String),
    Closed,
    Leave,
}

/// Lets another thread say that the user has had enough.
pub struct Leave(Sender<Received>);

impl Leave {
    /// Ends the session.
    pub fn leave(&self) {
        // Nobody listens only if the session is over.
        let _ = self.0.send(Received::Leave);
    }
}

impl Session {
    /// Starts `command`; it is killed when the session is dropped.
    pub fn spawn(mut command: Command, timeout: Option<Duration>) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("QEMU has no output")?;
        let errors = child.stderr.take().context("QEMU has no error output")?;
        let (sender, received) = mpsc::channel();
        let (outputs, complaints) = (sender.clone(), sender.clone());
        std::thread::spawn(move || read_output(output, &outputs));
        std::thread::spawn(move || read_errors(errors, &complaints));
        let started = Instant::now();
        Ok(Self {
            child,
            input,
            received,
            sender,
            pipes: 2,
            splitter: Splitter::default(),
            parts: VecDeque::new(),
            started,
            deadline: timeout.map(|timeout| started + timeout),
            limit: timeout.map(|timeout| started + timeout),
            has_timed_out: false,
            quiet_until: None,
            log: None,
            tail: Tail::default(),
        })
    }

    /// Copies the raw serial stream into `log`.
    pub fn log_to(&mut self, log: File) {
        self.log = Some(log);
    }

    /// The way to the guest's console; may be taken once.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// A way to end the session from another thread.
    pub fn leave(&self) -> Leave {
        Leave(self.sender.clone())
    }

    /// From now on, no more than `limit`; never later than the timeout given at the start.
    pub fn shorten(&mut self, limit: Duration) {
        let limit = Instant::now() + limit;
        self.deadline = Some(self.deadline.map_or(limit, |deadline| deadline.min(limit)));
    }

    /// The time is over as soon as nothing has come out of the machine for `limit` from now on; anything that does
    /// takes this back.
    pub fn end_when_quiet(&mut self, limit: Duration) {
        self.quiet_until = Some(Instant::now() + limit);
    }

    /// From now on, up to `limit`, whatever was said before.
    pub fn allow(&mut self, limit: Duration) {
        self.deadline = Some(Instant::now() + limit);
    }

    /// Whether it ended because the time given at the start was over, and not sooner.
    pub const fn has_timed_out(&self) -> bool {
        self.has_timed_out
    }

    /// Time since QEMU was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The last lines of the console, of both sides, oldest first.
    pub fn tail(&self) -> Vec<String> {
        self.tail.lines()
    }

    /// Waits for the next thing to happen. After `Ended` or `TimedOut` nothing more does.
    pub fn next_event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.next_event_until(None)? {
                return Ok(event);
            }
        }
    }

    /// The same, but for no longer than until `then`, if that is given; nothing if nothing happens until then.
    pub fn next_event_until(&mut self, then: Option<Instant>) -> Result<Option<Event>> {
        self.wait(then).map(|event| match event {
            Event::TimedOut if !self.is_over() => None,
            event => {
                if matches!(event, Event::TimedOut) {
                    self.has_timed_out = self.limit.is_some_and(|limit| limit <= Instant::now());
                    self.kill();
                }
                Some(event)
            }
        })
    }

    /// Whether the time is over.
    fn is_over(&self) -> bool {
        let ends = [self.deadline, self.quiet_until];
        let now = Instant::now();
        ends.into_iter().flatten().any(|end| end <= now)
    }

    fn wait(&mut self, then: Option<Instant>) -> Result<Event> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                self.tail.push(&part);
                return Ok(match part {
                    Part::Guest { vm, bytes } => Event::Guest { vm, bytes },
                    Part::Line(line) => Event::Line(line),
                });
            }
            let ends = [self.deadline, self.quiet_until, then];
            let left = ends.into_iter().flatten().min();
            let left = left.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            match self.received.recv_timeout(left) {
                Ok(Received::Output(bytes)) => {
                    self.quiet_until = None;
                    if let Some(log) = &mut self.log {
                        log.write_all(&bytes).context("cannot write the log")?;
                    }
                    self.parts.extend(self.splitter.push(&bytes));
                }
                Ok(Received::Complaint(text)) => {
                    supervisor::settle();
                    self.tail.keep(format!("qemu: {text}"));
                    return Ok(Event::Complaint(text));
                }
                Ok(Received::Closed) => {
                    self.pipes -= 1;
                    if self.pipes == 0 {
                        let status = self.child.wait().context("cannot wait for QEMU")?;
                        supervisor::settle();
                        return Ok(Event::Ended(status));
                    }
                }
                Ok(Received::Leave) => {
                    self.kill();
                    return Ok(Event::Left);
                }
                // The session holds a sender, so the channel is never disconnected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Ok(Event::TimedOut);
                }
            }
        }
    }

    /// Ends the machine at once.
    pub fn kill(&mut self) {
        // Both fail only if QEMU has ended and been waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_output(mut output: impl Read, sender: &Sender<Received>) {
    let mut buffer = [0; 4096];
    // An error means that QEMU is gone, as does the end. A send fails only if nobody listens.
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        if sender
            .send(Received::Output(buffer[..count].to_vec()))
            .is_err()
        {
            return;
        }
    }
    let _ = sender.send(Received::Closed);
}

fn read_errors(errors: impl Read, sender: &Sender<Received>) {
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        if sender.send(Received::Complaint(line)).is_err() {
            return;
        }
    }
    let _ = sender.send(Received::Closed);
}

/// The end of a console, for whoever has to say what went wrong.
#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    guest: GuestLines,
    /// Whether a crash report has begun, which is kept to its end.
    report: bool,
}

impl Tail {
    const LINES: usize = 30;
    const WITH_REPORT: usize = 200;

    fn push(&mut self, part: &Part) {
        match part {
            Part::Guest { bytes, .. } => {
                for line in self.guest.push(bytes) {
                    self.keep(line);
                }
            }
            Part::Line(line) => {
                self.report |= line.text.starts_with("@hv-crash ");
                // What is drained at the end would push everything else out.
                let drained = ["@trace ", "@frame "];
                if !drained.iter().any(|name| line.text.starts_with(name)) {
                    self.keep(format!("hv: {line}"));
                }
            }
        }
    }

    fn keep(&mut self, line: String) {
        let most = if self.report {
            Self::WITH_REPORT
        } else {
            Self::LINES
        };
        if self.lines.len() >= most {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn lines(&self) -> Vec<String> {
        let open = self.guest.open();
        let open = (!open.is_empty()).then_some(open);
        self.lines.iter().cloned().chain(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: String) -> Part {
        let bytes = text.into_bytes();
        Part::Guest { vm: 0, bytes }
    }

    #[test]
    fn tail_keeps_the_last_lines_of_both_sides() {
        let mut tail = Tail::default();
        for number in 0..40 {
            tail.push(&said(format!("{number}\n")));
        }
        tail.push(&Part::Line(Line::parse("[    0.000001 p0] bye")));
        tail.push(&said("open".to_owned()));
        let lines = tail.lines();
        assert_eq!(lines.len(), 31);
        assert_eq!(lines[0], "11");
        assert_eq!(lines[29], "hv: [    0.000001 p0] bye");
        assert_eq!(lines[30], "open");
    }

    #[test]
    fn tail_keeps_a_whole_crash_report() {
        let mut tail = Tail::default();
        tail.push(&Part::Line(Line::parse("@hv-crash pcpu=1 cause=panic")));
        for number in 0..100 {
            tail.push(&Part::Line(Line::parse(&format!("x{number}"))));
        }
        assert_eq!(tail.lines().len(), 101);
    }

    fn shell(script: &str, timeout: Duration) -> Session {
        let mut command = supervisor::command("/bin/sh");
        command.args(["-c", script]);
        Session::spawn(command, Some(timeout)).unwrap()
    }

    #[test]
    fn a_silent_machine_times_out_and_is_killed() {
        let mut session = shell("exec cat", Duration::from_millis(50));
        assert!(matches!(session.next_event().unwrap(), Event::TimedOut));
        assert!(session.has_timed_out());
        assert!(session.child.try_wait().unwrap().is_some());
    }

    #[test]
    fn one_who_waits_until_then_is_told_of_nothing_and_the_machine_lives() {
        let mut session = shell("exec cat", Duration::from_secs(3600));
        let then = Instant::now() + Duration::from_millis(50);
        assert!(session.next_event_until(Some(then)).unwrap().is_none());
        assert!(session.child.try_wait().unwrap().is_none());
        // The end of the time comes first.
        session.shorten(Duration::from_millis(50));
        let then = Instant::now() + Duration::from_secs(3600);
        let event = session.next_event_until(Some(then)).unwrap();
        assert!(matches!(event, Some(Event::TimedOut)));
        assert!(!session.has_timed_out(), "the time was shortened");
        assert!(session.child.try_wait().unwrap().is_some());
    }

    #[test]
    fn a_machine_that_is_to_be_quiet_ends_when_it_is() {
        let never = Duration::from_secs(3600);
        let mut session = shell("echo a; exec cat", never);
        // What it says takes back what was said before.
        session.end_when_quiet(never);
        assert!(matches!(session.next_event().unwrap(), Event::Guest { .. }));
        assert_eq!(session.quiet_until, None);
        session.end_when_quiet(Duration::from_millis(50));
        assert!(matches!(session.next_event().unwrap(), Event::TimedOut));
        assert!(!session.has_timed_out());
    }

    #[test]
    fn a_session_tells_what_was_written_then_how_it_ended() {
        let mut session = shell("printf 'a\\036b\\n'; exit 3", Duration::from_secs(10));
        assert!(
            matches!(session.next_event().unwrap(), Event::Guest { bytes, .. } if bytes == b"a")
        );
        assert!(matches!(session.next_event().unwrap(), Event::Line(line) if line.text == "b"));
        assert!(
            matches!(session.next_event().unwrap(), Event::Ended(status) if status.code() == Some(3))
        );
    }
}
