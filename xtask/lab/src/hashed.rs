//! A truth of which only hashes are known: what was in a page is in the dump, wherever that has it with the same hash.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::hashes::{PAGE, Word};
use hv_bundle::page_word;
use introspection::memory::Memory;
use introspection::oracle::{Known, Truth};
use introspection::vmcoreinfo::Range;
use machine::hashes::Hashes;

/// The size of a page that is hashed.
const SIZE: usize = PAGE as usize;

/// The hashes in a file; none if it is no file of hashes.
pub fn open(path: &Path) -> Result<Option<Hashes>> {
    let shown = path.display();
    let unread = || format!("cannot read {shown}");
    let mut first = [0];
    let mut file = File::open(path).with_context(unread)?;
    let read = file.read(&mut first).with_context(unread)?;
    if !Hashes::is_one(&first[..read]) {
        return Ok(None);
    }
    let bytes = fs::read(path).with_context(unread)?;
    let hashes = Hashes::parse(&bytes);
    let hashes = hashes.with_context(|| format!("{shown} is no truth that is read here"))?;
    Ok(Some(hashes))
}

/// What stands for a page with these bytes.
fn word(page: &[u8; SIZE]) -> Word {
    let (words, _) = page.as_chunks::<8>();
    page_word(&mut |at| {
        let first = at as usize / 8;
        std::array::from_fn(|n| u64::from_ne_bytes(words[first + n]))
    })
}

/// Hashes, and a dump in which pages are read.
pub struct Hashed<D> {
    hashes: Hashes,
    dump: D,
    /// Pages that were read of the dump, and are as they were; nothing of those that are not.
    pages: BTreeMap<u64, Option<Box<[u8; SIZE]>>>,
    /// Whether a page with something in it was compared, and whether one was the same.
    compared: bool,
    same: bool,
}

impl<D: Memory> Hashed<D> {
    /// Of these hashes and a dump.
    pub const fn new(hashes: Hashes, dump: D) -> Self {
        Self {
            hashes,
            dump,
            pages: BTreeMap::new(),
            compared: false,
            same: false,
        }
    }

    /// RAM, ascending.
    pub fn ranges(&self) -> Vec<Range> {
        self.hashes.ranges()
    }

    /// Whether the dump can be of that memory: if it has anything of it, a page is the same.
    pub const fn has_met(&self) -> bool {
        self.same || !self.compared
    }

    fn known_word(&self, address: u64) -> Result<Word> {
        let word = self.hashes.at(address);
        word.with_context(|| format!("the truth has no memory at {address:#x}"))
    }

    /// What was in the page at `address`, if it is known.
    fn page(&mut self, address: u64) -> Result<Option<&[u8; SIZE]>> {
        if !self.pages.contains_key(&address) {
            let known = self.known_word(address)?;
            let mut page = Box::new([0; SIZE]);
            let is_known = match known {
                Word::Zeros(_) => true,
                Word::Hash(_) => {
                    self.dump.read(address, &mut page[..]).is_ok() && word(&page) == known
                }
            };
            self.pages.insert(address, is_known.then_some(page));
        }
        Ok(self.pages.get(&address).and_then(Option::as_deref))
    }
}

impl<D: Memory> Memory for Hashed<D> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.checked_add(done as u64);
            let at = at.context("it is at the end of all addresses")?;
            let (start, from) = (at & !(PAGE - 1), (at % PAGE) as usize);
            let Some(page) = self.page(start)? else {
                bail!(
                    "what was in the page at {start:#x} is not known: the dump does not have it with its hash"
                );
            };
            let count = (SIZE - from).min(bytes.len() - done);
            bytes[done..done + count].copy_from_slice(&page[from..from + count]);
            done += count;
        }
        Ok(())
    }
}

impl<D: Memory> Truth for Hashed<D> {
    fn known(&mut self, address: u64, dumped: Option<&[u8]>, into: &mut [u8]) -> Result<Known> {
        let (pages, rest) = into.as_chunks_mut::<SIZE>();
        ensure!(rest.is_empty(), "pages are of whole 4 KiB");
        let (dumped, _) = dumped.unwrap_or_default().as_chunks::<SIZE>();
        let mut known = Known {
            is_zero: true,
            is_same: !dumped.is_empty(),
            is_whole: true,
        };
        let places = (address..).step_by(SIZE);
        for (n, (at, page)) in places.zip(pages).enumerate() {
            let own = self.known_word(at)?;
            page.fill(0);
            let is_zero = matches!(own, Word::Zeros(_));
            known.is_zero &= is_zero;
            let Some(dumped) = dumped.get(n) else {
                known.is_whole &= is_zero;
                continue;
            };
            let is_same = word(dumped) == own;
            if is_same {
                page.copy_from_slice(dumped);
            }
            known.is_same &= is_same;
            known.is_whole &= is_same || is_zero;
            self.compared |= !is_zero;
            self.same |= is_same && !is_zero;
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests;
