//! The kernel's own table of its symbols (`kernel/kallsyms.c`, `scripts/kallsyms.c`), of Linux 6.0 to 7.3: where its parts are is in
//! VMCOREINFO. Only what is looked for is read, as over a serial line a whole table takes minutes.
//!
//! Names are rows of tokens. Where the 256th, 512th and so on begin stands in a table of markers, which VMCOREINFO does not name;
//! it lies between the names and the tokens, is looked for there, and used if it is right. What is sorted by name likewise.

use anyhow::{Context, Result, ensure};

use crate::memory::{Memory, Words};
use crate::vmcoreinfo::Vmcoreinfo;

/// More is no table of a kernel.
const MOST_SYMBOLS: u32 = 4 << 20;
/// The longest name (KSYM_NAME_LEN).
const LONGEST_NAME: usize = 512;
/// One marker for so many names.
const GROUP: u32 = 256;
/// The last symbol is the end of all, or of the text, which is aligned to 64 KiB.
const AFTER_LAST: u64 = 64 << 10;

/// The symbols.
#[derive(Clone, Debug)]
pub struct Kallsyms {
    count: u32,
    names: u64,
    tokens: Vec<Vec<u8>>,
    offsets: u64,
    style: Style,
    /// Where the first name of each group is, as far as we know; relative to `names`.
    groups: Vec<u64>,
    markers: Option<u64>,
    by_name: Option<u64>,
}

/// What the 32 bits of a symbol are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Added to the address of a base (until 7.0).
    Base(u64),
    /// Absolute if positive; if negative, one less than the distance to the base, negated (CONFIG_KALLSYMS_ABSOLUTE_PERCPU).
    Percpu(u64),
    /// Added to where they are themselves.
    Place,
}

/// A symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub address: u64,
    /// As nm(1) has it, such as `t`.
    pub kind: char,
}

impl Kallsyms {
    /// Those of the kernel that says `info`. `memory` is by the kernel's own addresses.
    pub fn of(memory: &mut impl Memory, info: &Vmcoreinfo) -> Result<Self> {
        let place = |name: &str| info.symbol(&format!("kallsyms_{name}"));
        let names = place("names").context("so it has no KALLSYMS, or is older than 6.0")?;
        let offsets = place("offsets").context("its KALLSYMS has addresses, not offsets")?;
        let (table, index) = (place("token_table")?, place("token_index")?);
        let count = memory.u32(place("num_syms")?)?;
        ensure!(
            (1..=MOST_SYMBOLS).contains(&count),
            "the kernel's table of symbols claims {count} of them"
        );
        let base = place("relative_base").ok();
        let last = memory.u32(offsets + 4 * u64::from(count - 1))? as i32;
        let style = match base {
            None => Style::Place,
            Some(base) if last < 0 => Style::Percpu(memory.u64(base)?),
            Some(base) => Style::Base(memory.u64(base)?),
        };
        let mut table = Self {
            count,
            names,
            tokens: tokens(memory, table, index)?,
            offsets,
            style,
            groups: vec![0],
            markers: None,
            by_name: None,
        };
        let tokens_at = place("token_table")?;
        table.markers = table.find_markers(memory, tokens_at);
        // Three bytes each: behind the offsets and what they are relative to, from 6.5 on; before, from 6.2 on, in front of the tokens.
        let size = 3 * u64::from(count);
        table.by_name = match base {
            None => Some(offsets + 4 * u64::from(count)),
            Some(base) if base > tokens_at => Some(base + 8),
            Some(_) => table
                .markers
                .filter(|at| tokens_at - at >= size)
                .map(|_| tokens_at - size.next_multiple_of(8)),
        };
        Ok(table)
    }

    /// How many there are.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// There is always one.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Whether names are found without reading those before them.
    pub const fn has_markers(&self) -> bool {
        self.markers.is_some()
    }

    /// The symbol that `address` is in, and how far in.
    pub fn at(&mut self, memory: &mut impl Memory, address: u64) -> Result<Option<(Symbol, u64)>> {
        let Some((number, start)) = self.number(memory, address)? else {
            return Ok(None);
        };
        let (name, kind) = self.name(memory, number)?;
        let symbol = Symbol {
            name,
            address: start,
            kind,
        };
        Ok(Some((symbol, address - start)))
    }

    /// Where the symbol begins that `address` is in; no name is read.
    pub fn start(&self, memory: &mut impl Memory, address: u64) -> Result<Option<u64>> {
        Ok(self.number(memory, address)?.map(|(_, start)| start))
    }

    /// All of them, by their addresses. Of several at one address the first is what that is called.
    pub fn all(&self, memory: &mut impl Memory) -> Result<Vec<Symbol>> {
        let mut all = Vec::new();
        let mut at = self.names;
        for number in 0..self.count {
            let (name, kind) = self.name_at(memory, at)?;
            let address = self.address(memory, number)?;
            all.push(Symbol {
                name,
                address,
                kind,
            });
            at = skip(memory, at)?;
        }
        Ok(all)
    }

    /// The first of the symbols that `address` is in, and where it begins.
    fn number(&self, memory: &mut impl Memory, address: u64) -> Result<Option<(u32, u64)>> {
        // The first symbol behind the address.
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.address(memory, middle)? <= address {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let Some(mut found) = low.checked_sub(1) else {
            return Ok(None);
        };
        let start = self.address(memory, found)?;
        if found == self.count - 1 && address - start >= AFTER_LAST {
            return Ok(None);
        }
        // Of several names the first, as the kernel does.
        while found > 0 && self.address(memory, found - 1)? == start {
            found -= 1;
        }
        Ok(Some((found, start)))
    }

    /// Where the symbol called `name` is.
    pub fn find(&mut self, memory: &mut impl Memory, name: &str) -> Result<Option<u64>> {
        if let Some(by_name) = self.by_name {
            let (mut low, mut high) = (0, self.count);
            while low < high {
                let middle = low + (high - low) / 2;
                let bytes = memory.bytes(by_name + 3 * u64::from(middle), 3)?;
                let number = bytes
                    .iter()
                    .fold(0, |number, byte| number << 8 | u32::from(*byte));
                if number >= self.count {
                    break;
                }
                let (found, _) = self.name(memory, number)?;
                match found.as_bytes().cmp(name.as_bytes()) {
                    std::cmp::Ordering::Equal => return self.address(memory, number).map(Some),
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Greater => high = middle,
                }
            }
            if low >= high {
                return Ok(None);
            }
        }
        // There is no such table, or it is elsewhere.
        for number in 0..self.count {
            if self.name(memory, number)?.0 == name {
                return self.address(memory, number).map(Some);
            }
        }
        Ok(None)
    }

    /// Where a symbol is.
    fn address(&self, memory: &mut impl Memory, number: u32) -> Result<u64> {
        let place = self.offsets + 4 * u64::from(number);
        let offset = memory.u32(place)?;
        let signed = i64::from(offset as i32);
        Ok(match self.style {
            Style::Base(base) => base.wrapping_add(u64::from(offset)),
            Style::Percpu(base) if signed < 0 => base.wrapping_sub(1).wrapping_sub(signed as u64),
            Style::Percpu(_) => u64::from(offset),
            Style::Place => place.wrapping_add(signed as u64),
        })
    }

    /// The name of a symbol, and its kind.
    fn name(&mut self, memory: &mut impl Memory, number: u32) -> Result<(String, char)> {
        let mut at = self.group(memory, number / GROUP)?;
        for _ in 0..number % GROUP {
            at = skip(memory, at)?;
        }
        self.name_at(memory, at)
    }

    /// The same of the name that stands at `at`.
    fn name_at(&self, memory: &mut impl Memory, at: u64) -> Result<(String, char)> {
        let (start, length) = entry(memory, at)?;
        let mut text = Vec::new();
        for token in memory.bytes(start, length)? {
            text.extend(self.tokens.get(usize::from(token)).into_iter().flatten());
            ensure!(
                text.len() <= LONGEST_NAME,
                "a name in the kernel's table of symbols has no end"
            );
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut letters = text.chars();
        let kind = letters.next().unwrap_or('?');
        Ok((letters.as_str().to_owned(), kind))
    }

    /// Where the first name of a group is.
    fn group(&mut self, memory: &mut impl Memory, group: u32) -> Result<u64> {
        if let Some(markers) = self.markers {
            return Ok(self.names + u64::from(memory.u32(markers + 4 * u64::from(group))?));
        }
        while self.groups.len() <= group as usize {
            let known = self.groups.last().copied().unwrap_or_default();
            let mut at = self.names + known;
            for _ in 0..GROUP {
                at = skip(memory, at)?;
            }
            self.groups.push(at - self.names);
        }
        Ok(self.names + self.groups[group as usize])
    }

    /// Where the markers are, in front of the tokens or of what is sorted by name; the second one is where the 257th name begins.
    fn find_markers(&self, memory: &mut impl Memory, tokens: u64) -> Option<u64> {
        let groups = self.count.div_ceil(GROUP);
        if groups < 2 {
            return None;
        }
        let (size, by_name) = (4 * u64::from(groups), 3 * u64::from(self.count));
        let own = size.next_multiple_of(8);
        let candidates = [size, own, by_name.next_multiple_of(8) + own];
        let mut second = self.names;
        for _ in 0..GROUP {
            second = skip(memory, second).ok()?;
        }
        candidates.into_iter().find_map(|before| {
            let place = tokens.checked_sub(before).filter(|at| *at > self.names)?;
            let markers = [memory.u32(place).ok()?, memory.u32(place + 4).ok()?];
            let is_right = markers[0] == 0 && u64::from(markers[1]) == second - self.names;
            is_right.then_some(place)
        })
    }
}

/// The 256 texts that a byte of a name stands for.
fn tokens(memory: &mut impl Memory, table: u64, index: u64) -> Result<Vec<Vec<u8>>> {
    let index = memory.bytes(index, 512)?;
    let places: Vec<u16> = index
        .chunks_exact(2)
        .map(|half| u16::from_le_bytes([half[0], half[1]]))
        .collect();
    ensure!(
        places.is_sorted(),
        "the kernel's table of symbols has tokens in disorder"
    );
    // The last one is the end of a name, and short.
    let last = usize::from(places.last().copied().unwrap_or_default());
    let table = memory.bytes(table, last + 64)?;
    let token = |place: &u16| {
        let rest = &table[usize::from(*place)..];
        let end = rest.iter().position(|byte| *byte == 0);
        rest[..end.unwrap_or(rest.len())].to_vec()
    };
    Ok(places.iter().map(token).collect())
}

/// Where the tokens of the name at `at` begin, and how many there are: one byte, or two from 128 on (since 6.1).
fn entry(memory: &mut impl Memory, at: u64) -> Result<(u64, usize)> {
    let first = memory.bytes(at, 1)?[0];
    if first & 0x80 == 0 {
        return Ok((at + 1, usize::from(first)));
    }
    let second = memory.bytes(at + 1, 1)?[0];
    Ok((at + 2, usize::from(first & 0x7f) | usize::from(second) << 7))
}

fn skip(memory: &mut impl Memory, at: u64) -> Result<u64> {
    let (start, length) = entry(memory, at)?;
    Ok(start + length as u64)
}

#[cfg(test)]
mod tests;
