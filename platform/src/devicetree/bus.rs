//! What properties mean on a bus: addresses, sizes, interrupts.

use alloc::vec::Vec;

use super::tree::number;
use super::{Interrupt, Node};
use crate::{Error, Range};

/// Physical addresses have at most 52 bits (DDI0487 D8.1).
const PA_LIMIT: u64 = 1 << 52;

impl<'a> Node<'_, 'a> {
    /// How many cells children take for an address and for a size (Devicetree Specification 2.3.5).
    ///
    /// # Errors
    ///
    /// If it is more than two for either.
    pub fn cells(self) -> Result<(usize, usize), Error> {
        let address = self.u32("#address-cells")?.unwrap_or(2) as usize;
        let size = self.u32("#size-cells")?.unwrap_or(1) as usize;
        if address > 2 || size > 2 {
            return Err(self.fault("", "has addresses of more than two cells"));
        }
        Ok((address, size))
    }

    /// The address of a `reg` whose parent gives children no size, such as `/cpus`.
    ///
    /// # Errors
    ///
    /// If it is missing or something else.
    pub fn unit_address(self) -> Result<u64, Error> {
        let cells = match self.parent() {
            Some(parent) => parent.cells()?.0,
            None => 0,
        };
        match self.property("reg") {
            None => Err(self.fault("reg", "is missing")),
            Some(value) if value.len() == cells * 4 && cells > 0 => Ok(number(value)),
            Some(_) => Err(self.fault("reg", "does not fit its parent's #address-cells")),
        }
    }

    /// What `reg` holds, as physical addresses.
    ///
    /// # Errors
    ///
    /// If it is missing, or not made of addresses the CPU has.
    pub fn reg(self) -> Result<Vec<Range>, Error> {
        let (Some(value), Some(bus)) = (self.property("reg"), self.parent()) else {
            return Err(self.fault("reg", "is missing"));
        };
        let (address, size) = bus.cells()?;
        let entry = (address + size) * 4;
        if address == 0 || size == 0 || !value.len().is_multiple_of(entry) {
            return Err(self.fault("reg", "does not fit its parent's cells"));
        }
        let mut found = Vec::new();
        for entry in value.chunks_exact(entry) {
            let (start, size) = entry.split_at(address * 4);
            match bus.translate(Range::new(number(start), number(size))) {
                Some(range) => found.push(range),
                None => return Err(self.fault("reg", "is no address of the CPU's")),
            }
        }
        Ok(found)
    }

    /// A child's range as physical addresses, through the `ranges` of this bus and those above it.
    fn translate(self, range: Range) -> Option<Range> {
        let end = range.start.checked_add(range.size)?;
        let Some(parent) = self.parent() else {
            return (end <= PA_LIMIT).then_some(range);
        };
        let windows = self.property("ranges")?;
        if windows.is_empty() {
            return parent.translate(range);
        }
        let (child_cells, size_cells) = self.cells().ok()?;
        let (parent_cells, _) = parent.cells().ok()?;
        let window = (child_cells + parent_cells + size_cells) * 4;
        if window == 0 || !windows.len().is_multiple_of(window) {
            return None;
        }
        for window in windows.chunks_exact(window) {
            let (child, rest) = window.split_at(child_cells * 4);
            let (base, size) = rest.split_at(parent_cells * 4);
            let seen = Range::new(number(child), number(size));
            if seen.covers(range) {
                let start = number(base).checked_add(range.start - seen.start)?;
                return parent.translate(Range::new(start, range.size));
            }
        }
        None
    }

    /// The interrupts this node raises at `gic`; `None` if it raises them elsewhere.
    ///
    /// # Errors
    ///
    /// If they are none that a GIC has.
    pub fn interrupts(self, gic: Self) -> Result<Option<Vec<Interrupt>>, Error> {
        const NAME: &str = "interrupts";
        if let Some(value) = self.property("interrupts-extended") {
            return self.extended_interrupts(value, gic);
        }
        let Some(value) = self.property(NAME) else {
            return Ok(Some(Vec::new()));
        };
        if !self.interrupts_reach(gic)? {
            return Ok(None);
        }
        let size = gic.interrupt_size()?;
        if !value.len().is_multiple_of(size) {
            return Err(self.fault(NAME, "does not fit #interrupt-cells"));
        }
        let mut found = Vec::new();
        for specifier in value.chunks_exact(size) {
            found.push(self.interrupt(NAME, specifier)?);
        }
        Ok(Some(found))
    }

    /// `interrupts-extended`: each specifier behind the phandle of who takes it.
    fn extended_interrupts(
        self,
        mut value: &'a [u8],
        gic: Self,
    ) -> Result<Option<Vec<Interrupt>>, Error> {
        const NAME: &str = "interrupts-extended";
        let mut found = Vec::new();
        while let Some((phandle, rest)) = value.split_at_checked(4) {
            let Some(parent) = self.tree.by_phandle(number(phandle) as u32) else {
                return Err(self.fault(NAME, "leads nowhere"));
            };
            let Some((specifier, rest)) = rest.split_at_checked(parent.interrupt_size()?) else {
                return Err(self.fault(NAME, "does not fit #interrupt-cells"));
            };
            if parent != gic {
                return Ok(None);
            }
            found.push(self.interrupt(NAME, specifier)?);
            value = rest;
        }
        Ok(Some(found))
    }

    fn interrupt(self, property: &str, specifier: &[u8]) -> Result<Interrupt, Error> {
        match Interrupt::decode(specifier) {
            Some(interrupt) => Ok(interrupt),
            None => Err(self.fault(property, "names no interrupt a GIC has")),
        }
    }

    /// The bytes one interrupt of this controller takes; GICs take three cells or more.
    fn interrupt_size(self) -> Result<usize, Error> {
        match self.u32("#interrupt-cells")? {
            Some(cells @ 1..=4) => Ok(cells as usize * 4),
            _ => Err(self.fault("#interrupt-cells", "is not 1 to 4")),
        }
    }

    /// Whether the nearest `interrupt-parent` from here upwards is `gic`.
    fn interrupts_reach(self, gic: Self) -> Result<bool, Error> {
        let mut node = self;
        loop {
            if let Some(phandle) = node.u32("interrupt-parent")? {
                return Ok(gic.phandle() == Some(phandle));
            }
            match node.parent() {
                None => return Ok(false),
                Some(parent) if parent.property("#interrupt-cells").is_some() => {
                    return Ok(parent == gic);
                }
                Some(parent) => node = parent,
            }
        }
    }
}
