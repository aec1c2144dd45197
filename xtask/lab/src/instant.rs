//! The instant at which the crash kernel begins: what memory was then, and who has written to it since.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use hv_abi::operator::Verb;
use introspection::core_file::CoreFile;
use introspection::oracle::{Report, Who, Writer};
use introspection::vmcoreinfo::Range;
use serde::Serialize;

use crate::oracle::{self, Question};
use crate::symbols::Symbols;
use crate::vmcore::Vmcore;
use machine::console::Record;
use machine::operator::Operator;
use machine::qemu::Leave;

/// Where the crash kernel's memory is, of a guest of QEMU's virt with 512 MiB or more: the kernel, its ramdisk and its devicetree are below.
pub const PLACE: u64 = 0x5000_0000;

/// What memory was at the instant that a dump is of, in the folder of the run.
pub const TRUTH: &str = "truth.elf";
/// What it was before an NMI reached a guest whose CPUs were all wedged.
pub const WEDGED: &str = "wedged.elf";
/// Who wrote.
const WRITERS: &str = "writers.json";

/// What was written between these two is told of in full, up to so many pages.
const TOLD: usize = 4096;

const PAGE: usize = 4096;

/// Who fetched the first instruction, and where.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Instant {
    /// Which vCPU.
    pub vcpu: u32,
    /// Its pc.
    pub pc: u64,
}

/// What the hypervisor has said of it.
#[derive(Debug)]
pub struct Seen {
    instant: Option<Instant>,
    writers: Vec<Writer>,
}

/// Whoever saves memory at the instant, and takes notice of what comes afterwards.
pub struct Witness {
    truth: PathBuf,
    seen: Seen,
    saving: Vec<JoinHandle<Result<()>>>,
}

impl Witness {
    /// Of a run that has its files in `folder`.
    pub fn of(folder: &Path) -> Self {
        Self {
            truth: folder.join(TRUTH),
            seen: Seen {
                instant: None,
                writers: Vec::new(),
            },
            saving: Vec::new(),
        }
    }

    /// Takes notice of a record. At the instant the guest stands still: its memory is saved, and it goes on; if that comes to nothing,
    /// the machine is left.
    pub fn note(&mut self, record: &Record, operator: &Operator, leave: Leave) -> Result<()> {
        match record.name.as_str() {
            "kexec" => {
                let is_first = self.seen.instant.is_none();
                let instant = Instant {
                    vcpu: record.index("vcpu")?,
                    pc: record.number("pc")?,
                };
                self.seen.instant.get_or_insert(instant);
                let (operator, truth) = (operator.clone(), self.truth.clone());
                self.saving.push(std::thread::spawn(move || {
                    let saved = if is_first {
                        save(&operator, &truth)
                    } else {
                        Ok(())
                    };
                    let done = saved.and_then(|()| operator.ask(Verb::Thaw, 0).map(|_| ()));
                    if done.is_err() {
                        leave.leave();
                    }
                    done
                }));
            }
            "write" => self.seen.writers.extend(oracle::writer(record)?),
            _ => {}
        }
        Ok(())
    }

    /// What came of it.
    pub fn end(self) -> Result<Seen> {
        for thread in self.saving {
            let saved = thread.join();
            saved
                .map_err(|_| anyhow!("who saves memory has panicked"))?
                .context("the memory at the instant is not saved")?;
        }
        Ok(self.seen)
    }
}

/// Saves the memory of a guest, which stands still from then on.
pub fn save(operator: &Operator, path: &Path) -> Result<()> {
    // Each vCPU that is on answers when it has left the guest.
    let status = operator.ask(Verb::Freeze, 0)?;
    let missing = status.missing();
    ensure!(
        missing.is_empty(),
        "vCPUs {missing:?} do not answer, and may write to memory"
    );
    let core = CoreFile {
        ram: operator.known_ram()?,
        ..CoreFile::default()
    };
    let unwritten = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(unwritten)?;
    let head = core.head();
    file.write_all_at(&head, 0).with_context(unwritten)?;
    let mut at = head.len() as u64;
    let source = operator.source()?;
    for &(start, length) in &core.ram {
        source.read(start, length, |bytes| {
            // Zeros take no room.
            for page in bytes.chunks(PAGE) {
                if page.iter().any(|&byte| byte != 0) {
                    file.write_all_at(page, at).with_context(unwritten)?;
                }
                at += page.len() as u64;
            }
            Ok(())
        })?;
    }
    file.set_len(at).with_context(unwritten)
}

/// What came of the question whether the dump is true.
#[derive(Debug, Serialize)]
pub struct Oracle {
    /// The instant; nothing of a dump that the hypervisor makes, which is of when it stopped the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instant: Option<Instant>,
    /// Who wrote to a page that was evidence, first.
    pub writers: Vec<Writer>,
    /// The dump, page by page.
    pub report: Report,
    /// The same dump against what memory was when all CPUs were wedged, before an NMI reached one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wedged: Option<Report>,
}

impl Oracle {
    /// Holds `dump` against the memory that was saved in `folder`, of a kernel with `symbols` whose crash kernel is in `reserve`, if it
    /// has one.
    pub fn ask(
        seen: Seen,
        folder: &Path,
        dump: &Path,
        symbols: Option<&Symbols>,
        reserve: Option<Range>,
    ) -> Result<Self> {
        let Seen {
            instant,
            mut writers,
        } = seen;
        ensure!(
            instant.is_some() || reserve.is_none(),
            "no instruction of a crash kernel was executed where crashkernel= has its memory"
        );
        let file = File::open(dump).with_context(|| format!("cannot read {}", dump.display()))?;
        let moved = Vmcore::read(&file)?.kaslr_offset()?;
        for writer in &mut writers {
            name(writer, instant, |pc| {
                let (name, offset) = symbols?.function(pc.wrapping_sub(moved))?;
                Some(format!("{name}+{offset:#x}"))
            });
        }
        let path = folder.join(WRITERS);
        fs::write(&path, serde_json::to_string_pretty(&writers)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let (truth, before) = (folder.join(TRUTH), folder.join(WEDGED));
        let question = Question {
            writers: &writers,
            reserve: reserve.as_slice(),
            ..Question::new(&truth, dump)
        };
        let report = oracle::judge(&question)?;
        let wedged = match before.exists() {
            true => Some(both_ways(&question, &before)?),
            false => None,
        };
        Ok(Self {
            instant,
            writers,
            report,
            wedged,
        })
    }

    /// What is wrong, in one sentence for each.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.report.failures();
        if let Some(wedged) = &self.wedged {
            let (pages, lacks) = (wedged.different.by_nobody, wedged.missing.by_nobody);
            if pages + lacks > 0 {
                failures.push(format!(
                    "of what memory was when all CPUs were wedged the dump has {pages} pages otherwise and lacks {lacks}, to which nobody has written since"
                ));
            }
        }
        failures
    }
}

/// The same dump against the memory `before`, when all CPUs were wedged: what the guest has written on its way from there to its crash
/// kernel may be different.
fn both_ways(question: &Question<'_>, before: &Path) -> Result<Report> {
    let mut writers = oracle::changed(before, question.truth)?;
    writers.extend_from_slice(question.writers);
    oracle::judge(&Question {
        truth: before,
        writers: &writers,
        told: TOLD,
        ..*question
    })
}

/// Names the instruction. The crash kernel is another kernel at other addresses, and runs on the vCPU that began with it.
fn name(writer: &mut Writer, instant: Option<Instant>, find: impl Fn(u64) -> Option<String>) {
    if let Who::Vcpu { vcpu, pc, symbol } = &mut writer.who {
        *symbol = match instant.is_some_and(|instant| instant.vcpu == *vcpu) {
            true => Some("the crash kernel".to_owned()),
            false => find(*pc),
        };
    }
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instant {
            Some(Instant { vcpu, pc }) => writeln!(
                f,
                "The crash kernel began on CPU {vcpu} at {pc:#x}; from then on"
            )?,
            None => writeln!(f, "From when the hypervisor stopped the guest on")?,
        }
        let mut by: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for Writer { address, who } in &self.writers {
            let who = match who {
                Who::Vcpu { vcpu, pc, symbol } => match symbol {
                    Some(symbol) => format!("CPU {vcpu} in {symbol}"),
                    None => format!("CPU {vcpu} at {pc:#x}"),
                },
                Who::Hypervisor { name } => format!("the hypervisor's {name}"),
                Who::Guest => "the guest".to_owned(),
            };
            by.entry(who).or_default().push(*address);
        }
        if by.is_empty() {
            writeln!(f, "  nobody touched the evidence")?;
        }
        for (who, pages) in by {
            let first = pages.first().copied().unwrap_or_default();
            let count = pages.len();
            let s = if count == 1 { "" } else { "s" };
            writeln!(
                f,
                "  {who} touched {count} page{s} of the evidence, the first at {first:#x}"
            )?;
        }
        write!(f, "{}", self.report)?;
        match &self.wedged {
            Some(wedged) => tell_both(f, wedged),
            None => Ok(()),
        }
    }
}

/// What the guest has written on its way to the crash kernel, by what the pages belong to.
fn tell_both(f: &mut fmt::Formatter<'_>, wedged: &Report) -> fmt::Result {
    let (equal, different) = (wedged.equal(), &wedged.different);
    writeln!(
        f,
        "against memory as it was when all CPUs were wedged: {equal} pages are equal, {} are missing, {} are different; to {} of these the guest has written on its way to the crash kernel:",
        wedged.missing.pages,
        different.pages,
        different.pages - different.by_nobody
    )?;
    let mut owners: BTreeMap<&str, u64> = BTreeMap::new();
    for page in &different.first {
        let owner = page.belongs.split("+0x").next().unwrap_or_default();
        *owners.entry(owner).or_default() += 1;
    }
    for (owner, pages) in owners {
        let s = if pages == 1 { "" } else { "s" };
        writeln!(f, "  {pages:>4} page{s} of {owner}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(vcpu: u32) -> Writer {
        Writer {
            address: 0x4000_1000,
            who: Who::Vcpu {
                vcpu,
                pc: 0x1234,
                symbol: None,
            },
        }
    }

    fn symbol(writer: &Writer) -> Option<&str> {
        match &writer.who {
            Who::Vcpu { symbol, .. } => symbol.as_deref(),
            Who::Hypervisor { .. } | Who::Guest => None,
        }
    }

    #[test]
    fn what_the_crash_kernel_does_is_not_named_by_the_dead_kernel_s_symbols() {
        let instant = Some(Instant { vcpu: 1, pc: 0 });
        let find = |pc| (pc == 0x1234).then(|| "lkdtm_HARDLOCKUP+0x4".to_owned());
        for (vcpu, expected) in [
            (1, Some("the crash kernel")),
            (2, Some("lkdtm_HARDLOCKUP+0x4")),
        ] {
            let mut writer = writer(vcpu);
            name(&mut writer, instant, find);
            assert_eq!(symbol(&writer), expected);
        }
        let mut unknown = writer(0);
        name(&mut unknown, instant, |_| None);
        assert_eq!(symbol(&unknown), None);
    }
}
