//! The control socket of a running machine, by which programs reach the hypervisor's operator: a server that speaks QMP
//! as far as it goes (`control/qmp.rs`), and the way to one.

mod choice;
mod client;
mod connection;
mod dump;
mod hashes;
mod linux;
mod monitor;
mod pause;
mod qmp;
mod taken;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

pub use choice::nmi_target;
pub use client::{Address, Client};
pub use linux::{Ram, vmcoreinfo};

use crate::operator::Operator;
use connection::Connection;

/// What the socket of a run is called in its folder.
pub const NAME: &str = "control";
/// A longer path does not fit into an address (unix(7): 108 bytes with the 0 at the end).
const LONGEST_PATH: usize = 107;
/// A socket that others can connect to for as long as this lives.
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// Opens one at `path`, for this user alone, and serves whoever connects in threads of their own.
    pub fn open(path: &Path, operator: &Operator) -> Result<Self> {
        let shown = path.display();
        ensure!(
            path.as_os_str().len() <= LONGEST_PATH,
            "the path of the control socket is longer than {LONGEST_PATH} bytes: {shown}; give a shorter one with --control"
        );
        let own =
            || format!("cannot open the control socket {shown}; give another path with --control");
        let listener = UnixListener::bind(path).with_context(own)?;
        // The folder of a run is this user's alone from the start, and so nobody was faster.
        fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(own)?;
        let operator = operator.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let operator = operator.clone();
                std::thread::spawn(move || {
                    // Whoever hangs up has had enough.
                    let _ = serve(&stream, &operator);
                });
            }
        });
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Opens one for the first guest at `path` and, where there are several, one for each behind it, whose name is at its end:
    /// so programs that know nothing of guests reach any of them.
    pub fn open_all(path: &Path, operator: &Operator) -> Result<Vec<Self>> {
        let mut all = vec![Self::open(path, operator)?];
        for (vm, name) in operator.guests().into_iter().skip(1) {
            let mut path = path.as_os_str().to_owned();
            path.push(format!("-{name}"));
            all.push(Self::open(Path::new(&path), &operator.of(vm))?);
        }
        Ok(all)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The folder goes, too, mostly.
        let _ = fs::remove_file(&self.path);
    }
}

fn serve(stream: &UnixStream, operator: &Operator) -> Result<()> {
    let mut to = stream;
    writeln!(to, "{}", qmp::greeting())?;
    let mut connection = Connection::of(stream);
    // A client chooses another guest, if there is one.
    let mut guest = operator.clone();
    while let Some(line) = connection.line()? {
        if !line.trim().is_empty() {
            let answer = qmp::answer(&line, &mut guest, &mut connection.files);
            writeln!(to, "{answer}")?;
            if qmp::opens_console(&line) {
                return show_console(stream, &connection.rest(), &guest);
            }
        }
    }
    Ok(())
}

/// From here on the connection is the guest's console, until the machine ends or the client hangs up.
fn show_console(mut stream: &UnixStream, typed: &[u8], operator: &Operator) -> Result<()> {
    let said = operator.listen();
    let (mut keyboard, guest) = (stream.try_clone()?, operator.clone());
    guest.type_bytes(typed)?;
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = keyboard.read(&mut bytes) {
            if guest.type_bytes(&bytes[..count]).is_err() {
                break;
            }
        }
    });
    while let Some(bytes) = said.next() {
        stream.write_all(&bytes)?;
    }
    Ok(stream.shutdown(Shutdown::Both)?)
}
