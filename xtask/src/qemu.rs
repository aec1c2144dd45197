//! QEMU: the command line of a `virt` machine, and a running one.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::console::{GuestLines, Line, Part, Splitter};

/// A `virt` machine and what it boots.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The emulator.
    pub qemu: PathBuf,
    /// CPU model, as QEMU names it, with properties if wanted.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Size of RAM in MiB.
    pub memory_mib: u64,
    /// Whether the machine has EL2, which the hypervisor needs. Without it, a reset reboots.
    pub el2: bool,
    /// What QEMU loads as the kernel.
    pub kernel: PathBuf,
    /// What QEMU loads as the initrd.
    pub initrd: Option<PathBuf>,
    /// The command line of that kernel.
    pub append: String,
    /// Raw disk images, each a virtio-blk device.
    pub disks: Vec<PathBuf>,
    /// Count instructions: one per nanosecond of machine time, on one host thread, and alike in
    /// every run.
    pub icount: bool,
    /// Wait for a debugger on TCP port 1234 before the first instruction.
    pub gdb: bool,
    /// Arguments passed on as they are.
    pub extra: Vec<OsString>,
}

impl Machine {
    /// A machine with 4 CPUs, 1 GiB and nothing attached, which boots `kernel`.
    pub fn new(qemu: &Path, kernel: &Path) -> Self {
        Self {
            qemu: qemu.to_owned(),
            cpu: DEFAULT_CPU.to_owned(),
            cpus: 4,
            memory_mib: 1024,
            el2: true,
            kernel: kernel.to_owned(),
            initrd: None,
            append: String::new(),
            disks: Vec::new(),
            icount: false,
            gdb: false,
            extra: Vec::new(),
        }
    }

    /// The emulator's arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut push = |name: &str, value: OsString| {
            arguments.push(name.into());
            if !value.is_empty() {
                arguments.push(value);
            }
        };
        let el2 = if self.el2 { "on" } else { "off" };
        let fixed = if self.icount {
            ",dtb-randomness=off"
        } else {
            ""
        };
        push(
            "-machine",
            format!("virt,virtualization={el2},gic-version=3{fixed}").into(),
        );
        push("-cpu", self.cpu.clone().into());
        push("-smp", self.cpus.to_string().into());
        push("-m", format!("{}M", self.memory_mib).into());
        if self.icount {
            push("-accel", "tcg,thread=single".into());
            push("-icount", "shift=0,sleep=off".into());
            push("-rtc", "clock=vm".into());
            push("-seed", "1".into());
        } else {
            push("-accel", "tcg,thread=multi".into());
        }
        push("-nodefaults", "".into());
        push("-display", "none".into());
        if self.el2 {
            // The hypervisor resets its guests itself; the machine's own reset is the end.
            push("-no-reboot", "".into());
        }
        push("-chardev", "stdio,id=console,signal=off".into());
        push("-serial", "chardev:console".into());
        push("-kernel", self.kernel.clone().into());
        if let Some(initrd) = &self.initrd {
            push("-initrd", initrd.clone().into());
        }
        if !self.append.is_empty() {
            push("-append", self.append.clone().into());
        }
        if !self.disks.is_empty() {
            push("-global", "virtio-mmio.force-legacy=false".into());
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let mut drive: OsString = format!("if=none,format=raw,id=disk{number},file=").into();
            drive.push(doubled_commas(disk));
            push("-drive", drive);
            push(
                "-device",
                format!("virtio-blk-device,drive=disk{number}").into(),
            );
        }
        if self.gdb {
            push("-s", "".into());
            push("-S", "".into());
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// The command as one line that a shell understands.
    pub fn command_line(&self) -> String {
        let mut line = quoted(&self.qemu.to_string_lossy());
        for argument in self.arguments() {
            line.push(' ');
            line.push_str(&quoted(&argument.to_string_lossy()));
        }
        line
    }

    /// Starts the machine. It is killed when the session is dropped.
    pub fn start(&self, timeout: Option<Duration>) -> Result<Session> {
        let mut command = Command::new(&self.qemu);
        command.args(self.arguments());
        Session::spawn(command, timeout).with_context(|| {
            format!(
                "cannot start {}; `cargo xtask doctor` says how to get QEMU",
                self.qemu.display()
            )
        })
    }
}

/// The CPU model used when none is asked for.
pub const DEFAULT_CPU: &str = "neoverse-n1";

/// `path` as a value inside QEMU's comma-separated options, where a comma is written twice.
fn doubled_commas(path: &Path) -> OsString {
    match path.to_str() {
        Some(text) => text.replace(',', ",,").into(),
        None => path.as_os_str().to_owned(),
    }
}

/// `word` in single quotes if a shell would not take it as it is.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=/.,:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What happened next on a running machine.
#[derive(Debug)]
pub enum Happening {
    /// The guest wrote these bytes.
    Guest(Vec<u8>),
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
    fn spawn(mut command: Command, timeout: Option<Duration>) -> Result<Self> {
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

    /// From now on, up to `limit`, whatever was said before.
    pub fn allow(&mut self, limit: Duration) {
        self.deadline = Some(Instant::now() + limit);
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
    pub fn next(&mut self) -> Result<Happening> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                self.tail.push(&part);
                return Ok(match part {
                    Part::Guest(bytes) => Happening::Guest(bytes),
                    Part::Line(line) => Happening::Line(line),
                });
            }
            let left = self.deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            match self.received.recv_timeout(left) {
                Ok(Received::Output(bytes)) => {
                    if let Some(log) = &mut self.log {
                        log.write_all(&bytes).context("cannot write the log")?;
                    }
                    self.parts.extend(self.splitter.push(&bytes));
                }
                Ok(Received::Complaint(text)) => {
                    self.tail.keep(format!("qemu: {text}"));
                    return Ok(Happening::Complaint(text));
                }
                Ok(Received::Closed) => {
                    self.pipes -= 1;
                    if self.pipes == 0 {
                        let status = self.child.wait().context("cannot wait for QEMU")?;
                        return Ok(Happening::Ended(status));
                    }
                }
                Ok(Received::Leave) => {
                    self.kill();
                    return Ok(Happening::Left);
                }
                // The session holds a sender, so the channel is never disconnected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.kill();
                    return Ok(Happening::TimedOut);
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
}

impl Tail {
    const LINES: usize = 30;

    fn push(&mut self, part: &Part) {
        match part {
            Part::Guest(bytes) => {
                for line in self.guest.push(bytes) {
                    self.keep(line);
                }
            }
            Part::Line(line) => self.keep(format!("hv: {line}")),
        }
    }

    fn keep(&mut self, line: String) {
        if self.lines.len() == Self::LINES {
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

    fn machine() -> Machine {
        Machine::new(Path::new("qemu-system-aarch64"), Path::new("/t/Image"))
    }

    #[test]
    fn command_line_is_quoted_for_a_shell() {
        let mut machine = machine();
        machine.append = "console=ttyAMA0 it's".into();
        let line = machine.command_line();
        assert!(line.starts_with("qemu-system-aarch64 -machine virt,virtualization=on,"));
        assert!(
            line.ends_with(r"-append 'console=ttyAMA0 it'\''s'"),
            "{line}"
        );
    }

    #[test]
    fn each_disk_is_a_modern_virtio_device() {
        let mut machine = machine();
        machine.disks = vec!["a,b.img".into(), "c.img".into()];
        let line = machine.command_line();
        assert!(line.contains("-global virtio-mmio.force-legacy=false"));
        assert!(line.contains("id=disk0,file=a,,b.img -device virtio-blk-device,drive=disk0"));
        assert!(line.contains("id=disk1,file=c.img -device virtio-blk-device,drive=disk1"));
    }

    #[test]
    fn extra_arguments_come_last_and_as_they_are() {
        let mut machine = machine();
        machine.gdb = true;
        machine.extra = vec!["-d".into(), "int,cpu_reset".into()];
        assert!(machine.command_line().ends_with(" -s -S -d int,cpu_reset"));
    }

    #[test]
    fn tail_keeps_the_last_lines_of_both_sides() {
        let mut tail = Tail::default();
        for number in 0..40 {
            tail.push(&Part::Guest(format!("{number}\n").into_bytes()));
        }
        tail.push(&Part::Line(Line::parse("[    0.000001 p0] bye")));
        tail.push(&Part::Guest(b"open".to_vec()));
        let lines = tail.lines();
        assert_eq!(lines.len(), 31);
        assert_eq!(lines[0], "11");
        assert_eq!(lines[29], "hv: [    0.000001 p0] bye");
        assert_eq!(lines[30], "open");
    }

    fn shell(script: &str, timeout: Duration) -> Session {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Session::spawn(command, Some(timeout)).unwrap()
    }

    #[test]
    fn a_silent_machine_times_out_and_is_killed() {
        let mut session = shell("exec cat", Duration::from_millis(50));
        assert!(matches!(session.next().unwrap(), Happening::TimedOut));
        assert!(session.child.try_wait().unwrap().is_some());
    }

    #[test]
    fn a_session_tells_what_was_written_then_how_it_ended() {
        let mut session = shell("printf 'a\\036b\\n'; exit 3", Duration::from_secs(10));
        assert!(matches!(session.next().unwrap(), Happening::Guest(bytes) if bytes == b"a"));
        assert!(matches!(session.next().unwrap(), Happening::Line(line) if line.text == "b"));
        assert!(
            matches!(session.next().unwrap(), Happening::Ended(status) if status.code() == Some(3))
        );
    }

    #[test]
    fn a_missing_emulator_is_named_with_the_mend() {
        let mut machine = machine();
        machine.qemu = "/no/such/qemu".into();
        let error = machine.start(None).err().unwrap().to_string();
        assert!(error.contains("/no/such/qemu") && error.contains("doctor"));
    }
}
