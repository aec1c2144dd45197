//! A guest's RAM without a way over the line: of a machine that QEMU emulates, by its monitor.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use hv_bundle::Backing;
use introspection::memory::{Cached, Memory};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Operator, lock};
use crate::qemu::Monitor;

/// So much goes through the file at a time: a guest that is not paused stands still that long.
const PART: u64 = 16 << 20;
/// Over the line so much is asked for at a time.
const LINE_PART: u64 = 64 << 10;
/// In so many places of each piece of RAM the plan is held against what the hypervisor reads there, so many bytes each.
const LOOKS: u64 = 8;
const LOOK: usize = 64;

/// So much is read at a time at least where a little is asked for. RAM is in whole pages.
const BLOCK: u64 = 4 << 10;
/// The same over the line, at 115200 baud of which 256 bytes take some 50 ms.
const LINE_BLOCK: u64 = 256;

/// The way to it.
pub struct Direct {
    monitor: Arc<Mutex<Monitor>>,
    backings: BTreeMap<u8, Backing>,
    /// What QEMU has saved: it is on no disk.
    saved: File,
}

impl Direct {
    /// By QEMU's `monitor`. The RAM of each of several guests is where `backings` say; an only guest's is where it finds it.
    pub fn new(monitor: Arc<Mutex<Monitor>>, backings: BTreeMap<u8, Backing>) -> Result<Self> {
        let saved = memfd_create("guest.ram", MemfdFlags::CLOEXEC)?;
        Ok(Self {
            monitor,
            backings,
            saved: saved.into(),
        })
    }

    /// The bytes of the machine's memory at physical address `pa`.
    fn save(&self, pa: u64, size: u64) -> Result<Vec<u8>> {
        // One at a time: each begins the file anew.
        let mut monitor = lock(&self.monitor);
        let (own, file) = (std::process::id(), self.saved.as_raw_fd());
        let path = PathBuf::from(format!("/proc/{own}/fd/{file}"));
        monitor
            .save_memory(pa, size, &path)
            .context("QEMU does not save the guest's memory")?;
        let mut bytes = vec![0; usize::try_from(size)?];
        let read = self.saved.read_exact_at(&mut bytes, 0);
        read.context("QEMU has saved too little")?;
        Ok(bytes)
    }
}

/// RAM, and the way that it takes.
#[derive(Clone)]
pub struct Source<'a> {
    operator: &'a Operator,
    direct: Option<(&'a Direct, Backing)>,
}

impl Operator {
    /// From now on RAM can be read by way of `direct`.
    pub fn reach_ram(&self, direct: Direct) {
        // The first one stays.
        let _ = self.shared.direct.set(direct);
    }

    /// The guest's RAM, by the shortest way there is.
    ///
    /// # Errors
    ///
    /// If it is not in the machine where it was planned to be.
    pub fn source(&self) -> Result<Source<'_>> {
        let direct = self.shared.direct.get();
        let backing = direct.and_then(|direct| match direct.backings.get(&self.vm) {
            Some(backing) => Some(backing.clone()),
            None if self.are_several() => None,
            None => {
                let ranges = self.ram().into_iter();
                let ram: Vec<_> = ranges
                    .map(|(start, size)| platform::Range::new(start, size))
                    .collect();
                Some(Backing::one_to_one(&ram))
            }
        });
        let source = Source {
            operator: self,
            direct: direct.zip(backing),
        };
        source.check()?;
        Ok(source)
    }
}

impl Source<'_> {
    /// To look around in: what is read is kept.
    pub fn cached(&self) -> Cached<Self> {
        let block = if self.direct.is_some() {
            BLOCK
        } else {
            LINE_BLOCK
        };
        Cached::new(self.clone(), block)
    }

    /// That the hypervisor finds in RAM what is where the plan says. A guest that runs may have changed it meanwhile.
    fn check(&self) -> Result<()> {
        let Some((direct, backing)) = &self.direct else {
            return Ok(());
        };
        for piece in backing.pieces() {
            for look in 0..LOOKS {
                let offset = piece.size / LOOKS * look;
                let ours = || -> Result<bool> {
                    let told = self.operator.read(piece.ipa + offset, LOOK)?;
                    Ok(told == direct.save(piece.pa + offset, LOOK as u64)?)
                };
                ensure!(
                    ours()? || ours()? || ours()?,
                    "the guest's memory at {:#x} is not where it was planned to be in the machine's",
                    piece.ipa + offset
                );
            }
        }
        Ok(())
    }

    /// Gives `take` `length` bytes from `ipa` on, part by part.
    ///
    /// # Errors
    ///
    /// If not all of it is RAM, nobody answers, or `take` fails.
    pub fn read(
        &self,
        ipa: u64,
        length: u64,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < length {
            let at = ipa + done;
            let bytes = match &self.direct {
                None => {
                    let part = LINE_PART.min(length - done);
                    self.operator.read(at, usize::try_from(part)?)?
                }
                Some((direct, backing)) => {
                    let place = backing.at(at, PART.min(length - done));
                    let place = place.with_context(|| super::not_ram(at))?;
                    direct.save(place.start, place.size)?
                }
            };
            take(&bytes)?;
            done += bytes.len() as u64;
        }
        Ok(())
    }
}

impl Memory for Source<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let mut rest = &mut *bytes;
        Source::read(self, address, rest.len() as u64, |part| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(part.len());
            now.copy_from_slice(part);
            rest = later;
            Ok(())
        })
    }
}
