//! What each page of RAM is for, in ascending order.

use anyhow::{Result, ensure};

use super::{Kind, Row, Rule};
use crate::memory::Memory;
use crate::translation::Regime;
use crate::vmcoreinfo::Vmcoreinfo;

/// So many `struct page` are read at a time.
const CHUNK: u64 = 64;
/// A page is told by what is in front of it from a multiple of this on: no block of free pages, and no compound page but a gigantic
/// one, reaches across it.
const BLOCK: u64 = 1 << 13;

/// Where a kernel has each page's `struct page`.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    start: u64,
    first: u64,
    size: u64,
    page: u64,
}

impl Map {
    /// Of the kernel that says `info`.
    pub fn of(info: &Vmcoreinfo, rule: &Rule) -> Result<Self> {
        let page: u64 = info.word("PAGESIZE")?.parse()?;
        ensure!(
            page.is_power_of_two() && page <= 64 << 10,
            "the kernel claims pages of {page} bytes"
        );
        let origin = info.number("PHYS_OFFSET")?;
        Ok(Self {
            start: info.number("VMEMMAP_START")?,
            // The kernel shifts what it subtracts, which may be negative (arch/arm64/include/asm/memory.h: vmemmap).
            first: (origin as i64 >> page.trailing_zeros()) as u64,
            size: rule.size() as u64,
            page,
        })
    }

    /// The size of a page.
    pub const fn page(&self) -> u64 {
        self.page
    }

    /// Where the `struct page` is of the page with this number.
    pub const fn place(&self, number: u64) -> u64 {
        let number = number.wrapping_sub(self.first);
        self.start.wrapping_add(number.wrapping_mul(self.size))
    }
}

/// What pages are for that are asked for in ascending order.
pub struct Kinds<'a> {
    rule: &'a Rule,
    map: Map,
    regime: Regime,
    row: Row<'a>,
    /// The page that comes next.
    next: u64,
    /// The last one's `struct page` that is no tail page.
    head: Vec<u8>,
    /// What was read last: from which page on, and what is known of it.
    chunk: (u64, Option<Vec<u8>>),
    /// A `struct page` could not be read, and none since has said what it is for: a block of free pages, or a compound page, may
    /// have begun there.
    is_lost: bool,
}

impl<'a> Kinds<'a> {
    /// Of the kernel that says `info`.
    pub fn of(info: &Vmcoreinfo, rule: &'a Rule) -> Result<Self> {
        Ok(Self {
            rule,
            map: Map::of(info, rule)?,
            regime: info.own_half()?,
            row: rule.row(),
            next: 0,
            head: Vec::new(),
            chunk: (u64::MAX, None),
            is_lost: false,
        })
    }

    /// Where the `struct page` are.
    pub const fn map(&self) -> &Map {
        &self.map
    }

    /// What the page with this number is for.
    pub fn at(&mut self, memory: &mut impl Memory, number: u64) -> Kind {
        if number < self.next || number - self.next >= BLOCK {
            self.row = self.rule.row();
            self.head.clear();
            self.next = number & !(BLOCK - 1);
            self.is_lost = false;
        }
        let mut kind = Kind::Kernel;
        while self.next <= number {
            kind = self.step(memory);
        }
        kind
    }

    /// The first `struct page` of what the last page that was asked for belongs to, if it is a slab's.
    pub fn slab(&self) -> Option<&[u8]> {
        let head = Some(self.head.as_slice()).filter(|head| !head.is_empty())?;
        self.rule.is_slab(head).then_some(head)
    }

    /// Whether what the last page is for that was asked for could be told.
    pub const fn is_told(&self) -> bool {
        !self.is_lost
    }

    fn step(&mut self, memory: &mut impl Memory) -> Kind {
        let number = self.next;
        self.next += 1;
        let size = self.rule.size();
        let mut own = [0; 256];
        let Some(page) = self.page(memory, number, &mut own[..size.min(256)]) else {
            // The kernel says nothing of this page.
            self.row = self.rule.row();
            self.head.clear();
            self.is_lost = true;
            return Kind::Kernel;
        };
        if !self.rule.is_tail(page) {
            self.head.clear();
            self.head.extend_from_slice(page);
        }
        let kind = self.row.next(page);
        self.is_lost &= kind == Kind::Kernel;
        kind
    }

    /// The `struct page` of a page.
    fn page<'b>(
        &mut self,
        memory: &mut impl Memory,
        number: u64,
        into: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        let first = number & !(CHUNK - 1);
        let size = self.rule.size();
        if self.chunk.0 != first {
            let mut bytes = vec![0; size * CHUNK as usize];
            let read = self
                .regime
                .read(memory, self.map.place(first), &mut bytes)
                .ok();
            self.chunk = (first, read.map(|()| bytes));
        }
        match &self.chunk.1 {
            Some(bytes) => {
                let at = (number - first) as usize * size;
                into.copy_from_slice(bytes.get(at..at + into.len())?);
            }
            // Part of them may be there.
            None => self
                .regime
                .read(memory, self.map.place(number), into)
                .ok()?,
        }
        Some(into)
    }
}
