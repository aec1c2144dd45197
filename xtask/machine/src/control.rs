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
use std::iter;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use debian::paths;

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
    /// That one can be opened at `path` for the first guest, and for each of the `others` behind it.
    ///
    /// # Errors
    ///
    /// Names the path, and says what to do.
    pub fn check(path: &Path, others: &[(u8, String)]) -> Result<()> {
        let behind = others.iter().map(|(_, name)| path_of(path, name));
        for path in iter::once(path.to_owned()).chain(behind) {
            check_length(&path)?;
            ensure!(
                fs::symlink_metadata(&path).is_err(),
                "there is something at {} already; remove that, or give another path with --control",
                path.display()
            );
            paths::check_output(&path, "--control")?;
        }
        Ok(())
    }

    /// Opens one at `path`, for this user alone, and serves whoever connects in threads of their own.
    pub fn open(path: &Path, operator: &Operator) -> Result<Self> {
        let shown = path.display();
        check_length(path)?;
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
            all.push(Self::open(&path_of(path, &name), &operator.of(vm))?);
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

/// Where the socket of the guest `name` is if it is not the first, whose socket is at `path`.
fn path_of(path: &Path, name: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(format!("-{name}"));
    path.into()
}

fn check_length(path: &Path) -> Result<()> {
    ensure!(
        path.as_os_str().len() <= LONGEST_PATH,
        "the path of the control socket is longer than {LONGEST_PATH} bytes: {}; give a shorter one with --control",
        path.display()
    );
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_cannot_be_is_refused_whosever_it_is() {
        let name = format!("halligan-control-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        let others = [(1, "other".to_owned())];
        let refused = |others| Control::check(&path, others).map_err(|error| error.to_string());
        assert_eq!(refused(&others), Ok(()));
        fs::write(folder.join("s-other"), "").unwrap();
        assert_eq!(refused(&[]), Ok(()));
        let error = refused(&others).unwrap_err();
        assert!(error.contains("s-other already; remove that"), "{error}");
        let long = [(1, "o".repeat(LONGEST_PATH))];
        let error = refused(&long).unwrap_err();
        assert!(error.contains("is longer than 107 bytes"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
        let error = refused(&[]).unwrap_err();
        assert!(error.starts_with("there is no folder "), "{error}");
    }
}
