//! What a page of a Linux belongs to, in words: by the kernel's own symbols (CONFIG_KALLSYMS_ALL) and what they lead to. No types are
//! needed: where members are is found by what is known to be in them. What cannot be told is called by what the page is for.

mod stacks;

use std::collections::BTreeMap;
use std::ops::Range as Span;

use anyhow::{Context, Result, ensure};

use super::{Who, Writer};
use crate::linux::{Kernel, Name};
use crate::memory::{Memory, Words};
use crate::pages::Kind;
use crate::translation::Regime;
use crate::vmcoreinfo::{Range, Vmcoreinfo};
use stacks::Stacks;

/// A list that is longer is none.
const MOST_CACHES: usize = 4096;
/// A structure that is larger is none.
const LARGEST: u64 = 16 << 10;
/// More CPUs are none of a guest's.
const MOST_CPUS: u32 = 1024;

/// Whose pages are.
#[derive(Default)]
pub struct Owners {
    kernel: Option<Kernel>,
    regime: Regime,
    /// Its image by virtual address, and by how much that is above the physical one.
    image: Option<(Span<u64>, u64)>,
    /// What of it is given back once it has booted.
    boot: Option<Span<u64>>,
    /// Where its text ends, if there are no symbols behind it.
    text_end: Option<u64>,
    /// Stacks by each physical page, of 4 KiB.
    stacks: BTreeMap<u64, String>,
    /// What each CPU has of its own, by virtual address.
    percpu: Vec<(Span<u64>, u32)>,
    /// The name of each slab cache by its address.
    caches: BTreeMap<u64, String>,
    /// Ranges of physical memory that have `struct page`.
    map: Vec<Range>,
}

impl Owners {
    /// Of the kernel that says `info`; what of this it does not tell stays without a name.
    pub fn of(memory: &mut impl Memory, info: &Vmcoreinfo) -> Self {
        let mut owners = Self::default();
        let Ok(mut kernel) = Kernel::of(memory, info.clone()) else {
            return owners;
        };
        let Ok(regime) = info.own_half() else {
            return owners;
        };
        owners.regime = regime;
        if let (Ok((start, end)), Ok(voffset)) =
            (kernel.image(memory), info.number("kimage_voffset"))
        {
            owners.image = Some((start..end, voffset));
        }
        let mut of = |name| kernel.find(memory, name).ok().flatten();
        let boot = of("__init_begin").zip(of("__init_end"));
        owners.boot = boot.map(|(start, end)| start..end);
        if !matches!(kernel.find(memory, "init_task"), Ok(Some(_))) {
            owners.text_end = kernel.find(memory, "_etext").ok().flatten();
        }
        owners.percpu = percpu(memory, &mut kernel).unwrap_or_default();
        owners.caches = caches(memory, &mut kernel, &regime).unwrap_or_default();
        owners.map = map(memory, info, &regime).unwrap_or_default();
        // Whatever is found until something makes no sense counts.
        let page = info
            .word("PAGESIZE")
            .ok()
            .and_then(|page| page.parse().ok());
        let mut stacks = Stacks {
            regime,
            size: page.unwrap_or(4096).max(16 << 10),
            pages: &mut owners.stacks,
        };
        let _ = stacks.add_tasks(memory, &mut kernel);
        let _ = stacks.add_cpus(memory, &mut kernel, &owners.percpu);
        owners.kernel = Some(kernel);
        owners
    }

    /// Where the capture kernel runs: `crashk_res` and `crashk_low_res`, each a `struct resource`, which begins with the first and
    /// the last address.
    pub fn reserve(&mut self, memory: &mut impl Memory) -> Vec<Range> {
        let Some(kernel) = &mut self.kernel else {
            return Vec::new();
        };
        let mut ranges = Vec::new();
        for name in ["crashk_res", "crashk_low_res"] {
            let found = kernel.find(memory, name);
            let Ok(Some(at)) = found else { continue };
            let mut word = |at: u64| -> Result<u64> {
                let mapped = self.regime.translate(memory, at)?;
                memory.u64(mapped.physical)
            };
            if let (Ok(start), Ok(end)) = (word(at), word(at.wrapping_add(8)))
                && end > start
            {
                ranges.push((start, (end - start).saturating_add(1)));
            }
        }
        ranges
    }

    /// What has the byte at a physical address, which is in a page of this kind, and, if that is a slab's, of this first
    /// `struct page`.
    pub fn name(
        &mut self,
        memory: &mut impl Memory,
        at: u64,
        kind: Kind,
        slab: Option<&[u8]>,
    ) -> String {
        let linked = self.image.as_ref().and_then(|(span, voffset)| {
            let address = at.wrapping_add(*voffset);
            let is_boots = |boot: &Span<u64>| boot.contains(&address);
            let is_left = span.contains(&address) && !self.boot.as_ref().is_some_and(is_boots);
            is_left.then_some(address)
        });
        if let (Some(address), Kind::Kernel, None) = (linked, kind, slab) {
            return self.in_image(memory, address);
        }
        if let Some(stack) = self.stacks.get(&(at & !0xfff)) {
            return stack.clone();
        }
        if let Some(slab) = slab {
            let words = slab.chunks_exact(8).map(|word| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(word);
                u64::from_le_bytes(bytes)
            });
            let mut caches = words.filter_map(|word| self.caches.get(&word));
            return match caches.next() {
                Some(cache) => format!("the slab cache {cache}"),
                None => "a slab cache".to_owned(),
            };
        }
        let is_in = |(start, size): &Range| at >= *start && at - start < *size;
        if self.map.iter().any(is_in) {
            return "the kernel's struct pages".to_owned();
        }
        for (span, cpu) in &self.percpu {
            let mapped = span
                .clone()
                .step_by(4096)
                .filter_map(|page| self.regime.translate(memory, page).ok());
            let mut pages = mapped.map(|mapped| mapped.physical & !0xfff);
            if pages.any(|page| page == at & !0xfff) {
                return format!("CPU {cpu}'s own variables");
            }
        }
        let name = match kind {
            Kind::Free => "nobody: it is free",
            Kind::Cache => "a file",
            Kind::CachePrivate => "a file, whose file system has something with it",
            Kind::User => "a program",
            Kind::Unreadable => "nobody: it is switched off or broken",
            Kind::Kernel => "the kernel",
        };
        name.to_owned()
    }

    fn in_image(&mut self, memory: &mut impl Memory, address: u64) -> String {
        if self.text_end.is_some_and(|end| address >= end) {
            return "the kernel's image, behind its text".to_owned();
        }
        match self.symbol(memory, address) {
            Some(symbol) => format!("the kernel's image, {symbol}"),
            None => "the kernel's image".to_owned(),
        }
    }

    fn symbol(&mut self, memory: &mut impl Memory, address: u64) -> Option<String> {
        let kernel = self.kernel.as_mut()?;
        match kernel.name(memory, &self.regime, address).ok()? {
            Name::Symbol { name, offset } => Some(format!("{name}+{offset:#x}")),
            Name::Module(Some(found)) => {
                let symbol = found.symbol;
                let symbol = symbol.map_or(String::new(), |(name, offset)| {
                    format!("{name}+{offset:#x} ")
                });
                Some(format!("{symbol}[{}]", found.module))
            }
            Name::Module(None) | Name::Unknown => None,
        }
    }

    /// Who a writer is.
    pub fn writer(&mut self, memory: &mut impl Memory, writer: &Writer) -> String {
        match &writer.who {
            Who::Vcpu { vcpu, pc, symbol } => {
                let symbol = symbol.clone().or_else(|| self.symbol(memory, *pc));
                let symbol = symbol.unwrap_or_else(|| format!("{pc:#x}"));
                format!("vCPU {vcpu} in {symbol}")
            }
            Who::Hypervisor { name } => format!("the hypervisor's {name}"),
            Who::Guest => "the guest itself".to_owned(),
        }
    }
}

/// Where a symbol is that a kernel must have.
fn place(memory: &mut impl Memory, kernel: &mut Kernel, name: &str) -> Result<u64> {
    let found = kernel.find(memory, name)?;
    found.with_context(|| format!("the kernel has no {name}"))
}

/// What each CPU has of its own.
fn percpu(memory: &mut impl Memory, kernel: &mut Kernel) -> Result<Vec<(Span<u64>, u32)>> {
    const LARGEST_UNIT: u32 = 64 << 20;
    let regime = kernel.info.own_half()?;
    let mut of = |name: &str| -> Result<u64> { place(memory, kernel, name) };
    let (offsets, start) = (of("__per_cpu_offset")?, of("__per_cpu_start")?);
    let (count, unit) = (of("nr_cpu_ids")?, of("pcpu_unit_size")?);
    let mut memory = Virtual { memory, regime };
    let (count, unit) = (memory.u32(count)?, memory.u32(unit)?);
    ensure!(
        count <= MOST_CPUS && unit <= LARGEST_UNIT,
        "they are too many"
    );
    let mut areas = Vec::new();
    for cpu in 0..count {
        let offset = memory.u64(offsets.wrapping_add(8 * u64::from(cpu)))?;
        let from = start.wrapping_add(offset);
        areas.push((from..from.saturating_add(u64::from(unit)), cpu));
    }
    Ok(areas)
}

/// The name of each slab cache. All are in a list; the name of each stands in front of its place in there, and the one named
/// `kmem_cache`, to which a variable of that name points, tells how far behind a cache's beginning that is.
fn caches(
    memory: &mut impl Memory,
    kernel: &mut Kernel,
    regime: &Regime,
) -> Result<BTreeMap<u64, String>> {
    let head = place(memory, kernel, "slab_caches")?;
    let first = place(memory, kernel, "kmem_cache")?;
    let mut memory = Virtual {
        memory,
        regime: *regime,
    };
    let first = memory.u64(first)?;
    let mut nodes = Vec::new();
    let mut at = memory.u64(head)?;
    while at != head {
        ensure!(nodes.len() < MOST_CACHES, "the list has no end");
        nodes.push(at);
        at = memory.u64(at)?;
    }
    // Others may lie behind it.
    let distances = nodes.iter().map(|node| node.wrapping_sub(first));
    let list = distances.filter(|distance| *distance < LARGEST).min();
    let list = list.context("the first slab cache is not listed")?;
    let mut caches = BTreeMap::new();
    for node in nodes {
        let name = memory.u64(node.wrapping_sub(8))?;
        let bytes = memory.bytes(name, 32);
        let bytes = bytes.or_else(|_| short(&mut memory, name))?;
        caches.insert(node.wrapping_sub(list), text(&bytes));
    }
    Ok(caches)
}

/// What is left of a text that may stand at the end of all that is mapped.
fn short(memory: &mut impl Memory, at: u64) -> Result<Vec<u8>> {
    let left = 4096 - at % 4096;
    memory.bytes(at, left.min(32) as usize)
}

/// Up to the first 0, and what can be printed of it.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = &bytes[..end.unwrap_or(bytes.len())];
    let letters = bytes.iter().map(|byte| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '?',
    });
    letters.collect()
}

/// Where the `struct page` are in physical memory, of the first TiB of RAM.
fn map(memory: &mut impl Memory, info: &Vmcoreinfo, regime: &Regime) -> Result<Vec<Range>> {
    let page: u64 = info.word("PAGESIZE")?.parse()?;
    let size: u64 = info.word("SIZE(page)")?.parse()?;
    ensure!(page.is_power_of_two() && size < page, "it makes no sense");
    let start = info.number("VMEMMAP_START")?;
    let length = (1u64 << 40) / page * size;
    Ok(mapped(memory, regime, start, length))
}

/// Where the `length` bytes from `start` on are in physical memory, as far as they are mapped.
fn mapped(memory: &mut impl Memory, regime: &Regime, start: u64, length: u64) -> Vec<Range> {
    let (mut at, mut ranges) = (start, Vec::new());
    // With 39 bits of addresses the map reaches to the last of them.
    let (mut end, step) = (start.saturating_add(length), 2u64 << 20);
    // What is not mapped is so in parts of 2 MiB and more.
    while at < end {
        match regime.translate(memory, at) {
            Ok(mapped) => {
                ranges.push((mapped.physical, mapped.left.min(end - at)));
                at = at.saturating_add(mapped.left);
            }
            Err(_) => match at.checked_add(step) {
                Some(next) => at = next & !(step - 1),
                None => break,
            },
        }
        // Bounded, whatever the tables say.
        if ranges.len() > 1 << 16 {
            end = at;
        }
    }
    ranges
}

/// Memory by the kernel's own addresses.
struct Virtual<'a, M> {
    memory: &'a mut M,
    regime: Regime,
}

impl<M: Memory> Memory for Virtual<'_, M> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.regime.read(self.memory, address, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Pieces;

    #[test]
    fn a_map_that_ends_with_all_addresses_ends() {
        // VMEMMAP_START of a kernel with 39 bits of addresses, of which nothing is mapped here.
        let regime = Regime {
            sctlr: 1,
            tcr: 25 << 16 | 25 | 0b10 << 30,
            ttbr0: 0,
            ttbr1: 0x4000_0000,
        };
        let mut memory = Pieces::default();
        let ranges = mapped(&mut memory, &regime, 0xffff_fffe_0000_0000, 16 << 30);
        assert!(ranges.is_empty());
    }

    #[test]
    fn a_text_is_what_can_be_printed_of_it() {
        assert_eq!(text(b"kmalloc-64\0kmalloc"), "kmalloc-64");
        assert_eq!(text(b"a\x1b[31m"), "a?[31m");
    }
}
