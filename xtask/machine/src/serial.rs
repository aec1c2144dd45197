//! A serial line to a board: raw, 8n1, at a rate; recorded if wanted.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::termios::{ControlModes, OptionalActions, ioctl_tiocexcl, tcgetattr, tcsetattr};

/// A line to a board.
pub trait Line {
    /// Writes of `out` what can be written now, and reads what has come; waits up to `patience` for either.
    fn exchange(&mut self, out: &mut VecDeque<u8>, patience: Duration) -> Result<Vec<u8>>;
    /// Sets the line to so many baud.
    fn set_rate(&mut self, rate: u32) -> Result<()>;
}

/// A serial port, or anything that looks like one, such as a pseudo-terminal.
pub struct Port {
    file: File,
    name: String,
    log: Option<File>,
}

impl Port {
    /// Opens it, for nobody else, at so many baud.
    pub fn open(path: &Path, rate: u32) -> Result<Self> {
        let name = path.display().to_string();
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => bail!("cannot open {name}: {error}; {}", mend(error.kind())),
        };
        let mut port = Self {
            file,
            name,
            log: None,
        };
        port.set_rate(rate)?;
        ioctl_tiocexcl(&port.file).with_context(|| format!("cannot have {} alone", port.name))?;
        Ok(port)
    }

    /// Keeps all that comes in `log`.
    pub fn record(&mut self, log: File) {
        self.log = Some(log);
    }
}

/// What to do about a port that does not open.
fn mend(error: ErrorKind) -> &'static str {
    match error {
        ErrorKind::NotFound => {
            "plug the adapter in, and look for it with `ls /dev/ttyUSB* /dev/ttyACM*`"
        }
        ErrorKind::PermissionDenied => {
            "let your user have it: `sudo usermod -a -G dialout $USER`, then log in again"
        }
        ErrorKind::ResourceBusy => "another program has it open; close that",
        _ => "name a serial port, such as /dev/ttyUSB0",
    }
}

impl Line for Port {
    fn exchange(&mut self, out: &mut VecDeque<u8>, patience: Duration) -> Result<Vec<u8>> {
        let mut wanted = PollFlags::IN;
        if !out.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut polled = [PollFd::new(&self.file, wanted)];
        let timeout = Timespec::try_from(patience).context("that is too long to wait")?;
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("cannot wait for {}: {error}", self.name),
        }
        if !out.is_empty() {
            match self.file.write(out.as_slices().0) {
                Ok(count) => drop(out.drain(..count)),
                Err(error) if is_passing(&error) => {}
                Err(error) => bail!("cannot write to {}: {error}; {UNPLUGGED}", self.name),
            }
        }
        let mut bytes = vec![0; 4096];
        match self.file.read(&mut bytes) {
            Ok(count) => bytes.truncate(count),
            Err(error) if is_passing(&error) => bytes.clear(),
            Err(error) => bail!("cannot read {}: {error}; {UNPLUGGED}", self.name),
        }
        if let Some(log) = &mut self.log {
            log.write_all(&bytes).context("cannot write the record")?;
        }
        Ok(bytes)
    }

    fn set_rate(&mut self, rate: u32) -> Result<()> {
        let set = || -> rustix::io::Result<()> {
            let mut settings = tcgetattr(&self.file)?;
            settings.make_raw();
            settings.control_modes -= ControlModes::CSTOPB | ControlModes::CRTSCTS;
            settings.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
            settings.set_speed(rate)?;
            // What was written at the old rate goes out at it.
            tcsetattr(&self.file, OptionalActions::Drain, &settings)
        };
        set().with_context(|| {
            let name = &self.name;
            format!("cannot set {name} to {rate} baud; is it a serial port, and can it do so many?")
        })
    }
}

const UNPLUGGED: &str = "was the adapter unplugged?";

/// Whether to go on as if nothing had come.
fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    fn pair() -> (File, Port) {
        let board = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&board).unwrap();
        unlockpt(&board).unwrap();
        let name = ptsname(&board, Vec::new()).unwrap();
        let port = Port::open(Path::new(name.to_str().unwrap()), 115_200).unwrap();
        (File::from(board), port)
    }

    #[test]
    fn every_byte_passes_both_ways() {
        let (mut board, mut port) = pair();
        let all: Vec<u8> = (0..=255).collect();
        let mut out: VecDeque<u8> = all.clone().into();
        while !out.is_empty() {
            assert!(
                port.exchange(&mut out, Duration::from_secs(1))
                    .unwrap()
                    .is_empty()
            );
        }
        let mut bytes = [0; 256];
        board.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes.to_vec(), all);
        board.write_all(&all).unwrap();
        let mut come = Vec::new();
        while come.len() < all.len() {
            come.extend(port.exchange(&mut out, Duration::from_secs(1)).unwrap());
        }
        assert_eq!(come, all);
    }

    #[test]
    fn a_rate_of_ones_own_can_be_set() {
        let (_board, mut port) = pair();
        port.set_rate(921_600).unwrap();
        port.set_rate(1_500_000).unwrap();
    }

    #[test]
    fn a_port_that_is_not_there_is_named_with_the_mend() {
        let error = Port::open(Path::new("/dev/ttyNONE7"), 115_200).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("/dev/ttyNONE7") && error.contains("plug the adapter in"));
        let file = std::env::current_exe().unwrap();
        assert!(Port::open(&file, 115_200).is_err());
    }
}
