//! The Linux that a guest runs: what its addresses are called.

mod cpus;

use std::ops::Range;

use anyhow::{Context, Result};

use crate::btf::Btf;
use crate::kallsyms::Kallsyms;
use crate::memory::Memory;
use crate::modules::{self, Found, Layout};
use crate::translation::Regime;
use crate::unwind::{self, End, Frame, Registers};
use crate::vmcoreinfo::Vmcoreinfo;

pub use cpus::Cpus;

/// A kernel that runs.
pub struct Kernel {
    /// What it says of itself.
    pub info: Vmcoreinfo,
    symbols: Kallsyms,
    /// By how much its image's virtual addresses are above its physical ones.
    voffset: u64,
    modules: Area,
    /// How they are listed; nothing until one is looked for, and none if the kernel does not say.
    listed: Option<Option<Listed>>,
}

/// Where a kernel's modules can be.
struct Area {
    /// What is theirs alone; a kernel that has moved (KASLR) has none of them there.
    own: Range<u64>,
    /// So far its branches reach, and those of its modules (`module_init_limits`, arch/arm64/kernel/module.c).
    near: Range<u64>,
}

impl Area {
    fn of(info: &Vmcoreinfo) -> Result<Self> {
        const REACH: u64 = 2 << 30;
        let bound = |name| info.number(name).unwrap_or_default();
        let text = info.symbol("_stext")?;
        Ok(Self {
            own: bound("MODULES_VADDR")..bound("MODULES_END"),
            near: text.saturating_sub(REACH)..text.saturating_add(REACH),
        })
    }

    /// Whether it can be in a module, if it is not in the kernel's image.
    fn has(&self, address: u64) -> bool {
        self.own.contains(&address) || self.near.contains(&address)
    }
}

/// How a kernel lists its modules.
struct Listed {
    layout: Layout,
    /// Where the list begins.
    head: u64,
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
    /// In a module; which, and where in it, if the kernel says so.
    Module(Option<Found>),
    /// Nothing of the kernel.
    Unknown,
}

impl Kernel {
    /// The one that says `info`.
    pub fn of(memory: &mut impl Memory, info: Vmcoreinfo) -> Result<Self> {
        let voffset = info.number("kimage_voffset")?;
        let symbols = Kallsyms::of(&mut Image { memory, voffset }, &info)?;
        let modules = Area::of(&info)?;
        Ok(Self {
            info,
            symbols,
            voffset,
            modules,
            listed: None,
        })
    }

    /// Its symbols.
    pub const fn symbols(&self) -> &Kallsyms {
        &self.symbols
    }

    /// What `address` is called on a vCPU that translates by `regime`.
    pub fn name(
        &mut self,
        memory: &mut impl Memory,
        regime: &Regime,
        address: u64,
    ) -> Result<Name> {
        let voffset = self.voffset;
        let found = self.symbols.at(&mut Image { memory, voffset }, address)?;
        if let Some((symbol, offset)) = found {
            return Ok(Name::Symbol {
                name: symbol.name,
                offset,
            });
        }
        if !self.modules.has(address) {
            return Ok(Name::Unknown);
        }
        if self.listed.is_none() {
            // A kernel without CONFIG_KALLSYMS_ALL or BTF says nothing of its modules.
            self.listed = Some(self.list(memory).ok());
        }
        // A list that is being changed at the moment may lead anywhere.
        let found = self.listed.iter().flatten().next().and_then(|listed| {
            let Listed { layout, head } = listed;
            modules::find(&mut Virtual { memory, regime }, layout, *head, address).ok()?
        });
        Ok(Name::Module(found))
    }

    fn list(&mut self, memory: &mut impl Memory) -> Result<Listed> {
        let (head, types) = (
            self.place(memory, "modules")?,
            self.place(memory, "__start_BTF")?,
        );
        let voffset = self.voffset;
        let mut image = Image { memory, voffset };
        let mut btf = Btf::of(&mut image, types)?;
        let layout = Layout::of(&mut image, &mut btf)?;
        Ok(Listed { layout, head })
    }

    /// Where the symbol called `name` is.
    pub fn find(&mut self, memory: &mut impl Memory, name: &str) -> Result<Option<u64>> {
        let voffset = self.voffset;
        self.symbols.find(&mut Image { memory, voffset }, name)
    }

    /// The same of one that it must have.
    fn place(&mut self, memory: &mut impl Memory, name: &str) -> Result<u64> {
        let found = self.find(memory, name)?;
        found.with_context(|| format!("the kernel's table of symbols has no {name}"))
    }

    /// Where the function begins that `address` is in; of what is in a module, `address` itself.
    fn start(&self, memory: &mut impl Memory, address: u64) -> Result<Option<u64>> {
        let voffset = self.voffset;
        let start = self
            .symbols
            .start(&mut Image { memory, voffset }, address)?;
        Ok(start.or(self.modules.has(address).then_some(address)))
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

/// Memory by virtual address.
struct Virtual<'a, M> {
    memory: &'a mut M,
    regime: &'a Regime,
}

impl<M: Memory> Memory for Virtual<'_, M> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.regime.read(self.memory, address, bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_where_the_kernel_says_or_near_it_once_it_has_moved() {
        let info = "NUMBER(MODULES_VADDR)=0xffff800000000000\nNUMBER(MODULES_END)=0xffff800080000000\n\
                    SYMBOL(_stext)=ffffd42678010000\n";
        let area = Area::of(&Vmcoreinfo::of_text(info.as_bytes(), &[])).unwrap();
        for (address, is_theirs) in [
            (0xffff_8000_7a00_0000, true),
            (0xffff_8000_8000_0000, false),
            (0xffff_d426_1000_0000, true),
            (0xffff_d426_f000_0000, true),
            (0xffff_d426_f802_0000, false),
            (0x40_0000, false),
        ] {
            assert_eq!(area.has(address), is_theirs, "{address:#x}");
        }
    }
}
