//! Functions by address, from an ELF file's symbol table.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{LittleEndian, Object, ObjectSymbol, SymbolKind};

/// The functions of a program, by address.
#[derive(Clone)]
pub struct Symbols {
    functions: Vec<Function>,
    /// Where its exception table was linked to.
    vectors: Option<u64>,
}

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

    /// None at all, of a kernel that comes without.
    pub const fn none() -> Self {
        Self {
            functions: Vec::new(),
            vectors: None,
        }
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
        let vectors = elf.symbols().find(|symbol| symbol.name() == Ok("vectors"));
        Self::of(functions, vectors.map(|symbol| symbol.address()))
    }

    fn of(mut functions: Vec<Function>, vectors: Option<u64>) -> Result<Self> {
        ensure!(!functions.is_empty(), "it has no function symbols");
        functions.sort_by_key(|function| function.start);
        Ok(Self { functions, vectors })
    }

    /// How far a kernel has moved from where it was linked, whose exception table is at `vbar`; none if that
    /// cannot be its table.
    pub fn moved(&self, vbar: u64) -> Option<u64> {
        /// Linux moves by multiples of that (Documentation/arch/arm64/booting.rst: of 2 MiB; within, of a page).
        const PAGE: u64 = 4096;
        let moved = vbar.wrapping_sub(self.vectors?);
        moved.is_multiple_of(PAGE).then_some(moved)
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A program with these functions, each of 4 KiB; the first is its exception table.
    pub fn program(functions: &[(u64, &str)]) -> Symbols {
        let vectors = functions.first().map(|&(start, _)| start);
        let functions = functions.iter().map(|&(start, name)| Function {
            start,
            size: 0x1000,
            name: name.to_owned(),
        });
        Symbols::of(functions.collect(), vectors).unwrap()
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
}
