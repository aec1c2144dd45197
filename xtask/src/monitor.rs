//! `cargo xtask monitor`: a terminal on a serial line that explains the hypervisor's addresses as they come.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::terminal::{Escape, Terminal};
use debian::paths;
use lab::symbolize::Explainer;
use lab::usage;
use machine::console::{Part, Splitter};
use machine::control::{self, Control};
use machine::remote::Remote;
use machine::run_dir::RunDir;
use machine::serial::Port;

/// Watch a board's serial line, with the functions behind the addresses of the hypervisor's reports.
///
/// What the guest writes passes as it is, lines of the hypervisor begin with `hv: `, and what is typed goes to the
/// board. Ctrl-A X leaves; Ctrl-A Ctrl-A sends one Ctrl-A. `cargo xtask ctl` reaches the board's guest meanwhile.
///
/// Exit codes: 0 you have left, 1 the line cannot be used, 2 wrong usage.
#[derive(Args)]
pub struct Monitor {
    /// The serial port, such as /dev/ttyUSB0.
    #[arg(long, value_name = "DEVICE")]
    port: PathBuf,
    /// Baud.
    #[arg(long, value_name = "N", default_value_t = chainload::BASE_RATE)]
    baud: u32,
    /// ELF file with the symbols [default: that of the hypervisor built last].
    #[arg(long, value_name = "FILE")]
    elf: Option<PathBuf>,
    /// ELF file of what the guest is, a vmlinux, for its addresses.
    #[arg(long, value_name = "FILE")]
    guest_elf: Option<PathBuf>,
    /// Where programs reach the hypervisor's operator, as `cargo xtask ctl` does: a socket [default: in a folder of this command's
    /// own, which ctl finds].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// How long to look at the line before the keyboard.
const LOOK: Duration = Duration::from_millis(20);

impl Monitor {
    /// Until the user leaves.
    pub fn execute(self) -> Result<ExitCode> {
        self.check().map_err(usage::wrong)?;
        let elf = match self.elf {
            Some(elf) => elf,
            None => paths::output("hypervisor.elf")?,
        };
        let mut port = Port::open(&self.port, self.baud)?;
        let mut screen = Screen {
            splitter: Splitter::default(),
            // Without symbols the addresses have to do.
            explainer: Explainer::load(&elf, self.guest_elf.as_deref()).ok(),
        };
        if screen.explainer.is_none() {
            eprintln!("xtask: no symbols: there is no {}", elf.display());
        }
        let folder = RunDir::create(None)?;
        let socket = self.control.unwrap_or_else(|| folder.file(control::NAME));
        // The board may have been running for long.
        let mut remote = Remote::open(&socket, true)?;
        eprintln!("xtask: control socket: {}", socket.display());
        let terminal = Terminal::take()?;
        let keys = keys();
        let mut escape = Escape::default();
        loop {
            match keys.try_recv() {
                Ok(bytes) => {
                    let (bytes, leave) = escape.filter(&bytes);
                    remote.send(bytes);
                    if leave {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                Err(TryRecvError::Empty) => {}
                // A script's input ends; the board goes on.
                Err(TryRecvError::Disconnected) if terminal.is_raw() => {
                    return Ok(ExitCode::SUCCESS);
                }
                Err(TryRecvError::Disconnected) => {}
            }
            let bytes = remote.exchange(&mut port, LOOK)?;
            let mut stdout = io::stdout().lock();
            stdout
                .write_all(&screen.show(&bytes))
                .and_then(|()| stdout.flush())
                .context("cannot write to standard output")?;
        }
    }

    /// That the files that it names are there, and the socket can be.
    fn check(&self) -> Result<()> {
        for (path, option) in [(&self.guest_elf, "--guest-elf"), (&self.elf, "--elf")] {
            if let Some(path) = path {
                paths::check_input(path, option)?;
            }
        }
        match &self.control {
            Some(control) => Control::check(control, &[]),
            None => Ok(()),
        }
    }
}

/// What is typed.
fn keys() -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Makes of what comes what is shown.
struct Screen {
    splitter: Splitter,
    explainer: Option<Explainer>,
}

impl Screen {
    fn show(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        for part in self.splitter.push(bytes) {
            match part {
                Part::Guest { bytes, .. } => shown.extend(bytes),
                // Whoever has asked gets it.
                Part::Line(line) if line.text.starts_with("@answer ") => {}
                Part::Line(line) => {
                    let text = line.to_string();
                    let text = match &mut self.explainer {
                        Some(explainer) => explainer.explain(&text),
                        None => text,
                    };
                    shown.extend(format!("hv: {text}\r\n").into_bytes());
                }
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_hypervisor_are_marked_and_the_rest_passes() {
        let mut screen = Screen {
            splitter: Splitter::default(),
            explainer: None,
        };
        let mut shown = screen.show(b"guest\r\n\x1e[    0.000001 p0] pc 0x80");
        shown.extend(screen.show(b"00\r\n\xff"));
        assert_eq!(
            shown,
            b"guest\r\nhv: [    0.000001 p0] pc 0x8000\r\n\xff".to_vec()
        );
    }
}
