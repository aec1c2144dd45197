//! What was found: as a table, and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{FIRST, Writer};
use crate::pages::{Reason, Verdict};

/// The version of the report in JSON: another one when a field goes or means something else.
pub const VERSION: u32 = 1;

/// What a page is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Equal,
    Different,
    Missing,
    Excluded(Reason),
    Needless(Reason),
    Reserve,
}

impl Class {
    pub(super) const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Equal => Self::Equal,
            Verdict::Different => Self::Different,
            Verdict::Missing => Self::Missing,
            Verdict::Excluded(reason) => Self::Excluded(reason),
            Verdict::Needless(reason) => Self::Needless(reason),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Different => "different",
            Self::Missing => "absent and required",
            Self::Excluded(_) => "absent and excludable",
            Self::Needless(_) => "present and needless",
            Self::Reserve => "the capture kernel's own",
        }
    }

    const fn reason(self) -> Option<Reason> {
        match self {
            Self::Excluded(reason) | Self::Needless(reason) => Some(reason),
            _ => None,
        }
    }
}

/// How many pages, and how many bytes they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Pages of the guest's.
    pub pages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A class of pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Such as `absent and excludable`.
    pub class: &'static str,
    /// Why the dump need not have them: `free`, `cache`, `cache private`, `user`, `unreadable`, `zero`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// How many.
    #[serde(flatten)]
    pub count: Count,
}

/// Pages that are not as they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// How many.
    pub pages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that nobody is known to have written to.
    pub by_nobody: u64,
    /// The first of them.
    pub first: Vec<Page>,
}

/// One page that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page {
    /// Its physical address.
    pub address: u64,
    /// What it is for, in one word.
    pub kind: &'static str,
    /// What it belongs to.
    pub belongs: String,
    /// Where the first byte is that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs_from: Option<u64>,
    /// So many bytes differ.
    pub differing: u64,
    /// Who wrote to it after the instant.
    pub written_by: Vec<String>,
    /// Why the dump's page cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// What was written to after the instant, but for the capture kernel's own memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Touched {
    /// Pages of 4 KiB of a page that the dump has as it was, or need not have.
    pub harmless: u64,
    /// Those of a page that it has otherwise, or lacks.
    pub harmful: u64,
    /// The first: where, and who.
    pub first: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// Of the dumped kernel.
    pub release: String,
    /// The level that the dump was judged by.
    pub level: u32,
    /// The size of the guest's pages.
    pub page_size: u64,
    /// All pages of the truth, by class.
    pub classes: Vec<Line>,
    /// Those that the dump has otherwise.
    pub different: Bad,
    /// Those that it must have, and lacks.
    pub missing: Bad,
    /// Those of them of which it cannot be told what they are for, as no `struct page` of theirs can be read: they may be
    /// excludable. Nothing if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untold: Option<u64>,
    /// Bytes of the dump of which the truth knows nothing.
    pub unknown: u64,
    /// What was written to after the instant.
    pub touched: Touched,
}

impl Report {
    /// Whether nothing is different and nothing required is absent. Who wrote to a page explains a difference, and does not excuse it.
    pub const fn is_true(&self) -> bool {
        self.different.pages == 0 && self.missing.pages == 0
    }

    /// How many pages the dump has as they were, and must have.
    pub fn equal(&self) -> u64 {
        self.classes
            .iter()
            .filter(|line| line.class == Class::Equal.name())
            .map(|line| line.count.pages)
            .sum()
    }

    /// What is wrong, in one sentence for each class.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let of = |bad: &Bad, what: &str, and: &str| {
            let first = bad.first.first()?;
            let Page {
                address, belongs, ..
            } = first;
            let by = first.written_by.first();
            let by = by.map_or(String::new(), |by| format!(", to which {by} wrote"));
            let (pages, s) = (bad.pages, plural(bad.pages));
            Some(format!(
                "the dump {what} {pages} page{s}{and}, the first of them {address:#x}: {belongs}{by}"
            ))
        };
        failures.extend(of(&self.different, "has", " that were something else"));
        let untold = match self.untold {
            None => String::new(),
            Some(untold) => format!(" as far as is known ({untold} cannot be told)"),
        };
        let must = format!(" that it must have{untold}");
        failures.extend(of(&self.missing, "lacks", &must));
        failures
    }
}

const fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "dump of Linux {}, level {}, against the guest's memory (pages of {} KiB)",
            self.release,
            self.level,
            self.page_size >> 10
        )?;
        for Line {
            class,
            reason,
            count: Count { pages, bytes },
        } in &self.classes
        {
            let name = match reason {
                Some(reason) => format!("{class}: {reason}"),
                None => (*class).to_owned(),
            };
            writeln!(f, "  {name:<38} {pages:>9} pages {:>9.1} MiB", mib(*bytes))?;
        }
        if let Some(untold) = self.untold {
            writeln!(
                f,
                "  {:<38} {:>9} pages {:>9.1} MiB",
                "  of which cannot be told what for",
                untold,
                mib(untold * self.page_size)
            )?;
        }
        if self.unknown > 0 {
            writeln!(
                f,
                "  {:<38} {:>9} pages {:>9.1} MiB",
                "in the dump, unknown to the truth",
                self.unknown / self.page_size,
                mib(self.unknown)
            )?;
        }
        for (name, bad) in [
            ("different", &self.different),
            ("absent and required", &self.missing),
        ] {
            if bad.pages == 0 {
                continue;
            }
            match bad.pages - bad.first.len() as u64 {
                0 => writeln!(f, "{name}:")?,
                _ => writeln!(f, "{name}, the first {}:", bad.first.len())?,
            }
            for page in &bad.first {
                writeln!(f, "  {page}")?;
            }
        }
        let Touched {
            harmless,
            harmful,
            first,
        } = &self.touched;
        if harmless + harmful > 0 {
            writeln!(
                f,
                "written to after the instant: {} pages of 4 KiB, {harmful} of them in pages that the dump has otherwise or lacks",
                harmless + harmful
            )?;
            for line in first {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} {}", self.address, self.belongs)?;
        if let Some(from) = self.differs_from {
            let (count, s) = (self.differing, plural(self.differing));
            write!(f, "; {count} byte{s} from {from:#x} on")?;
        }
        if let Some(broken) = &self.broken {
            write!(f, "; {broken}")?;
        }
        for by in &self.written_by {
            write!(f, "; written to by {by}")?;
        }
        Ok(())
    }
}

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Tally<'a> {
    classes: BTreeMap<Class, Count>,
    different: Bad,
    missing: Bad,
    /// Those of the missing that cannot be told.
    pub(super) untold: u64,
    /// Bytes of the dump that have been looked at.
    pub(super) found: u64,
    harmless: u64,
    harmful: u64,
    writers: Vec<&'a Writer>,
}

impl<'a> Tally<'a> {
    pub(super) fn add(&mut self, class: Class, bytes: u64) {
        let count = self.classes.entry(class).or_default();
        count.pages += 1;
        count.bytes += bytes;
    }

    /// Where pages of that class are told of, if they are.
    pub(super) const fn bad(&mut self, class: Class) -> Option<&mut Bad> {
        match class {
            Class::Different => Some(&mut self.different),
            Class::Missing => Some(&mut self.missing),
            _ => None,
        }
    }

    /// A page was written to by these.
    pub(super) fn touch(&mut self, at: u64, by: &[&'a Writer], verdict: Verdict) {
        let mut pages: Vec<u64> = by
            .iter()
            .map(|by| (by.address - at) / super::STAGE_2)
            .collect();
        pages.dedup();
        match verdict {
            Verdict::Different | Verdict::Missing => self.harmful += pages.len() as u64,
            _ => self.harmless += pages.len() as u64,
        }
        let room = FIRST.saturating_sub(self.writers.len());
        self.writers.extend(by.iter().take(room));
    }

    pub(super) fn first_writers(&self) -> Vec<&'a Writer> {
        self.writers.clone()
    }

    pub(super) fn report(
        self,
        release: String,
        level: u32,
        page_size: u64,
        size: u64,
        writers: Vec<String>,
    ) -> Report {
        let mut classes = self.classes;
        // The bad ones are said to be none, too.
        for class in [Class::Equal, Class::Different, Class::Missing] {
            classes.entry(class).or_default();
        }
        let line = |(class, count): (Class, Count)| Line {
            class: class.name(),
            reason: class.reason().map(Reason::name),
            count,
        };
        Report {
            version: VERSION,
            release,
            level,
            page_size,
            classes: classes.into_iter().map(line).collect(),
            different: self.different,
            missing: self.missing,
            untold: Some(self.untold).filter(|untold| *untold != 0),
            unknown: size.saturating_sub(self.found),
            touched: Touched {
                harmless: self.harmless,
                harmful: self.harmful,
                first: writers,
            },
        }
    }
}
