//! Whether a dump is true: each page of it, held against what the guest's memory was at the instant that the dump is of.
//!
//! A page is equal; different, and who wrote to it after that instant is said; absent, and may be at the dump's level by its own
//! `struct page` ([`crate::pages`]); absent and required; or present and needless. The capture kernel's own memory is no part of a dump.

mod owners;
mod report;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::memory::Memory;
use crate::pages::{Dumped, Kinds, Rule, Verdict, is_zero, judge};
use crate::vmcoreinfo::{Range, Vmcoreinfo};

pub use owners::Owners;
pub use report::{Bad, Count, Line, Page, Report, Touched, VERSION};
use report::{Class, Tally};

/// So many pages of each bad class are told of, and so many writers.
pub const FIRST: usize = 10;
/// Whoever writes is known by such pages, whatever the guest's are: stage 2 has them.
const STAGE_2: u64 = 4096;

/// What a dump has of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    Absent,
    /// The one page of zeros that stands for all of them.
    Zero,
    /// Content of its own.
    Here,
}

/// A dump, page by page.
pub trait Pages {
    /// Fills `into`, a page, with what the dump has at a physical address.
    ///
    /// # Errors
    ///
    /// If it has something there that cannot be read, which counts as another content.
    fn page(&mut self, address: u64, into: &mut [u8]) -> Result<Presence>;

    /// How many bytes of memory it has.
    fn size(&self) -> u64;
}

/// What is known of a page as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// It was full of zeros.
    pub is_zero: bool,
    /// It was as the dump has it.
    pub is_same: bool,
    /// All that was in it is known.
    pub is_whole: bool,
}

/// What a guest's memory was: all of it, or a hash for each page. What is read of it is as it was, or is not read.
pub trait Truth: Memory {
    /// What is known of the page at `address`, of which a dump has `dumped`, if it has anything; as much as `into` is long.
    /// That has what was in the page then, if it is known.
    ///
    /// # Errors
    ///
    /// If the memory has no such page.
    fn known(&mut self, address: u64, dumped: Option<&[u8]>, into: &mut [u8]) -> Result<Known> {
        self.read(address, into)?;
        Ok(Known {
            is_zero: is_zero(into),
            is_same: dumped.is_some_and(|dumped| dumped == into),
            is_whole: true,
        })
    }
}

/// Somebody who wrote to the guest's memory after the instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Where, as a physical address of the guest's; the 4 KiB around it count.
    pub address: u64,
    /// Who.
    #[serde(flatten)]
    pub who: Who,
}

/// Who can write to a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum Who {
    /// A vCPU of the guest.
    Vcpu {
        /// Which.
        vcpu: u32,
        /// Where it was.
        pc: u64,
        /// What that is called, if it is known.
        #[serde(default)]
        symbol: Option<String>,
    },
    /// A part of the hypervisor.
    Hypervisor {
        /// Which.
        name: String,
    },
    /// The guest itself, between two looks at its memory: which vCPU it was is not known.
    Guest,
}

/// What is asked about a dump.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What the dumped kernel says of itself.
    pub info: &'a Vmcoreinfo,
    /// What is known of the guest's memory.
    pub ram: &'a [Range],
    /// What the dump leaves out, as makedumpfile's `-d` has it.
    pub level: u32,
    /// Who wrote after the instant.
    pub writers: &'a [Writer],
    /// Where the capture kernel runs. Empty: where the dumped kernel's `crashk_res` says.
    pub reserve: &'a [Range],
    /// So many pages of each bad class are told of; usually [`FIRST`].
    pub told: usize,
}

/// Holds `dump` against `truth`; `progress` is told how many bytes have been looked at.
///
/// # Errors
///
/// If the truth cannot be read, or the kernel does not say how it describes its pages.
pub fn compare(
    truth: &mut impl Truth,
    dump: &mut impl Pages,
    question: &Question<'_>,
    mut progress: impl FnMut(u64),
) -> Result<Report> {
    let rule = Rule::of(question.info)?;
    let mut kinds = Kinds::of(question.info, &rule)?;
    let page = kinds.map().page();
    let mut owners = None;
    let reserve = match question.reserve {
        [] => owners
            .insert(Owners::of(truth, question.info))
            .reserve(truth),
        given => given.to_vec(),
    };
    let writers = by_page(question.writers);
    let mut tally = Tally::default();
    let (mut own, mut dumped) = (vec![0; page as usize], vec![0; page as usize]);
    let mut done = 0;
    for (start, length) in whole_pages(question.ram, page)? {
        for at in (start..start + length).step_by(page as usize) {
            progress(done);
            done += page;
            let presence = dump.page(at, &mut dumped);
            tally.found += match &presence {
                Ok(Presence::Absent) => 0,
                _ => page,
            };
            let is_in = |(start, size): &Range| at >= *start && at - start < *size;
            if reserve.iter().any(is_in) {
                tally.add(Class::Reserve, page);
                continue;
            }
            let here = matches!(presence, Ok(Presence::Here)).then_some(&dumped[..]);
            let known = truth.known(at, here, &mut own)?;
            let kind = kinds.at(truth, at / page);
            let (verdict, broken) = match presence {
                Ok(presence) => {
                    let dumped = match presence {
                        Presence::Absent => Dumped::Absent,
                        Presence::Zero => Dumped::Zero,
                        Presence::Here if known.is_same => Dumped::Same,
                        Presence::Here => Dumped::Other,
                    };
                    (judge(kind, question.level, known.is_zero, dumped), None)
                }
                Err(error) => (Verdict::Different, Some(format!("{error:#}"))),
            };
            let by: Vec<&Writer> = writers
                .range(at..at + page)
                .flat_map(|(_, by)| by.iter().copied())
                .collect();
            tally.touch(at, &by, verdict);
            let class = Class::of(verdict);
            tally.untold += u64::from(class == Class::Missing && !kinds.is_told());
            tally.add(class, page);
            let Some(bad) = tally.bad(class) else {
                continue;
            };
            bad.pages += 1;
            bad.bytes += page;
            bad.by_nobody += u64::from(by.is_empty());
            if bad.first.len() >= question.told {
                continue;
            }
            let differs =
                matches!(verdict, Verdict::Different) && broken.is_none() && known.is_whole;
            let mut places = own.iter().zip(&dumped);
            let first = places.position(|(own, dumped)| own != dumped);
            let first = first.filter(|_| differs).map(|first| first as u64);
            let owners = owners.get_or_insert_with(|| Owners::of(truth, question.info));
            let belongs = owners.name(truth, at + first.unwrap_or(0), kind, kinds.slab());
            let differing = own
                .iter()
                .zip(&dumped)
                .filter(|(own, dumped)| own != dumped);
            bad.first.push(Page {
                address: at,
                kind: kind.name(),
                belongs,
                differs_from: first.map(|first| at + first),
                differing: first.map_or(0, |_| differing.count() as u64),
                written_by: by.iter().map(|by| owners.writer(truth, by)).collect(),
                broken,
            });
        }
    }
    progress(done);
    let mut names: Vec<String> = Vec::new();
    for writer in tally.first_writers() {
        let owners = owners.get_or_insert_with(|| Owners::of(truth, question.info));
        names.push(format!(
            "{:#x}: {}",
            writer.address,
            owners.writer(truth, writer)
        ));
    }
    let release = question.info.release()?.to_owned();
    Ok(tally.report(release, question.level, page, dump.size(), names))
}

/// All writers by the page of stage 2 that they wrote to.
fn by_page(writers: &[Writer]) -> BTreeMap<u64, Vec<&Writer>> {
    let mut pages: BTreeMap<u64, Vec<&Writer>> = BTreeMap::new();
    for writer in writers {
        let page = pages.entry(writer.address & !(STAGE_2 - 1)).or_default();
        // One that writes again and again has nothing to add.
        if !page.iter().any(|known| known.who == writer.who) {
            page.push(writer);
        }
    }
    pages
}

/// The whole pages of `ram`, ascending, each once.
fn whole_pages(ram: &[Range], page: u64) -> Result<Vec<Range>> {
    let mut ranges = ram.to_vec();
    ranges.sort_unstable();
    let mut whole: Vec<Range> = Vec::new();
    let mut behind = 0;
    for (start, length) in ranges {
        let end = start.checked_add(length);
        let end =
            end.with_context(|| format!("RAM at {start:#x} is at the end of all addresses"))?;
        let first = start.max(behind).next_multiple_of(page);
        let last = end / page * page;
        if first < last {
            whole.push((first, last - first));
            behind = last;
        }
    }
    ensure!(!whole.is_empty(), "the truth has no memory");
    Ok(whole)
}

#[cfg(test)]
mod tests;
