//! A board on a serial line, whose hypervisor others reach through a control socket: what they ask goes over the line between what
//! else is sent, and what comes is heard on the way.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::console::{Part, Splitter};
use crate::control::Control;
use crate::operator::Operator;
use crate::serial::Line;

/// Who has asked asks again, mostly, as soon as there is an answer: so long after the last time the line is looked at often.
const BUSY: Duration = Duration::from_secs(1);
/// How often.
const OFTEN: Duration = Duration::from_millis(2);

/// The hypervisor behind a line.
pub struct Remote {
    operator: Operator,
    _control: Control,
    asked: Receiver<Vec<u8>>,
    out: VecDeque<u8>,
    asked_at: Option<Instant>,
    splitter: Splitter,
}

impl Remote {
    /// Opens a control socket at `path`. If the board may have been running before (`is_up`), the hypervisor's word that it is ready
    /// is not waited for.
    pub fn open(path: &Path, is_up: bool) -> Result<Self> {
        let (sender, asked) = channel();
        let operator = Operator::new(Outbox(sender), false);
        if is_up {
            operator.suppose_ready();
        }
        let control = Control::open(path, &operator)?;
        Ok(Self {
            operator,
            _control: control,
            asked,
            out: VecDeque::new(),
            asked_at: None,
            splitter: Splitter::default(),
        })
    }

    /// Writes `bytes` behind what waits.
    pub fn send(&mut self, bytes: impl IntoIterator<Item = u8>) {
        self.out.extend(bytes);
    }

    /// As [`Line::exchange`] on `line`, with what was asked and sent; what has come is heard.
    pub fn exchange(&mut self, line: &mut dyn Line, patience: Duration) -> Result<Vec<u8>> {
        for request in self.asked.try_iter() {
            self.out.extend(request);
            self.asked_at = Some(Instant::now());
        }
        let is_busy = self.asked_at.is_some_and(|at| at.elapsed() < BUSY);
        let patience = if is_busy {
            patience.min(OFTEN)
        } else {
            patience
        };
        let bytes = line.exchange(&mut self.out, patience)?;
        self.hear(&bytes);
        Ok(bytes)
    }

    /// Takes notice of what has come.
    pub fn hear(&mut self, bytes: &[u8]) {
        for part in self.splitter.push(bytes) {
            match part {
                Part::Guest { vm, bytes } => self.operator.hear_guest(vm, &bytes),
                Part::Line(line) => self.operator.hear(&line),
            }
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.operator.end();
    }
}

/// Takes what is to be sent, one request at a time.
struct Outbox(Sender<Vec<u8>>);

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.send(bytes.to_vec()).map_err(gone)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Client;
    use hv_abi::operator::{Demux, Input, Verb, crc};
    use serde_json::json;

    /// A board with a hypervisor that answers how its one vCPU is, and repeats what is typed.
    #[derive(Default)]
    struct Board {
        demux: Demux,
        says: Vec<u8>,
        asked: usize,
    }

    impl Line for Board {
        fn exchange(&mut self, out: &mut VecDeque<u8>, _: Duration) -> Result<Vec<u8>> {
            for byte in out.drain(..) {
                match self.demux.push(byte) {
                    Input::Guest(byte) => self.says.push(byte),
                    Input::Request(request) => {
                        assert_eq!(request.verb, Verb::Status);
                        self.asked += 1;
                        let id = request.id;
                        for text in [
                            format!("@answer id={id:#x} vm=0 vcpus=1 state=running room=9"),
                            format!("@answer id={id:#x} vm=0 vcpu=0 state=off"),
                        ] {
                            let crc = crc(text.as_bytes());
                            let line = format!("\x1e[    1.000000 p0] {text} crc={crc:#x}\r\n");
                            self.says.extend(line.into_bytes());
                        }
                    }
                    other => assert_eq!(other, Input::Nothing),
                }
            }
            Ok(std::mem::take(&mut self.says))
        }

        fn set_rate(&mut self, _: u32) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_asks_through_the_socket_is_answered_over_the_line_and_typing_passes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let mut remote = Remote::open(&path, true).unwrap();
        let client = std::thread::spawn(move || {
            let mut client = Client::connect(&path).unwrap();
            client.execute("x-halligan-status", json!({})).unwrap()
        });
        let mut board = Board::default();
        let mut shown = Vec::new();
        remote.send(*b"ls");
        while !client.is_finished() {
            shown.extend(remote.exchange(&mut board, Duration::ZERO).unwrap());
        }
        let status = client.join().unwrap();
        assert_eq!(status["vcpus"][0]["state"], "off");
        assert_eq!(board.asked, 1);
        assert!(shown.starts_with(b"ls"), "{shown:?}");
    }

    #[test]
    fn nothing_is_sent_to_a_hypervisor_that_has_not_started() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let mut remote = Remote::open(&path, false).unwrap();
        let asking = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut client = Client::connect(&path).unwrap();
                client.execute("x-halligan-status", json!({}))
            }
        });
        let mut board = Board::default();
        for _ in 0..1000 {
            remote.exchange(&mut board, Duration::ZERO).unwrap();
        }
        assert_eq!(board.asked, 0);
        remote.hear(b"\x1e[    0.100000 p0] @ready vms=1\r\n");
        while !asking.is_finished() {
            remote.exchange(&mut board, Duration::ZERO).unwrap();
        }
        assert!(asking.join().unwrap().is_ok());
    }
}
