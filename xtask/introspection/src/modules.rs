//! A kernel's modules (`include/linux/module.h`, `kernel/module/kallsyms.c`), of Linux 6.0 to 7.3: which one an address is in, and
//! what it is called there. Where members are the kernel's own BTF says.

use anyhow::{Result, ensure};

use crate::btf::Btf;
use crate::memory::{Memory, Words};

/// So many modules a kernel has at most.
const MOST: usize = 4096;
/// So many symbols one has.
const MOST_SYMBOLS: u64 = 1 << 18;
/// The longest name of a module (MODULE_NAME_LEN), and of a symbol (KSYM_NAME_LEN).
const LONGEST: usize = 56;
const LONGEST_SYMBOL: usize = 512;
/// `struct module` has more bytes than others of that name.
const SMALLEST: u32 = 256;

/// Where members of the kernel's structures are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of `struct module`: its place in the list, its name, its table of symbols.
    list: u64,
    name: u64,
    kallsyms: u64,
    /// Where its parts in memory are described, one behind another: where each has its address and its size.
    parts: Vec<(u64, u64)>,
    /// Of `struct mod_kallsyms`.
    symtab: u64,
    count: u64,
    strtab: u64,
    typetab: u64,
}

impl Layout {
    /// By the kernel's own BTF.
    pub fn of(memory: &mut impl Memory, btf: &mut Btf) -> Result<Self> {
        let module = btf.structure(memory, "module", SMALLEST)?;
        let member = |btf: &mut Btf, memory: &mut _, name| btf.member(memory, module, name);
        let kallsyms = member(btf, memory, "kallsyms")?;
        let (table, _) = btf.target(memory, kallsyms.kind)?;
        let parts = match member(btf, memory, "mem") {
            // Since 6.4.
            Ok(mem) => {
                let (part, count) = btf.target(memory, mem.kind)?;
                let stride = btf.size(memory, part)?;
                let base = btf.member(memory, part, "base")?.offset;
                let size = btf.member(memory, part, "size")?.offset;
                let start = |n| mem.offset + stride * u64::from(n);
                (0..count)
                    .map(|n| (start(n) + base, start(n) + size))
                    .collect()
            }
            Err(_) => {
                let core = member(btf, memory, "core_layout")?;
                let (part, _) = btf.target(memory, core.kind)?;
                let base = btf.member(memory, part, "base")?.offset;
                let size = btf.member(memory, part, "size")?.offset;
                vec![(core.offset + base, core.offset + size)]
            }
        };
        Ok(Self {
            list: member(btf, memory, "list")?.offset,
            name: member(btf, memory, "name")?.offset,
            kallsyms: kallsyms.offset,
            parts,
            symtab: btf.member(memory, table, "symtab")?.offset,
            count: btf.member(memory, table, "num_symtab")?.offset,
            strtab: btf.member(memory, table, "strtab")?.offset,
            typetab: btf.member(memory, table, "typetab")?.offset,
        })
    }
}

/// What an address in a module is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The module.
    pub module: String,
    /// The function, and how far in; none if the module's table has none.
    pub symbol: Option<(String, u64)>,
}

/// What `address` is called in the module that it is in, of those whose list begins at `head`. `memory` is by virtual address.
pub fn find(
    memory: &mut impl Memory,
    layout: &Layout,
    head: u64,
    address: u64,
) -> Result<Option<Found>> {
    let mut at = memory.u64(head)?;
    for _ in 0..MOST {
        if at == head {
            return Ok(None);
        }
        let module = at.wrapping_sub(layout.list);
        for (base, size) in &layout.parts {
            let start = memory.u64(module.wrapping_add(*base))?;
            let length = u64::from(memory.u32(module.wrapping_add(*size))?);
            if start != 0 && address.wrapping_sub(start) < length {
                let bytes = memory.bytes(module.wrapping_add(layout.name), LONGEST)?;
                return Ok(Some(Found {
                    module: text(&bytes),
                    symbol: symbol(memory, layout, module, (start, address))?,
                }));
            }
        }
        at = memory.u64(at)?;
    }
    Ok(None)
}

/// The last function of `module` that begins at or before an address, in the part of it that begins at `start`.
fn symbol(
    memory: &mut impl Memory,
    layout: &Layout,
    module: u64,
    (start, address): (u64, u64),
) -> Result<Option<(String, u64)>> {
    // Elf64_Sym: st_name, st_info, st_other, st_shndx, st_value, st_size.
    const SIZE: usize = 24;
    let table = memory.u64(module.wrapping_add(layout.kallsyms))?;
    if table == 0 {
        return Ok(None);
    }
    let count = u64::from(memory.u32(table.wrapping_add(layout.count))?);
    ensure!(
        count <= MOST_SYMBOLS,
        "a module's table claims {count} symbols"
    );
    let [symtab, strtab, typetab] =
        [layout.symtab, layout.strtab, layout.typetab].map(|at| memory.u64(table.wrapping_add(at)));
    let (symtab, strtab, typetab) = (symtab?, strtab?, typetab?);
    let count = usize::try_from(count)?;
    let symbols = memory.bytes(symtab, SIZE * count)?;
    let kinds = memory.bytes(typetab, count)?;
    let mut best: Option<(u64, u32)> = None;
    for (entry, kind) in symbols.chunks_exact(SIZE).zip(kinds) {
        let word = |at: usize| {
            entry[at..]
                .first_chunk()
                .map_or(0, |b| u32::from_le_bytes(*b))
        };
        let value = entry[8..]
            .first_chunk()
            .map_or(0, |b| u64::from_le_bytes(*b));
        let is_code = matches!(kind, b't' | b'T' | b'w' | b'W');
        let is_closer = best.is_none_or(|(best, _)| value > best);
        if is_code && (start..=address).contains(&value) && is_closer {
            // As the kernel does: no name, and names of the assembler's, are none.
            let name = memory.bytes(strtab.wrapping_add(word(0).into()), 1)?[0];
            if !matches!(name, 0 | b'$') {
                best = Some((value, word(0)));
            }
        }
    }
    let Some((value, name)) = best else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let start = strtab.wrapping_add(name.into());
    while bytes.len() < LONGEST_SYMBOL {
        let byte = memory.bytes(start.wrapping_add(bytes.len() as u64), 1)?[0];
        if byte == 0 {
            break;
        }
        bytes.push(byte);
    }
    Ok(Some((text(&bytes), address - value)))
}

/// Up to the first 0.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::tests::Maker;
    use crate::memory::tests::Pieces;

    const BTF: u64 = 0x1000;
    const HEAD: u64 = 0x8000;
    const MODULES: [u64; 2] = [0x1_0000, 0x2_0000];
    const CODE: u64 = 0x7000_0000;

    /// A kernel with two modules, the second of which has three functions; before 6.4, or since.
    fn kernel(is_old: bool) -> (Pieces, Layout) {
        let mut maker = Maker::new();
        let int = maker.int();
        let names = [
            ("symtab", int, 0),
            ("num_symtab", int, 8),
            ("strtab", int, 16),
            ("typetab", int, 24),
        ];
        let table = maker.structure("mod_kallsyms", 32, &names);
        let pointer = maker.pointer(table);
        let part = maker.structure("part", 32, &[("base", int, 0), ("size", int, 24)]);
        let (name, kind) = match is_old {
            true => ("core_layout", part),
            false => ("mem", maker.array(part, 2)),
        };
        let members = [
            ("list", int, 8),
            ("name", int, 24),
            (name, kind, 128),
            ("kallsyms", pointer, 256),
        ];
        maker.structure("module", 512, &members);
        let mut memory = Pieces::default();
        memory.put(BTF, &maker.blob());
        let mut btf = Btf::of(&mut memory, BTF).unwrap();
        let layout = Layout::of(&mut memory, &mut btf).unwrap();
        memory.put(HEAD, &(MODULES[0] + 8).to_le_bytes());
        for (n, module) in MODULES.into_iter().enumerate() {
            memory.put(module, &[0; 512]);
            memory.put_u64(module + 8, MODULES.get(n + 1).map_or(HEAD, |next| next + 8));
            let part = if is_old { 128 } else { 160 };
            memory.put_u64(module + part, CODE + 0x1_0000 * n as u64);
            memory.put_u64(module + part + 24, 0x2000);
        }
        let own = MODULES[1];
        memory.put_u64(own + 24, u64::from_le_bytes(*b"virtio_b"));
        memory.put_u64(own + 32, u64::from_le_bytes(*b"lk\0\0\0\0\0\0"));
        memory.put_u64(own + 256, 0x3_0000);
        memory.put(0x3_0000, &[0; 64]);
        for (at, word) in [(0, 0x4_0000), (8, 4), (16, 0x5_0000), (24, 0x6_0000)] {
            memory.put_u64(0x3_0000 + at, word);
        }
        let strings = b"\0probe\0$x\0queue_rq\0data\0";
        memory.put(0x5_0000, strings);
        memory.put(0x6_0000, b"ttTd");
        let start = CODE + 0x1_0000;
        let mut symbols = Vec::new();
        for (name, value) in [
            (1u32, start),
            (7, start + 0x180),
            (10, start + 0x100),
            (19, start + 0x190),
        ] {
            symbols.extend(name.to_le_bytes());
            symbols.extend([0; 4]);
            symbols.extend(value.to_le_bytes());
            symbols.extend([0; 8]);
        }
        memory.put(0x4_0000, &symbols);
        (memory, layout)
    }

    #[test]
    fn an_address_is_named_by_its_modules_own_table() {
        for is_old in [true, false] {
            let (mut memory, layout) = kernel(is_old);
            let mut at = |place| find(&mut memory, &layout, HEAD, CODE + place).unwrap();
            let found = |name: &str, offset| {
                Some(Found {
                    module: "virtio_blk".into(),
                    symbol: Some((name.to_owned(), offset)),
                })
            };
            assert_eq!(at(0x1_0010), found("probe", 0x10));
            // What the assembler calls an address is not its name, and data is no function.
            assert_eq!(at(0x1_01a0), found("queue_rq", 0xa0));
            let bare = at(0x10).unwrap();
            assert_eq!(bare.symbol, None, "that module has no table");
            assert_eq!(at(0x1_2000), None);
            assert_eq!(at(0x8000), None);
        }
    }

    #[test]
    fn a_list_that_goes_in_a_circle_ends() {
        let (mut memory, layout) = kernel(false);
        memory.put_u64(MODULES[1] + 8, MODULES[0] + 8);
        assert_eq!(find(&mut memory, &layout, HEAD, 0x10).unwrap(), None);
        memory.put_u64(MODULES[1] + 8, 0xdead_0000);
        assert!(find(&mut memory, &layout, HEAD, 0x10).is_err());
    }

    #[test]
    fn a_list_that_leads_to_the_ends_of_all_addresses_is_an_error() {
        for next in [0, 1, 7, u64::MAX - 7, u64::MAX] {
            let (mut memory, layout) = kernel(false);
            memory.put_u64(MODULES[1] + 8, next);
            assert!(find(&mut memory, &layout, HEAD, 0x10).is_err(), "{next:#x}");
        }
        for place in [16, 24, 0] {
            let (mut memory, layout) = kernel(false);
            memory.put_u64(0x3_0000 + place, u64::MAX);
            let found = find(&mut memory, &layout, HEAD, CODE + 0x1_0010);
            assert!(found.is_err(), "{place}");
        }
    }
}
