//! A core file of a guest: ELF, as `/proc/vmcore` has it (`fs/proc/vmcore.c`, `kernel/crash_core.c`), so that what reads one reads the
//! other. Its notes have the registers of each CPU and VMCOREINFO; its segments all of RAM, by physical address (p_paddr) and, of a
//! Linux, by that of the kernel's linear map (p_vaddr).
//!
//! The file is made of a head, then RAM range by range, then copies of pages that a reader is to find instead of those in RAM.

use anyhow::{Context, Result};

use crate::vmcoreinfo::{Range, Vmcoreinfo};

/// How many registers a note has: x0 to x30, sp, pc, PSTATE.
pub const REGISTERS: usize = 34;
/// RAM and copies are aligned to this in the file.
const ALIGNMENT: u64 = 4096;
const HEADER: u16 = 64;
const SEGMENT: u16 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const READ_WRITE_EXECUTE: u32 = 7;
const NT_PRSTATUS: u32 = 1;

/// A CPU that was on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number in the guest.
    pub number: u32,
    /// x0 to x30, sp, pc, PSTATE.
    pub registers: [u64; REGISTERS],
}

impl Cpu {
    /// What Linux has of a CPU that it has stopped, as a note: `struct elf_prstatus` of arm64. pr_pid is the CPU's number and one, as
    /// QEMU's dumps have it, and as drgn finds a CPU's note.
    pub fn note(&self) -> Vec<u8> {
        const SIZE: usize = 392;
        const PID: usize = 32;
        const GENERAL: usize = 112;
        let mut content = vec![0; SIZE];
        content[PID..PID + 4].copy_from_slice(&(self.number + 1).to_le_bytes());
        for (value, place) in self
            .registers
            .iter()
            .zip(content[GENERAL..].chunks_exact_mut(8))
        {
            place.copy_from_slice(&value.to_le_bytes());
        }
        note(b"CORE\0", NT_PRSTATUS, &content)
    }
}

/// A note: its name, with the 0 at its end, and its content, each padded to 4 bytes.
fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [name.len() as u32, content.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    for part in [name, content] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Where a Linux has its memory by virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Bits that are set in each address of the linear map.
    page_offset: u64,
    /// The physical address that is the first of them.
    phys_offset: u64,
    /// The kernel's image, where that is known: its first address, its length, and by how much it is above its physical addresses.
    image: Option<(u64, u64, u64)>,
}

impl Map {
    /// Of the kernel that says `info`. Its image lies between two addresses: its symbols `_text` and `_end`.
    pub fn of(info: &Vmcoreinfo, image: Option<(u64, u64)>) -> Result<Self> {
        let bits = info.number("VA_BITS")?;
        let page_offset = u32::try_from(bits).ok();
        let page_offset = page_offset.and_then(|bits| u64::MAX.checked_shl(bits));
        let voffset = info.number("kimage_voffset")?;
        Ok(Self {
            page_offset: page_offset
                .with_context(|| format!("the kernel claims {bits} bits of address"))?,
            phys_offset: info.number("PHYS_OFFSET")?,
            image: image.and_then(|(start, end)| Some((start, end.checked_sub(start)?, voffset))),
        })
    }

    /// The virtual address of a physical one, as the kernel's `__phys_to_virt` has it (arch/arm64/include/asm/memory.h).
    pub const fn linear(&self, physical: u64) -> u64 {
        physical.wrapping_sub(self.phys_offset) | self.page_offset
    }
}

/// What a core file is made of, but for RAM itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreFile {
    /// The CPUs that were on, in the guest's order.
    pub cpus: Vec<Cpu>,
    /// The note VMCOREINFO as a whole; nothing of what is no Linux.
    pub vmcoreinfo: Vec<u8>,
    /// RAM, ascending, in whole pages.
    pub ram: Vec<Range>,
    /// Where a Linux has it; without, virtual addresses are the physical ones.
    pub map: Option<Map>,
    /// What is mapped elsewhere, too: a virtual address, the physical one, and a length. gdb walks no tables, and finds there the stacks
    /// that a Linux has in its vmalloc space.
    pub mapped: Vec<(u64, u64, u64)>,
    /// Pages that a reader finds instead of those in RAM: the physical address of each, a multiple of its length, and what is in it.
    pub copies: Vec<(u64, Vec<u8>)>,
}

/// A part of memory that the file has in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    physical: u64,
    length: u64,
    /// Where in the file, from where RAM begins.
    offset: u64,
}

impl CoreFile {
    /// The file up to where RAM begins.
    pub fn head(&self) -> Vec<u8> {
        let mut notes: Vec<u8> = self.cpus.iter().flat_map(Cpu::note).collect();
        notes.extend(&self.vmcoreinfo);
        let segments = self.segments();
        let count = segments.len() as u16 + 1;
        let notes_at = u64::from(HEADER) + u64::from(SEGMENT) * u64::from(count);
        let size = notes.len() as u64;
        let ram_at = (notes_at + size).next_multiple_of(ALIGNMENT);
        let mut bytes = header(count);
        bytes.extend(segment(PT_NOTE, 0, [notes_at, 0, 0, size, size, 4]));
        for (virtual_address, part) in segments {
            let Part {
                physical,
                length,
                offset,
            } = part;
            let words = [
                ram_at + offset,
                virtual_address,
                physical,
                length,
                length,
                0,
            ];
            bytes.extend(segment(PT_LOAD, READ_WRITE_EXECUTE, words));
        }
        bytes.extend(notes);
        bytes.resize(ram_at as usize, 0);
        bytes
    }

    /// Each segment of memory, with its virtual address.
    fn segments(&self) -> Vec<(u64, Part)> {
        let mut segments = Vec::new();
        if let Some((start, length, voffset)) = self.map.and_then(|map| map.image) {
            let physical = start.wrapping_sub(voffset);
            for part in self.parts((physical, length)) {
                segments.push((part.physical.wrapping_add(voffset), part));
            }
        }
        for range in &self.ram {
            for part in self.parts(*range) {
                let linear = self.map.map(|map| map.linear(part.physical));
                segments.push((linear.unwrap_or(part.physical), part));
            }
        }
        for (start, physical, length) in &self.mapped {
            for part in self.parts((*physical, *length)) {
                segments.push((start.wrapping_add(part.physical - physical), part));
            }
        }
        segments
    }

    /// What comes behind RAM.
    pub fn tail(&self) -> Vec<u8> {
        let copies = self.copies.iter();
        copies
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect()
    }

    /// Where the file has the part of RAM in `wanted`, from where RAM begins: copies where there are any.
    fn parts(&self, (wanted, length): Range) -> Vec<Part> {
        let end = wanted.saturating_add(length);
        let mut parts = Vec::new();
        let mut at = 0;
        for (start, size) in &self.ram {
            let (from, to) = (wanted.max(*start), end.min(start + size));
            if from < to {
                parts.push(Part {
                    physical: from,
                    length: to - from,
                    offset: at + (from - start),
                });
            }
            at += size;
        }
        for (physical, bytes) in &self.copies {
            let copy = Part {
                physical: *physical,
                length: bytes.len() as u64,
                offset: at,
            };
            parts = parts
                .into_iter()
                .flat_map(|part| part.around(copy))
                .collect();
            at += copy.length;
        }
        parts
    }
}

impl Part {
    /// It in up to three pieces, of which one is `copy` instead, as far as both are the same memory.
    fn around(self, copy: Self) -> impl Iterator<Item = Self> {
        let piece = |of: Self, from: u64, to: u64| {
            let length = to.checked_sub(from).filter(|length| *length != 0)?;
            Some(Self {
                physical: from,
                length,
                offset: of.offset + (from - of.physical),
            })
        };
        let end = self.physical + self.length;
        let from = copy.physical.clamp(self.physical, end);
        let to = (copy.physical + copy.length).clamp(self.physical, end);
        let before = piece(self, self.physical, from);
        let inside = if from < to {
            piece(copy, from, to)
        } else {
            None
        };
        before.into_iter().chain(inside).chain(piece(self, to, end))
    }
}

/// The header of a core file of AArch64 with so many segments.
fn header(count: u16) -> Vec<u8> {
    // Class 64, little-endian, version 1; ET_CORE, EM_AARCH64.
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\xb7\0\x01\0\0\0".to_vec();
    // Entry, where program headers are, no sections, no flags.
    for word in [0, u64::from(HEADER), 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for half in [HEADER, SEGMENT, count, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    bytes
}

/// A program header: p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
fn segment(kind: u32, flags: u32, words: [u64; 6]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(flags.to_le_bytes());
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests;
