//! Whether a dump is true, of files: `kdump --oracle` and `cargo xtask oracle`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use introspection::memory::Memory as _;
use introspection::oracle::{self, FIRST, Report, Truth, Who, Writer};
use introspection::vmcoreinfo::{Range, Vmcoreinfo};

use crate::dumped::Dumped;
use crate::hashed::{self, Hashed};
use crate::vmcore::Vmcore;
use debian::progress::Progress;
use machine::console::{Line, Record};

/// Writers are known by such pages.
const PAGE: usize = 4096;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The guest's memory at the instant that the dump is of: an ELF core, or another dump, whose pages are then the only ones that
    /// are judged.
    pub truth: &'a Path,
    /// The dump.
    pub dump: &'a Path,
    /// What it leaves out, as makedumpfile's `-d` has it; nothing: what it says itself, and 0 if it does not.
    pub level: Option<u32>,
    /// Who wrote to the guest's memory after that instant.
    pub writers: &'a [Writer],
    /// Where the capture kernel runs; empty: where the dumped kernel says.
    pub reserve: &'a [Range],
    /// So many pages of each bad class are told of.
    pub told: usize,
}

impl<'a> Question<'a> {
    /// Whether `dump` is true by what it says of itself, where nobody is known to have written.
    pub const fn new(truth: &'a Path, dump: &'a Path) -> Self {
        Self {
            truth,
            dump,
            level: None,
            writers: &[],
            reserve: &[],
            told: FIRST,
        }
    }
}

/// Holds the dump against the truth.
pub fn judge(question: &Question<'_>) -> Result<Report> {
    if let Some(hashes) = hashed::open(question.truth)? {
        // What is read of the truth is read in the dump.
        let info = info(question, hashes.info.clone())?;
        let mut truth = Hashed::new(hashes, Dumped::open(question.dump)?);
        let ram = truth.ranges();
        let report = hold(question, &info, (&mut truth, None), &ram)?;
        ensure!(
            truth.has_met(),
            "no page of {} is as {} has it: they are of two boots or of two guests; take both while one guest stands still",
            question.dump.display(),
            question.truth.display()
        );
        return Ok(report);
    }
    let mut truth = Dumped::open(question.truth)?;
    let size = truth.page_size();
    let ram = truth.ranges();
    hold(question, &info(question, None)?, (&mut truth, size), &ram)
}

/// Holds the dump against a truth with this memory, and pages of a size, if it has any of its own.
fn hold(
    question: &Question<'_>,
    info: &Vmcoreinfo,
    (truth, size): (&mut impl Truth, Option<u64>),
    ram: &[Range],
) -> Result<Report> {
    let mut dump = Dumped::open(question.dump)?;
    let page: u64 = info.word("PAGESIZE")?.parse()?;
    for (path, size) in [(question.truth, size), (question.dump, dump.page_size())] {
        ensure!(
            size.is_none_or(|size| size == page),
            "{} has pages of {} bytes, and its kernel has pages of {page}",
            path.display(),
            size.unwrap_or_default()
        );
    }
    let level = question.level.or(dump.level()).unwrap_or(0);
    ensure!(
        level < 32,
        "there is no dump level {level}; levels are 0 to 31"
    );
    let asked = oracle::Question {
        info,
        ram,
        level,
        writers: question.writers,
        reserve: question.reserve,
        told: question.told,
    };
    let mut step = Progress::new().lazily("hold the dump against the memory");
    let mut told = 0;
    let report = oracle::compare(truth, &mut dump, &asked, |bytes| {
        if bytes >> 24 != told {
            told = bytes >> 24;
            step.show(&format!("{} MiB", bytes >> 20));
        }
    })?;
    step.done();
    Ok(report)
}

/// What the kernel says of itself: as the truth has it, which may be known, or else the dump.
fn info(question: &Question<'_>, known: Option<Vmcoreinfo>) -> Result<Vmcoreinfo> {
    let read = |path: &Path| -> Result<Vmcoreinfo> {
        let shown = path.display();
        let file = fs::File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let vmcore = Vmcore::read(&file).with_context(|| format!("in {shown}"))?;
        vmcore.release().with_context(|| {
            format!("{shown} is of no Linux that says how it describes its pages")
        })?;
        Ok(vmcore.info)
    };
    let own = known.map_or_else(|| read(question.truth), Ok);
    let dumped = read(question.dump);
    let (own, dumped) = match (own, dumped) {
        (Ok(own), Ok(dumped)) => (own, dumped),
        (Err(_), one) | (one, Err(_)) => return one,
    };
    let (release, other) = (own.release()?, dumped.release()?);
    let same = |key: &str| own.word(key).ok() == dumped.word(key).ok();
    ensure!(
        release == other && same("KERNELOFFSET") && same("NUMBER(kimage_voffset)"),
        "the dump is of another boot (Linux {other}) than the memory (Linux {release})"
    );
    Ok(own)
}

/// The pages that the guest has changed from one truth to the next.
pub fn changed(from: &Path, to: &Path) -> Result<Vec<Writer>> {
    let (mut before, mut after) = (Dumped::open(from)?, Dumped::open(to)?);
    let ranges = before.ranges();
    ensure!(
        ranges == after.ranges(),
        "{} and {} have not the same memory",
        from.display(),
        to.display()
    );
    let (mut old, mut new) = ([0; PAGE], [0; PAGE]);
    let mut writers = Vec::new();
    for (start, length) in ranges {
        for address in (start..start + length).step_by(PAGE) {
            before.read(address, &mut old)?;
            after.read(address, &mut new)?;
            if old != new {
                let who = Who::Guest;
                writers.push(Writer { address, who });
            }
        }
    }
    Ok(writers)
}

/// Reads who wrote: JSON, an array of [`Writer`], or a log with the instant (`@kexec`) and records `@write` of the first guest.
pub fn writers(path: &Path) -> Result<Vec<Writer>> {
    let shown = path.display();
    let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let records: Vec<Record> = text.lines().filter_map(record).collect();
    if !records.is_empty() {
        let writers = records
            .iter()
            .filter_map(|record| writer(record).transpose());
        return writers
            .collect::<Result<_>>()
            .with_context(|| format!("in {shown}"));
    }
    // The log of a guest that nobody has written to.
    if text.contains("@kexec ") {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).with_context(|| {
        format!(
            "{shown} is neither a log with @kexec or @write nor a list of writers, such as [{{\"address\": 1073741824, \"by\": \"vcpu\", \"vcpu\": 2, \"pc\": 0}}]"
        )
    })
}

/// The record `@write` in a line of a log, if it is whole.
fn record(line: &str) -> Option<Record> {
    let at = line.find("@write ")?;
    Line::parse(line[at..].trim_end()).record()?.ok()
}

/// Who wrote, by a record `@write`: nobody, if it is of another guest than the first.
pub fn writer(record: &Record) -> Result<Option<Writer>> {
    if record.number("vm")? != 0 {
        return Ok(None);
    }
    let who = match record.word("by")? {
        "vcpu" => Who::Vcpu {
            vcpu: record.index("vcpu")?,
            pc: record.number("pc")?,
            symbol: None,
        },
        part => Who::Hypervisor {
            name: part.to_owned(),
        },
    };
    Ok(Some(Writer {
        address: record.number("ipa")?,
        who,
    }))
}

#[cfg(test)]
mod tests;
