//! Tables made by hand, as kernels of each layout have them.

use std::fmt::Write;

use super::*;
use crate::memory::tests::Pieces;
use crate::vmcoreinfo::tests::note;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// 6.0: offsets first, nothing sorted by name.
    V60,
    /// 6.2: what is sorted by name stands in front of the tokens.
    V62,
    /// 6.5: offsets, base and what is sorted by name last.
    V65,
    /// 7.3: no base.
    V73,
}

const LAYOUTS: [Layout; 4] = [Layout::V60, Layout::V62, Layout::V65, Layout::V73];
const RODATA: u64 = 0xffff_8000_8040_0000;
const BASE: u64 = 0xffff_8000_8000_0000;

/// `count` functions of 16 bytes, 64 bytes apart, with two names at the third place; a long name at the fourth.
fn symbols(count: u32) -> Vec<(u64, String)> {
    let name = |n: u32| match n {
        3 => format!("t{}", "long_".repeat(60)),
        n => format!("T_function_{:04}", n * 7919 % 10007),
    };
    let place = |n: u32| BASE + 64 * u64::from(if n == 2 { 1 } else { n });
    (0..count).map(|n| (place(n), name(n))).collect()
}

fn aligned(bytes: &mut Vec<u8>, to: usize) -> u64 {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
    RODATA + bytes.len() as u64
}

/// A table, and its VMCOREINFO.
fn table(layout: Layout, symbols: &[(u64, String)]) -> (Pieces, Vmcoreinfo) {
    let count = symbols.len();
    let mut bytes = vec![0x5a; 40];
    let mut info = String::from("OSRELEASE=x\n");
    let mut say = |name: &str, place: u64| {
        writeln!(info, "SYMBOL(kallsyms_{name})={place:x}").unwrap();
    };
    let offsets = |bytes: &mut Vec<u8>| {
        let start = aligned(bytes, 8);
        for (n, (address, _)) in symbols.iter().enumerate() {
            let from = match layout {
                Layout::V73 => start + 4 * n as u64,
                _ => BASE,
            };
            bytes.extend((address.wrapping_sub(from) as u32).to_le_bytes());
        }
        start
    };
    let mut sorted: Vec<usize> = (0..count).collect();
    sorted.sort_by_key(|n| &symbols[*n].1[1..]);
    let by_name = |bytes: &mut Vec<u8>| {
        for n in &sorted {
            bytes.extend(&(*n as u32).to_be_bytes()[1..]);
        }
    };
    let base = |bytes: &mut Vec<u8>| {
        let place = aligned(bytes, 8);
        bytes.extend(BASE.to_le_bytes());
        place
    };
    if matches!(layout, Layout::V60 | Layout::V62) {
        say("offsets", offsets(&mut bytes));
        say("relative_base", base(&mut bytes));
    }
    say("num_syms", aligned(&mut bytes, 8));
    bytes.extend((count as u32).to_le_bytes());
    let names = aligned(&mut bytes, 4);
    say("names", names);
    let mut markers = Vec::new();
    for (n, (_, name)) in symbols.iter().enumerate() {
        if n % 256 == 0 {
            markers.push((RODATA + bytes.len() as u64 - names) as u32);
        }
        let packed = pack(name);
        if packed.len() < 0x80 {
            bytes.push(packed.len() as u8);
        } else {
            bytes.extend([packed.len() as u8 | 0x80, (packed.len() >> 7) as u8]);
        }
        bytes.extend(packed);
    }
    let align = if layout == Layout::V73 { 4 } else { 8 };
    aligned(&mut bytes, align);
    for marker in markers {
        bytes.extend(marker.to_le_bytes());
    }
    if layout == Layout::V62 {
        aligned(&mut bytes, 8);
        by_name(&mut bytes);
    }
    say("token_table", aligned(&mut bytes, align));
    let mut index = Vec::new();
    let table = bytes.len();
    for n in 0..=255u8 {
        index.extend(((bytes.len() - table) as u16).to_le_bytes());
        match n {
            1 => bytes.extend(b"function_"),
            2 => bytes.extend(b"long_"),
            n => bytes.push(n.max(1)),
        }
        bytes.push(0);
    }
    say("token_index", aligned(&mut bytes, align));
    bytes.extend(index);
    if matches!(layout, Layout::V65 | Layout::V73) {
        let start = match layout {
            Layout::V73 => aligned(&mut bytes, 4),
            _ => aligned(&mut bytes, 8),
        };
        let _ = start;
        say("offsets", offsets(&mut bytes));
    }
    if layout == Layout::V65 {
        say("relative_base", base(&mut bytes));
    }
    if matches!(layout, Layout::V65 | Layout::V73) {
        by_name(&mut bytes);
    }
    bytes.resize((bytes.len() + 64).next_multiple_of(256), 0x5a);
    let mut memory = Pieces::default();
    memory.put(RODATA, &bytes);
    memory.put(0x4000_0000, &note(&info));
    let info = Vmcoreinfo::at(&mut memory, 0x4000_0000).unwrap().unwrap();
    memory.reads.clear();
    (memory, info)
}

fn pack(name: &str) -> Vec<u8> {
    let packed = name.replace("function_", "\x01");
    packed.replacen("long_", "\x02", 30).into_bytes()
}

#[test]
fn symbols_of_every_layout_are_found_by_address_and_by_name() {
    for layout in LAYOUTS {
        let symbols = symbols(1000);
        let (pieces, info) = table(layout, &symbols);
        let mut memory = crate::memory::Cached::new(pieces, 256);
        let mut table = Kallsyms::of(&mut memory, &info).unwrap();
        assert_eq!(table.len(), 1000);
        assert!(table.has_markers(), "{layout:?}");
        assert_eq!(table.by_name.is_some(), layout != Layout::V60);
        for (n, (address, name)) in symbols.iter().enumerate().filter(|(n, _)| n % 51 < 4) {
            // Of two at one address the first.
            let expected = if n == 2 { &symbols[1].1 } else { name };
            let (found, offset) = table.at(&mut memory, address + 5).unwrap().unwrap();
            assert_eq!(
                (found.name.as_str(), offset),
                (&expected[1..], 5),
                "{layout:?}"
            );
            assert_eq!(found.kind, if n == 3 { 't' } else { 'T' });
            let place = table.find(&mut memory, &name[1..]).unwrap();
            assert_eq!(place, Some(*address), "{layout:?} {name}");
        }
        assert_eq!(table.find(&mut memory, "nothing").unwrap(), None);
        assert_eq!(table.at(&mut memory, BASE - 1).unwrap(), None);
        let all = table.all(&mut memory).unwrap();
        assert_eq!(all.len(), 1000);
        for (n, symbol) in all.iter().enumerate() {
            let (address, name) = &symbols[n];
            assert_eq!((&symbol.address, &symbol.name[..]), (address, &name[1..]));
        }
        let last = symbols[999].0;
        assert!(
            table
                .at(&mut memory, last + AFTER_LAST - 1)
                .unwrap()
                .is_some()
        );
        assert_eq!(table.at(&mut memory, last + AFTER_LAST).unwrap(), None);
    }
}

#[test]
fn without_markers_the_names_are_counted() {
    let symbols = symbols(1000);
    let (mut memory, info) = table(Layout::V73, &symbols);
    let mut table = Kallsyms::of(&mut memory, &info).unwrap();
    table.markers = None;
    let (found, _) = table.at(&mut memory, symbols[999].0).unwrap().unwrap();
    assert_eq!(found.name, symbols[999].1[1..]);
    assert_eq!(table.groups.len(), 4);
    let (found, _) = table.at(&mut memory, symbols[300].0).unwrap().unwrap();
    assert_eq!(found.name, symbols[300].1[1..]);
}

#[test]
fn little_is_read_for_one_name() {
    let symbols = symbols(10_000);
    let (mut memory, info) = table(Layout::V73, &symbols);
    let mut cached = crate::memory::Cached::new(&mut memory, 256);
    let mut table = Kallsyms::of(&mut cached, &info).unwrap();
    table.at(&mut cached, symbols[7777].0).unwrap().unwrap();
    drop(cached);
    let read: usize = memory.reads.iter().map(|(_, length)| length).sum();
    assert!(read < 16_000, "{read} bytes");
}

#[test]
fn symbols_of_percpu_data_are_absolute_where_the_others_are_negative() {
    let symbols = symbols(300);
    let (mut memory, info) = table(Layout::V65, &symbols);
    let place = info.symbol("kallsyms_offsets").unwrap();
    for (n, (address, _)) in symbols.iter().enumerate() {
        let word = match n {
            0 => 0x40,
            _ => -1i32 - (address - BASE) as i32,
        };
        let at = place + 4 * n as u64;
        let both = memory.u64(at & !7).unwrap();
        let shift = 8 * (at & 7);
        let word = u64::from(word as u32) << shift;
        memory.put_u64(at & !7, both & !(0xffff_ffff << shift) | word);
    }
    let table = Kallsyms::of(&mut memory, &info).unwrap();
    assert_eq!(table.style, Style::Percpu(BASE));
    assert_eq!(table.address(&mut memory, 0).unwrap(), 0x40);
    assert_eq!(table.address(&mut memory, 299).unwrap(), symbols[299].0);
}

#[test]
fn a_table_that_makes_no_sense_is_an_error_and_ends() {
    let symbols = symbols(1000);
    let (mut memory, info) = table(Layout::V73, &symbols);
    let place = info.symbol("kallsyms_num_syms").unwrap();
    memory.put_u64(place, u64::MAX);
    assert!(Kallsyms::of(&mut memory, &info).is_err());
    // Names that are all of the longest length.
    let (mut memory, info) = table(Layout::V73, &symbols);
    let names = info.symbol("kallsyms_names").unwrap();
    for n in 0..200 {
        memory.put_u64(names.next_multiple_of(8) + 8 * n, u64::MAX);
    }
    let mut table = Kallsyms::of(&mut memory, &info).unwrap();
    assert!(table.at(&mut memory, symbols[700].0).is_err());
}
