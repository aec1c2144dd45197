//! Places in the sources: the file and line that a program's address was compiled from.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianArcSlice, LittleEndian};
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Object, ObjectSection};

type Reader = EndianArcSlice<LittleEndian>;

/// The line tables of a program, read when the first address is looked up, and once.
pub struct Lines {
    elf: PathBuf,
    /// What file names may begin with and are then shown without.
    root: PathBuf,
    /// None if the program has no line tables.
    tables: OnceCell<Option<Context<Reader>>>,
}

impl Lines {
    /// Those of the ELF file at `elf`, whose sources lie in `root`.
    pub fn of(elf: &Path, root: &Path) -> Self {
        Self {
            elf: elf.to_owned(),
            root: root.to_owned(),
            tables: OnceCell::new(),
        }
    }

    /// `address` as `file:line`, the file relative to where the sources lie; none if the program does not say.
    pub fn place(&self, address: u64) -> Option<String> {
        // Nothing is there, and the reader adds 1.
        if address == u64::MAX {
            return None;
        }
        let tables = self.tables.get_or_init(|| read(&self.elf)).as_ref()?;
        let location = tables.find_location(address).ok()??;
        let file = Path::new(location.file?);
        // A build that renames the root to nothing leaves names without it, or with the slash behind it.
        let shown = file
            .strip_prefix(&self.root)
            .or_else(|_| file.strip_prefix("/"))
            .unwrap_or(file);
        // Another crate's file has its place elsewhere.
        let shown = if self.root.join(shown).exists() {
            shown
        } else {
            file
        };
        Some(format!("{}:{}", shown.display(), location.line?))
    }
}

fn read(elf: &Path) -> Option<Context<Reader>> {
    let bytes = fs::read(elf).ok()?;
    let elf = ElfFile::<FileHeader64<object::LittleEndian>>::parse(bytes.as_slice()).ok()?;
    let dwarf = Dwarf::load(|id| {
        let section = elf.section_by_name(id.name());
        let data = section.map_or(Ok(&[][..]), |section| section.data())?;
        Ok::<_, object::Error>(Reader::new(Arc::from(data), LittleEndian))
    });
    Context::from_dwarf(dwarf.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::Symbols;

    #[test]
    fn functions_of_this_program_are_in_its_sources() {
        let own = std::env::current_exe().unwrap();
        let symbols = Symbols::load(&own).unwrap();
        let lines = Lines::of(&own, debian::paths::root());
        // Where `of` begins.
        let text = include_str!("lines.rs");
        let begin = text
            .lines()
            .position(|line| line.contains("pub fn of(elf: &Path"));
        let address = symbols.address("lab::lines::Lines::of").unwrap();
        let expected = format!("xtask/lab/src/lines.rs:{}", begin.unwrap() + 1);
        assert_eq!(lines.place(address).as_deref(), Some(expected.as_str()));
    }

    #[test]
    fn what_is_no_program_or_no_code_has_no_place() {
        let none = Lines::of(Path::new("/etc/passwd"), Path::new("/"));
        assert_eq!(none.place(0x1000), None);
        let own = std::env::current_exe().unwrap();
        let lines = Lines::of(&own, debian::paths::root());
        assert_eq!(lines.place(u64::MAX), None);
    }
}
