//! What is answered to one request.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use hv_abi::operator::hashes::{MOST_WORDS, WORD};
use hv_abi::operator::{Request, Verb, crc, from_base64};
use serde::Serialize;

use crate::console::{Line, Record};

/// The answers to a request so far.
#[derive(Clone, Debug)]
pub struct Answers {
    request: Request,
    /// Of the VM.
    pub vm: Option<VmAnswer>,
    /// Of its vCPUs, by number.
    pub vcpus: BTreeMap<u8, VcpuAnswer>,
    /// What is in its memory, or the words of its hashes; or the first address without RAM.
    pub memory: Option<Result<Vec<u8>, u64>>,
}

/// How a VM is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VmAnswer {
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// `running`, `paused`, `off` or `lost`.
    pub state: String,
    /// Its clock stands still.
    pub is_clock_held: bool,
    /// It has a device that can reach all memory, the hypervisor's included.
    pub reaches_all: bool,
    /// How many typed bytes there is room for.
    #[serde(skip)]
    pub room: usize,
    #[serde(skip)]
    error: Option<String>,
}

/// How a vCPU is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VcpuAnswer {
    /// `on`, `idle`, `off` or `lost`.
    pub state: String,
    /// Where it is, if it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pc: Option<u64>,
    /// Its PSTATE as an SPSR has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pstate: Option<u64>,
    /// A virtual SError waits until PSTATE.A is clear.
    pub has_serror: bool,
    /// What the guest's watchdog says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
    /// By name; nothing unless they were asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub registers: BTreeMap<String, u64>,
    /// The callers of what it does, innermost first, by the guest's frame records; nothing unless registers were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<u64>,
}

/// What a vCPU does not take, as the guest's watchdog has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Late {
    /// `slow`, `wedged` or `stopped`.
    pub state: String,
    /// Which interrupt.
    pub intid: u32,
    /// What keeps it off: `pstate`, `priority` or `running`.
    pub masked: String,
    /// For how long, in milliseconds.
    pub ms: u64,
}

impl VcpuAnswer {
    fn read(record: &Record) -> Result<Self> {
        let known = [
            "id", "vm", "vcpu", "state", "pc", "pstate", "serror", "late", "intid", "masked", "ms",
            "callers", "crc",
        ];
        let registers = record.fields().filter(|(key, _)| !known.contains(key));
        let registers = registers.map(|(key, _)| Ok((key.to_owned(), record.number(key)?)));
        let callers = record.word("callers").unwrap_or_default().split(',');
        let callers = callers.filter_map(|word| word.strip_prefix("0x"));
        Ok(Self {
            state: record.word("state")?.to_owned(),
            pc: record.number("pc").ok(),
            pstate: record.number("pstate").ok(),
            has_serror: record.number("serror").unwrap_or(0) != 0,
            late: Late::read(record)?,
            registers: registers.collect::<Result<_>>()?,
            callers: callers
                .map(|digits| Ok(u64::from_str_radix(digits, 16)?))
                .collect::<Result<_>>()?,
        })
    }
}

/// The VM and the number of a vCPU that was put on record though nobody had asked, and how it was.
pub(super) fn unasked(line: &Line) -> Option<(u64, u8, VcpuAnswer)> {
    let record = sound(line)?;
    let is_it = record.number("id").ok()? == 0;
    let vcpu = u8::try_from(record.number("vcpu").ok()?).ok()?;
    let answer = VcpuAnswer::read(&record).ok()?;
    is_it.then_some((record.number("vm").ok()?, vcpu, answer))
}

impl Late {
    /// As a record has it; none if there is none.
    pub fn read(record: &Record) -> Result<Option<Self>> {
        let Ok(state) = record.word("late") else {
            return Ok(None);
        };
        Ok(Some(Self {
            state: state.to_owned(),
            intid: record.index("intid")?,
            masked: record.word("masked")?.to_owned(),
            ms: record.number("ms")?,
        }))
    }
}

impl Answers {
    /// None yet.
    pub fn to(request: Request) -> Self {
        Self {
            request,
            vm: None,
            vcpus: BTreeMap::new(),
            memory: None,
        }
    }

    /// Takes notice of a line; whether it is an answer to this request. One that has been damaged is none.
    pub fn hear(&mut self, line: &Line) -> bool {
        let Some(record) = sound(line) else {
            return false;
        };
        record.number("id").ok() == Some(u64::from(self.request.id)) && self.note(&record).is_ok()
    }

    fn note(&mut self, record: &Record) -> Result<()> {
        if record.word("vcpus").is_ok() {
            self.vm = Some(VmAnswer {
                vcpus: record.index("vcpus")?,
                state: record.word("state")?.to_owned(),
                is_clock_held: record.word("clock").is_ok(),
                reaches_all: record.word("memory").is_ok(),
                room: record.number("room")? as usize,
                error: record.word("error").ok().map(str::to_owned),
            });
            return Ok(());
        }
        if record.word("ipa").is_ok() {
            return self.note_memory(record);
        }
        let answer = VcpuAnswer::read(record)?;
        self.vcpus.insert(record.number("vcpu")? as u8, answer);
        Ok(())
    }

    fn note_memory(&mut self, record: &Record) -> Result<()> {
        let span = self.request.span;
        ensure!(record.number("ipa")? == span.ipa, "of another place");
        self.memory = Some(match record.word("data") {
            Ok(text) => {
                let is_hashed = self.request.verb == Verb::Hashes;
                let most = if is_hashed {
                    MOST_WORDS * WORD
                } else {
                    span.length.into()
                };
                let mut data = vec![0; most];
                let read = from_base64(text.as_bytes(), &mut data).context("no base64")?;
                ensure!(is_hashed || read == most, "too short");
                data.truncate(read);
                Ok(data)
            }
            Err(_) => Err(record.number("at")?),
        });
        Ok(())
    }

    /// Whether nothing more is to come.
    pub fn is_whole(&self) -> bool {
        if self.memory.is_some() {
            return true;
        }
        let Some(vm) = &self.vm else {
            return false;
        };
        let expected = match self.request.verb {
            _ if vm.error.is_some() => 0,
            // It comes instead of the VM's.
            Verb::Memory | Verb::Hashes => return false,
            Verb::Status | Verb::Freeze | Verb::FreezeClock | Verb::Thaw => vm.vcpus as usize,
            Verb::Registers | Verb::Nmi | Verb::Raise => 1,
            Verb::Room | Verb::Type | Verb::Reset | Verb::Off | Verb::Start | Verb::Dump => 0,
        };
        self.vcpus.len() >= expected
    }

    /// They, unless it was not done.
    pub(super) fn judged(self) -> Result<Self> {
        let Some(vm) = &self.vm else {
            if self.memory.is_some() {
                return Ok(self);
            }
            bail!("the hypervisor does not answer");
        };
        match vm.error.as_deref() {
            None => Ok(self),
            Some("refused") => bail!(
                "the hypervisor refuses that: operator=read or operator=off stands in its bundle or on its command line"
            ),
            Some("unknown") if vm.vcpus == 0 => {
                bail!("there is no guest {}", self.request.vm)
            }
            Some("unknown") if u32::from(self.request.vcpu) < vm.vcpus => bail!(
                "the guest's configuration has no SDEI event {:#x}; `events` of a guest file defines them",
                self.request.event
            ),
            Some("unknown") => bail!(
                "there is no vCPU {}; there are 0 to {}",
                self.request.vcpu,
                vm.vcpus.saturating_sub(1)
            ),
            Some("running") => bail!(
                "the guest runs, and what is hashed must stand still; `cargo xtask ctl freeze` pauses it"
            ),
            Some("off") => bail!("the guest is off; `cargo xtask ctl start` starts it"),
            Some("on") => bail!("the guest is not off; `cargo xtask ctl reset` starts it anew"),
            Some("lost") => {
                bail!("the guest was given up, as a CPU never left it; it cannot be started")
            }
            Some("nodump") => {
                bail!("no memory is held back for a capture kernel; `dump` of a guest file does it")
            }
            Some("dumping") => bail!("its capture kernel runs already"),
            Some("ending") => {
                bail!("the guest ends at this moment; ask again once it has, or has begun anew")
            }
            Some(other) => bail!("the hypervisor says `{other}`"),
        }
    }

    /// The vCPUs that have not answered.
    pub fn missing(&self) -> Vec<u8> {
        let vcpus = self.vm.as_ref().map_or(0, |vm| vm.vcpus) as u8;
        let is_missing = |vcpu: &u8| !self.vcpus.contains_key(vcpu);
        match self.request.verb {
            Verb::Status | Verb::Freeze | Verb::FreezeClock | Verb::Thaw => {
                (0..vcpus).filter(is_missing).collect()
            }
            Verb::Registers | Verb::Nmi | Verb::Raise => {
                [self.request.vcpu].into_iter().filter(is_missing).collect()
            }
            Verb::Room
            | Verb::Type
            | Verb::Memory
            | Verb::Hashes
            | Verb::Reset
            | Verb::Off
            | Verb::Start
            | Verb::Dump => Vec::new(),
        }
    }
}

/// The record `@answer` of a line, if it is one and its checksum is right.
fn sound(line: &Line) -> Option<Record> {
    let (text, sum) = line.text.rsplit_once(" crc=")?;
    let sum = u32::from_str_radix(sum.strip_prefix("0x")?, 16).ok()?;
    if !text.starts_with("@answer ") || crc(text.as_bytes()) != sum {
        return None;
    }
    line.record()?.ok()
}
