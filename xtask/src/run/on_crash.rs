//! What becomes of QEMU when the hypervisor has crashed.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::crash;
use machine::console::Line;
use machine::qemu::Monitor;

/// What is done when the hypervisor has crashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnCrash {
    /// QEMU stays as it is until it is left, and a debugger may look.
    Hold,
    /// The hypervisor's memory is saved for `cargo xtask crash show`.
    Dump,
    /// QEMU ends.
    #[default]
    Quit,
}

/// Does it.
pub struct Aftermath {
    on_crash: OnCrash,
    monitor: Option<Arc<Mutex<Monitor>>>,
    /// The port that a debugger has already.
    gdb: Option<u16>,
    /// Where memory is saved.
    file: PathBuf,
    /// The hypervisor's memory, once it has said where it is.
    home: Option<Home>,
    has_saved: bool,
}

/// A range of physical memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Home {
    pa: u64,
    size: u64,
}

/// How long the crash record may take, which the hypervisor makes when it has said everything.
const RECORD: Duration = Duration::from_secs(20);

impl Aftermath {
    /// By way of `monitor`, which is there if there is a hypervisor.
    pub fn new(
        on_crash: OnCrash,
        monitor: Option<Arc<Mutex<Monitor>>>,
        gdb: Option<u16>,
        file: PathBuf,
    ) -> Self {
        Self {
            on_crash,
            monitor,
            gdb,
            file,
            home: None,
            has_saved: false,
        }
    }

    /// How long QEMU may go on once the hypervisor has said what would end it within `limit`.
    pub fn limit(&self, limit: Option<Duration>, has_crashed: bool) -> Option<Duration> {
        let is_held = has_crashed && self.on_crash == OnCrash::Hold;
        limit.filter(|_| !is_held)
    }

    /// Whether QEMU ends when a guest has crashed: unless somebody is looking.
    pub fn ends_with_guest(&self) -> bool {
        self.gdb.is_none() && self.on_crash != OnCrash::Hold
    }

    /// Where memory was saved, if it was.
    pub fn saved(&self) -> Option<&PathBuf> {
        self.has_saved.then_some(&self.file)
    }

    /// Takes notice of what the hypervisor says.
    pub fn note(&mut self, line: &Line) {
        self.home = home(&line.text).or(self.home);
    }

    /// Now that all has been said; `leaves` are the keys that leave. Answers what the user is to know.
    pub fn begin(&mut self, leaves: &str) -> Option<String> {
        let monitor = self.monitor.as_ref()?;
        // Whoever had it when a thread panicked has left nothing half done.
        let mut monitor = monitor.lock().unwrap_or_else(PoisonError::into_inner);
        let monitor = &mut monitor;
        let done = match self.on_crash {
            OnCrash::Quit => return None,
            OnCrash::Hold => hold(monitor, self.gdb, leaves),
            OnCrash::Dump => {
                let saved = save(monitor, self.home, &self.file);
                self.has_saved = saved.is_ok();
                saved
            }
        };
        Some(done.unwrap_or_else(|error| format!("nothing is there to look at: {error:#}")))
    }
}

/// Lets a debugger in, unless it may come already.
fn hold(monitor: &mut Monitor, gdb: Option<u16>, leaves: &str) -> Result<String> {
    let port = match gdb {
        Some(port) => port,
        None => {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
                .local_addr()?
                .port();
            monitor.listen_for_debugger(free)?;
            free
        }
    };
    Ok(format!(
        "the hypervisor has crashed and QEMU is held: `target remote 127.0.0.1:{port}` looks at it, {leaves} leaves"
    ))
}

/// Saves the hypervisor's memory, with the record in it.
fn save(monitor: &mut Monitor, home: Option<Home>, file: &PathBuf) -> Result<String> {
    let home = home.context("the hypervisor crashed before it had memory of its own")?;
    let started = Instant::now();
    loop {
        monitor
            .save_memory(home.pa, home.size, file)
            .with_context(|| format!("cannot save its memory in {}", file.display()))?;
        if crash::lines(&fs::read(file)?).is_some() {
            return Ok("the hypervisor has crashed and its memory is saved".to_owned());
        }
        ensure!(
            started.elapsed() < RECORD,
            "the hypervisor left no crash record"
        );
    }
}

/// The hypervisor's memory if `text` says where it is: `halligan VERSION at ADDRESS, N KiB`.
fn home(text: &str) -> Option<Home> {
    let (_, place) = text.strip_prefix("halligan ")?.split_once(" at 0x")?;
    let (pa, kib) = place.strip_suffix(" KiB")?.split_once(", ")?;
    Some(Home {
        pa: u64::from_str_radix(pa, 16).ok()?,
        size: kib.parse::<u64>().ok()? << 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hypervisor_that_has_crashed_is_held() {
        let second = Some(Duration::from_secs(1));
        let limit = |on_crash, has_crashed| {
            let aftermath = Aftermath::new(on_crash, None, None, PathBuf::new());
            aftermath.limit(second, has_crashed)
        };
        assert_eq!(limit(OnCrash::Hold, true), None);
        assert_eq!(limit(OnCrash::Hold, false), second);
        assert_eq!(limit(OnCrash::Dump, true), second);
        assert_eq!(limit(OnCrash::Quit, true), second);
    }

    #[test]
    fn a_guest_that_has_crashed_stays_for_whoever_looks() {
        let ends =
            |on_crash, gdb| Aftermath::new(on_crash, None, gdb, PathBuf::new()).ends_with_guest();
        assert!(ends(OnCrash::Quit, None) && ends(OnCrash::Dump, None));
        assert!(!ends(OnCrash::Hold, None) && !ends(OnCrash::Quit, Some(1234)));
    }

    #[test]
    fn the_hypervisor_says_where_its_memory_is() {
        let expected = Home {
            pa: 0x7fe0_0000,
            size: 2 << 20,
        };
        assert_eq!(
            home("halligan 0.1.0 at 0x7fe00000, 2048 KiB"),
            Some(expected)
        );
        assert_eq!(
            home("halligan on linux,dummy-virt: entered at EL2, loaded at 0x40200000"),
            None
        );
    }
}
