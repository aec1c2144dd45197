//! What a core file says of a guest that stands still, besides its memory: the registers of its CPUs, and, of a Linux, what that
//! calls them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use hv_abi::operator::Verb;
use introspection::core_file::{CoreFile, Cpu, Map, REGISTERS};
use introspection::linux::{Cpus, Kernel};
use introspection::memory::{Cached, Words};
use introspection::pages;
use introspection::translation::Regime;
use introspection::vmcoreinfo::Vmcoreinfo;
use serde_json::{Value, json};

use crate::operator::{Operator, Range, Source, VcpuAnswer};

/// Pages whose content is another in the file.
const PAGE: u64 = 4096;

/// It.
pub struct Taken {
    /// All but memory itself.
    pub core: CoreFile,
    /// Which Linux, if it is one.
    pub release: Option<String>,
    /// Each CPU, its vCPU, and where that is.
    pub cpus: Vec<(u32, u8, u64)>,
}

/// A vCPU that is on.
struct Vcpu {
    number: u8,
    answer: VcpuAnswer,
}

impl Vcpu {
    fn register(&self, name: &str) -> Result<u64> {
        let value = match name {
            "pc" => self.answer.pc,
            "pstate" => self.answer.pstate,
            name => self.answer.registers.get(name).copied(),
        };
        value.with_context(|| format!("the hypervisor does not say {name} of vCPU {}", self.number))
    }

    /// As a note has them.
    fn registers(&self) -> Result<[u64; REGISTERS]> {
        // PSTATE.M: EL1 with its own stack pointer (DDI0487 C5.2.18).
        let is_el1h = self.register("pstate")? & 0b1101 == 0b0101;
        let mut names: Vec<String> = (0..31).map(|n| format!("x{n}")).collect();
        let sp = if is_el1h { "sp_el1" } else { "sp_el0" };
        names.extend([sp, "pc", "pstate"].map(str::to_owned));
        let mut registers = [0; REGISTERS];
        for (register, name) in registers.iter_mut().zip(&names) {
            *register = self.register(name)?;
        }
        Ok(registers)
    }
}

/// What is mapped from the stack pointer of a vCPU on that runs a kernel, page by page, as far as that is a stack: behind it is a page
/// that is not mapped.
fn stack(memory: &mut Cached<Source<'_>>, vcpu: &Vcpu) -> Result<Vec<(u64, u64, u64)>> {
    // A kernel with pages of 64 KiB has stacks of 64 KiB (THREAD_SIZE, arch/arm64/include/asm/memory.h).
    const MOST: u64 = 16;
    let registers = vcpu.registers()?;
    let is_at_el0 = registers[REGISTERS - 1] & 0b1100 == 0;
    if is_at_el0 {
        return Ok(Vec::new());
    }
    let regime = Regime::named(|name| vcpu.register(name).ok())?;
    let sp = registers[31] & !(PAGE - 1);
    let pages = (0..MOST).map_while(|page| {
        let at = sp.checked_add(page * PAGE)?;
        let mapped = regime.translate(memory, at).ok()?;
        Some((at, mapped.physical, PAGE))
    });
    Ok(pages.collect())
}

/// Takes it of a guest whose RAM is `ram`. What its user is to know goes to `said`.
pub fn take(
    operator: &Operator,
    source: &Source<'_>,
    info: Result<Vmcoreinfo>,
    (ram, only_kernel): (Vec<Range>, bool),
    said: &mut Vec<String>,
) -> Result<Taken> {
    let vcpus = vcpus(operator, said)?;
    let mut memory = source.cached();
    let mut core = CoreFile {
        ram,
        ..CoreFile::default()
    };
    let info = match info {
        Ok(info) => info,
        Err(error) if only_kernel => {
            return Err(error.context("which pages are the kernel's is not known; dump all"));
        }
        Err(error) => {
            said.push(format!(
                "the dump has registers and memory, and nothing of a Linux: {error:#}"
            ));
            return Taken::of(core, &vcpus, |vcpu| Some(vcpu.number.into()), None);
        }
    };
    core.vmcoreinfo.clone_from(&info.note);
    let release = info.release().ok().map(str::to_owned);
    let has_crashed = info.word("CRASHTIME").is_ok();
    core.map = Some(Map::of(&info, None)?);
    if only_kernel {
        let (ram, left_out) = pages::of_kernel(&mut memory, &info, &core.ram)?;
        core.ram = ram;
        said.push(format!(
            "{} MiB are left out: free pages, and those of programs and files",
            left_out >> 20
        ));
    }
    let count = usize::from(vcpus.last().map_or(0, |vcpu| vcpu.number)) + 1;
    for vcpu in &vcpus {
        core.mapped.extend(stack(&mut memory, vcpu)?);
    }
    let named = Kernel::of(&mut memory, info).and_then(|mut kernel| {
        let image = kernel.image(&mut memory)?;
        core.map = Some(Map::of(&kernel.info, Some(image))?);
        let cpus = kernel.cpus(&mut memory, count)?;
        check(&cpus, &vcpus)?;
        Ok((kernel, cpus))
    });
    let (mut kernel, cpus) = match named {
        Ok(named) => named,
        Err(error) => {
            said.push(format!(
                "CPUs have the numbers of their vCPUs, and those that are on are taken for online: {error:#}"
            ));
            return Taken::of(core, &vcpus, |vcpu| Some(vcpu.number.into()), release);
        }
    };
    let number = |vcpu: &Vcpu| cpus.number(vcpu.register("tpidr_el1").ok()?);
    for vcpu in &vcpus {
        if let Some(cpu) = number(vcpu).filter(|cpu| !cpus.is_online(*cpu)) {
            said.push(format!(
                "CPU {cpu} is offline, and left out, though its vCPU is on"
            ));
        }
    }
    let online = |vcpu: &Vcpu| number(vcpu).filter(|cpu| cpus.is_online(*cpu));
    let mut taken = Taken::of(core, &vcpus, online, release)?;
    if has_crashed {
        taken.replace_notes(&mut memory, &mut kernel, &cpus, said)?;
    }
    Ok(taken)
}

/// All vCPUs that are on.
fn vcpus(operator: &Operator, said: &mut Vec<String>) -> Result<Vec<Vcpu>> {
    let status = operator.ask(Verb::Status, 0)?;
    let mut vcpus = Vec::new();
    for number in 0..u8::try_from(status.vm.map_or(0, |vm| vm.vcpus))? {
        let mut answers = operator.ask(Verb::Registers, number)?;
        match answers.vcpus.remove(&number) {
            None => said.push(format!(
                "the pCPU of vCPU {number} does not answer: the dump has no registers of it"
            )),
            Some(answer) if answer.pc.is_some() => vcpus.push(Vcpu { number, answer }),
            Some(_) => {}
        }
    }
    Ok(vcpus)
}

/// That each vCPU is one CPU, and no other is the same.
fn check(cpus: &Cpus, vcpus: &[Vcpu]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for vcpu in vcpus {
        let cpu = cpus.number(vcpu.register("tpidr_el1")?);
        let cpu =
            cpu.with_context(|| format!("vCPU {} is none of the kernel's CPUs", vcpu.number))?;
        ensure!(seen.insert(cpu), "two vCPUs are CPU {cpu}");
    }
    Ok(())
}

impl Taken {
    /// Each CPU, as programs read it.
    pub fn told(&self) -> Value {
        self.cpus
            .iter()
            .map(|(cpu, vcpu, pc)| json!({ "cpu": cpu, "vcpu": vcpu, "pc": pc }))
            .collect()
    }

    /// Of those vCPUs that have a `number` in the guest.
    fn of(
        mut core: CoreFile,
        vcpus: &[Vcpu],
        number: impl Fn(&Vcpu) -> Option<u32>,
        release: Option<String>,
    ) -> Result<Self> {
        let mut cpus = BTreeMap::new();
        for vcpu in vcpus {
            if let Some(number) = number(vcpu) {
                let registers = vcpu.registers()?;
                cpus.insert(number, (Cpu { number, registers }, vcpu));
            }
        }
        let told = cpus
            .iter()
            .map(|(cpu, (_, vcpu))| Ok((*cpu, vcpu.number, vcpu.register("pc")?)));
        let told: Result<_> = told.collect();
        core.cpus = cpus.into_values().map(|(cpu, _)| cpu).collect();
        Ok(Self {
            core,
            release,
            cpus: told?,
        })
    }

    /// Of a kernel that has begun to crash debuggers read what it has saved of its CPUs; of those of which it has not, they find in a
    /// copy what we have.
    fn replace_notes(
        &mut self,
        memory: &mut Cached<Source<'_>>,
        kernel: &mut Kernel,
        cpus: &Cpus,
        said: &mut Vec<String>,
    ) -> Result<()> {
        let mut copies: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for cpu in &self.core.cpus {
            let Some(offset) = cpus.offset(cpu.number) else {
                continue;
            };
            let (at, is_saved) = kernel.crash_note(memory, offset)?;
            if is_saved {
                continue;
            }
            let page = at & !(PAGE - 1);
            let note = cpu.note();
            let from = (at - page) as usize;
            let size = (from + note.len()).next_multiple_of(PAGE as usize);
            let mut bytes = memory.bytes(page, size)?;
            bytes[from..from + note.len()].copy_from_slice(&note);
            copies.insert(page, bytes);
            said.push(format!(
                "the kernel was about to crash and has not saved CPU {}: its registers are in a copy of the page at {page:#x}",
                cpu.number
            ));
        }
        self.core.copies = copies.into_iter().collect();
        Ok(())
    }
}
