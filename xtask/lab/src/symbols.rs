//! Functions by address, from an ELF file's symbol table.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use introspection::kallsyms::Kallsyms;
use introspection::memory::Memory;
use introspection::vmcoreinfo::Vmcoreinfo;
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{LittleEndian, Object, ObjectSymbol, SymbolKind};

/// The functions of a program, by address.
#[derive(Clone)]
pub struct Symbols {
    functions: Vec<Function>,
    /// Where its exception table was linked to.
    vectors: Option<u64>,
    /// Where the kernel's Image begins that it is.
    text: Option<u64>,
    /// Where a kernel has memory that nobody needs here.
    spare: Option<u64>,
}

/// Bytes that LKDTM executes when it is told to, which are all 0 until then.
const SPARE: &str = "data_area";

#[derive(Clone)]
struct Function {
    start: u64,
    /// In bytes; 0 if the symbol does not say.
    size: u64,
    name: String,
}

impl Symbols {
    /// The functions of the ELF file at `path`.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = fs::read(path)
            .with_context(|| format!("cannot read symbols from {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("cannot read symbols from {}", path.display()))
    }

    /// Of a kernel that comes without its symbols the functions are in its own table, in the Image that was booted; `info` is what
    /// it said of itself when it ran. Addresses are those that it was linked to.
    pub fn of_image(image: &[u8], info: &Vmcoreinfo) -> Result<Self> {
        // KIMAGE_VADDR is MODULES_END (arch/arm64/include/asm/memory.h), and KERNELOFFSET how far the image is from there.
        let offset = u64::from_str_radix(info.word("KERNELOFFSET")?, 16)?;
        let start = info.number("MODULES_END")?.wrapping_add(offset);
        let mut memory = Flat { image, start };
        let table = Kallsyms::of(&mut memory, info)?;
        let all = table.all(&mut memory)?;
        // What the table counts from is an address that the kernel relocates when it starts, and stands as 0 in its Image.
        let stext = all.iter().find(|symbol| symbol.name == "_stext");
        let stext = stext.context("the kernel's table of symbols has no _stext")?;
        let moved = info.symbol("_stext")?.wrapping_sub(stext.address);
        let mut functions: Vec<Function> = Vec::new();
        for symbol in &all {
            let start = symbol.address.wrapping_add(moved).wrapping_sub(offset);
            if let Some(before) = functions.last_mut().filter(|before| before.size == 0) {
                before.size = start.saturating_sub(before.start);
            }
            // Of several names the first, as the kernel does.
            let is_new = functions.last().is_none_or(|before| before.start != start);
            if is_new && matches!(symbol.kind, 't' | 'T' | 'w' | 'W') {
                functions.push(Function {
                    start,
                    size: 0,
                    name: symbol.name.clone(),
                });
            }
        }
        Self::of(functions, |_| None)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let elf = ElfFile::<FileHeader64<LittleEndian>>::parse(bytes)
            .context("it is no ELF file of a 64-bit little-endian machine")?;
        let functions = elf
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
            .filter_map(|symbol| {
                Some(Function {
                    start: symbol.address(),
                    size: symbol.size(),
                    name: format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?)),
                })
            })
            .collect();
        let address = |name: &str| {
            let found = elf.symbols().find(|symbol| symbol.name() == Ok(name));
            found.map(|symbol| symbol.address())
        };
        Self::of(functions, address)
    }

    /// Of these functions; `address` is that of any symbol.
    fn of(mut functions: Vec<Function>, address: impl Fn(&str) -> Option<u64>) -> Result<Self> {
        ensure!(!functions.is_empty(), "it has no function symbols");
        functions.sort_by_key(|function| function.start);
        Ok(Self {
            functions,
            vectors: address("vectors"),
            text: address("_text"),
            spare: address(SPARE),
        })
    }

    /// How far a kernel has moved from where it was linked, whose exception table is at `vbar`; none if that
    /// cannot be its table.
    pub fn moved(&self, vbar: u64) -> Option<u64> {
        /// Linux moves by multiples of that (Documentation/arch/arm64/booting.rst: of 2 MiB; within, of a page).
        const PAGE: u64 = 4096;
        let moved = vbar.wrapping_sub(self.vectors?);
        moved.is_multiple_of(PAGE).then_some(moved)
    }

    /// Where the kernel's Image begins, as it was linked.
    pub const fn text(&self) -> Option<u64> {
        self.text
    }

    /// Where a kernel has sixteen bytes of 0, at least, that nobody needs here: LKDTM's.
    pub const fn spare(&self) -> Option<u64> {
        self.spare
    }

    /// Name of the function that `address` is in, and how far in.
    pub fn function(&self, address: u64) -> Option<(&str, u64)> {
        let after = self
            .functions
            .partition_point(|function| function.start <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        let offset = address - function.start;
        let inside = offset < function.size || function.size == 0;
        inside.then_some((function.name.as_str(), offset))
    }

    /// Where the function called `name` begins.
    pub fn address(&self, name: &str) -> Option<u64> {
        let mut functions = self.functions.iter();
        let function = functions.find(|function| function.name == name)?;
        Some(function.start)
    }

    /// `address` as `function+0x4`, or as a number if it is in none.
    pub fn describe(&self, address: u64) -> String {
        match self.function(address) {
            Some((name, offset)) => format!("{name}+{offset:#x}"),
            None => format!("{address:#x}"),
        }
    }
}

/// Whether the ELF file at `path` has a symbol called `name`, of whatever kind.
pub fn has(path: &Path, name: &str) -> Result<bool> {
    let about = || format!("cannot read symbols from {}", path.display());
    let bytes = fs::read(path).with_context(about)?;
    let elf = ElfFile::<FileHeader64<LittleEndian>>::parse(&*bytes).with_context(about)?;
    let mut symbols = elf.symbols();
    Ok(symbols.any(|symbol| symbol.is_definition() && symbol.name() == Ok(name)))
}

/// An Image as it lies in the kernel's memory.
struct Flat<'a> {
    image: &'a [u8],
    start: u64,
}

impl Memory for Flat<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let at = usize::try_from(address.wrapping_sub(self.start)).ok();
        let found = at.and_then(|at| self.image.get(at..)?.get(..bytes.len()));
        let found = found.with_context(|| format!("{address:#x} is not in the kernel's Image"))?;
        bytes.copy_from_slice(found);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A program with these functions, each of 4 KiB; the first is its exception table.
    pub fn program(functions: &[(u64, &str)]) -> Symbols {
        let address = |name: &str| match name {
            "vectors" => functions.first().map(|&(start, _)| start),
            name => {
                let found = functions.iter().find(|(_, own)| *own == name);
                found.map(|&(start, _)| start)
            }
        };
        let named = functions.iter().map(|&(start, name)| Function {
            start,
            size: 0x1000,
            name: name.to_owned(),
        });
        Symbols::of(named.collect(), address).unwrap()
    }

    #[test]
    fn an_address_is_in_the_last_function_before_it() {
        let symbols = program(&[(0x2000, "two"), (0x1000, "one")]);
        assert_eq!(symbols.describe(0x1000), "one+0x0");
        assert_eq!(symbols.describe(0x1fff), "one+0xfff");
        assert_eq!(symbols.describe(0x2004), "two+0x4");
        assert_eq!(symbols.describe(0xfff), "0xfff");
        assert_eq!(symbols.describe(0x3000), "0x3000");
    }

    #[test]
    fn this_program_has_symbols_and_a_text_file_has_none() {
        let own = Symbols::load(&std::env::current_exe().unwrap()).unwrap();
        assert!(own.functions.len() > 100);
        let error = Symbols::load(Path::new("/etc/passwd")).err().unwrap();
        assert!(error.to_string().contains("/etc/passwd"));
    }

    /// An Image with the table of three symbols, and what its kernel says, which has moved by `offset`. Each byte of a name
    /// stands for itself.
    fn image(offset: u64) -> (Vec<u8>, Vmcoreinfo) {
        const LINKED: u64 = 0xffff_8000_8000_0000;
        let start = LINKED + offset;
        let mut image = vec![0; 0x3000];
        let mut info = format!(
            "KERNELOFFSET={offset:x}\nNUMBER(MODULES_END)=0x{LINKED:x}\nSYMBOL(_stext)={:x}\n",
            start + 0x1000
        );
        let mut put = |name: &str, bytes: &[u8]| {
            let at = image.len();
            image.extend(bytes);
            image.resize(image.len().next_multiple_of(8), 0);
            info += &format!("SYMBOL(kallsyms_{name})={:x}\n", start + at as u64);
        };
        let names = ["T_stext", "tspin", "ddata"];
        put("num_syms", &3u32.to_le_bytes());
        let packed: Vec<u8> = names
            .iter()
            .flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat())
            .collect();
        put("names", &packed);
        let tokens: Vec<u8> = (0..=255u8).flat_map(|byte| [byte.max(1), 0]).collect();
        put("token_table", &[&tokens[..], &[0; 64]].concat());
        let index: Vec<u8> = (0..256u16).flat_map(|n| (2 * n).to_le_bytes()).collect();
        put("token_index", &index);
        let offsets: Vec<u8> = [0u32, 0x100, 0x200]
            .iter()
            .flat_map(|offset| offset.to_le_bytes())
            .collect();
        put("offsets", &offsets);
        // The kernel relocates it when it starts.
        put("relative_base", &0u64.to_le_bytes());
        let info = Vmcoreinfo::of_text(info.as_bytes(), &[]);
        (image, info)
    }

    #[test]
    fn a_kernel_without_symbols_has_its_own_table_in_its_image() {
        for offset in [0, 0x1234_5000] {
            let (image, info) = image(offset);
            let symbols = Symbols::of_image(&image, &info).unwrap();
            let at = |place: u64| symbols.describe(0xffff_8000_8000_1000 + place);
            assert_eq!(at(0x4), "_stext+0x4");
            assert_eq!(at(0x1fc), "spin+0xfc");
            assert!(at(0x200).starts_with("0x"), "what is no function has none");
            assert!(at(0x1_0000_0000).starts_with("0x"));
            assert!(Symbols::of_image(&image[..0x3010], &info).is_err());
        }
        let nothing = Vmcoreinfo::of_text(b"OSRELEASE=5.10\n", &[]);
        assert!(Symbols::of_image(&[], &nothing).is_err());
    }
}
