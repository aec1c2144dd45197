//! The memory that a dump has, page by page: of an ELF core, and of what makedumpfile writes ("kdump-compressed").
//!
//! Nothing of a dump is believed: what it claims is held against what it is, and a page that cannot be read is an error of that page.

mod compressed;

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use introspection::memory::Memory;
use introspection::oracle::{Pages, Presence, Truth};
use introspection::vmcoreinfo::Range;

use crate::vmcore::{self, ReadAt};
use compressed::Compressed;
use machine::hashes::Hashes;

/// The smallest page.
const SMALLEST: u64 = 4096;
/// How what makedumpfile writes into a pipe begins (`-F`).
const FLATTENED: &[u8] = b"makedumpfile";

/// A dump's memory.
#[derive(Debug)]
pub struct Dumped<D> {
    form: Form<D>,
    /// The page that was read last as memory.
    last: Option<(u64, Vec<u8>)>,
}

#[derive(Debug)]
enum Form<D> {
    Elf(Elf<D>),
    Compressed(Box<Compressed<D>>),
}

impl Dumped<File> {
    /// Of a file.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let length = file.metadata()?.len();
        Self::of(file, length).with_context(|| format!("{shown} is no dump that is read here"))
    }
}

impl<D: ReadAt> Dumped<D> {
    /// Of `dump`, which has so many bytes.
    pub fn of(dump: D, length: u64) -> Result<Self> {
        let magic = dump.read_at(0, FLATTENED.len())?;
        let form = if magic.starts_with(b"KDUMP   ") {
            Form::Compressed(Box::new(Compressed::of(dump, length)?))
        } else if magic.starts_with(b"\x7fELF") {
            Form::Elf(Elf::of(dump, length)?)
        } else if magic == FLATTENED {
            bail!("it is flattened; `makedumpfile -R NEW < IT` puts it in order");
        } else if Hashes::is_one(&magic) {
            bail!(
                "it may be a file of page hashes, which has no pages: `cargo xtask oracle` takes one as TRUTH, the first of both"
            );
        } else {
            bail!("it is neither kdump-compressed nor ELF; it begins with {magic:02x?}");
        };
        Ok(Self { form, last: None })
    }

    /// What it leaves out, as bits of makedumpfile's `-d`; an ELF file does not say.
    pub const fn level(&self) -> Option<u32> {
        match &self.form {
            Form::Elf(_) => None,
            Form::Compressed(dump) => Some(dump.level()),
        }
    }

    /// The size of its pages, if it has any of its own.
    pub const fn page_size(&self) -> Option<u64> {
        match &self.form {
            Form::Elf(_) => None,
            Form::Compressed(dump) => Some(dump.page_size()),
        }
    }

    /// The memory that it has, ascending.
    pub fn ranges(&self) -> Vec<Range> {
        match &self.form {
            Form::Elf(dump) => dump.pieces.iter().map(|piece| (piece.0, piece.1)).collect(),
            Form::Compressed(dump) => dump.ranges(),
        }
    }
}

impl<D: ReadAt> Pages for Dumped<D> {
    fn page(&mut self, address: u64, into: &mut [u8]) -> Result<Presence> {
        match &mut self.form {
            Form::Elf(dump) => dump.page(address, into),
            Form::Compressed(dump) => dump.page(address, into),
        }
    }

    fn size(&self) -> u64 {
        self.ranges().iter().map(|(_, length)| length).sum()
    }
}

impl<D: ReadAt> Truth for Dumped<D> {}

impl<D: ReadAt> Memory for Dumped<D> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let size = self.page_size().unwrap_or(SMALLEST);
        let mut done = 0;
        while done < bytes.len() {
            let at = address.checked_add(done as u64);
            let at = at.context("it is at the end of all addresses")?;
            let (start, from) = (at & !(size - 1), (at % size) as usize);
            let mut page = match self.last.take() {
                Some((last, page)) if last == start => page,
                _ => {
                    let mut page = vec![0; size as usize];
                    let presence = self.page(start, &mut page)?;
                    ensure!(
                        presence != Presence::Absent,
                        "the dump has no memory at {start:#x}"
                    );
                    page
                }
            };
            let rest = &mut page[from..];
            let count = rest.len().min(bytes.len() - done);
            bytes[done..done + count].copy_from_slice(&rest[..count]);
            done += count;
            self.last = Some((start, page));
        }
        Ok(())
    }
}

/// An ELF core.
#[derive(Debug)]
struct Elf<D> {
    dump: D,
    /// Its memory by physical address: where it begins, how much, and where in the file; ascending, each address once.
    pieces: Vec<(u64, u64, u64)>,
}

impl<D: ReadAt> Elf<D> {
    fn of(dump: D, length: u64) -> Result<Self> {
        let mut loads = vmcore::loads(&dump)?;
        loads.sort_by_key(|load| (load.physical, u64::MAX - load.size));
        let mut pieces: Vec<(u64, u64, u64)> = Vec::new();
        let mut behind = 0;
        for load in loads {
            let (ends, in_file) = (
                load.physical.checked_add(load.size),
                load.offset.checked_add(load.size),
            );
            let physical = load.physical;
            ensure!(
                in_file.is_some_and(|end| end <= length),
                "it is cut short: its memory at {physical:#x} is behind its end"
            );
            let end = ends.with_context(|| format!("its memory at {physical:#x} has no end"))?;
            let from = physical.max(behind);
            if from < end {
                let offset = load.offset + (from - physical);
                match pieces.last_mut() {
                    // A piece that goes on where the last one ends is one with it.
                    Some((start, size, at)) if *start + *size == from && *at + *size == offset => {
                        *size += end - from;
                    }
                    _ => pieces.push((from, end - from, offset)),
                }
                behind = end;
            }
        }
        Ok(Self { dump, pieces })
    }

    fn page(&self, address: u64, into: &mut [u8]) -> Result<Presence> {
        let mut done = 0;
        while done < into.len() {
            let Some(at) = address.checked_add(done as u64) else {
                return Ok(Presence::Absent);
            };
            let next = self.pieces.partition_point(|(start, ..)| *start <= at);
            let piece = next.checked_sub(1).map(|found| self.pieces[found]);
            let piece = piece.filter(|(start, size, _)| at - start < *size);
            let Some((start, size, offset)) = piece else {
                return Ok(Presence::Absent);
            };
            let left = size - (at - start);
            let count = usize::try_from(left).unwrap_or(usize::MAX);
            let count = count.min(into.len() - done);
            self.dump
                .fill_at(offset + (at - start), &mut into[done..done + count])?;
            done += count;
        }
        Ok(Presence::Here)
    }
}

#[cfg(test)]
pub(crate) mod tests;
