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
use serde::Serialize;

use crate::oracle::{self, Question};
use crate::symbols::Symbols;
use crate::vmcore::Vmcore;
use machine::console::Record;
use machine::operator::Operator;
use machine::qemu::Leave;

/// Where the crash kernel's memory is, of a guest of QEMU's virt with 512 MiB or more: the kernel, its ramdisk and its devicetree are below.
pub const PLACE: u64 = 0x5000_0000;

/// What memory was at the instant, and who wrote, in the folder of the run.
const TRUTH: &str = "truth.elf";
const WRITERS: &str = "writers.json";

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

/// Saves the memory of a guest that stands still.
fn save(operator: &Operator, path: &Path) -> Result<()> {
    // Each vCPU that is on answers when it has left the guest.
    let status = operator.ask(Verb::Freeze, 0)?;
    let missing = status.missing();
    ensure!(
        missing.is_empty(),
        "vCPUs {missing:?} do not answer, and may write to memory"
    );
    let core = CoreFile {
        ram: operator.ram(),
        ..CoreFile::default()
    };
    ensure!(
        !core.ram.is_empty(),
        "the hypervisor has not said where the guest's memory is"
    );
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
    /// The instant.
    pub instant: Instant,
    /// Who wrote to a page that was evidence, first.
    pub writers: Vec<Writer>,
    /// The dump, page by page.
    pub report: Report,
}

impl Oracle {
    /// Holds `dump` against the memory that was saved in `folder`, of a kernel with `symbols` whose crash kernel is in `reserve`.
    pub fn ask(
        seen: Seen,
        folder: &Path,
        dump: &Path,
        symbols: Option<&Symbols>,
        reserve: (u64, u64),
    ) -> Result<Self> {
        let Seen {
            instant,
            mut writers,
        } = seen;
        let instant = instant.context(
            "no instruction of a crash kernel was executed where crashkernel= has its memory",
        )?;
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
        let report = oracle::judge(&Question {
            truth: &folder.join(TRUTH),
            dump,
            level: None,
            writers: &writers,
            reserve: &[reserve],
        })?;
        Ok(Self {
            instant,
            writers,
            report,
        })
    }
}

/// Names the instruction. The crash kernel is another kernel at other addresses, and runs on the vCPU that began with it.
fn name(writer: &mut Writer, instant: Instant, find: impl Fn(u64) -> Option<String>) {
    if let Who::Vcpu { vcpu, pc, symbol } = &mut writer.who {
        *symbol = match *vcpu == instant.vcpu {
            true => Some("the crash kernel".to_owned()),
            false => find(*pc),
        };
    }
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instant { vcpu, pc } = self.instant;
        writeln!(
            f,
            "The crash kernel began on CPU {vcpu} at {pc:#x}; from then on"
        )?;
        let mut by: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for Writer { address, who } in &self.writers {
            let who = match who {
                Who::Vcpu { vcpu, pc, symbol } => match symbol {
                    Some(symbol) => format!("CPU {vcpu} in {symbol}"),
                    None => format!("CPU {vcpu} at {pc:#x}"),
                },
                Who::Hypervisor { name } => format!("the hypervisor's {name}"),
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
        write!(f, "{}", self.report)
    }
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
            Who::Hypervisor { .. } => None,
        }
    }

    #[test]
    fn what_the_crash_kernel_does_is_not_named_by_the_dead_kernel_s_symbols() {
        let instant = Instant { vcpu: 1, pc: 0 };
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
