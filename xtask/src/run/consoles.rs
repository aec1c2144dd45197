//! Consoles that guests have to themselves, apart from the screen that all share.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use debian::paths;
use machine::operator::{self, Operator};

/// So many pieces wait for a terminal that nobody reads; what comes then is lost.
const WAITING: usize = 4096;

/// Where a guest's console is.
enum Place {
    /// What it writes is in this file.
    File(File),
    /// It has a terminal.
    Terminal {
        said: SyncSender<Vec<u8>>,
        /// It stays there while nobody has opened it.
        _kept: OwnedFd,
    },
}

/// The guests that have one.
#[derive(Default)]
pub struct Consoles {
    places: BTreeMap<u8, Place>,
    /// The guest that standard input and output are for.
    pub stdio: Option<u8>,
}

/// The console that is asked for a guest.
pub struct Wanted {
    vm: u8,
    name: String,
    way: Way,
}

/// What that console is to be.
enum Way {
    File(PathBuf),
    Terminal,
    Stdio,
}

impl Wanted {
    /// What each of `words` asks for, `NAME=FILE`, `NAME=pty` or `NAME=stdio`, where these are the guests.
    pub fn read(words: &[String], guests: &[(u8, String)]) -> Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for word in words {
            let (guest, place) = word.split_once('=').with_context(|| {
                format!("`{word}` is no console; write NAME=FILE, NAME=pty or NAME=stdio")
            })?;
            let vm = operator::find(guests, guest)?;
            let name = guests.iter().find(|(own, _)| *own == vm);
            let name = name.map_or_else(|| guest.to_owned(), |(_, name)| name.clone());
            ensure!(
                all.iter().all(|other| other.vm != vm),
                "{name} has two consoles; say one --console for it"
            );
            let way = match place {
                "" => bail!("`{word}` has no file; write NAME=FILE, NAME=pty or NAME=stdio"),
                "stdio" => Way::Stdio,
                "pty" => Way::Terminal,
                path => {
                    paths::check_output(Path::new(path), "--console")?;
                    Way::File(path.into())
                }
            };
            let has_stdio = |other: &Self| matches!(other.way, Way::Stdio);
            ensure!(
                !(matches!(way, Way::Stdio) && all.iter().any(has_stdio)),
                "two guests cannot both have standard input and output; say stdio for one"
            );
            all.push(Self { vm, name, way });
        }
        Ok(all)
    }
}

impl Consoles {
    /// Opens those that are `wanted`.
    pub fn open(wanted: Vec<Wanted>, operator: &Operator) -> Result<Self> {
        let mut consoles = Self::default();
        for Wanted { vm, name, way } in wanted {
            match way {
                Way::Stdio => consoles.stdio = Some(vm),
                Way::Terminal => {
                    let (place, path) = terminal(operator.of(vm))?;
                    eprintln!("xtask: the console of {name} is {path}");
                    consoles.places.insert(vm, place);
                }
                Way::File(path) => {
                    let file = File::create(&path).with_context(|| {
                        format!("cannot write the console of {name}, {}", path.display())
                    })?;
                    consoles.places.insert(vm, Place::File(file));
                }
            }
        }
        Ok(consoles)
    }

    /// Takes what a guest has written, if it has a console apart from the screen.
    pub fn take(&mut self, vm: u8, bytes: &[u8]) -> Result<bool> {
        match self.places.get_mut(&vm) {
            None => return Ok(false),
            Some(Place::File(file)) => file
                .write_all(bytes)
                .context("cannot write a guest's console to its file")?,
            // A terminal that nobody reads does not hold up the others.
            Some(Place::Terminal { said, .. }) => drop(said.try_send(bytes.to_vec())),
        }
        Ok(true)
    }
}

/// A terminal for a guest, which passes every byte on as it is; and its path.
fn terminal(guest: Operator) -> Result<(Place, String)> {
    let about = "cannot open a terminal for a guest";
    let own =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context(about)?;
    grantpt(&own).context(about)?;
    unlockpt(&own).context(about)?;
    let path = ptsname(&own, Vec::new()).context(about)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let kept = open(&path, flags, Mode::empty()).context(about)?;
    // An echo would be typed to the guest.
    let mut raw = tcgetattr(&kept).context(about)?;
    raw.make_raw();
    tcsetattr(&kept, OptionalActions::Now, &raw).context(about)?;
    let mut screen = File::from(own);
    let mut keyboard = screen.try_clone().context(about)?;
    let (said, to_say) = sync_channel::<Vec<u8>>(WAITING);
    std::thread::spawn(move || {
        for bytes in to_say {
            if screen.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = keyboard.read(&mut bytes) {
            if guest.type_bytes(&bytes[..count]).is_err() && guest.is_over() {
                return;
            }
        }
    });
    let path = path.to_string_lossy().into_owned();
    Ok((Place::Terminal { said, _kept: kept }, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> String {
        let guests = [(0, "main".to_owned()), (1, "other".to_owned())];
        let words: Vec<String> = words.iter().copied().map(str::to_owned).collect();
        let wanted = Wanted::read(&words, &guests).map(|_| ());
        wanted.unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_console_is_named() {
        assert!(refused(&["main"]).starts_with("`main` is no console; write"));
        assert!(refused(&["main="]).starts_with("`main=` has no file"));
        assert!(refused(&["nobody=pty"]).starts_with("there is no guest `nobody`"));
        assert!(refused(&["main=stdio", "0=stdio"]).starts_with("main has two consoles"));
        assert!(refused(&["main=stdio", "other=stdio"]).starts_with("two guests cannot"));
        assert_eq!(
            refused(&["main=/nowhere/console"]),
            "there is no folder /nowhere for --console /nowhere/console; make it first"
        );
    }
}
