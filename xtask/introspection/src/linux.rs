//! The Linux that a guest runs: what its addresses are called.

use anyhow::Result;

use crate::kallsyms::Kallsyms;
use crate::memory::Memory;
use crate::translation::Regime;
use crate::unwind::{self, End, Frame, Registers};
use crate::vmcoreinfo::Vmcoreinfo;

/// A kernel that runs.
pub struct Kernel {
    /// What it says of itself.
    pub info: Vmcoreinfo,
    symbols: Kallsyms,
    /// By how much its image's virtual addresses are above its physical ones.
    voffset: u64,
    /// Where its modules are.
    modules: std::ops::Range<u64>,
}

/// What an address is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// In the kernel's image.
    Symbol {
        /// Its name.
        name: String,
        /// How far in.
        offset: u64,
    },
    /// In a module.
    Module,
    /// Nothing of the kernel.
    Unknown,
}

impl Kernel {
    /// The one that says `info`.
    pub fn of(memory: &mut impl Memory, info: Vmcoreinfo) -> Result<Self> {
        let voffset = info.number("kimage_voffset")?;
        let symbols = Kallsyms::of(&mut Image { memory, voffset }, &info)?;
        let bound = |name| info.number(name).unwrap_or_default();
        let modules = bound("MODULES_VADDR")..bound("MODULES_END");
        Ok(Self {
            info,
            symbols,
            voffset,
            modules,
        })
    }

    /// Its symbols.
    pub const fn symbols(&self) -> &Kallsyms {
        &self.symbols
    }

    /// What `address` is called.
    pub fn name(&mut self, memory: &mut impl Memory, address: u64) -> Result<Name> {
        if self.modules.contains(&address) {
            return Ok(Name::Module);
        }
        let voffset = self.voffset;
        let found = self.symbols.at(&mut Image { memory, voffset }, address)?;
        Ok(match found {
            Some((symbol, offset)) => Name::Symbol {
                name: symbol.name,
                offset,
            },
            None => Name::Unknown,
        })
    }

    /// Where the symbol called `name` is.
    pub fn find(&mut self, memory: &mut impl Memory, name: &str) -> Result<Option<u64>> {
        let voffset = self.voffset;
        self.symbols.find(&mut Image { memory, voffset }, name)
    }

    /// Where the function begins that `address` is in; of what is in a module, `address` itself.
    fn start(&self, memory: &mut impl Memory, address: u64) -> Result<Option<u64>> {
        if self.modules.contains(&address) {
            return Ok(Some(address));
        }
        let voffset = self.voffset;
        self.symbols.start(&mut Image { memory, voffset }, address)
    }

    /// Who called whom on a vCPU with these registers.
    pub fn unwind(
        &self,
        memory: &mut impl Memory,
        regime: &Regime,
        registers: &Registers,
    ) -> Result<(Vec<Frame>, End)> {
        unwind::unwind(memory, regime, registers, |mut memory, address| {
            self.start(&mut memory, address)
        })
    }
}

/// Memory by the addresses of the kernel's image, without a walk.
struct Image<'a, M> {
    memory: &'a mut M,
    voffset: u64,
}

impl<M: Memory> Memory for Image<'_, M> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(address.wrapping_sub(self.voffset), bytes)
    }
}
