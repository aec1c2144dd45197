//! What each page of a Linux is for, by its `struct page`, and whether a dump that leaves some kinds out may lack it: the levels are
//! makedumpfile's (makedumpfile(8), `-d`). How a kernel has its `struct page` is in VMCOREINFO; Linux 6.1 to 7.3.
//!
//! Pages are looked at one after the other, as the tail pages of a compound page and those of a block of free ones are what the first
//! is. What cannot be told is the kernel's: so a page is called required too often rather than too rarely. Free pages in the
//! allocator's lists of each CPU, and in 6.1 huge pages of files, cannot be told.

use anyhow::{Context, Result, ensure};

use crate::memory::Memory;
use crate::vmcoreinfo::{Range, Vmcoreinfo};

mod kinds;

pub use kinds::Kinds;
use kinds::Map;

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// For nothing.
    Free,
    /// A file's, and nothing hangs on it.
    Cache,
    /// A file's, whose file system keeps something of its own with it.
    CachePrivate,
    /// A program's.
    User,
    /// Switched off, or broken: nobody reads it.
    Unreadable,
    /// The kernel's.
    Kernel,
}

/// What a dump leaves out, as bits of makedumpfile's level.
const ZERO: u32 = 1;
const CACHE: u32 = 2;
const CACHE_PRIVATE: u32 = 4;
const USER: u32 = 8;
const FREE: u32 = 16;

/// Why a dump may lack a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Of what it is for.
    Kind(Kind),
    /// It is full of zeros.
    Zero,
}

impl Reason {
    /// In one word, or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.name(),
            Self::Zero => "zero",
        }
    }
}

impl Kind {
    /// In one word, or two.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Cache => "cache",
            Self::CachePrivate => "cache private",
            Self::User => "user",
            Self::Unreadable => "unreadable",
            Self::Kernel => "kernel",
        }
    }

    /// Why a dump of this level may lack a page of this kind, if it may.
    pub fn reason(self, level: u32, is_zero: bool) -> Option<Reason> {
        let by_kind = match self {
            Self::Free => level & FREE != 0,
            Self::Cache => level & CACHE != 0,
            // makedumpfile leaves out what has nothing private as well then.
            Self::CachePrivate => level & CACHE_PRIVATE != 0,
            Self::User => level & USER != 0,
            Self::Unreadable => true,
            Self::Kernel => false,
        };
        if by_kind {
            return Some(Reason::Kind(self));
        }
        (level & ZERO != 0 && is_zero).then_some(Reason::Zero)
    }
}

/// Whether `content` is zeros only.
pub fn is_zero(content: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    content
        .chunks(ZEROS.len())
        .all(|part| *part == ZEROS[..part.len()])
}

/// What a page of a dump is, held against what it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// There, and as it was.
    Equal,
    /// There, and something else.
    Different,
    /// Not there, and need not be.
    Excluded(Reason),
    /// Not there, and must be.
    Missing,
    /// There and as it was, though the level leaves it out.
    Needless(Reason),
}

/// What a dump has of a page, held against what was in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dumped {
    /// Nothing.
    Absent,
    /// The one page of zeros that stands for all of them, and takes no room.
    Zero,
    /// What was in it.
    Same,
    /// Something else.
    Other,
}

/// Judges a page that is full of zeros in memory or not, of which a dump of this level has `dumped`.
pub fn judge(kind: Kind, level: u32, is_zero: bool, dumped: Dumped) -> Verdict {
    let reason = kind.reason(level, is_zero);
    match (dumped, reason) {
        (Dumped::Other, _) => Verdict::Different,
        (Dumped::Zero, _) if !is_zero => Verdict::Different,
        (Dumped::Same, Some(reason)) => Verdict::Needless(reason),
        (Dumped::Same | Dumped::Zero, None) => Verdict::Equal,
        (Dumped::Absent | Dumped::Zero, Some(reason)) => Verdict::Excluded(reason),
        (Dumped::Absent, None) => Verdict::Missing,
    }
}

/// How a kernel says what a page is for.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The size of a `struct page`.
    size: usize,
    flags: usize,
    mapping: usize,
    mapcount: usize,
    private: usize,
    /// Where bit 0 says that it is a tail page.
    compound: usize,
    lru: u64,
    has_private: u64,
    swap_cache: u64,
    swap_backed: u64,
    /// Until 6.9 a slab is a flag.
    slab: u64,
    poisoned: u64,
    /// What `_mapcount` has instead of a count.
    buddy: Type,
    offline: Option<Type>,
    hugetlb: Option<Type>,
    slabs: Option<Type>,
}

/// The type of a page (`page_type`, include/linux/page-flags.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// The highest byte is this one (since 6.12).
    Byte(u8),
    /// The highest four bits are set, and of the others this one is clear.
    Bit(u32),
}

const TYPED: u32 = 0xf000_0000;

impl Type {
    /// The one that VMCOREINFO has as `value`.
    const fn of(value: u32) -> Self {
        // As a byte it stands alone; as a bit all others are set.
        if value & 0x00ff_ffff == 0 {
            Self::Byte((value >> 24) as u8)
        } else {
            Self::Bit(!value)
        }
    }

    const fn is_of(self, mapcount: u32) -> bool {
        match self {
            Self::Byte(byte) => (mapcount >> 24) as u8 == byte,
            Self::Bit(bit) => mapcount & (TYPED | bit) == TYPED,
        }
    }
}

impl Rule {
    /// Of the kernel that says `info`.
    pub fn of(info: &Vmcoreinfo) -> Result<Self> {
        let decimal = |key: &str| -> Result<usize> {
            let word = info.word(key)?;
            word.parse()
                .with_context(|| format!("{key}={word} in the kernel's VMCOREINFO is no number"))
        };
        let offset = |name: &str| decimal(&format!("OFFSET(page.{name})"));
        let flag = |name: &str| -> Result<u64> {
            let bit = info.number(name)?;
            let bit = u32::try_from(bit).ok();
            let flag = bit.and_then(|bit| 1u64.checked_shl(bit));
            flag.with_context(|| format!("{name} in the kernel's VMCOREINFO is no flag"))
        };
        let kind = |name: &str| -> Result<Type> { Ok(Type::of(info.number(name)? as u32)) };
        let rule = Self {
            size: decimal("SIZE(page)")?,
            flags: offset("flags")?,
            mapping: offset("mapping")?,
            mapcount: offset("_mapcount")?,
            private: offset("private")?,
            // What it is called since 7.0.
            compound: offset("compound_head").or_else(|_| offset("compound_info"))?,
            lru: flag("PG_lru")?,
            has_private: flag("PG_private")?,
            swap_cache: flag("PG_swapcache")?,
            swap_backed: flag("PG_swapbacked")?,
            slab: flag("PG_slab").unwrap_or_default(),
            poisoned: flag("PG_hwpoison").unwrap_or_default(),
            buddy: kind("PAGE_BUDDY_MAPCOUNT_VALUE")?,
            offline: kind("PAGE_OFFLINE_MAPCOUNT_VALUE").ok(),
            hugetlb: kind("PAGE_HUGETLB_MAPCOUNT_VALUE").ok(),
            slabs: kind("PAGE_SLAB_MAPCOUNT_VALUE").ok(),
        };
        // It has been 56, 64 or 80 bytes.
        ensure!(
            (8..=256).contains(&rule.size),
            "the kernel claims {} bytes for a struct page",
            rule.size
        );
        let longs = [rule.flags, rule.mapping, rule.private, rule.compound];
        let ends = longs.map(|at| at.saturating_add(8));
        let end = ends.into_iter().max().unwrap_or_default();
        ensure!(
            end.max(rule.mapcount.saturating_add(4)) <= rule.size,
            "the kernel's VMCOREINFO has parts of a struct page behind its end"
        );
        Ok(rule)
    }

    /// The size of a `struct page`.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Whether `page`, which is no tail page, is a slab's first.
    pub fn is_slab(&self, page: &[u8]) -> bool {
        let mapcount = word(page, self.mapcount) as u32;
        word(page, self.flags) & self.slab != 0
            || self.slabs.is_some_and(|slab| slab.is_of(mapcount))
    }

    /// Whether `page` is one that has the same as the one before it.
    fn is_tail(&self, page: &[u8]) -> bool {
        word(page, self.compound) & 1 != 0
    }

    /// What the pages are for that follow each other from here on.
    pub const fn row(&self) -> Row<'_> {
        Row {
            rule: self,
            head: Kind::Kernel,
            free: 0,
        }
    }
}

/// So much that could be left out is kept between two parts that are not: each part has a header, of which an ELF file has some
/// 65,000 at most, and each page that is copied or mapped elsewhere may add to them.
const GAP: u64 = 256 << 10;
const MOST_PARTS: u64 = 16 << 10;

/// The parts of `ram` in which the kernel has pages of its own, and some between them; and how many bytes of the rest are left out.
pub fn of_kernel(
    memory: &mut impl Memory,
    info: &Vmcoreinfo,
    ram: &[Range],
) -> Result<(Vec<Range>, u64)> {
    let rule = Rule::of(info)?;
    let map = Map::of(info, &rule)?;
    let page = map.page();
    let regime = info.own_half()?;
    let sum = |ranges: &[Range]| ranges.iter().map(|(_, length)| length).sum::<u64>();
    let gap = GAP.max(sum(ram) / MOST_PARTS);
    let mut parts: Vec<Range> = Vec::new();
    let mut bytes = vec![0; rule.size];
    for (start, length) in ram {
        let mut row = rule.row();
        for at in (*start..start + length).step_by(usize::try_from(page)?) {
            let kind = match regime.read(memory, map.place(at / page), &mut bytes) {
                Ok(()) => row.next(&bytes),
                // It says nothing of this page.
                Err(_) => Kind::Kernel,
            };
            if kind != Kind::Kernel {
                continue;
            }
            let end = (at + page).min(start + length);
            match parts.last_mut() {
                Some((first, size)) if *first >= *start && at - (*first + *size) <= gap => {
                    *size = end - *first;
                }
                _ => parts.push((at, end - at)),
            }
        }
    }
    let left_out = sum(ram) - sum(&parts);
    Ok((parts, left_out))
}

/// Pages one after the other.
pub struct Row<'a> {
    rule: &'a Rule,
    /// What the last one is that is no tail page.
    head: Kind,
    /// So many more are free.
    free: u64,
}

/// More pages are no block of free ones: 2^10 of 4 KiB, or 2^13 (CONFIG_ARCH_FORCE_MAX_ORDER).
const HIGHEST_ORDER: u64 = 20;

impl Row<'_> {
    /// What the next one is for, which has this `struct page`, of [`Rule::size`] bytes.
    pub fn next(&mut self, page: &[u8]) -> Kind {
        let rule = self.rule;
        let long = |at: usize| word(page, at);
        let mapcount = long(rule.mapcount) as u32;
        if rule.buddy.is_of(mapcount) && long(rule.flags) & rule.slab == 0 {
            let order = long(rule.private);
            self.free = if order <= HIGHEST_ORDER {
                (1 << order) - 1
            } else {
                0
            };
            self.head = Kind::Free;
            return Kind::Free;
        }
        if self.free > 0 {
            self.free -= 1;
            return Kind::Free;
        }
        if !rule.is_tail(page) {
            self.head = self.kind(long(rule.flags), long(rule.mapping), mapcount);
        }
        self.head
    }

    fn kind(&self, flags: u64, mapping: u64, mapcount: u32) -> Kind {
        /// In `mapping`: it is no file's but a program's (FOLIO_MAPPING_ANON).
        const ANONYMOUS: u64 = 1;
        let rule = self.rule;
        let is = |kind: Option<Type>| kind.is_some_and(|kind| kind.is_of(mapcount));
        let is_typed = mapcount & TYPED == TYPED && mapcount != u32::MAX;
        let is_cache =
            flags & rule.lru != 0 || flags & rule.swap_backed != 0 && flags & rule.swap_cache != 0;
        if flags & rule.slab != 0 {
            return Kind::Kernel;
        }
        if flags & rule.poisoned != 0 || is(rule.offline) {
            return Kind::Unreadable;
        }
        if is(rule.hugetlb) {
            return Kind::User;
        }
        // What has a type has other things in place of `mapping`.
        match (is_typed, mapping & ANONYMOUS != 0, is_cache) {
            (true, ..) | (false, false, false) => Kind::Kernel,
            (false, true, _) => Kind::User,
            (false, false, true) if flags & rule.has_private != 0 => Kind::CachePrivate,
            (false, false, true) => Kind::Cache,
        }
    }
}

/// The word at `at` of a `struct page`; what is behind its end is 0.
fn word(page: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    let rest = page.get(at..).unwrap_or_default();
    let count = rest.len().min(8);
    bytes[..count].copy_from_slice(&rest[..count]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests;
